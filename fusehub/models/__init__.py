"""What a model is: its files at one commit, its task, its layers, its weights, and adapters on it."""
