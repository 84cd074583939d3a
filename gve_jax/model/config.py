"""The architecture of an encoder."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from gve_jax.types import UserError

_DTYPES = ("float32", "bfloat16")
_WEIGHTS = (*_DTYPES, "int8")
_REMAT = ("none", "attn_out", "full")
_NORMS = ("rms", "layer")
_MLPS = ("swiglu", "quick_gelu", "gelu_pytorch_tanh")
_MAY_BE_ZERO = ("window_size", "num_position_embeddings")
_ATTENTION = ("auto", "dense", "blocked", "cudnn", "splash")


# Channel statistics, RGB in [0, 1]: of CLIP's training images, and plain.
CLIP = dict(
    image_mean=(0.48145466, 0.4578275, 0.40821073),
    image_std=(0.26862954, 0.26130258, 0.27577711),
)
PLAIN = dict(image_mean=(0.5, 0.5, 0.5), image_std=(0.5, 0.5, 0.5))


@dataclasses.dataclass(frozen=True)
class VisionConfig:
    """The vision tower. Names as in `transformers`, defaults those of Qwen2.5-VL."""

    depth: int = 32
    hidden_size: int = 3584
    intermediate_size: int = 3420
    num_heads: int = 16
    in_channels: int = 3
    patch_size: int = 14
    temporal_patch_size: int = 2
    spatial_merge_size: int = 2
    window_size: int = 112  # pixels; 0: every block attends within whole frames
    fullatt_block_indexes: tuple[int, ...] = (7, 15, 23, 31)
    tokens_per_second: float = 4  # temporal M-RoPE steps; read by preprocess
    rope_theta: float = 10000.0
    norm: str = "rms"  # or "layer", with biases
    mlp: str = "swiglu"  # or one hidden layer of "quick_gelu" or "gelu_pytorch_tanh"
    patch_bias: bool = False
    # Learned positions of a square grid, interpolated to each frame's; 0: none.
    num_position_embeddings: int = 0
    # Blocks whose output the first layers of the language model see as well.
    deepstack_visual_indexes: tuple[int, ...] = ()
    image_mean: tuple[float, ...] = CLIP["image_mean"]
    image_std: tuple[float, ...] = CLIP["image_std"]

    @property
    def head_dim(self) -> int:
        return self.hidden_size // self.num_heads

    @property
    def patch_dim(self) -> int:
        return self.in_channels * self.temporal_patch_size * self.patch_size**2


@dataclasses.dataclass(frozen=True)
class TextConfig:
    """The language model. Names as in `transformers`, defaults those of Qwen2.5-VL."""

    vocab_size: int = 152064
    hidden_size: int = 8192
    intermediate_size: int = 29568
    num_hidden_layers: int = 80
    num_attention_heads: int = 64
    num_key_value_heads: int = 8
    rms_norm_eps: float = 1e-5
    rope_theta: float = 1e6
    mrope_section: tuple[int, ...] = (16, 24, 24)
    max_position_embeddings: int = 32768
    head_dim: int | None = None  # None: hidden_size / num_attention_heads
    qk_norm: bool = False  # RMSNorm of each query and key head
    attention_bias: bool = True  # of queries, keys and values
    # Bands of temporal, height and width frequencies: in turn, or one after the other.
    mrope_interleaved: bool = False

    def __post_init__(self):
        if self.head_dim is None:
            heads = max(self.num_attention_heads, 1)
            if self.hidden_size % heads:
                raise UserError(
                    f"model.text.hidden_size: {self.hidden_size!r} must be a multiple "
                    f"of num_attention_heads={heads}, where head_dim is not given"
                )
            object.__setattr__(self, "head_dim", self.hidden_size // heads)


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """Everything that decides the parameters and the program of an `Encoder`.

    Raises UserError, naming the field, for sizes that do not fit together.
    """

    vision: VisionConfig = VisionConfig()
    text: TextConfig = TextConfig()
    family: str = "qwen2_5_vl"  # model_type of its Hugging Face form
    image_token_id: int = 151655
    video_token_id: int = 151656
    vision_start_token_id: int = 151652
    vision_end_token_id: int = 151653
    tie_word_embeddings: bool = False
    # The language model's head, to generate text; a matrix of its own unless tied.
    head: bool = False
    lora_rank: int = 0  # 0: no LoRA parameters
    lora_alpha: float = 32.0
    lora_dropout: float = 0.0
    dtype: str = "float32"  # of activations
    param_dtype: str = "float32"  # of all weights but LoRA's, which are float32
    # The kernels of linears, LoRA's aside, are int8 with a float32 scale per output.
    int8: bool = False
    remat: str = "none"  # "none", "attn_out" (keep attention outputs) or "full"
    scan: bool = True  # scan over blocks, else unroll them
    attention: str = "auto"
    # Standard deviation of random linears and embeddings, as 0.02 in transformers.
    # None: scaled by fan-in, for small models that train from scratch.
    init_std: float | None = None

    def __post_init__(self):
        v, t = self.vision, self.text

        def require(ok, field, value, why):
            if not ok:
                raise UserError(f"model.{field}: {value!r} {why}")

        for field, options in (
            ("dtype", _DTYPES),
            ("param_dtype", _DTYPES),
            ("remat", _REMAT),
            ("attention", _ATTENTION),
        ):
            value = getattr(self, field)
            require(value in options, field, value, f"is not one of {options}")
        for part in ("vision", "text"):
            for f in dataclasses.fields(getattr(self, part)):
                if f.type is int:
                    value = getattr(getattr(self, part), f.name)
                    least = 0 if f.name in _MAY_BE_ZERO else 1
                    require(
                        isinstance(value, int) and value >= least,
                        f"{part}.{f.name}",
                        value,
                        f"must be an integer of at least {least}",
                    )
        require(
            v.hidden_size % v.num_heads == 0 and v.head_dim % 4 == 0,
            "vision.hidden_size",
            v.hidden_size,
            f"must be num_heads={v.num_heads} times a multiple of 4 (2-D rotary)",
        )
        require(
            t.head_dim > 0 and t.head_dim % 2 == 0,
            "text.head_dim",
            t.head_dim,
            "must be even and positive (it is hidden_size / num_attention_heads)",
        )
        require(
            t.num_attention_heads % t.num_key_value_heads == 0,
            "text.num_key_value_heads",
            t.num_key_value_heads,
            f"must divide num_attention_heads={t.num_attention_heads}",
        )
        require(
            len(t.mrope_section) == 3 and sum(t.mrope_section) * 2 == t.head_dim,
            "text.mrope_section",
            t.mrope_section,
            f"must be three numbers that sum to half the head size, {t.head_dim // 2}",
        )
        require(
            all(0 <= i < v.depth for i in v.fullatt_block_indexes),
            "vision.fullatt_block_indexes",
            v.fullatt_block_indexes,
            f"must lie below depth={v.depth}",
        )
        require(
            v.window_size % (v.patch_size * v.spatial_merge_size) == 0,
            "vision.window_size",
            v.window_size,
            f"must be a multiple of {v.patch_size * v.spatial_merge_size} pixels",
        )
        for field, options in (("norm", _NORMS), ("mlp", _MLPS)):
            value = getattr(v, field)
            require(
                value in options, f"vision.{field}", value, f"is not one of {options}"
            )
        side = math.isqrt(v.num_position_embeddings)
        require(
            side * side == v.num_position_embeddings,
            "vision.num_position_embeddings",
            v.num_position_embeddings,
            "must be a square number",
        )
        taps = v.deepstack_visual_indexes
        require(
            all(0 <= i < v.depth for i in taps) and list(taps) == sorted(set(taps)),
            "vision.deepstack_visual_indexes",
            taps,
            f"must rise and lie below depth={v.depth}",
        )
        require(
            len(taps) <= t.num_hidden_layers,
            "vision.deepstack_visual_indexes",
            taps,
            f"must be at most as many as num_hidden_layers={t.num_hidden_layers}",
        )
        require(self.lora_rank >= 0, "lora.rank", self.lora_rank, "is negative")
        require(
            0 <= self.lora_dropout < 1,
            "lora.dropout",
            self.lora_dropout,
            "is not in [0, 1)",
        )

    @property
    def dim(self) -> int:
        """Features of an embedding."""
        return self.text.hidden_size

    @property
    def weights(self) -> str:
        """What most of the weights are: "float32", "bfloat16" or "int8"."""
        return "int8" if self.int8 else self.param_dtype

    def with_weights(self, weights: str) -> "ModelConfig":
        """With weights of that kind; "int8" leaves those that stay floats bfloat16.

        Raises:
          UserError: it is none of the kinds.
        """
        if weights not in _WEIGHTS:
            raise UserError(f"model.param_dtype: {weights!r} is not one of {_WEIGHTS}")
        int8 = weights == "int8"
        return dataclasses.replace(
            self, int8=int8, param_dtype="bfloat16" if int8 else weights
        )

    @classmethod
    def from_config(cls, model, vocab_size: int, **token_ids: int) -> "ModelConfig":
        """From the `model` section of a config: an architecture from scratch.

        Args:
          model: `config.model` of `gve_jax.config.default_config()`.
          vocab_size: of the tokenizer, special tokens included.
          **token_ids: `image_token_id`, `video_token_id`, `vision_start_token_id`,
            `vision_end_token_id` of the tokenizer.
        """
        return cls(
            vision=fill(VisionConfig, model.vision, "model.vision"),
            text=fill(
                TextConfig,
                {**model.text, "vocab_size": vocab_size, "rms_norm_eps": 1e-6},
                "model.text",
            ),
            tie_word_embeddings=True,
            **token_ids,
        ).with_options(model)

    def with_options(self, model, stored: str = "float32") -> "ModelConfig":
        """This architecture with the run-time choices of a config's `model` section.

        LoRA's parameters exist only if they train; weights that train are float32.

        Args:
          model: `config.model` of `gve_jax.config.default_config()`.
          stored: what the weights are where they come from, and stay unless
            `model.param_dtype` says otherwise.
        """
        lora = model.trainable == "lora"
        if not lora and model.trainable != "all":
            raise UserError(
                f'model.trainable: {model.trainable!r} is neither "lora" nor "all"'
            )
        cfg = self.with_weights(model.param_dtype or stored)
        return dataclasses.replace(
            cfg if lora else cfg.with_weights("float32"),
            lora_rank=model.lora.rank if lora else 0,
            lora_alpha=model.lora.alpha,
            lora_dropout=model.lora.dropout,
            dtype=model.dtype or "float32",
            remat=model.remat,
            scan=model.scan,
            attention=model.attention,
        )


def fill(kind, values: Mapping[str, Any], where: str, unknown_ok: bool = False):
    """A dataclass from a mapping, sequences as tuples; None means the default."""
    names = {f.name for f in dataclasses.fields(kind)}
    unknown = set(values) - names
    if unknown and not unknown_ok:
        raise UserError(f"{where}: unknown keys {sorted(unknown)}")
    return kind(
        **{
            k: tuple(v) if isinstance(v, (list, tuple)) else v
            for k, v in dict(values).items()
            if k in names and v is not None
        }
    )
