"""The vectors of whole datasets, each distinct content embedded once."""

import pathlib
import sys
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from eval.cache import Cache
from eval.datasets import RetrievalSet
from eval.encoders.protocol import Encoder
from gve_jax import media
from gve_jax.types import Item, UserError


class Sides(NamedTuple):
    """Vectors of all datasets, float32 unit rows, NaN where there is none."""

    queries: dict[str, np.ndarray]  # dataset -> [n, d]
    corpus: dict[str, np.ndarray]  # dataset -> [m, d]
    failures: dict[tuple[str, str, str], str]  # (dataset, side, id) -> reason
    stats: dict[str, int]  # items, distinct, reused, embedded


def embed(
    sets: list[RetrievalSet],
    encoder: Encoder,
    folder: pathlib.Path,
    allow_missing: bool,
) -> Sides:
    """Vectors of all queries and corpora.

    Args:
      encoder: see `eval.encoders.protocol`.
      folder: of the cache; see `eval.cache`.

    Raises:
      UserError: media could not be read and `allow_missing` is false, or the folder
        cannot be written. The vectors made until then are kept.
    """
    absent = {path for data in sets for _, path in data.missing}
    sides = {
        (data.name, side): items
        for data in sets
        for side, items in (("queries", data.queries), ("corpus", data.corpus))
    }
    cache = Cache(folder, encoder)
    named = (p for items in sides.values() for i in items for p in (i.image, i.video))
    cache.learn(p for p in named if p and p not in absent)
    keys = {at: [_key(cache, absent, i) for i in items] for at, items in sides.items()}
    item_of = {
        key: item
        for at, items in sides.items()
        for key, item in zip(keys[at], items, strict=True)
        if isinstance(key, bytes)
    }
    todo = sum(map(cache.lacks, item_of))
    stats = {
        "items": sum(map(len, sides.values())),
        "distinct": len(item_of),
        "reused": len(item_of) - todo,
        "embedded": todo,
    }
    done = cache.fill(item_of)
    if done.items:
        print(f"embed: {done}", file=sys.stderr, flush=True)

    tables, failures = {}, {}
    for at, items in sides.items():
        table = np.full((len(items), encoder.dim), np.nan, np.float32)
        for row, item, key in zip(table, items, keys[at], strict=True):
            found = cache.get(key) if isinstance(key, bytes) else key
            if isinstance(found, str):
                failures[*at, item.id] = found
            else:
                row[:] = found
        tables[at] = table
    require(failures, allow_missing)
    return Sides(
        {name: v for (name, side), v in tables.items() if side == "queries"},
        {name: v for (name, side), v in tables.items() if side == "corpus"},
        failures,
        stats,
    )


def require(failures: Mapping[tuple[str, str, str], str], allow_missing: bool) -> None:
    """Raises UserError if there are failures and they are not allowed."""
    if failures and not allow_missing:
        (name, side, item), reason = next(iter(failures.items()))
        raise UserError(
            f"{name}: {item!r} of its {side} cannot be embedded ({reason}), one of "
            f"{len(failures)}: mend the files, or count such items as wrong with "
            "--config.eval.allow_missing=True"
        )


def _key(cache: Cache, absent: set[str], item: Item) -> bytes | str:
    """An item's key, or why it has none."""
    if item.image in absent or item.video in absent:
        return "no such file"
    try:
        return cache.key(item)
    except media.MediaError as e:
        return str(e)
