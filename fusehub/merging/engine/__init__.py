"""How a plan is carried out: tensors read, merged piece by piece or solved, and written by one process or several."""
