"""The tests in inside/ run in the image, where only they are mounted (docker-compose.yml, service test)."""

collect_ignore = ["inside"]
