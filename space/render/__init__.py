"""What the app shows: HTML, tables and plots, from values."""
