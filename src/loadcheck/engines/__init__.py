"""The entry points of the child processes that import the stack."""
