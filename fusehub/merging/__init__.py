"""A merge: its recipe, its plan, and the plan carried out."""
