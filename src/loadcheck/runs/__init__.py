"""A run: the child process that loads, what it printed, what was sampled beside it, and the folder that keeps all of it."""
