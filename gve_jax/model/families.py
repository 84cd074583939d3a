"""Hugging Face's `config.json` of each family, read and written."""

import dataclasses
import os
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from gve_jax.model.config import (
    CLIP,
    PLAIN,
    ModelConfig,
    TextConfig,
    VisionConfig,
    fill,
)
from gve_jax.types import UserError

# Fields of `vision_config` that are called and mean the same everywhere.
_VISION_SIZES = (
    "depth",
    "num_heads",
    "in_channels",
    "patch_size",
    "temporal_patch_size",
    "spatial_merge_size",
)
_WINDOWED = (
    "hidden_size",
    "intermediate_size",
    "window_size",
    "fullatt_block_indexes",
    "tokens_per_second",
)
_DEEPSTACK = (
    "hidden_size",
    "intermediate_size",
    "num_position_embeddings",
    "deepstack_visual_indexes",
)


def _lists(v: VisionConfig, names) -> dict[str, Any]:
    values = {name: getattr(v, name) for name in (*_VISION_SIZES, *names)}
    return {k: list(x) if isinstance(x, tuple) else x for k, x in values.items()}


def _in_channels(vision: dict) -> dict:
    # "in_chans" is the name in the released files.
    return {"in_channels": vision.get("in_chans", 3)} | vision


def _qwen2_from_hf(vision: dict) -> tuple[dict, int]:
    # Its `hidden_size` is the language model's.
    vision = {"embed_dim": 1280, "hidden_size": 3584, "mlp_ratio": 4} | vision
    size = vision["embed_dim"]
    sizes = {"hidden_size": size, "intermediate_size": int(size * vision["mlp_ratio"])}
    return _in_channels(vision) | sizes, vision["hidden_size"]


def _qwen2_to_hf(v: VisionConfig, out: int) -> dict:
    return _lists(v, ()) | {
        "embed_dim": v.hidden_size,
        "hidden_size": out,
        "mlp_ratio": v.intermediate_size // v.hidden_size,
    }


def _qwen2_5_from_hf(vision: dict) -> tuple[dict, int]:
    return _in_channels(vision), vision.get("out_hidden_size", 3584)


def _qwen2_5_to_hf(v: VisionConfig, out: int) -> dict:
    return _lists(v, _WINDOWED) | {"out_hidden_size": out}


def _qwen3_from_hf(vision: dict) -> tuple[dict, int]:
    defaults = dict(
        depth=27,
        hidden_size=1152,
        intermediate_size=4304,
        patch_size=16,
        num_position_embeddings=2304,
        deepstack_visual_indexes=(8, 16, 24),
    )
    return defaults | _in_channels(vision), vision.get("out_hidden_size", 3584)


def _qwen3_to_hf(v: VisionConfig, out: int) -> dict:
    return _lists(v, _DEEPSTACK) | {"out_hidden_size": out}


class _Family(NamedTuple):
    """What a `model_type` of Hugging Face stands for."""

    class_prefix: str  # of its model classes
    vision_act: str  # activation of the vision tower's MLPs
    vision_out: str  # name of the size of its output
    vision: dict[str, Any]  # fields of VisionConfig that all its models share
    text: dict[str, Any]  # fields of TextConfig that all its models share
    vision_from_hf: Callable[[dict], tuple[dict, int]]  # -> fields, size of its output
    vision_to_hf: Callable[[VisionConfig, int], dict]
    # What `transformers` takes where the file is silent.
    text_defaults: dict[str, Any]
    rope_theta: float
    mrope_section: tuple[int, ...]


_QWEN2_TEXT = dict(
    text=dict(qk_norm=False, attention_bias=True, mrope_interleaved=False),
    text_defaults=dict(hidden_size=8192, num_key_value_heads=8, rms_norm_eps=1e-5),
    rope_theta=1e6,
    mrope_section=(16, 24, 24),
)
_NO_WINDOWS = dict(window_size=0, fullatt_block_indexes=())
_FAMILIES = {
    "qwen2_vl": _Family(
        class_prefix="Qwen2VL",
        vision_act="quick_gelu",
        vision_out="hidden_size",
        vision=dict(norm="layer", mlp="quick_gelu", **_NO_WINDOWS, **CLIP),
        vision_from_hf=_qwen2_from_hf,
        vision_to_hf=_qwen2_to_hf,
        **_QWEN2_TEXT,
    ),
    "qwen2_5_vl": _Family(
        class_prefix="Qwen2_5_VL",
        vision_act="silu",
        vision_out="out_hidden_size",
        vision=dict(norm="rms", mlp="swiglu", **CLIP),
        vision_from_hf=_qwen2_5_from_hf,
        vision_to_hf=_qwen2_5_to_hf,
        **_QWEN2_TEXT,
    ),
    "qwen3_vl": _Family(
        class_prefix="Qwen3VL",
        vision_act="gelu_pytorch_tanh",
        vision_out="out_hidden_size",
        vision=dict(
            norm="layer",
            mlp="gelu_pytorch_tanh",
            patch_bias=True,
            **_NO_WINDOWS,
            **PLAIN,
        ),
        vision_from_hf=_qwen3_from_hf,
        vision_to_hf=_qwen3_to_hf,
        text=dict(qk_norm=True, attention_bias=False, mrope_interleaved=True),
        text_defaults=dict(
            vocab_size=151936,
            hidden_size=4096,
            intermediate_size=22016,
            num_hidden_layers=32,
            num_attention_heads=32,
            num_key_value_heads=32,
            head_dim=128,
            rms_norm_eps=1e-6,
            max_position_embeddings=128000,
        ),
        rope_theta=5e5,
        mrope_section=(24, 20, 20),
    ),
}


