"""LoRA adapters as experts: read over their base like any other model."""
