"""Models that are read and run part by part: the blocks that they are made of, and their weights when asked for."""
