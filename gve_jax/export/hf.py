"""The files that `transformers` and PEFT read."""

import json
import os
import pathlib

import jax
import numpy as np
import safetensors.numpy
from flax import nnx

from gve_jax.model import write_hf
from gve_jax.model.layers import LoRAParam
from gve_jax.restore import Restored
from gve_jax.types import UserError

# Ours -> theirs, of the projections that carry a low-rank update.
_PROJECTIONS = {
    "q": "self_attn.q_proj",
    "k": "self_attn.k_proj",
    "v": "self_attn.v_proj",
    "mlp/gate": "mlp.gate_proj",
    "mlp/up": "mlp.up_proj",
    "mlp/down": "mlp.down_proj",
}
_LAYERS = "model.language_model.layers"


def export_hf(found: Restored, folder: str | os.PathLike, lora: str = "merge") -> None:
    """Writes a folder that `transformers` loads, or PEFT where `lora` is "adapter".

    Args:
      found: a checkpoint as read by `restore`.
      folder: absent or empty.
      lora: "merge" folds low-rank updates into the weights; "adapter" writes them
        alone, to be put on the model that training started from.

    Raises:
      UserError: the folder holds something or cannot be written, or there is no update
        to write alone.
    """
    folder = pathlib.Path(folder)
    if lora == "adapter" and not found.model_config.lora_rank:
        raise UserError(
            "--lora=adapter: this checkpoint has no low-rank update (all its weights "
            "were trained): use --lora=merge"
        )
    if folder.is_dir() and any(folder.iterdir()):
        raise UserError(f"--output={folder}: is not empty; give a new folder")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise UserError(f"--output={folder}: cannot be made ({e.strerror})") from None
    found.tokenizer.save(folder)
    _write_json(folder / "preprocessor_config.json", _image_processor(found))
    # Which vectors these are: read back with the weights, by this package.
    found.contract.save(folder / "contract.json")
    if lora == "adapter":
        _write_adapter(found, folder)
    else:
        write_hf(found.model_config, found.params, folder)


def _image_processor(found: Restored) -> dict:
    vision = found.model_config.vision
    return {
        "image_processor_type": "Qwen2VLImageProcessor",
        "processor_class": "Qwen2_5_VLProcessor",
        "size": {
            "shortest_edge": found.contract.min_pixels,
            "longest_edge": found.contract.max_pixels,
        },
        "patch_size": vision.patch_size,
        "temporal_patch_size": vision.temporal_patch_size,
        "merge_size": vision.spatial_merge_size,
        "image_mean": list(vision.image_mean),
        "image_std": list(vision.image_std),
    }


def _write_adapter(found: Restored, folder: pathlib.Path) -> None:
    cfg = found.model_config
    flat = {
        p: v for p, v in nnx.to_flat_state(found.params) if isinstance(v, LoRAParam)
    }
    depth = cfg.text.num_hidden_layers
    tensors = {}
    for (_, block, *place, name), v in flat.items():
        theirs = _PROJECTIONS["/".join(place)]
        x = np.asarray(jax.device_get(v[...]))
        stacked = [x] if block == "last" else x
        first = depth - 1 if block == "last" else 0
        part = {"lora_a": "lora_A", "lora_b": "lora_B"}[name]
        for i, one in enumerate(stacked, first):
            key = f"base_model.model.{_LAYERS}.{i}.{theirs}.{part}.weight"
            tensors[key] = np.ascontiguousarray(one.reshape(len(one), -1).T)
    safetensors.numpy.save_file(
        tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"}
    )
    names = "|".join(_PROJECTIONS.values()).replace(".", r"\.")
    layers = _LAYERS.replace(".", r"\.")
    config = {
        "peft_type": "LORA",
        "base_model_name_or_path": found.config.model.init_from,
        "r": cfg.lora_rank,
        "lora_alpha": cfg.lora_alpha,
        "lora_dropout": cfg.lora_dropout,
        # A pattern: the vision tower has layers of the same names.
        "target_modules": rf"{layers}\.\d+\.({names})",
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
    }
    _write_json(folder / "adapter_config.json", config)


def _write_json(path: pathlib.Path, values: dict) -> None:
    path.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
