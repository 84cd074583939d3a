"""Universal video retrieval in JAX."""

__version__ = "0.1.0"
