"""`ingest`: raw.jsonl to records, in shards.

A line is {"id": str, "video": path, "text": str, "license"?: str, "dataset"?: str}. A
path is relative to the file and must stay, links resolved, in one of the roots. What a
line lacks makes its record an error; no line is lost. Equal lines count once.
"""

import functools
import hashlib
import json
import os
import pathlib
import re
from collections.abc import Iterator
from typing import BinaryIO

from data_synthesis import draws, pipelines, shards
from data_synthesis.record import Record, Source, Text
from data_synthesis.run import Run, Stage, key
from data_synthesis.shards import Counts, Key, Layout
from gve_jax.types import UserError

STAGE = Stage("ingest", (), ("ingest",))
# Bytes of the input that one worker reads at a time; of a line, at most;
# of what is too long, shown.
_BLOCK, _LONGEST, _SHOWN = 1 << 20, 1 << 20, 100
_REQUIRED = ("id", "video", "text")
_OPTIONAL = ("license", "dataset")


def work(run: Run) -> pipelines.Grouped:
    """Raises UserError if a root is not a folder."""
    roots = _roots(run)
    size = os.path.getsize(run.input)
    inputs = {"input": shards.file_sha256(run.input), "sizes": _sizes(run, roots)}
    return pipelines.Grouped(
        run.layout,
        (key(run, STAGE, inputs),) * run.layout.shards,
        tuple(range(0, size, _BLOCK)),
        functools.partial(_read, run, roots),
        None,
        _write,
    )


def _roots(run: Run) -> tuple[str, ...]:
    return _resolved(tuple(run.config.ingest.roots) or (str(run.input.parent),))


@functools.cache  # once in a process, not for each record
def _resolved(roots: tuple[str, ...]) -> tuple[str, ...]:
    for root in roots:
        if not os.path.isdir(root):
            raise UserError(f"config.ingest.roots: no folder {root!r}")
    return tuple(os.path.realpath(root) for root in roots)


def _sizes(run: Run, roots: tuple[str, ...]) -> str:
    """Digest of the videos' sizes: a replaced file is noticed without reading all."""
    found = set()
    for line in _lines(run.input, 0, os.path.getsize(run.input)):
        row = _parse(line)
        path = isinstance(row, dict) and _resolve(run.input, row["video"], roots)
        if path:
            found.add((row["video"], os.path.getsize(path)))
    return hashlib.sha256(json.dumps(sorted(found)).encode()).hexdigest()


def _lines(path: pathlib.Path, start: int, end: int) -> Iterator[bytes]:
    """The lines that begin in [start, end) of a file.

    One that is too long is cut, and ends in its hash: it is no JSON any more.
    """
    with open(path, "rb") as f:
        f.seek(max(start - 1, 0))
        if start:
            _read_line(f)  # it began before, unless `start` is where a line begins
        while f.tell() < end and (line := _read_line(f)):
            if line.strip():
                yield line.strip()


def _read_line(f: BinaryIO) -> bytes:
    line = f.readline(_LONGEST)
    if len(line) < _LONGEST or line.endswith(b"\n"):
        return line
    digest, piece = hashlib.blake2b(line, digest_size=16), line
    while piece and not piece.endswith(b"\n"):
        piece = f.readline(_LONGEST)
        digest.update(piece)
    return (
        line[:_SHOWN]
        + f" ... over {_LONGEST} bytes, ".encode()
        + (digest.hexdigest().encode())
    )


def _read(run: Run, roots, start: int) -> Iterator[tuple[int, Record]]:
    for line in _lines(run.input, start, start + _BLOCK):
        record = _record(run, roots, line)
        yield run.layout.shard_of(record.id), record


def _parse(line: bytes) -> dict | str:
    """The row of a line, or what is wrong with it."""
    try:
        row = json.loads(line, object_pairs_hook=_unique)
    except (ValueError, RecursionError) as e:
        return f"not JSON: {e}"
    if not isinstance(row, dict):
        return "not a JSON object"
    for name in (*_REQUIRED, *_OPTIONAL):
        value = row.get(name, None if name in _REQUIRED else "")
        if not isinstance(value, str) or (name in ("id", "video") and not value):
            return f"field {name!r} is {value!r}, expected a string"
        if not value.isascii() and any("\ud800" <= c <= "\udfff" for c in value):
            return f"field {name!r} holds half a character (a lone surrogate)"
    return row


def _unique(pairs: list[tuple]) -> dict:
    row = dict(pairs)
    if len(row) < len(pairs):
        raise ValueError("a key is there twice")
    return row


def _record(run: Run, roots, line: bytes) -> Record:
    row = _parse(line)
    if isinstance(row, str):
        text = line.decode(errors="replace")
        record = Record(draws.identity("line", text), Source(""), Text(""))
        return record.leave("error", "ingest", "bad_line", detail=f"{row}: {text}")
    path = _resolve(run.input, row["video"], roots)
    digest = shards.file_sha256(pathlib.Path(path)) if path else ""
    config = run.config.ingest
    record = Record(
        id=draws.identity(digest, row["id"], row["text"]),
        name=row["id"],
        source=Source(
            uri=_redacted(row["video"]),
            sha256=digest,
            bytes=os.path.getsize(path) if path else 0,
            license=row.get("license") or config.license,
            dataset=row.get("dataset") or config.dataset,
        ),
        text=Text(row["text"]),
    )
    if path:
        return record
    if "://" in row["video"]:
        return record.leave(
            "error", "ingest", "url", detail="addresses are not fetched: give files"
        )
    if os.path.exists(run.input.parent / row["video"]):
        return record.leave(
            "error", "ingest", "outside_roots",
            detail="not in config.ingest.roots, or not a file",
        )  # fmt: skip
    return record.leave("error", "ingest", "not_found", detail="no such file")


def _redacted(name: str) -> str:
    """An address without what may be a password or a token."""
    if "://" not in name:
        return name
    return re.sub(r"//[^/]*@", "//", name).split("?")[0]


def source_path(run: Run, record: Record) -> str:
    """Where the video of a record is now. Raises UserError if it is not there."""
    path = _resolve(run.input, record.source.uri, _roots(run))
    if path is None:
        raise UserError(f"{run.input}: video {record.source.uri!r} is gone")
    return path


def video_path(run: Run, record: Record) -> str:
    """The video of a record: its repaired copy, or the source. Raises as that does."""
    for medium in record.media:
        if medium.role == "video":
            return str(run.layout.root / medium.path)
    return source_path(run, record)


def _resolve(base: pathlib.Path, name: str, roots: tuple[str, ...]) -> str | None:
    """The real path of a regular file inside a root, or None."""
    if "\0" in name:
        return None
    path = os.path.realpath(base.parent / name)
    inside = any(os.path.commonpath((path, root)) == root for root in roots)
    return path if inside and os.path.isfile(path) else None


def _write(layout: Layout, key: Key, shard: int, rows: list[Record]) -> None:
    ordered = sorted({row.id: row for row in rows}.values(), key=lambda row: row.id)
    errors = [row for row in ordered if not row.alive]
    reasons = [reason for row in errors for reason in row.decision.reasons]
    counts = Counts(
        len(ordered), len(ordered) - len(errors), 0, len(errors),
        {reason: reasons.count(reason) for reason in sorted(set(reasons))},
    )  # fmt: skip
    repeated = {"repeated_lines": len(rows) - len(ordered)}
    shards.write_shard(
        layout, key, shard, ordered, counts=lambda: counts, extra=lambda: repeated
    )
