"""Embedding of items with any checkpoint: compiled, bucketed, resumable."""

from gve_jax.embed.embedder import Embedder, EmbedResult, EmbedStats
from gve_jax.embed.log import VectorLog
from gve_jax.embed.store import embed_to_folder

__all__ = ["EmbedResult", "EmbedStats", "Embedder", "VectorLog", "embed_to_folder"]
