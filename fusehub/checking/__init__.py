"""Can these models be merged? Told before any weights are read."""
