"""The benchmark of a start (`make bench`)."""
