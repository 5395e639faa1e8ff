"""What strangers wrote, read as plain data and within limits: JSON and YAML."""
