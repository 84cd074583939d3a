"""Embeddings on disk: written in pieces, resumed, and never mixed across contracts.

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
from gve_jax.types import Item, UserError

# Items between two saves of an unfinished run.
PIECE = 2048


def embed_to_folder(
    embedder: Embedder,
    items: Sequence[Item],
    folder: str | os.PathLike,
    desc: str = "embed",
) -> EmbedResult:
    """Embeds `items` into `folder`, going on from an interrupted call's pieces.

    A finished folder of the same items and contract is read back. Items are compared
    by id and content, media by path, size and time of change. If no item can be read,
    nothing but failures.jsonl is left.

    Raises:
      UserError: the folder holds vectors of another contract or of other items, or
        something else, or cannot be written.
    """
    folder = pathlib.Path(folder)
    key = _items_key(items)
    if (folder / "contract.json").exists():
        if not (folder / "items.sha256").exists():
            raise UserError(f"{folder} is a checkpoint, not embeddings: use a new one")
        there = Contract.load(folder / "contract.json")
        there.require_equal(embedder.contract, str(folder), "this checkpoint")
        if (folder / "items.sha256").read_text().strip() != key:
            raise UserError(f"{folder} holds the vectors of other items: use a new one")
        return _read_back(folder, items)

    pieces = folder / "pieces"
    try:
        pieces.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise UserError(f"{folder}: cannot be written ({e.strerror})") from None
    head = {"items": key, "contract": embedder.contract.to_json()}
    head_file = pieces / "head.json"
    if head_file.exists() and json.loads(head_file.read_text()) != head:
        shutil.rmtree(pieces)  # of an unfinished run with other inputs
        pieces.mkdir()
    replace(head_file, json.dumps(head).encode())

    vectors, failures = [], {}
    stats = EmbedStats(0, 0.0, 0, 0, 0)
    for start in range(0, len(items), PIECE):
        piece = pieces / f"{start:09d}.npz"
        if piece.exists():
            with np.load(piece) as saved:
                part = saved["vectors"]
                failed = json.loads(str(saved["failures"]))
        else:
            name = f"{desc} {start // PIECE + 1}/{-(-len(items) // PIECE)}"
            result = embedder.embed(items[start : start + PIECE], name)
            part, failed = result.vectors, result.failures
            with open(piece.with_suffix(".tmp"), "wb") as f:
                np.savez(f, vectors=part, failures=json.dumps(failed))
            piece.with_suffix(".tmp").rename(piece)
            stats = EmbedStats(
                *(a + b for a, b in zip(stats[:4], result.stats[:4], strict=True)),
                result.stats.compiled,
            )
        vectors.append(part)
        failures.update({start + int(i): reason for i, reason in failed.items()})

    table = np.concatenate(vectors) if vectors else np.zeros((0, embedder.dim), "f4")
    good = [i for i in range(len(items)) if i not in failures]
    lines = [
        json.dumps({"id": items[i].id, "error": reason}) + "\n"
        for i, reason in sorted(failures.items())
    ]
    replace(folder / "failures.jsonl", "".join(lines).encode())
    if failures and not good:
        # Not a finished folder: the same call works once the media are mended.
        shutil.rmtree(pieces)
        return EmbedResult(table, failures, stats)
    with open(folder / "embeddings.tmp", "wb") as f:
        np.save(f, table[good])
    (folder / "embeddings.tmp").rename(folder / "embeddings.npy")
    replace(folder / "ids.json", json.dumps([items[i].id for i in good]).encode())
    replace(folder / "items.sha256", key.encode())
    # Last: its presence says that the folder is whole.
    contract = json.dumps(embedder.contract.to_json(), indent=1) + "\n"
    replace(folder / "contract.json", contract.encode())
    shutil.rmtree(pieces)
    return EmbedResult(table, failures, stats)


def _items_key(items: Sequence[Item]) -> str:
    digest = hashlib.sha256()
    for item in items:
        digest.update(repr(tuple(item)).encode())
        for path in (item.image, item.video):
            if path and os.path.exists(path):
                stat = os.stat(path)
                digest.update(f"{stat.st_size},{stat.st_mtime_ns}".encode())
    return digest.hexdigest()


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
