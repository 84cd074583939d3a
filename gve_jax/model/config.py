"""The architecture of an encoder, and its Hugging Face `config.json` forms."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from gve_jax.types import UserError

_DTYPES = ("float32", "bfloat16")
_REMAT = ("none", "attn_out", "full")
_ATTENTION = ("auto", "dense", "blocked", "cudnn", "splash")


@dataclasses.dataclass(frozen=True)
class VisionConfig:
    """The vision tower. Names and defaults as in `transformers`."""

    depth: int = 32
    hidden_size: int = 3584
    intermediate_size: int = 3420
    num_heads: int = 16
    in_channels: int = 3
    patch_size: int = 14
    temporal_patch_size: int = 2
    spatial_merge_size: int = 2
    window_size: int = 112  # pixels
    fullatt_block_indexes: tuple[int, ...] = (7, 15, 23, 31)
    tokens_per_second: float = 4  # temporal M-RoPE steps; read by preprocess
    rope_theta: float = 10000.0

    @property
    def head_dim(self) -> int:
        return self.hidden_size // self.num_heads

    @property
    def patch_dim(self) -> int:
        return self.in_channels * self.temporal_patch_size * self.patch_size**2


@dataclasses.dataclass(frozen=True)
class TextConfig:
    """The language model. Names and defaults as in `transformers`."""

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

    @property
    def head_dim(self) -> int:
        return self.hidden_size // self.num_attention_heads


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """Everything that decides the parameters and the program of an `Encoder`.

    Raises UserError, naming the field, for sizes that do not fit together.
    """

    vision: VisionConfig = VisionConfig()
    text: TextConfig = TextConfig()
    image_token_id: int = 151655
    video_token_id: int = 151656
    vision_start_token_id: int = 151652
    vision_end_token_id: int = 151653
    tie_word_embeddings: bool = False
    lora_rank: int = 0  # 0: no LoRA parameters
    lora_alpha: float = 32.0
    lora_dropout: float = 0.0
    dtype: str = "float32"  # of activations
    param_dtype: str = "float32"  # of all weights but LoRA's, which are float32
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
                    require(
                        isinstance(value, int) and value > 0,
                        f"{part}.{f.name}",
                        value,
                        "must be a positive integer",
                    )
        require(
            v.hidden_size % v.num_heads == 0 and v.head_dim % 4 == 0,
            "vision.hidden_size",
            v.hidden_size,
            f"must be num_heads={v.num_heads} times a multiple of 4 (2-D rotary)",
        )
        require(
            t.hidden_size % t.num_attention_heads == 0 and t.head_dim % 2 == 0,
            "text.hidden_size",
            t.hidden_size,
            f"must be an even multiple of num_attention_heads={t.num_attention_heads}",
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
            vision=_fill(VisionConfig, model.vision, "model.vision"),
            text=_fill(
                TextConfig,
                {**model.text, "vocab_size": vocab_size, "rms_norm_eps": 1e-6},
                "model.text",
            ),
            tie_word_embeddings=True,
            **token_ids,
        ).with_options(model)

    def with_options(self, model) -> "ModelConfig":
        """This architecture with the run-time choices of a config's `model` section.

        LoRA's parameters exist only if they train; weights that train are float32.
        """
        lora = model.trainable == "lora"
        if not lora and model.trainable != "all":
            raise UserError(
                f'model.trainable: {model.trainable!r} is neither "lora" nor "all"'
            )
        return dataclasses.replace(
            self,
            lora_rank=model.lora.rank if lora else 0,
            lora_alpha=model.lora.alpha,
            lora_dropout=model.lora.dropout,
            dtype=model.dtype,
            param_dtype=model.param_dtype if lora else "float32",
            remat=model.remat,
            scan=model.scan,
            attention=model.attention,
        )

    @classmethod
    def from_hf(
        cls, values: Mapping[str, Any], where: str = "config.json"
    ) -> "ModelConfig":
        """From a Hugging Face config, of either layout.

        Files of transformers 5 hold `text_config` and `rope_parameters`; those of the
        released weights are flat, with `rope_scaling` and `rope_theta`. A field that is
        missing has the default of `transformers`, which omits defaults.

        Raises:
          UserError: another model type, or a feature that the encoder does not have.
        """
        text = values.get("text_config") or values
        vision = dict(values.get("vision_config") or {})
        rope = text.get("rope_parameters") or text.get("rope_scaling") or {}
        vision_rope = vision.get("rope_parameters") or {}
        for name, ok in {
            "model_type": values.get("model_type") == "qwen2_5_vl",
            "hidden_act": text.get("hidden_act", "silu") == "silu",
            "vision_config.hidden_act": vision.get("hidden_act", "silu") == "silu",
            "use_sliding_window": not text.get("use_sliding_window"),
            "rope_type": rope.get("rope_type", rope.get("type", "default"))
            in ("default", "mrope"),
        }.items():
            if not ok:
                found = text.get(name, values.get(name, rope))
                raise UserError(
                    f"{where}: {name} is {found!r}, which this encoder does not "
                    "have; it reads Qwen2.5-VL models"
                )
        if "in_chans" in vision:  # the name in the released files
            vision.setdefault("in_channels", vision["in_chans"])
        vision.setdefault("rope_theta", vision_rope.get("rope_theta", 10000.0))
        names = {f.name for f in dataclasses.fields(cls)}
        hidden = text.get("hidden_size", TextConfig.hidden_size)
        out = vision.get("out_hidden_size", 3584)
        if out != hidden:
            raise UserError(
                f"{where}: vision_config.out_hidden_size {out} differs from the "
                f"language model's hidden_size {hidden}"
            )
        return cls(
            vision=_fill(VisionConfig, vision, where, unknown_ok=True),
            text=_fill(
                TextConfig,
                {
                    **text,
                    "rope_theta": rope.get("rope_theta", text.get("rope_theta", 1e6)),
                    "mrope_section": rope.get("mrope_section", (16, 24, 24)),
                    "num_key_value_heads": text.get("num_key_value_heads", 8)
                    or text["num_attention_heads"],
                },
                where,
                unknown_ok=True,
            ),
            tie_word_embeddings=bool(
                values.get("tie_word_embeddings") or text.get("tie_word_embeddings")
            ),
            **{k: values[k] for k in names & values.keys() if k.endswith("_token_id")},
            init_std=0.02,
        )

    def to_hf(self) -> dict[str, Any]:
        """The `config.json` of `Qwen2_5_VLForConditionalGeneration`, nested layout."""
        vision, text = dataclasses.asdict(self.vision), dataclasses.asdict(self.text)
        theta = vision.pop("rope_theta")
        rope = {
            "rope_type": "default",
            "rope_theta": text.pop("rope_theta"),
            "mrope_section": list(text.pop("mrope_section")),
        }
        return {
            "architectures": ["Qwen2_5_VLForConditionalGeneration"],
            "model_type": "qwen2_5_vl",
            "dtype": self.param_dtype,
            "image_token_id": self.image_token_id,
            "video_token_id": self.video_token_id,
            "vision_start_token_id": self.vision_start_token_id,
            "vision_end_token_id": self.vision_end_token_id,
            "tie_word_embeddings": self.tie_word_embeddings,
            "vision_config": {
                **vision,
                "model_type": "qwen2_5_vl_vision",
                "hidden_act": "silu",
                "out_hidden_size": self.text.hidden_size,
                "fullatt_block_indexes": list(self.vision.fullatt_block_indexes),
                "rope_parameters": {"rope_type": "axial", "rope_theta": theta},
            },
            "text_config": {
                **text,
                "model_type": "qwen2_5_vl_text",
                "hidden_act": "silu",
                # The defaults name tokens that a small vocabulary does not have.
                "bos_token_id": None,
                "eos_token_id": None,
                "pad_token_id": None,
                "rope_parameters": rope,
            },
        }


def _fill(kind, values: Mapping[str, Any], where: str, unknown_ok: bool = False):
    """Builds a dataclass from a mapping, sequences as tuples."""
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
