"""One file per experiment: only its differences from gve_jax.config."""
