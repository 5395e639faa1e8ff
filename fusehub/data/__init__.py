"""Examples: rows from files and the Hub, which columns mean what, and batches made of them."""
