"""The engines: what runs in the child process of a load."""
