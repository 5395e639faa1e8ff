"""FuseHub merges fine-tuned models of the Hugging Face Hub into one, without their training data."""
