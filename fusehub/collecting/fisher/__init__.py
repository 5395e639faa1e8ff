"""Fisher diagonals: gradients of single examples, squared and summed."""
