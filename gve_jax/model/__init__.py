"""The Qwen-VL encoders in Flax NNX."""

from gve_jax.model.config import ModelConfig, TextConfig, VisionConfig
from gve_jax.model.convert import merge_lora, read_hf, write_hf
from gve_jax.model.encoder import Encoder, abstract, create, partition
from gve_jax.model.quantise import convert_weights

__all__ = [
    "Encoder",
    "ModelConfig",
    "TextConfig",
    "VisionConfig",
    "abstract",
    "convert_weights",
    "create",
    "merge_lora",
    "partition",
    "read_hf",
    "write_hf",
]
