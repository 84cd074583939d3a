"""Training: state, optimiser, step, loop."""
