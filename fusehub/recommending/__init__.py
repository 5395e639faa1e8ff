"""Which way to merge: what the models and their statistics allow, held against what was measured."""
