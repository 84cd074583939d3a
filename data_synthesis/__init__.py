"""V-SynFlow: from raw videos to a universal training set. Never imports jax."""
