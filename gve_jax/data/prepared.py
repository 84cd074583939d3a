"""Corpora as they are kept for training: read once, then addressed by number.

FOLDER/
  pairs.array_record  one JSON pair a record; media paths relative to the corpus
  facts.npz           what `sources.Facts` says of each
  manifest.json       what it was made by, rows read, pairs kept, rows dropped by reason
  bounds-KEY.npy      token bounds, as far as they were asked for
FOLDER.media/         media that were no files in the corpus

A folder appears whole: it is written beside its place and renamed. Processes that share
it wait for each other.
"""

import array
import collections
import contextlib
import dataclasses
import fcntl
import json
import os
import pathlib
import shutil
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
from array_record.python.array_record_module import (
    ArrayRecordReader,
    ArrayRecordWriter,
)

from gve_jax.data.formats.rows import Corpus, Drop, Dropped
from gve_jax.data.records import pair_row, row_pair
from gve_jax.data.sources import Facts, Source, fill_bounds, make_facts, pair_facts
from gve_jax.progress import ProgressLine
from gve_jax.types import Item, Pair, UserError

VERSION = 1  # of the folder's form
_UNPACKED = "unpacked:"  # before paths in FOLDER.media
_BATCH = 4096  # records read at once
# Records compressed together: 16 take a quarter of the space of single ones, a
# sixteenth of the index in memory, and 14 us instead of 10 to read one.
_TOGETHER = 16


@dataclasses.dataclass(frozen=True)
class Manifest:
    """What a prepared folder holds, and why. `made_by` is free-form JSON: equal values
    make equal folders."""

    made_by: dict[str, Any]
    rows: int  # read
    pairs: int  # kept
    dropped: dict[str, int]  # reason -> rows
    first_dropped: dict[str, str]  # reason -> where
    lost_negatives: int  # hard negatives left out of pairs, their media missing

    @classmethod
    def load(cls, folder: pathlib.Path) -> "Manifest | None":
        """None where there is none of this version."""
        try:
            return cls(**json.loads((folder / "manifest.json").read_text("utf-8")))
        except (OSError, ValueError, TypeError):
            return None


class Prepared(Source):
    """The pairs of a prepared folder; `corpus` is the folder of its media."""

    def __init__(self, folder: pathlib.Path, corpus: pathlib.Path, task: str):
        self._folder, self._corpus, self._task = folder, corpus, task
        self._records = ArrayRecordReader(
            str(folder / "pairs.array_record"),
            options="readahead_buffer_size:0",
            file_reader_buffer_size=1 << 15,
        )
        with np.load(folder / "facts.npz") as file:
            self._facts = Facts(**file)

    def __len__(self) -> int:
        return len(self._facts.content)

    def __getitem__(self, row: int) -> Pair:
        if not -len(self) <= row < len(self):
            raise IndexError(row)
        row = int(row) % len(self)
        # As a range: a list of one takes time that grows with the file.
        return self._pair(self._records.read(row, row + 1)[0])

    def __reduce__(self) -> tuple:  # a reader cannot be copied to another process
        return Prepared, (self._folder, self._corpus, self._task)

    @property
    def facts(self) -> Facts:
        return self._facts

    def bounds(
        self, rows: np.ndarray, token_bound: Callable[[Item], int], key: str
    ) -> np.ndarray:
        size = (len(self), 2 + int(self._facts.negatives.max()))
        if not key:
            bounds = np.full(size, -1, np.int32)
            self._measure(bounds, rows, token_bound)
            return bounds[rows]
        path = self._folder / f"bounds-{key}.npy"
        with alone(self._folder.parent):
            bounds = np.load(path) if path.exists() else np.full(size, -1, np.int32)
            todo = rows[bounds[rows, 0] < 0]
            if len(todo):
                self._measure(bounds, todo, token_bound)
                temporary = path.with_suffix(".tmp.npy")
                np.save(temporary, bounds)
                temporary.rename(path)
        return bounds[rows]

    def _measure(self, bounds: np.ndarray, rows: np.ndarray, token_bound) -> None:
        with ProgressLine(f"measure {self._task}", len(rows), "pairs") as line:
            for first in range(0, len(rows), _BATCH):
                some = rows[first : first + _BATCH]
                records = self._records.read(some.tolist())
                for row, record in zip(some, records, strict=True):
                    bounds[row] = 0
                    fill_bounds(bounds[row], self._pair(record), token_bound)
                line.advance(len(some))

    def _pair(self, record: bytes) -> Pair:
        return row_pair(json.loads(record), self._absolute)

    def _absolute(self, path: str) -> str:
        if path.startswith(_UNPACKED):
            return str(media_folder(self._folder) / path.removeprefix(_UNPACKED))
        return os.path.join(self._corpus, path)


