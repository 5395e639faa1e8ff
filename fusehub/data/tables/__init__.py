"""Rows, wherever they come from: files, folders and datasets on the Hub."""
