"""A run: the child process that loads, its output, the memory samples, and the folder that keeps them."""
