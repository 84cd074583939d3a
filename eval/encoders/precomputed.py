"""Vectors that someone else has made, in files.

DIR/NAME/queries/   embeddings.npy   float [n, d], unit rows
                    ids.json         their item ids, in order
DIR/NAME/corpus/    the same

for each dataset NAME, as `python -m gve_jax.embed` writes them. Items without a row
count as missing.
"""

import hashlib
import json
import os
import pathlib

import numpy as np

from eval import vectors
from eval.datasets import RetrievalSet
from eval.encoders.protocol import Identity
from gve_jax import media
from gve_jax.types import UserError

# Of the lengths of rows: half precision is within it.
_TOLERANCE = 1e-2


class Precomputed:
    """The vectors in a folder, of items that are known by id only."""

    def __init__(self, folder: str | os.PathLike):
        """Raises UserError if there are none."""
        self._folder = pathlib.Path(folder)
        files = sorted(self._folder.glob("*/*/embeddings.npy"))
        if not files:
            raise UserError(
                f"--vectors={folder}: no vectors here (expected "
                "NAME/queries/embeddings.npy and NAME/corpus/embeddings.npy)"
            )
        hashes = {str(f.relative_to(folder)): media.content_key(f) for f in files}
        text = json.dumps(hashes, sort_keys=True)
        digest = hashlib.sha256(text.encode()).hexdigest()
        self.contract = Identity({"encoder": "precomputed", "sha256": digest})
        self.dim = 0  # of none that it could make

    def embed(self, items, desc="embed", progress=True):
        """Refuses: what is in the files is all there is."""
        raise UserError(
            "--vectors: files hold no vectors of changed items (as in probes); use a "
            "checkpoint or an encoder"
        )

    def sides(self, sets: list[RetrievalSet], allow_missing: bool) -> vectors.Sides:
        """The vectors of these datasets.

        Raises:
          UserError: files are missing or do not fit, ids are unknown or there twice,
            rows are not of unit length, or items lack one and `allow_missing` is false.
        """
        found, failures, dims = {}, {}, {}
        for data in sets:
            for side, items in (("queries", data.queries), ("corpus", data.corpus)):
                folder = self._folder / data.name / side
                rows = _rows(folder, {item.id for item in items})
                dims[folder] = len(next(iter(rows.values())))
                table = np.full((len(items), dims[folder]), np.nan, np.float32)
                for i, item in enumerate(items):
                    if item.id in rows:
                        table[i] = rows[item.id]
                    else:
                        failures[data.name, side, item.id] = f"no row in {folder}"
                found[data.name, side] = table
        if len(set(dims.values())) > 1:
            sizes = ", ".join(f"{d} in {folder}" for folder, d in dims.items())
            raise UserError(f"--vectors: vectors of several lengths: {sizes}")
        vectors.require(failures, allow_missing)
        items = sum(map(len, found.values()))
        stats = dict(items=items, distinct=items, reused=items, embedded=0)
        return vectors.Sides(
            {name: v for (name, side), v in found.items() if side == "queries"},
            {name: v for (name, side), v in found.items() if side == "corpus"},
            failures,
            stats,
        )


def _rows(folder: pathlib.Path, known: set[str]) -> dict[str, np.ndarray]:
    """Vectors by id. Raises UserError for whatever is not as it should be."""
    file, names = folder / "embeddings.npy", folder / "ids.json"
    try:
        table = np.load(file, mmap_mode="r", allow_pickle=False)
        ids = json.loads(names.read_text(encoding="utf-8"))
    except FileNotFoundError as e:
        raise UserError(f"--vectors: no file {e.filename}") from None
    except ValueError as e:
        raise UserError(f"--vectors: {folder}: not as NumPy or JSON ({e})") from None
    if table.ndim != 2 or table.dtype.kind != "f" or len(table) == 0:
        raise UserError(f"{file}: {table.dtype} {table.shape}, expected float [n, d]")
    if not isinstance(ids, list) or len(ids) != len(table):
        raise UserError(f"{names}: expected a list of {len(table)} ids, one a row")
    rows = dict(zip(map(str, ids), table, strict=True))
    if len(rows) < len(ids):
        raise UserError(f"{names}: {len(ids) - len(rows)} ids are there twice")
    unknown = rows.keys() - known
    if unknown:
        raise UserError(
            f"{names}: {len(unknown)} ids are not of this dataset, one is "
            f"{min(unknown)!r}"
        )
    lengths = np.linalg.norm(np.asarray(table, np.float32), axis=1)
    bad = np.flatnonzero(~(np.abs(lengths - 1) <= _TOLERANCE))
    if len(bad):
        raise UserError(
            f"{file}: {len(bad)} rows are not of length 1, first row {bad[0]} of "
            f"{lengths[bad[0]]:.3g}: normalise them, and leave out what failed"
        )
    return rows
