"""Statistics of an expert, counted where its data are."""
