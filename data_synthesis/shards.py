"""Shards: the unit of work, of writing and of going on after an interruption.

OUT/STAGE/00007.parquet        rows of one shard, sorted by id
OUT/STAGE/00007.json           its manifest, written last: with it the shard is whole
OUT/timings/STAGE/00007.json   seconds, and the commit of the code that made it; the
                               only place for what differs between runs

A shard is done if its manifest fits: the same configuration and version of the stage,
the same inputs, and a file of the hash that it names. Else it is made anew, whole.
"""

import collections
import contextlib
import functools
import hashlib
import json
import os
import pathlib
import subprocess
import time
import types
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import NamedTuple

from data_synthesis.record import Record, read_table, write_table
from gve_jax.types import UserError


class Counts(NamedTuple):
    """Of the records that reached a stage; those that had left before are not in it.

    `reasons`: code -> how many have it; a record may have several.
    """

    entered: int = 0
    kept: int = 0
    dropped: int = 0
    errors: int = 0
    reasons: Mapping[str, int] = types.MappingProxyType({})

    def __add__(self, other: "Counts") -> "Counts":
        reasons = collections.Counter(self.reasons) + collections.Counter(other.reasons)
        sums = (a + b for a, b in zip(self[:4], other[:4], strict=True))
        return Counts(*sums, dict(sorted(reasons.items())))

    def check(self, where: str) -> None:
        """Raises RuntimeError if a record got lost: a fault of the program."""
        if self.entered != self.kept + self.dropped + self.errors:
            raise RuntimeError(f"{where}: records were lost: {self}")


class Layout(NamedTuple):
    """Where the shards of a run are. `shards` is fixed for an output folder."""

    root: pathlib.Path
    shards: int

    def table(self, stage: str, shard: int) -> pathlib.Path:
        return self.root / stage / f"{shard:05d}.parquet"

    def manifest(self, stage: str, shard: int) -> pathlib.Path:
        return self.root / stage / f"{shard:05d}.json"

    def timing(self, stage: str, shard: int) -> pathlib.Path:
        return self.root / "timings" / stage / f"{shard:05d}.json"

    def shard_of(self, record_id: str) -> int:
        return int(record_id[:15], 16) % self.shards


class Key(NamedTuple):
    """What a shard's content follows from."""

    stage: str
    version: int  # of the stage's code: raised when it gives other results
    config_sha256: str
    inputs: dict[str, str]  # "STAGE/SHARD" or a file's name -> sha256


@functools.cache
def code() -> str:
    """The commit of this checkout; "unknown" where there is none, or no git."""
    try:
        found = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=12"],
            cwd=pathlib.Path(__file__).parent,
            capture_output=True,
            text=True,
            check=False,
        )
    except OSError:
        return "unknown"
    return found.stdout.strip() or "unknown"


