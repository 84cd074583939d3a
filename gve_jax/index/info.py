"""Say what an index holds.

python -m gve_jax.index info --index=INDEX
"""

import collections

import pyarrow.compute as pc

from gve_jax.disk import read_rows
from gve_jax.index.flags import INDEX, arguments
from gve_jax.index.store import open_index

REQUIRED = ("index",)


def main(argv: list[str]) -> None:
    arguments(argv, "nothing else", most=0)
    index = open_index(INDEX.value)
    items, contract = index.items, index.contract
    kinds = collections.Counter(items["kind"].to_pylist())
    whole = items.filter(pc.equal(items["kind"], "video"))
    hours = (pc.sum(whole["duration"]).as_py() or 0.0) / 3600
    live = int(index.live.sum())
    failures = read_rows(index.path / "failures.jsonl")
    rule = ", ".join(f"{name} {value}" for name, value in index.settings.items())
    lines = {
        "videos": f"{kinds['video']} ({hours:.2f} h)",
        "windows": f"{kinds['window']} ({rule})",
        "images": kinds["image"],
        "rows": f"{live} of {index.dim} numbers, {index.dtype}, "
        f"{live * index.dim * index.embeddings.itemsize / 2**20:.1f} MB; "
        f"{len(index.live) - live} dead",
        "folders": ", ".join(sorted(pc.unique(items["root"]).to_pylist())),
        "model": f"{contract.family}, weights {contract.weights_hash}, "
        f"{contract.dim} numbers, {contract.dtype}",
        "failures": f"{len(failures)} (failures.jsonl)" if failures else "none",
        "commits": index.generation,
    }
    if index.recall:
        parts = (f"{name} {value}" for name, value in index.recall.items())
        lines["recall"] = f"against float32 and all numbers: {', '.join(parts)}"
    print("\n".join(f"{name:9}{value}" for name, value in lines.items()))
