"""Training: data sets, the loop, run folders, checkpoints."""
