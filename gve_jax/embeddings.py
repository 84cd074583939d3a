"""A folder of embeddings: what is in it, and writing it whole. This has no jax.

FOLDER/
  embeddings.npy   float32 [n, d], unit rows
  ids.json         their item ids, in order
  contract.json    what the vectors were made under; written last
  failures.jsonl   {"id", "error"} of the items without a row
  items.sha256     of all items, to know them again
"""

import hashlib
import json
import os
import pathlib
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from gve_jax.contract import Contract
from gve_jax.disk import read_rows, replace
from gve_jax.types import Item, UserError

FILES = (
    "embeddings.npy", "ids.json", "contract.json", "failures.jsonl", "items.sha256"
)  # fmt: skip


class Known(NamedTuple):
    """Items by what their vectors follow from."""

    items: Sequence[Item]
    keys: Sequence[bytes]  # 32 bytes; equal ones embed equally

    @property
    def digest(self) -> str:
        """Of ids and keys, in their order."""
        digest = hashlib.sha256()
        for item, key in zip(self.items, self.keys, strict=True):
            digest.update(item.id.encode() + b"\0" + key)
        return digest.hexdigest()

    def part(self, start: int, stop: int) -> "Known":
        return Known(self.items[start:stop], self.keys[start:stop])


def know(items: Sequence[Item]) -> Known:
    """Looks at the media: path, size and time of change count, not their bytes."""
    return Known(items, [_key(item) for item in items])


def _key(item: Item) -> bytes:
    parts = [repr(item.content)]
    for path in (item.image, item.video):
        if path and os.path.exists(path):
            stat = os.stat(path)
            parts.append(f"{stat.st_size},{stat.st_mtime_ns}")
    return hashlib.sha256("\0".join(parts).encode()).digest()


def finished(folder: pathlib.Path, contract: Contract, known: Known) -> bool:
    """Whether the folder holds the vectors of these items.

    Raises:
      UserError: it holds those of another contract or of other items, or a checkpoint.
    """
    if not (folder / "contract.json").exists():
        return False
    if not (folder / "items.sha256").exists():
        raise UserError(f"{folder} is a checkpoint, not embeddings: use a new one")
    there = Contract.load(folder / "contract.json")
    there.require_equal(contract, str(folder), "this checkpoint")
    if (folder / "items.sha256").read_text().strip() != known.digest:
        raise UserError(f"{folder} holds the vectors of other items: use a new one")
    return True


def write(
    folder: pathlib.Path,
    contract: Contract,
    known: Known,
    failures: Mapping[int, str],
    blocks: Iterable[np.ndarray],
) -> None:
    """Writes all of it; of items that all failed, failures.jsonl alone.

    Args:
      failures: row in `known` -> why it has no vector.
      blocks: float32 [m, d], the rows of all others, in their order.

    Raises UserError if the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _write(folder, contract, known, failures, blocks)
    except OSError as e:
        raise UserError(
            f"{folder}: cannot be written ({e.strerror}); once it can, the same "
            "command goes on where it stopped"
        ) from None


def _write(folder, contract, known, failures, blocks) -> None:
    ids = [item.id for item in known.items]
    rows = ({"id": ids[i], "error": why} for i, why in sorted(failures.items()))
    replace(folder / "failures.jsonl", (json.dumps(row) + "\n" for row in rows))
    good = [id_ for i, id_ in enumerate(ids) if i not in failures]
    if not good:
        return  # the same call works once the media are mended
    part = folder / "embeddings.npy.part"
    write_array(part, (len(good), contract.dim), np.float32, blocks)
    part.replace(folder / "embeddings.npy")
    replace(folder / "ids.json", json.dumps(good).encode())
    replace(folder / "items.sha256", known.digest.encode())
    # Last: its presence says that the folder is whole.
    replace(folder / "contract.json", contract.to_text())


def write_array(
    path: pathlib.Path, shape: tuple[int, int], dtype, blocks: Iterable[np.ndarray]
) -> None:
    """Writes blocks of rows as one .npy file, one at a time.

    Raises ValueError if they are not so many rows: a fault of the program.
    """
    dtype, rows = np.dtype(dtype), 0
    with open(path, "wb") as f:
        header = {"descr": dtype.str, "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(f, header)
        for block in blocks:
            f.write(np.ascontiguousarray(block, dtype).data)
            rows += len(block)
    if rows != shape[0]:
        raise ValueError(f"{path}: {rows} rows came instead of {shape[0]}")


def failures(folder: pathlib.Path, items: Sequence[Item]) -> dict[int, str]:
    """Row -> why there is no vector, of the items that a folder was made from."""
    reasons = {r["id"]: r["error"] for r in read_rows(folder / "failures.jsonl")}
    return {i: reasons[x.id] for i, x in enumerate(items) if x.id in reasons}


def tell(source: str, folder: str, total: int, dim: int, failures: Mapping) -> None:
    """Says what became of the items of a file; raises UserError if all failed."""
    if len(failures) == total:
        reason = next(iter(failures.values()))
        raise UserError(f"{source}: no item could be read, first: {reason}")
    if failures:
        print(
            f"{len(failures)} of {total} items could not be read: see "
            f"{folder}/failures.jsonl",
            file=sys.stderr,
        )
    print(f"{folder}/embeddings.npy: {total - len(failures)} vectors of {dim}")
