"""Weights in fewer bits: what a config says of them, and what they mean as numbers."""
