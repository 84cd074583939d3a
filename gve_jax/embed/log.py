"""Vectors by key on disk: append-only, crash-safe, written by any number of processes.

FOLDER/
  identity.json      what the vectors were made under, to be read by people
  NAME.vectors       a segment: one for each process that wrote
  NAME.failures      JSON lines of the items that it could not embed

A segment is a header and then records of a key, a vector and a checksum, all of one
size. Whoever is killed leaves at most a torn record, the last: readers leave it out,
and no one else ever writes to that segment. 66,000 vectors of 2,048 are 0.5 GB.
"""

import contextlib
import hashlib
import json
import os
import pathlib
import secrets
import struct
import sys
import time
import zlib
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import jax
import numpy as np
from jax.experimental import multihost_utils

from gve_jax.disk import read_rows
from gve_jax.embed.embedder import EmbedStats
from gve_jax.preprocess import Lost
from gve_jax.types import Item, UserError

# Items embedded between two writes: what an interruption loses at most.
PIECE = 1024
_HEADER = struct.Struct("<8s32sI")  # magic, SHA-256 of the identity, dimensions
_MAGIC = b"gvevecs1"


class Failure(NamedTuple):
    """Why there is no vector; `again`: the machine's fault, worth another try."""

    reason: str
    again: bool


class VectorLog:
    """The vectors in a folder that were made under one identity.

    Attributes:
      failures: key -> Failure, of the keys without a vector.
    """

    def __init__(self, folder: str | os.PathLike, identity: dict, dim: int):
        """Reads what is there; vectors of other identities or sizes are left out.

        Args:
          folder: made if needed.
          identity: all that the vectors depend on besides their items; for JSON.
          dim: numbers of a vector.

        Raises:
          UserError: the folder cannot be written.
        """
        self._folder, self._dim = pathlib.Path(folder), dim
        text = json.dumps(identity, sort_keys=True, indent=1)
        digest = hashlib.sha256(text.encode()).digest()
        self._header = _HEADER.pack(_MAGIC, digest, dim)
        self._record = np.dtype(
            [("key", "V32"), ("vector", "<f4", dim), ("crc", "<u4")]
        )
        # Names sort by time, so that the last word on a key is read last.
        self._name = f"{time.time_ns():020d}-{os.getpid()}-{secrets.token_hex(4)}"
        self._rows: dict[str, int] = {}  # segment -> records read
        self._vectors: dict[bytes, np.ndarray] = {}
        self.failures: dict[bytes, Failure] = {}
        with self._written():
            self._folder.mkdir(parents=True, exist_ok=True)
            if not (self._folder / "identity.json").exists():
                part = self._folder / f"{self._name}.part"
                part.write_text(text + "\n", encoding="utf-8")
                part.replace(self._folder / "identity.json")
        self.refresh()

    def __contains__(self, key: bytes) -> bool:
        return key in self._vectors

    def get(self, key: bytes) -> np.ndarray | None:
        """float32 [dim], a view of the file; None if there is none."""
        return self._vectors.get(key)

    def refresh(self) -> None:
        """Reads what other processes have written meanwhile."""
        for path in sorted(self._folder.glob("*.vectors")):
            self._read(path)
        for path in sorted(self._folder.glob("*.failures")):
            for row in read_rows(path):
                key = bytes.fromhex(row["key"])
                self.failures[key] = Failure(row["reason"], row["again"])
        for key in self.failures.keys() & self._vectors.keys():
            del self.failures[key]

    def append(self, keys: list[bytes], vectors: np.ndarray) -> None:
        """Keeps vectors, float32 [n, dim], under keys of 32 bytes."""
        if not keys:
            return
        records = np.zeros(len(keys), self._record)
        records["key"] = np.frombuffer(b"".join(keys), "V32")
        records["vector"] = vectors
        records["crc"] = [_crc(row) for row in _bytes(records)]
        path = self._folder / f"{self._name}.vectors"
        with self._written(), open(path, "ab") as f:
            f.write((b"" if f.tell() else self._header) + records.tobytes())
            f.flush()
            os.fsync(f.fileno())
        self._read(path)

    def fail(self, reasons: Mapping[bytes, str]) -> None:
        """Keeps why there are no vectors under these keys."""
        if not reasons:
            return
        path = self._folder / f"{self._name}.failures"
        with self._written(), open(path, "a", encoding="utf-8") as f:
            for key, reason in reasons.items():
                self.failures[key] = Failure(str(reason), isinstance(reason, Lost))
                row = {"key": key.hex(), **self.failures[key]._asdict()}
                f.write(json.dumps(row) + "\n")

    def lacks(self, key: bytes) -> bool:
        """Whether it is worth embedding: no vector, and no failure for good."""
        known = self.failures.get(key)
        return key not in self._vectors and (known is None or known.again)

    def fill(self, encoder, items: Mapping[bytes, Item], desc: str) -> EmbedStats:
        """Embeds what it lacks of these items, and keeps it piece by piece.

        Of several processes that run together each embeds what falls to it, and then
        reads from the folder, which all must see, what the others have written.

        Args:
          encoder: has `embed(items, name of the work)`, as `Embedder`, and may have
            `collective`: that the processes embed all items together.
          items: the same in all processes.

        Returns:
          The work of this process.

        Raises:
          UserError: the folder cannot be written, or is not that of the others.
        """
        number, of = jax.process_index(), jax.process_count()
        if getattr(encoder, "collective", False):
            number, of = 0, 1
        own = (key for key in items if zlib.crc32(key) % of == number)
        todo = [key for key in own if self.lacks(key)]
        stats = EmbedStats(0, 0.0, 0, 0, 0)
        for start in range(0, len(todo), PIECE):
            keys = todo[start : start + PIECE]
            name = f"{desc} {start // PIECE + 1}/{-(-len(todo) // PIECE)}"
            result = encoder.embed([items[key] for key in keys], name)
            good = [i for i in range(len(keys)) if i not in result.failures]
            self.append([keys[i] for i in good], result.vectors[good])
            self.fail({keys[i]: reason for i, reason in result.failures.items()})
            stats = stats.plus(result.stats)
        if of > 1:
            multihost_utils.sync_global_devices("vectors")
            self.refresh()
        if any(key not in self and key not in self.failures for key in items):
            raise UserError(
                f"{self._folder}: what another process wrote is not here; name a "
                "folder that all processes share"
            )
        return stats

    @contextlib.contextmanager
    def _written(self) -> Iterator[None]:
        try:
            yield
        except OSError as e:
            raise UserError(
                f"{self._folder}: cannot be written ({e.strerror}); once it can, the "
                "same command goes on where it stopped"
            ) from None

    def _read(self, path: pathlib.Path) -> None:
        done = self._rows.get(path.name, 0)
        with open(path, "rb") as f:
            header = f.read(_HEADER.size)
        rows = (path.stat().st_size - _HEADER.size) // self._record.itemsize
        if header != self._header or rows <= done:
            return
        table = np.memmap(path, self._record, "r", _HEADER.size, (rows,))[done:]
        self._rows[path.name] = rows
        damaged = 0
        for row, record in zip(_bytes(table), table, strict=True):
            if _crc(row) == record["crc"]:
                self._vectors[record["key"].tobytes()] = record["vector"]
            else:
                damaged += 1
        if damaged:
            print(f"{path}: {damaged} damaged vectors are left out", file=sys.stderr)


def _bytes(records: np.ndarray) -> np.ndarray:
    """uint8 [n, size]"""
    return records.view(np.uint8).reshape(len(records), -1)


def _crc(row: np.ndarray) -> int:
    """Of all of a record but the checksum, which comes last."""
    return zlib.crc32(row[:-4])
