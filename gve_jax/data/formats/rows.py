"""What the readers share: files to rows, rows to pairs, and what is dropped counted.

A reader is a module with `FILES`, the default glob of each kind of file that it reads,
and `read(corpus, KIND=[paths], ..., OPTION=...)`, which yields pairs and `Dropped`s in
the order of the files. Pairs name their media by full paths; whether the files are
there is for `gve_jax.data.prepared` to check, once for all formats. A reader that goes
over its files several times says how often in `PASSES`.
"""

import csv
import gzip
import io
import json
import os
import pathlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

from gve_jax.types import Pair, UserError

# A list of JSON objects is parsed piece by piece: annotations may be many gigabytes.
_PIECE = 1 << 20
_LONGEST = 64 << 20  # characters of one of them


class Dropped(NamedTuple):
    """A row that makes no pair."""

    reason: str
    where: str  # file and row


class Drop(Exception):
    """Raised over a row that makes no pair. Rows are counted by `reason`; `detail` is
    said of the first one only."""

    def __init__(self, reason: str, detail: str = ""):
        self.reason, self.detail = reason, detail


Row = tuple[str, Any]  # where it is, and the row itself or a Drop


class Corpus:
    """What a reader reads from.

    Args:
      folder: that of the corpus; media paths in its files are relative to it.
      media: where a reader puts media that are no files yet.
      negatives: how many of each pair are of use.

    Attributes:
      on_read: is told of bytes as they are read.
    """

    def __init__(self, folder: pathlib.Path, media: pathlib.Path, negatives: int):
        self.folder, self.media, self.negatives = folder, media, negatives
        self.on_read: Callable[[int], None] = lambda count: None

    def open(self, path: pathlib.Path) -> io.BufferedIOBase:
        """The bytes of a file, unpacked if it ends in .gz."""
        counted = io.BufferedReader(_Counted(path, self), _PIECE)
        return gzip.GzipFile(fileobj=counted) if path.suffix == ".gz" else counted

    def text(self, path: pathlib.Path) -> io.TextIOWrapper:
        return io.TextIOWrapper(self.open(path), encoding="utf-8", newline="")

    def path(self, name: str) -> str:
        """The full path of a medium. Raises Drop if it leaves the folder."""
        parts = pathlib.PurePosixPath(name)
        if parts.is_absolute() or ".." in parts.parts:
            raise Drop("a path that leaves the corpus")
        return str(self.folder / parts)


class _Counted(io.FileIO):
    def __init__(self, path: pathlib.Path, corpus: Corpus):
        super().__init__(path)
        self._corpus = corpus

    def readinto(self, buffer) -> int:
        count = super().readinto(buffer)
        self._corpus.on_read(count)
        return count


def pairs(
    rows: Iterable[Row], make: Callable[[str, Any], Pair]
) -> Iterator[Pair | Dropped]:
    """`make(where, row)` of each row; a Drop is counted instead."""
    for where, row in rows:
        try:
            if isinstance(row, Drop):
                raise row
            yield make(where, row)
        except Drop as e:
            yield Dropped(e.reason, f"{where}: {e.detail}" if e.detail else where)


def text(row: dict, *names: str) -> str:
    """The first of these fields that holds text. Raises Drop if there is none."""
    for name in names:
        value = row.get(name)
        if isinstance(value, str):
            value = value.strip()
            if value and value.lower() != "nan":  # as pandas writes what is absent
                return value
        elif value is not None and value == value:
            raise Drop(f"{name} is no text")
    raise Drop(f"no {names[0]}")


def name(row: dict, *names: str) -> str:
    """An id, text or number. Raises Drop if there is none."""
    for key in names:
        value = row.get(key)
        if isinstance(value, int) and not isinstance(value, bool):
            return str(value)
    return text(row, *names)


def number(row: dict, key: str) -> float:
    """Raises Drop if it is none."""
    try:
        return float(row[key])
    except (KeyError, TypeError, ValueError):
        raise Drop(f"no {key}") from None


def seconds(row: dict, key: str) -> float:
    """A time, as a number or HH:MM:SS.mmm. Raises Drop if it is none."""
    value = row.get(key)
    if not isinstance(value, str) or ":" not in value:
        return number(row, key)
    try:
        hours, minutes, rest = value.split(":")
        return 3600 * int(hours) + 60 * int(minutes) + float(rest)
    except ValueError:
        raise Drop(f"{key} is no time") from None


def fill(template: str, row: dict) -> str:
    """A file name from the fields of a row. Raises Drop if one is absent."""
    try:
        return template.format_map(row)
    except KeyError as e:
        raise Drop(f"no {e.args[0]}") from None
    except (AttributeError, IndexError, TypeError, ValueError) as e:
        raise UserError(
            f"data.corpora: {template!r} is no name of files ({e}): give fields of a "
            "row in braces"
        ) from None


def json_rows(corpus: Corpus, paths: Iterable[pathlib.Path]) -> Iterator[Row]:
    """JSON objects: one a line, or, in files that begin with "[", a list of them."""
    for path in paths:
        with corpus.open(path) as f:
            is_list = f.peek(64).lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"[")
            rows = _listed(f) if is_list else _lines(f)
            for number, row in rows:
                if not isinstance(row, dict | Drop):
                    row = Drop("no JSON object")
                yield f"{path}:{number}", row


def _lines(f: io.BufferedIOBase) -> Iterator[tuple[int, Any]]:
    for number, line in enumerate(f, 1):
        if not line.strip():
            continue
        try:
            yield number, json.loads(line)
        except ValueError:  # UnicodeDecodeError is one
            yield number, Drop("no JSON")


def _listed(f: io.BufferedIOBase) -> Iterator[tuple[int, Any]]:
    stream = io.TextIOWrapper(f, encoding="utf-8-sig", errors="replace")
    decode = json.JSONDecoder().raw_decode
    rest, at, number = stream.read(_PIECE).lstrip()[1:], 0, 0
    while True:
        while at < len(rest) and rest[at] in ", \t\r\n":
            at += 1
        if rest[at : at + 1] == "]":
            return
        try:
            row, at = decode(rest, at)
            number += 1
            yield number, row
        except ValueError:
            more = stream.read(_PIECE)
            if not more or len(rest) - at > _LONGEST:
                yield number + 1, Drop("no JSON")
                return
            rest, at = rest[at:] + more, 0


def csv_rows(corpus: Corpus, paths: Iterable[pathlib.Path], need: str) -> Iterator[Row]:
    """Rows of CSV files by their header, which must have the column `need`."""
    csv.field_size_limit(1 << 20)
    for path in paths:
        with corpus.text(path) as f:
            reader = csv.DictReader(f)
            if need not in (reader.fieldnames or ()):
                yield f"{path}:1", Drop(f"no column {need} in the file's header")
                continue
            while True:
                try:
                    row = next(reader)
                    if None in row:
                        row = Drop("more fields than the header has")
                except StopIteration:
                    break
                except (csv.Error, UnicodeDecodeError):
                    row = Drop("no CSV")
                yield f"{path}:{reader.line_num}", row


def stem(path: str) -> str:
    return os.path.splitext(os.path.basename(path))[0]
