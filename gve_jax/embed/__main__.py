"""Embed an items file and export NumPy.

python -m gve_jax.embed --checkpoint=runs/quickstart/train \
    --input=runs/quickstart/world/items.jsonl --output=runs/embeddings --stats
"""

import sys

from absl import flags

from gve_jax.config import default_config
from gve_jax.data.records import read_items
from gve_jax.embed.embedder import Embedder
from gve_jax.embed.store import embed_to_folder
from gve_jax.main import run
from gve_jax.restore import is_workdir
from gve_jax.types import UserError

_CHECKPOINT = flags.DEFINE_string(
    "checkpoint", None, "Training workdir, Hugging Face safetensors folder or hub id."
)
_INPUT = flags.DEFINE_string("input", None, "Items file (JSON lines).")
_OUTPUT = flags.DEFINE_string("output", None, "Folder for embeddings.npy and ids.json.")
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
_EXACT = flags.DEFINE_bool(
    "exact", False, "Vectors equal to the last bit in any company; slower."
)
_STATS = flags.DEFINE_bool("stats", False, "Print items/s, padding and compile count.")


def main(_: list[str]) -> None:
    items = read_items(_INPUT.value)
    config = None
    if _PRESET.value:
        if is_workdir(_CHECKPOINT.value):
            raise UserError(
                f"--preset={_PRESET.value}: {_CHECKPOINT.value} is a training workdir, "
                "which embeds as it was trained; leave the flag out"
            )
        config = default_config()
        config.preprocess.preset = _PRESET.value
    embedder = Embedder.from_checkpoint(
        _CHECKPOINT.value,
        dtype=_DTYPE.value,
        weights=_WEIGHTS.value,
        config=config,
        exact=_EXACT.value,
    )
    result = embed_to_folder(embedder, items, _OUTPUT.value)
    if len(result.failures) == len(items):
        reason = next(iter(result.failures.values()))
        raise UserError(f"{_INPUT.value}: no item could be read, first: {reason}")
    if result.failures:
        print(
            f"{len(result.failures)} of {len(items)} items could not be read: see "
            f"{_OUTPUT.value}/failures.jsonl",
            file=sys.stderr,
        )
    if _STATS.value:
        print(result.stats)
    count = len(items) - len(result.failures)
    print(f"{_OUTPUT.value}/embeddings.npy: {count} vectors of {embedder.dim}")


if __name__ == "__main__":
    run(main, required=("checkpoint", "input", "output"))
