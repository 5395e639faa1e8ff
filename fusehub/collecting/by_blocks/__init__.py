"""Counting block by block: no more of a model is in memory than one of its blocks."""
