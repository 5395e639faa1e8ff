"""How good predictions are, by well-kept libraries."""
