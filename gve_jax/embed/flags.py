"""Flags that commands which embed have in common, and the embedder they name."""

import os
from collections.abc import Mapping, Sequence

import jax
from absl import flags
from ml_collections import ConfigDict

from gve_jax.config import default_config
from gve_jax.embed.embedder import Embedder
from gve_jax.restore import is_workdir
from gve_jax.types import UserError

_CHECKPOINT = flags.DEFINE_string(
    "checkpoint",
    None,
    "Training workdir (also WORKDIR@best, WORKDIR@STEP), Hugging Face safetensors "
    "folder, PEFT adapter or hub id.",
)
_DTYPE = flags.DEFINE_enum(
    "dtype",
    None,
    ["float32", "bfloat16"],
    "Of activations; default: a workdir's own, else bfloat16, but float32 on CPU.",
)
_WEIGHTS = flags.DEFINE_enum(
    "weights",
    None,
    ["float32", "bfloat16", "int8"],
    "int8: a quarter of float32's memory; default the checkpoint's, float32 on CPU.",
)
_PRESET = flags.DEFINE_string(
    "preset",
    None,
    "How a Hugging Face checkpoint is asked (gve_jax/presets.py); default: as it says.",
)


def flag_values(like: Mapping[str, str | None] | None = None) -> dict[str, str | None]:
    """Flag -> value, of all flags here; a local checkpoint's path is absolute.

    Without a checkpoint all are those of `like`, which an earlier call returned.

    Raises UserError if there is neither.
    """
    checkpoint = _CHECKPOINT.value
    if checkpoint is None:
        if not like:
            raise UserError(
                "--checkpoint: name a training workdir, a folder or a hub id"
            )
        return dict(like)
    values = {flag.name: flag.value for flag in (_DTYPE, _WEIGHTS, _PRESET)}
    values["checkpoint"] = checkpoint
    if is_workdir(checkpoint) or os.path.isdir(checkpoint):  # else a hub id
        values["checkpoint"] = os.path.abspath(checkpoint)
    return values


def embedder_from_flags(
    config: ConfigDict | None = None,
    exact: bool = False,
    devices: Sequence[jax.Device] | None = None,
    like: Mapping[str, str | None] | None = None,
) -> Embedder:
    """The embedder of the flags; `like` is that of `flag_values`, the other arguments
    are those of `from_checkpoint`.

    Raises UserError as that does, and for a workdir's preset.
    """
    values = flag_values(like)
    checkpoint, preset = values["checkpoint"], values["preset"]
    if preset:
        if is_workdir(checkpoint):
            raise UserError(
                f"--preset={preset}: {checkpoint} is a training workdir, "
                "which embeds as it was trained; leave the flag out"
            )
        config = default_config() if config is None else config
        config.preprocess.preset = preset
    return Embedder.from_checkpoint(
        checkpoint,
        dtype=values["dtype"],
        weights=values["weights"] or (config and config.model.param_dtype) or None,
        config=config,
        exact=exact,
        devices=devices,
    )