def config_sha256(config: dict) -> str:
    text = json.dumps(config, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def file_sha256(path: pathlib.Path) -> str:
    with open(path, "rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def whole_sha256(hashes: Iterable[str]) -> str:
    """Of a stage, from the hashes of its shards in order."""
    digest = hashlib.sha256()
    for found in hashes:
        digest.update(found.encode())
    return digest.hexdigest()


def manifest(layout: Layout, stage: str, shard: int) -> dict:
    """The manifest of a finished shard. Raises UserError if there is none."""
    path = layout.manifest(stage, shard)
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise UserError(
            f"{path}: stage {stage} is not finished; run it first"
        ) from None


def input_hashes(layout: Layout, shard: int, stages: Iterable[str]) -> dict[str, str]:
    """Of the same shard of other stages, for a `Key`."""
    return {s: manifest(layout, s, shard)["sha256"] for s in stages}


def whole(layout: Layout, stage: str, shard: int) -> dict:
    """The manifest of a shard that is there, made of whatever; {} without one."""
    try:
        found = json.loads(layout.manifest(stage, shard).read_text("utf-8"))
        good = found["sha256"] == file_sha256(layout.table(stage, shard))
    except (OSError, ValueError, KeyError):
        return {}
    return found if good else {}


def done(layout: Layout, key: Key, shard: int) -> bool:
    """Whether the shard is there, whole, and what `key` would give."""
    found = whole(layout, key.stage, shard)
    return found.get("key") == json.loads(json.dumps(key._asdict()))


def write_shard(
    layout: Layout,
    key: Key,
    shard: int,
    rows: Iterable,
    kind: type = Record,
    counts: Callable[[], Counts] | None = None,
    extra: Callable[[], dict] | None = None,
) -> None:
    """Writes a shard and its manifest; on any fault nothing of it stays.

    Args:
      rows: of dataclass `kind`, in the order of their ids.
      counts: called after the last row; default: all rows are kept.
      extra: called likewise; goes into the manifest as "extra". As all that is in a
        manifest, it must follow from the key.
    """
    table, start = layout.table(key.stage, shard), time.perf_counter()
    table.parent.mkdir(parents=True, exist_ok=True)
    part = table.with_name(f"{table.name}.{os.getpid()}.part")
    try:
        number = write_table(part, kind, rows)
        with open(part, "rb+") as f:
            os.fsync(f.fileno())
        found = counts() if counts else Counts(number, number)
        found.check(f"{key.stage}, shard {shard}")
        entry = {
            "key": key._asdict(),
            "shard": shard,
            "rows": number,
            "sha256": file_sha256(part),
            "counts": found._asdict() | {"reasons": dict(found.reasons)},
            "extra": extra() if extra else {},
        }
        # Never a manifest beside another table than its own.
        layout.manifest(key.stage, shard).unlink(missing_ok=True)
        part.replace(table)
    finally:
        part.unlink(missing_ok=True)
    _write(layout.manifest(key.stage, shard), entry)
    seconds = {
        "seconds": time.perf_counter() - start, "rows": number, "code": code()
    }  # fmt: skip
    layout.timing(key.stage, shard).parent.mkdir(parents=True, exist_ok=True)
    _write(layout.timing(key.stage, shard), seconds)


def map_shard(
    layout: Layout,
    key: Key,
    shard: int,
    source: str,
    process: Callable[[Iterator[Record]], Iterator[Record]],
    extra: Callable[[], dict] | None = None,
) -> None:
    """Writes a shard of `key.stage` from the same shard of stage `source`.

    `process` gets the records that are still kept, in the order of their ids, and must
    give one for each, in that order. Those that left earlier pass by unchanged. An
    exception of `process` ends the shard: faults of single records are its to handle,
    as `Record.leave("error", ...)`.
    """
    tally = _Tally(key.stage)

    def rows() -> Iterator[Record]:
        passed: collections.deque[Record | None] = collections.deque()

        def alive() -> Iterator[Record]:
            for record in read_table(layout.table(source, shard), Record):
                passed.append(None if record.alive else record)
                if record.alive:
                    yield record

        for record in process(alive()):
            while passed and passed[0] is not None:
                yield passed.popleft()
            if not passed:
                raise RuntimeError(f"{key.stage}: more records out than in")
            passed.popleft()
            tally.add(record)
            yield record
        while passed:
            record = passed.popleft()
            if record is None:
                raise RuntimeError(f"{key.stage}: fewer records out than in")
            yield record

    write_shard(layout, key, shard, rows(), counts=tally.counts, extra=extra)


def read_stage(layout: Layout, stage: str, kind: type = Record) -> Iterator:
    """Yields the rows of all shards of a finished stage."""
    for shard in range(layout.shards):
        manifest(layout, stage, shard)
        yield from read_table(layout.table(stage, shard), kind)


def stage_counts(layout: Layout, stage: str) -> Counts:
    """Of all shards. Raises UserError if one is missing."""
    total = Counts()
    for shard in range(layout.shards):
        total += Counts(**manifest(layout, stage, shard)["counts"])
    return total


def remove_parts(root: pathlib.Path) -> None:
    """Removes what interrupted writers left. Nobody else may be writing."""
    for place in ("*.part", "*/*.part", "timings/*/*.part", "pairs/*/*.part"):
        for part in root.glob(place):
            part.unlink(missing_ok=True)


@contextlib.contextmanager
def only_run(root: pathlib.Path):
    """Holds the folder for one run. Raises UserError if another holds it."""
    import fcntl

    root.mkdir(parents=True, exist_ok=True)
    with open(root / ".lock", "w") as f:
        try:
            fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UserError(
                f"--output: another run is writing {root}; wait for it, or use a new "
                "folder"
            ) from None
        yield


class _Tally:
    def __init__(self, stage: str):
        self._stage = stage
        self._outcomes = collections.Counter()
        self._reasons = collections.Counter()

    def add(self, record: Record) -> None:
        self._outcomes[record.decision.outcome] += 1
        if not record.alive:
            self._reasons.update(record.decision.reasons)

    def counts(self) -> Counts:
        n = self._outcomes
        return Counts(
            n.total(), n["keep"], n["drop"], n["error"],
            dict(sorted(self._reasons.items())),
        )  # fmt: skip


def _write(path: pathlib.Path, entry: dict) -> None:
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    with open(part, "w", encoding="utf-8") as f:
        f.write(json.dumps(entry, indent=1, sort_keys=True) + "\n")
        f.flush()
        os.fsync(f.fileno())
    part.replace(path)
