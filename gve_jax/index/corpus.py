"""One commit of an index as searching needs it: what competes, and what it is of.

Items of equal content (the windows of a file and of its copies) are a group, which is
found once.
"""

import collections
import os
import re
import threading
from typing import NamedTuple

import jax
import numpy as np
import pyarrow as pa

from gve_jax.index.filters import Filter
from gve_jax.index.store import Index, local_path
from gve_jax.retrieval import place
from gve_jax.types import UserError

_ID = re.compile(r"([0-9]{1,15})-([0-9a-f]{16})")
_PIECE = 1 << 11  # rows read at a time
_FILTERS = 8  # the last ones, whose corpora are kept


class Vectors:
    """Rows of an index as `gve_jax.retrieval` takes them, read when they are sliced.

    Rows of NaN fill them up to one of few lengths, so that few shapes are compiled.
    """

    def __init__(self, index: Index, rows: np.ndarray):
        self._index, self._rows = index, rows
        step = max(128, 1 << max(len(rows).bit_length() - 4, 0))
        self.shape = (-(-max(len(rows), 1) // step) * step, index.dim)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, part: slice) -> np.ndarray:
        """float32 [n, dim]"""
        start, stop, _ = part.indices(len(self))
        out = np.full((stop - start, self.shape[1]), np.nan, np.float32)
        for at in range(start, min(stop, len(self._rows)), _PIECE):
            rows = self._rows[at : min(at + _PIECE, stop)]
            if rows[-1] - rows[0] == len(rows) - 1:
                rows = slice(rows[0], rows[-1] + 1)  # reads faster
            found = self._index.vectors(rows)
            out[at - start :][: len(found)] = found
        return out


class Corpus(NamedTuple):
    """What competes under a filter."""

    passes: np.ndarray  # bool [items]
    rows: np.ndarray  # int64 [n], ascending: those that passing items have
    groups: int  # that these are of
    vectors: Vectors | jax.Array  # of these rows


class Copies(NamedTuple):
    """The files of a group. `missing`: deleted, or changed since it was indexed."""

    item: dict  # one of the first file that is not missing, if there is one
    missing: bool
    also: tuple[str, ...]  # the other files


class Opened:
    """An index and the corpora of the last filters. Thread-safe."""

    def __init__(self, index: Index, kept_bytes: int):
        """`kept_bytes`: of vectors, float32, that may stay on the devices."""
        self.index, self._kept_bytes = index, kept_bytes
        self._lock = threading.Lock()
        self._corpora: collections.OrderedDict[str, Corpus] = collections.OrderedDict()
        items = index.items
        self.rows = items["row"].to_numpy()
        self.starts, self.ends = (items[n].to_numpy() for n in ("start", "end"))
        self._files = _codes(items["file"])
        self.num_files = int(self._files.max(initial=-1)) + 1
        groups = _codes(items["hash"])
        self.group_of = np.full(len(index.embeddings), -1)  # [rows]
        self.group_of[self.rows] = groups
        self._order = np.argsort(groups, kind="stable")
        self._edges = np.searchsorted(
            groups[self._order], np.arange(groups.max(initial=-1) + 2)
        )

    def corpus(self, filter: Filter) -> Corpus:
        """What competes under a filter; placed on the devices where there is room."""
        with self._lock:
            found = self._corpora.pop(filter.text, None)
            if found is None:
                while len(self._corpora) >= _FILTERS:
                    self._corpora.popitem(last=False)
                found = self._make(filter)
            self._corpora[filter.text] = found
            return found

    def items_of(self, group: int) -> np.ndarray:
        """int64 [n]: the items of a group, in the order of the index."""
        return self._order[self._edges[group] : self._edges[group + 1]]

    def copies(self, items: np.ndarray) -> Copies:
        """The files of a group's items."""
        _, first = np.unique(self._files[items], return_index=True)
        files = [self.item(number) for number in items[np.sort(first)]]
        there = [_is_there(f) for f in files]
        best = files.pop(there.index(True) if any(there) else 0)
        return Copies(best, not any(there), tuple(f["file"] for f in files))

    def item(self, number: int) -> dict:
        """The values of an item."""
        return self.index.items.slice(number, 1).to_pylist()[0]

    def find(self, id: str) -> np.ndarray:
        """int64 [n]: the items that the id of a hit or span names, all of one row.

        Raises UserError if it is not in the index, or not any more.
        """
        found = _ID.fullmatch(id)
        row = int(found[1]) if found else -1
        if 0 <= row < len(self.group_of) and self.group_of[row] >= 0:
            items = self.items_of(self.group_of[row])
            items = items[self.rows[items] == row]
            if self.item(items[0])["hash"].startswith(found[2]):
                return items
        raise UserError(f"{id}: not in the index, or not any more; search again")

    def _make(self, filter: Filter) -> Corpus:
        passes = filter.mask(self.index.items)
        rows = np.unique(self.rows[passes])
        vectors = Vectors(self.index, rows)
        size = 4 * vectors.shape[0] * vectors.shape[1]
        if size <= self._kept_bytes:
            while size + sum(map(_placed_bytes, self._corpora.values())) > (
                self._kept_bytes
            ):
                self._corpora.popitem(last=False)
            vectors = place(vectors)
        return Corpus(passes, rows, len(np.unique(self.group_of[rows])), vectors)


def item_id(row: int, hash: str) -> str:
    """Names a row as long as it is in the index: rows may be numbered anew."""
    return f"{row}-{hash[:16]}"


def _codes(column: pa.ChunkedArray) -> np.ndarray:
    """int32 [n]: the same numbers for the same values."""
    chunks = column.dictionary_encode().unify_dictionaries().chunks
    return np.concatenate([np.zeros(0, np.int32), *(c.indices for c in chunks)])


def _placed_bytes(corpus: Corpus) -> int:
    return getattr(corpus.vectors, "nbytes", 0)


def _is_there(item: dict) -> bool:
    try:
        found = os.stat(local_path(item["file"]))
    except (OSError, ValueError):
        return False
    return (found.st_size, found.st_mtime_ns) == (item["size"], item["mtime_ns"])


def device_bytes() -> int:
    """Free on this process's devices together; the memory of the machine on a CPU."""
    if jax.default_backend() == "cpu":
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    stats = [device.memory_stats() or {} for device in jax.local_devices()]
    return sum(s.get("bytes_limit", 0) - s.get("bytes_in_use", 0) for s in stats)
