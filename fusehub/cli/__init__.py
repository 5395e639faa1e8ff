"""The command line: one command a step, each a thin layer over the function that does it."""
