"""The tests in inside/ run in the image, where they are mounted alone (docker-compose.yml, service test)."""

collect_ignore = ["inside"]
