"""Checkpoints as files of other libraries."""

from gve_jax.export.hf import export_hf

__all__ = ["export_hf"]
