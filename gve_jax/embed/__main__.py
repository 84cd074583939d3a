"""Embed an items file and export NumPy.

python -m gve_jax.embed --checkpoint=runs/quickstart/train \
    --input=runs/quickstart/world/items.jsonl --output=runs/embeddings --stats

Started once per process with --coordinator, processes share the items (docs/bulk.md).
"""

import jax
from absl import flags

from gve_jax import distributed
from gve_jax.data.records import read_items
from gve_jax.embed.flags import embedder_from_flags
from gve_jax.embed.store import embed_to_folder
from gve_jax.embeddings import tell
from gve_jax.main import run

_INPUT = flags.DEFINE_string("input", None, "Items file (JSON lines).")
_OUTPUT = flags.DEFINE_string("output", None, "Folder for embeddings.npy and ids.json.")
_EXACT = flags.DEFINE_bool(
    "exact", False, "Vectors equal to the last bit in any company; slower."
)
_STATS = flags.DEFINE_bool(
    "stats", False, "Print items/s, padding and compile count (of the first process)."
)


def main(_: list[str]) -> None:
    distributed.initialize()
    items = read_items(_INPUT.value)
    # Of several processes each embeds on its own devices.
    embedder = embedder_from_flags(exact=_EXACT.value, devices=jax.local_devices())
    result = embed_to_folder(embedder, items, _OUTPUT.value)
    if result is None:
        return
    if _STATS.value:
        print(result.stats)
    tell(_INPUT.value, _OUTPUT.value, len(items), embedder.dim, result.failures)


if __name__ == "__main__":
    run(main, required=("checkpoint", "input", "output"))
