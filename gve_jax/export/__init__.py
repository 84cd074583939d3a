"""Checkpoints as files of other libraries."""

from gve_jax.export.hf import export_hf
from gve_jax.export.processors import differences
from gve_jax.export.template import chat_template

__all__ = ["chat_template", "differences", "export_hf"]
