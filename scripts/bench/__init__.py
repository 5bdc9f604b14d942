"""The start-up benchmark (`make bench`)."""
