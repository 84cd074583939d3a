"""Embed an items file and export NumPy.

python -m gve_jax.embed --checkpoint=runs/quickstart/train \
    --input=runs/quickstart/world/items.jsonl --output=runs/embeddings --stats
"""

import sys

from absl import flags

from gve_jax.data.records import read_items
from gve_jax.embed.flags import embedder_from_flags
from gve_jax.embed.store import embed_to_folder
from gve_jax.main import run
from gve_jax.types import UserError

_INPUT = flags.DEFINE_string("input", None, "Items file (JSON lines).")
_OUTPUT = flags.DEFINE_string("output", None, "Folder for embeddings.npy and ids.json.")
_EXACT = flags.DEFINE_bool(
    "exact", False, "Vectors equal to the last bit in any company; slower."
)
_STATS = flags.DEFINE_bool("stats", False, "Print items/s, padding and compile count.")


def main(_: list[str]) -> None:
    items = read_items(_INPUT.value)
    embedder = embedder_from_flags(exact=_EXACT.value)
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
