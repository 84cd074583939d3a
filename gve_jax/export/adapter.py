"""A low-rank update as the files of PEFT."""

import pathlib

import jax
import numpy as np
from flax import nnx

from gve_jax.hub import find_weights
from gve_jax.model.files import save_tensors
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
# In every family; of `...ForConditionalGeneration` within "model".
_LAYERS = "language_model.layers"


def adapter_config(found: Restored) -> dict:
    """The content of adapter_config.json.

    The base is named so that it is found from any folder: by its hub id and the
    revision that it was read at, or by an absolute path.

    Raises:
      UserError: there is no update, or no model of its own to put it on.
    """
    cfg, base = found.model_config, found.config.model.init_from
    merge = "use --lora=merge"
    if not cfg.lora_rank:
        raise UserError(
            "--lora=adapter: this checkpoint has no low-rank update (all its weights "
            f"were trained): {merge}"
        )
    if not base:
        raise UserError(
            "--lora=adapter: its update is of random weights, which are in no file: "
            f"{merge}"
        )
    weights = find_weights(base, "model.init_from")
    if weights.adapter is not None:
        raise UserError(
            f"--lora=adapter: it was trained upon {base}, an adapter itself: {merge}"
        )
    layers, names = (
        text.replace(".", r"\.") for text in (_LAYERS, "|".join(_PROJECTIONS.values()))
    )
    return {
        "peft_type": "LORA",
        "base_model_name_or_path": weights.hub_id or str(weights.folder),
        # The hub's cache names a folder after its commit.
        "revision": weights.folder.name if weights.hub_id else None,
        "r": cfg.lora_rank,
        "lora_alpha": cfg.lora_alpha,
        "lora_dropout": cfg.lora_dropout,
        # A pattern: the vision tower has layers of the same names. AutoModel, and with
        # it sentence-transformers, has no "model" around its own.
        "target_modules": rf"(model\.)?{layers}\.\d+\.({names})",
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
    }


def write_adapter_tensors(found: Restored, folder: pathlib.Path) -> None:
    """Writes adapter_model.safetensors: the update alone, in float32."""
    depth = found.model_config.text.num_hidden_layers
    tensors = {}
    for path, v in nnx.to_flat_state(found.params):
        if not isinstance(v, LoRAParam):
            continue
        _, block, *place, name = path
        theirs = _PROJECTIONS["/".join(place)]
        x = np.asarray(jax.device_get(v[...]))
        stacked = [x] if block == "last" else x
        first = depth - 1 if block == "last" else 0
        part = {"lora_a": "lora_A", "lora_b": "lora_B"}[name]
        for i, one in enumerate(stacked, first):
            key = f"base_model.model.model.{_LAYERS}.{i}.{theirs}.{part}.weight"
            tensors[key] = np.ascontiguousarray(one.reshape(len(one), -1).T)
    save_tensors(folder / "adapter_model.safetensors", tensors)
