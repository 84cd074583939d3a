"""What is evaluated: our checkpoints, Python classes, precomputed vectors."""
