"""Training: data, losses, optimization, checkpoints, diagnostics and the loop that joins them."""
