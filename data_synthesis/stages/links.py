"""`links`: which records repeat each other, or the benchmark; which texts are shared.

Records that have something in common meet in a group: the bytes of their files, their
decoded frames, a band of their perceptual hashes, their text. What a group finds goes
to the shard of the record it is about. Of a band that very many share, only the first
are compared with each other; with the benchmark all are.
"""

import dataclasses
import functools
import itertools
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from data_synthesis import hashes, pipelines, shards
from data_synthesis.record import Record, read_table
from data_synthesis.rectify import normalised
from data_synthesis.run import Run, Stage, key, whole_stage_hash
from data_synthesis.shards import Key, Layout
from data_synthesis.stages.benchmark import Evaluated

STAGE = Stage(
    "links", ("qc",), ("duplicates.max_distance", "duplicates.benchmark"), version=2
)
# Records of one band that are compared, each with each.
_MOST = 400


@dataclasses.dataclass(frozen=True)
class Link:
    """`kind`: "bytes", "frames", "near", "mirrored" (to record `other`), "text"
    (`number` videos share it) or "benchmark" (it repeats the file `other` of it)."""

    id: str
    kind: str
    other: str = ""
    number: int = 0
    distance: float = 0.0


class Member(NamedTuple):
    """Of a group; `name`: a record's id, or the path of a file of the benchmark.

    As very many of them are held by a runner, they travel as plain tuples.
    """

    name: str
    evaluated: bool = False
    sha256: str = ""
    hashes: bytes = b""  # packed
    turned: bool = False  # the hashes are of the mirrored frames


def work(run: Run) -> pipelines.Grouped:
    """All shards follow from all of `qc`."""
    inputs = {"qc": whole_stage_hash(run, "qc")}
    evaluated = bool(run.config.duplicates.benchmark)
    if evaluated:
        inputs["benchmark"] = whole_stage_hash(run, "benchmark")
    return pipelines.Grouped(
        run.layout,
        (key(run, STAGE, inputs),) * run.layout.shards,
        tuple(range(run.layout.shards)),
        functools.partial(_expand, run.layout, evaluated),
        functools.partial(_meet, run.layout, run.config.duplicates.max_distance),
        _write,
    )


def _expand(
    layout: Layout, evaluated: bool, shard: int
) -> Iterator[tuple[tuple[str, str], tuple]]:
    for record in read_table(layout.table("qc", shard), Record):
        if not record.alive:
            continue
        member = Member(record.id)
        yield ("bytes", record.source.sha256), tuple(member)
        yield ("frames", record.frames_sha256), tuple(member)
        if text := normalised(record.text.rectified):
            yield ("text", text), tuple(member._replace(sha256=record.source.sha256))
        for turned, found in ((False, record.hashes), (True, record.mirrored)):
            one = member._replace(hashes=hashes.pack(found), turned=turned)
            for band in hashes.bands(found):
                yield ("band", band), tuple(one)
    if evaluated:
        for row in read_table(layout.table("benchmark", shard), Evaluated):
            packed = hashes.pack(row.hashes)
            member = tuple(Member(row.path, evaluated=True, hashes=packed))
            yield ("bytes", row.sha256), member
            if not row.fault:
                yield ("frames", row.frames_sha256), member
            for band in hashes.bands(row.hashes):
                yield ("band", band), member


def _meet(layout: Layout, limit: float, met: tuple[str, str], rows: Iterator[tuple]):
    kind, found = met[0], sorted(Member(*row) for row in rows)
    members = [member for member in found if not member.evaluated]
    theirs = [member for member in found if member.evaluated]
    if kind == "text":
        videos = len({member.sha256 for member in members})
        links = [Link(m.name, "text", number=videos) for m in members if videos > 1]
    elif kind == "band":
        links = [*_near(members[:_MOST], limit), *_evaluated(members, theirs, limit)]
    else:
        links = [Link(m.name, kind, members[0].name) for m in members[1:]]
        links += [Link(m.name, "benchmark", theirs[0].name) for m in members if theirs]
    for link in links:
        yield layout.shard_of(link.id), link


def _near(members: list[Member], limit: float) -> Iterator[Link]:
    for one, two in itertools.combinations(members, 2):
        if one.name == two.name or (one.turned and two.turned):
            continue
        found = hashes.distance(one.hashes, two.hashes)
        if found <= limit:
            kind = "mirrored" if one.turned or two.turned else "near"
            first, second = sorted((one.name, two.name))
            yield Link(second, kind, first, distance=found)


def _evaluated(
    members: list[Member], theirs: list[Member], limit: float
) -> Iterator[Link]:
    if not theirs:
        return
    table = np.frombuffer(b"".join(m.hashes for m in theirs), np.uint64)
    table = table.reshape(len(theirs), hashes.FRAMES)
    for member in members:
        own = np.frombuffer(member.hashes, np.uint64)
        found = np.bitwise_count(table ^ own).mean(1)
        best = int(found.argmin())
        if found[best] <= limit:
            yield Link(
                member.name, "benchmark", theirs[best].name, distance=float(found[best])
            )


def _write(layout: Layout, key: Key, shard: int, rows: list[Link]) -> None:
    # A pair meets in several bands.
    ordered = sorted(set(rows), key=dataclasses.astuple)
    shards.write_shard(layout, key, shard, ordered, Link)
