"""Flags that commands which embed have in common, and the embedder they name."""

from collections.abc import Sequence

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


def embedder_from_flags(
    config: ConfigDict | None = None,
    exact: bool = False,
    devices: Sequence[jax.Device] | None = None,
) -> Embedder:
    """The embedder of the flags; the arguments are those of `from_checkpoint`.

    Raises UserError as that does, and for a workdir's preset.
    """
    if _PRESET.value:
        if is_workdir(_CHECKPOINT.value):
            raise UserError(
                f"--preset={_PRESET.value}: {_CHECKPOINT.value} is a training workdir, "
                "which embeds as it was trained; leave the flag out"
            )
        config = default_config() if config is None else config
        config.preprocess.preset = _PRESET.value
    return Embedder.from_checkpoint(
        _CHECKPOINT.value,
        dtype=_DTYPE.value,
        weights=_WEIGHTS.value or (config and config.model.param_dtype) or None,
        config=config,
        exact=exact,
        devices=devices,
    )
