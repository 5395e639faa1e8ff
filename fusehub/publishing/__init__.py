"""Merges and statistics on the Hub, with the cards that they are given."""
