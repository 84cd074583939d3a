"""The Qwen-VL encoders in Flax NNX."""

from gve_jax.model.config import ModelConfig, TextConfig, VisionConfig
from gve_jax.model.convert import merge_lora, read_hf, write_hf
from gve_jax.model.encoder import Encoder, abstract, create, partition

__all__ = [
    "Encoder",
    "ModelConfig",
    "TextConfig",
    "VisionConfig",
    "abstract",
    "create",
    "merge_lora",
    "partition",
    "read_hf",
    "write_hf",
]
