"""What a link or a recipe says, and a visit filled in by it."""
