"""Frames and text to fixed-shape arrays, equal to transformers' own. NumPy only."""

from gve_jax.preprocess.buckets import Bucket
from gve_jax.preprocess.geometry import Geometry
from gve_jax.preprocess.order import reorder
from gve_jax.preprocess.packing import Packed, Packer, collate_packed
from gve_jax.preprocess.processor import Processor
from gve_jax.preprocess.resize import smart_resize
from gve_jax.preprocess.tokenizer import Tokenizer, load_tokenizer, train_tokenizer
from gve_jax.preprocess.workers import Lost, Reader

__all__ = [
    "Bucket",
    "Geometry",
    "Lost",
    "Packed",
    "Packer",
    "Processor",
    "Reader",
    "Tokenizer",
    "collate_packed",
    "load_tokenizer",
    "reorder",
    "smart_resize",
    "train_tokenizer",
]
