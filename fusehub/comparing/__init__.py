"""What models predict, side by side and scored, and options chosen by that."""