# Model types of remote code around a plain model.
_OTHER_NAMES = {"unite_qwen2_vl": "qwen2_vl"}


def from_hf(
    values: Mapping[str, Any], where: str | os.PathLike = "config.json"
) -> ModelConfig:
    """From a Hugging Face config, of either layout.

    Files of transformers 5 hold `text_config` and `rope_parameters`; those of the
    released weights are flat, with `rope_scaling` and `rope_theta`. A field that is
    missing has the default of `transformers`, which omits defaults.

    Raises:
      UserError: another model type, or a feature that the encoder does not have.
    """
    name = values.get("model_type")
    name = _OTHER_NAMES.get(name, name)
    if name not in _FAMILIES:
        raise UserError(
            f"{where}: model_type is {name!r}; this package reads Qwen-VL models: "
            f"{', '.join(_FAMILIES)}"
        )
    if values.get("quantization_config"):
        kind = values["quantization_config"].get("quant_method", "unknown")
        raise UserError(
            f"{where}: quantization_config says {kind!r}: quantised checkpoints "
            "are not read; use the 16-bit weights (--weights=int8 quantises them)"
        )
    family = _FAMILIES[name]
    text = values.get("text_config") or values
    vision = dict(values.get("vision_config") or {})
    rope = text.get("rope_parameters") or text.get("rope_scaling") or {}
    vision_rope = vision.get("rope_parameters") or {}
    rope_type = rope.get("rope_type", rope.get("type", "default"))
    act = vision.get("hidden_act", family.vision_act)
    interleaved = rope.get("mrope_interleaved", family.text["mrope_interleaved"])
    for field, found, ok in (
        ("hidden_act", text.get("hidden_act", "silu"), ("silu",)),
        ("vision_config.hidden_act", act, (family.vision_act,)),
        ("use_sliding_window", bool(text.get("use_sliding_window")), (False,)),
        ("rope_type", rope_type, ("default", "mrope")),
        (
            "mrope_interleaved",
            interleaved,
            (family.text["mrope_interleaved"],),
        ),
        (
            "attention_bias",
            text.get("attention_bias", family.text["attention_bias"]),
            (family.text["attention_bias"],),
        ),
    ):
        if found not in ok:
            raise UserError(
                f"{where}: {field} is {found!r}, which no {name} model that this "
                f"package reads has (it wants {ok[0]!r})"
            )
    hidden = text.get("hidden_size", family.text_defaults["hidden_size"])
    vision, out = family.vision_from_hf(vision)
    if out != hidden:
        raise UserError(
            f"{where}: vision_config.{family.vision_out} {out} differs from the "
            f"language model's hidden_size {hidden}"
        )
    vision["rope_theta"] = vision_rope.get("rope_theta", 10000.0)
    names = {f.name for f in dataclasses.fields(ModelConfig)}
    theta = text.get("rope_theta", family.rope_theta)
    heads = text.get("num_attention_heads")
    return ModelConfig(
        family=name,
        vision=fill(VisionConfig, {**vision, **family.vision}, where, unknown_ok=True),
        text=fill(
            TextConfig,
            {
                **family.text_defaults,
                **{k: v for k, v in text.items() if v is not None},
                "rope_theta": rope.get("rope_theta", theta),
                "mrope_section": rope.get("mrope_section", family.mrope_section),
                # None, written out, means as many as there are heads.
                **(
                    {"num_key_value_heads": heads}
                    if text.get("num_key_value_heads", 0) is None
                    else {}
                ),
                **family.text,
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


def to_hf(cfg: ModelConfig) -> dict[str, Any]:
    """The `config.json` of `...ForConditionalGeneration`, in the nested layout."""
    family = _FAMILIES[cfg.family]
    v, t = cfg.vision, cfg.text
    sizes = dataclasses.asdict(t)
    for name in [*family.text, "rope_theta", "mrope_section"]:
        del sizes[name]
    if "head_dim" not in family.text_defaults:
        del sizes["head_dim"]  # follows from the others
    rope = {
        "rope_type": "default",
        "rope_theta": t.rope_theta,
        "mrope_section": list(t.mrope_section),
    }
    if t.mrope_interleaved:
        rope["mrope_interleaved"] = True
    return {
        "architectures": [f"{family.class_prefix}ForConditionalGeneration"],
        "model_type": cfg.family,
        "dtype": cfg.param_dtype,
        "image_token_id": cfg.image_token_id,
        "video_token_id": cfg.video_token_id,
        "vision_start_token_id": cfg.vision_start_token_id,
        "vision_end_token_id": cfg.vision_end_token_id,
        "tie_word_embeddings": cfg.tie_word_embeddings,
        "vision_config": {
            **family.vision_to_hf(v, t.hidden_size),
            "model_type": f"{cfg.family}_vision",
            "hidden_act": family.vision_act,
            "rope_parameters": {"rope_type": "axial", "rope_theta": v.rope_theta},
        },
        "text_config": {
            **sizes,
            "model_type": f"{cfg.family}_text",
            "hidden_act": "silu",
            # The defaults name tokens that a small vocabulary does not have.
            "bos_token_id": None,
            "eos_token_id": None,
            "pad_token_id": None,
            "rope_parameters": rope,
        },
    }
