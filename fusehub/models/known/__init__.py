"""What transformers has said of a model before, told again without it: importing it takes longer than a merge."""