@contextlib.contextmanager
def alone(folder: pathlib.Path) -> Iterator[None]:
    """Until no other process is in here for the folder, waits."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / ".lock", "w") as f:
        fcntl.flock(f, fcntl.LOCK_EX)  # until the file is closed
        yield


def media_folder(folder: pathlib.Path) -> pathlib.Path:
    """Where what a reader unpacks is kept; another preparation finds it again."""
    return folder.with_name(f"{folder.name}.media")


def prepare(
    rows: Iterable[Pair | Dropped],
    corpus: Corpus,
    folder: pathlib.Path,
    *,
    task: str,
    instruction: str,
    swap: bool,
    made_by: dict[str, Any],
    total_bytes: int,
) -> Manifest:
    """Reads a corpus to its end and writes `folder`, replacing what is there.

    Pairs are dropped whose media are missing or empty, or of which a side has no
    content. Of hard negatives the first `corpus.negatives` are kept.

    Args:
      rows: of a reader.
      corpus: what the reader reads from.
      folder: to write.
      task: name of the pairs' task.
      instruction: of queries that have none of their own.
      swap: exchanges query and target. Negatives, which are targets, are left out then.
      made_by: see `Manifest`.
      total_bytes: that the reader goes over, for the progress.

    Raises:
      UserError: none of the rows makes a pair.
    """
    temporary = folder.with_name(f"{folder.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    path = temporary / "pairs.array_record"
    writer = ArrayRecordWriter(str(path), f"group_size:{_TOGETHER}")
    columns = [array.array(kind) for kind in "QQQi"]
    dropped: collections.Counter[str] = collections.Counter()
    first: dict[str, str] = {}
    lost = 0
    inside, unpacked = f"{corpus.folder}{os.sep}", f"{corpus.media}{os.sep}"

    def relative(path: str) -> str:
        if path.startswith(unpacked):
            return _UNPACKED + path.removeprefix(unpacked)
        return path.removeprefix(inside)  # what lies elsewhere keeps its full path

    with ProgressLine(f"prepare {task}", total_bytes >> 20, "MB") as line:
        corpus.on_read = _megabytes(line)
        for row in rows:
            try:
                if isinstance(row, Dropped):
                    raise Drop(row.reason, row.where)
                pair = _sides(row, task, instruction, swap)
                negatives = () if swap else row.negatives[: corpus.negatives]
                pair = _with_negatives(pair, negatives, row.scores)
                lost += len(negatives) - len(pair.negatives)
                writer.write(json.dumps(pair_row(pair, relative)).encode())
                for column, value in zip(columns, pair_facts(pair), strict=True):
                    column.append(value)
            except Drop as e:
                dropped[e.reason] += 1
                first.setdefault(e.reason, e.detail)
            line.note = f"{len(columns[0])} pairs, {dropped.total()} dropped"
    writer.close()
    kept, read = len(columns[0]), len(columns[0]) + dropped.total()
    if not kept:
        (reason, _), *_ = dropped.most_common(1) or [("the files hold no rows", 0)]
        raise UserError(
            f"{first.get(reason, corpus.folder)}: none of {read} rows of the corpus of "
            f"task {task} makes a pair, most for: {reason}; see docs/training_data.md "
            "for the layout"
        )
    np.savez(temporary / "facts.npz", **make_facts(*columns)._asdict())
    manifest = Manifest(made_by, read, kept, dict(dropped), first, lost)
    with open(temporary / "manifest.json", "w", encoding="utf-8") as f:
        json.dump(dataclasses.asdict(manifest), f, indent=1)
    shutil.rmtree(folder, ignore_errors=True)
    temporary.rename(folder)
    return manifest


def _megabytes(line: ProgressLine) -> Callable[[int], None]:
    """Advances a line that counts megabytes by bytes."""
    done = 0

    def advance(count: int) -> None:
        nonlocal done
        before, done = done, done + count
        if done >> 20 > before >> 20:
            line.advance((done >> 20) - (before >> 20))

    return advance


def _sides(row: Pair, task: str, instruction: str, swap: bool) -> Pair:
    """The pair without its negatives. Raises Drop."""
    query, target = row.query, row.target
    if swap:
        query, target = target, query._replace(instruction=None)
    query = query._replace(instruction=query.instruction or instruction or None)
    for side, item in (("query", query), ("target", target)):
        if not (item.text or item.image or item.video):
            raise Drop(f"an empty {side}", row.id)
        if path := _missing(item):
            raise Drop("a media file that is missing or empty", path)
    return row._replace(query=query, target=target, task=task, negatives=(), scores=())


def _with_negatives(
    pair: Pair, negatives: tuple[Item, ...], scores: tuple[float, ...]
) -> Pair:
    """With those whose media are there, and their scores."""
    there = [i for i, item in enumerate(negatives) if not _missing(item)]
    return pair._replace(
        negatives=tuple(negatives[i] for i in there),
        scores=tuple(scores[i] for i in (0, *(1 + i for i in there))) if scores else (),
    )


def _missing(item: Item) -> str:
    """The path of a medium that is not there; empty if all are."""
    for path in (item.image, item.video):
        try:
            if path and not os.stat(path).st_size:
                return path
        except OSError:
            return path
    return ""
