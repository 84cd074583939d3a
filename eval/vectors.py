"""Embeds every distinct content of the benchmark once, and keeps the vectors.

Each side of each dataset is one file, embeddings/NAME.SIDE.npz, with the contract and
a hash of its items: an interrupted run goes on where it stopped, and vectors of another
checkpoint or of changed items are made anew.
"""

import hashlib
import json
import os
import pathlib
import sys
import zipfile
from typing import NamedTuple

import numpy as np

from eval.datasets import RetrievalSet
from gve_jax import media
from gve_jax.contract import Contract
from gve_jax.disk import replace
from gve_jax.types import Item, UserError

# Items embedded between two writes: what an interruption loses at most.
_CHUNK = 2048


class Sides(NamedTuple):
    """Vectors of all datasets, float32 unit rows, NaN where there is none."""

    queries: dict[str, np.ndarray]  # dataset -> [n, d]
    corpus: dict[str, np.ndarray]  # dataset -> [m, d]
    failures: dict[tuple[str, str, str], str]  # (dataset, side, id) -> reason
    stats: dict[str, int]  # items, distinct, reused, embedded


def embed(
    sets: list[RetrievalSet], embedder, folder: pathlib.Path, allow_missing: bool
) -> Sides:
    """Vectors of all queries and corpora.

    Args:
      embedder: a `gve_jax.embed.Embedder`.
      folder: where the vectors are kept; made if needed.

    Raises:
      UserError: media could not be read and `allow_missing` is false. The vectors
        made until then are kept.
    """
    absent = {path for data in sets for _, path in data.missing}
    sides = {
        (data.name, side): items
        for data in sets
        for side, items in (("queries", data.queries), ("corpus", data.corpus))
    }
    folder.mkdir(parents=True, exist_ok=True)
    hashes = _Hashes(folder / "files.json")
    keys = {at: [_key(i, absent, hashes) for i in sides[at]] for at in sides}
    hashes.save()
    item_of = {k: i for at in sides for k, i in zip(keys[at], sides[at], strict=True)}
    item_of.pop(None, None)

    store: dict[str, np.ndarray] = {}
    for at in sides:
        kept = _read(_path(folder, at), embedder.contract, _digest(sides[at], keys[at]))
        if kept is not None:
            whole = ~np.isnan(kept).any(1)
            store |= {
                k: v for k, v, ok in zip(keys[at], kept, whole, strict=True) if ok
            }
    todo = [k for k in item_of if k not in store]
    stats = {
        "items": sum(map(len, sides.values())),
        "distinct": len(item_of),
        "reused": len(item_of) - len(todo),
        "embedded": len(todo),
    }

    reasons: dict[str, str] = {}
    for start in range(0, len(todo), _CHUNK):
        chunk = todo[start : start + _CHUNK]
        name = "embed" if len(todo) <= _CHUNK else f"embed from {start}/{len(todo)}"
        result = embedder.embed([item_of[k] for k in chunk], desc=name)
        print(f"{name}: {result.stats}", file=sys.stderr, flush=True)
        reasons |= {chunk[i]: reason for i, reason in result.failures.items()}
        for i, k in enumerate(chunk):
            if i not in result.failures:
                store[k] = result.vectors[i]
        fresh = set(chunk)
        for at in sides:
            if not fresh.isdisjoint(keys[at]):
                vectors = _gather(keys[at], store, embedder.dim)
                digest = _digest(sides[at], keys[at])
                _write(_path(folder, at), vectors, embedder.contract, digest)

    failures = {
        (*at, item.id): "no such file" if k is None else reasons[k]
        for at in sides
        for item, k in zip(sides[at], keys[at], strict=True)
        if k is None or k in reasons
    }
    if failures and not allow_missing:
        (name, side, item), reason = next(iter(failures.items()))
        raise UserError(
            f"{name}: {item!r} of its {side} cannot be embedded ({reason}), one of "
            f"{len(failures)}: mend the files, or count such items as wrong with "
            "--config.eval.allow_missing=True"
        )
    gathered = {at: _gather(keys[at], store, embedder.dim) for at in sides}
    return Sides(
        {name: v for (name, side), v in gathered.items() if side == "queries"},
        {name: v for (name, side), v in gathered.items() if side == "corpus"},
        failures,
        stats,
    )


class _Hashes:
    """SHA-256 of files, remembered by size and time: the real sets are 490 GB."""

    def __init__(self, path: pathlib.Path):
        self._path = path
        try:
            self._known = json.loads(path.read_text(encoding="utf-8"))
        except (FileNotFoundError, json.JSONDecodeError):
            self._known = {}
        self._used: dict[str, list] = {}

    def __call__(self, path: str) -> str:
        if path not in self._used:
            stat = os.stat(path)
            state = [stat.st_size, stat.st_mtime_ns]
            known = self._known.get(path, [])
            digest = known[2] if known[:2] == state else media.content_key(path)
            self._used[path] = [*state, digest]
        return self._used[path][2]

    def save(self) -> None:
        replace(self._path, json.dumps(self._used).encode())


def _key(item: Item, absent: set[str], hashes: _Hashes) -> str | None:
    """Equal for items that embed equally; None if media is not there."""
    if item.image in absent or item.video in absent:
        return None
    content = item._replace(
        id="",
        image=item.image and hashes(item.image),
        video=item.video and hashes(item.video),
    )
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def _digest(items, keys) -> str:
    rows = [[item.id, key] for item, key in zip(items, keys, strict=True)]
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()


def _gather(keys, store, dim) -> np.ndarray:
    vectors = np.full((len(keys), dim), np.nan, np.float32)
    for row, key in zip(vectors, keys, strict=True):
        if key in store:
            row[:] = store[key]
    return vectors


def _path(folder: pathlib.Path, at: tuple[str, str]) -> pathlib.Path:
    return folder / f"{at[0]}.{at[1]}.npz"


def _write(path, vectors: np.ndarray, contract: Contract, digest: str) -> None:
    partial = path.with_name(f".{path.stem}.partial.npz")
    np.savez(
        partial, vectors=vectors, contract=json.dumps(contract.to_json()), items=digest
    )
    os.replace(partial, path)


def _read(path, contract: Contract, digest: str) -> np.ndarray | None:
    """The vectors kept, or None where there are none of this contract and items."""
    try:
        with np.load(path, allow_pickle=False) as kept:
            same = (
                json.loads(str(kept["contract"])) == contract.to_json()
                and str(kept["items"]) == digest
            )
            return kept["vectors"] if same else None
    except (FileNotFoundError, KeyError, ValueError, EOFError, zipfile.BadZipFile):
        return None
