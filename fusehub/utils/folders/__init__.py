"""Folders and files that are written: whether they can be, whose they are, and whole or not there."""
