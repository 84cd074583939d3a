"""Embeddings on disk: resumed, and never mixed across contracts.

FOLDER/
  embeddings.npy   float32 [n, d], unit rows
  ids.json         their item ids, in order
  contract.json    what the vectors were made under
  failures.jsonl   {"id", "error"} of the items without a row
"""

import hashlib
import json
import os
import pathlib
import shutil
from collections.abc import Sequence

import numpy as np

from gve_jax.contract import Contract
from gve_jax.disk import replace
from gve_jax.embed.embedder import Embedder, EmbedResult, EmbedStats
from gve_jax.embed.log import VectorLog
from gve_jax.types import Item, UserError


def embed_to_folder(
    embedder: Embedder,
    items: Sequence[Item],
    folder: str | os.PathLike,
    desc: str = "embed",
) -> EmbedResult:
    """Embeds `items` into `folder`, going on from what an interrupted call left.

    A finished folder of the same items and contract is read back. Items are compared
    by id and content, media by path, size and time of change. If no item can be read,
    nothing but failures.jsonl is left.

    Raises:
      UserError: the folder holds vectors of another contract or of other items, or
        something else, or cannot be written.
    """
    folder = pathlib.Path(folder)
    digest = hashlib.sha256()
    for item in items:
        digest.update(item.id.encode() + b"\0" + _item_key(item))
    whole = digest.hexdigest()
    if (folder / "contract.json").exists():
        if not (folder / "items.sha256").exists():
            raise UserError(f"{folder} is a checkpoint, not embeddings: use a new one")
        there = Contract.load(folder / "contract.json")
        there.require_equal(embedder.contract, str(folder), "this checkpoint")
        if (folder / "items.sha256").read_text().strip() != whole:
            raise UserError(f"{folder} holds the vectors of other items: use a new one")
        return _read_back(folder, items)

    log = VectorLog(folder / "pieces", embedder.contract.to_json(), embedder.dim)
    keys = [_item_key(item) for item in items]
    first_of: dict[bytes, Item] = {}
    for key, item in zip(keys, items, strict=True):
        first_of.setdefault(key, item)
    stats = log.fill(embedder.embed, first_of, desc)
    table = np.full((len(items), embedder.dim), np.nan, np.float32)
    failures = {}
    for i, key in enumerate(keys):
        if key in log:
            table[i] = log.get(key)
        else:
            failures[i] = log.failures[key].reason

    good = [i for i in range(len(items)) if i not in failures]
    lines = [
        json.dumps({"id": items[i].id, "error": reason}) + "\n"
        for i, reason in sorted(failures.items())
    ]
    replace(folder / "failures.jsonl", "".join(lines).encode())
    if failures and not good:
        # Not a finished folder: the same call works once the media are mended.
        shutil.rmtree(folder / "pieces")
        return EmbedResult(table, failures, stats)
    with open(folder / "embeddings.tmp", "wb") as f:
        np.save(f, table[good])
    (folder / "embeddings.tmp").rename(folder / "embeddings.npy")
    replace(folder / "ids.json", json.dumps([items[i].id for i in good]).encode())
    replace(folder / "items.sha256", whole.encode())
    # Last: its presence says that the folder is whole.
    contract = json.dumps(embedder.contract.to_json(), indent=1) + "\n"
    replace(folder / "contract.json", contract.encode())
    shutil.rmtree(folder / "pieces")
    return EmbedResult(table, failures, stats)


def _item_key(item: Item) -> bytes:
    """Of its content, media by path, size and time of change."""
    parts = [repr(item.content)]
    for path in (item.image, item.video):
        if path and os.path.exists(path):
            stat = os.stat(path)
            parts.append(f"{stat.st_size},{stat.st_mtime_ns}")
    return hashlib.sha256("\0".join(parts).encode()).digest()


def _read_back(folder: pathlib.Path, items: Sequence[Item]) -> EmbedResult:
    good = np.load(folder / "embeddings.npy")
    row_of = {
        id_: row
        for row, id_ in enumerate(
            json.loads((folder / "ids.json").read_text(encoding="utf-8"))
        )
    }
    reason_of = {
        row["id"]: row["error"]
        for row in map(
            json.loads,
            (folder / "failures.jsonl").read_text(encoding="utf-8").splitlines(),
        )
    }
    vectors = np.full((len(items), good.shape[1]), np.nan, np.float32)
    failures = {}
    for i, item in enumerate(items):
        if item.id in row_of:
            vectors[i] = good[row_of[item.id]]
        else:
            failures[i] = reason_of[item.id]
    return EmbedResult(vectors, failures, EmbedStats(0, 0.0, 0, 0, 0))
