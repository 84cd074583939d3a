"""Contrastive losses over the global batch: embeddings in, scalar and curves out."""

from gve_jax.losses.contrastive import (
    LossCurves,
    contrastive_loss,
    distillation,
    info_nce,
)

__all__ = ["LossCurves", "contrastive_loss", "distillation", "info_nce"]
