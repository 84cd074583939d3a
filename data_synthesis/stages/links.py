"""`links`: which records repeat each other, or the benchmark; which texts are shared.

Records that have something in common meet in a group: the bytes of their files, their
decoded frames, a band of their perceptual hashes, their text. What a group finds goes
to the shard of the record it is about. Of a band that very many share, only the first
are compared with each other, and a "cut" says so; with the benchmark all are.
"""

import dataclasses
import functools
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from data_synthesis import hashes, pipelines, shards
from data_synthesis.record import Record, read_table
from data_synthesis.rectify import normalised
from data_synthesis.run import Run, Stage, grouped, whole_stage_hash
from data_synthesis.shards import Key, Layout
from data_synthesis.stages.benchmark import Evaluated

STAGE = Stage(
    "links", ("qc",), ("duplicates.max_distance", "duplicates.benchmark"), version=3
)
# Records of one band that are compared, each with each: seconds of work.
_MOST = 10_000


@dataclasses.dataclass(frozen=True)
class Link:
    """`kind` is one of

    "bytes", "frames", "near", "mirrored": repeats record `other`
    "benchmark": repeats the file `other` of it
    "text": `number` videos share its text
    "within", "across": of `texts`; its text is nearly that of record `other`, of the
      same file or of another, and `distance` 1 - Jaccard index
    "cut": `number` records from this one on were not compared in band `other`
    """

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
    sha256: str = ""  # of the file
    hashes: bytes = b""  # packed
    turned: bool = False  # the hashes are of the mirrored frames


def work(run: Run) -> pipelines.Grouped:
    """All shards follow from all of `qc`."""
    inputs = {"qc": whole_stage_hash(run, "qc")}
    evaluated = bool(run.config.duplicates.benchmark)
    if evaluated:
        inputs["benchmark"] = whole_stage_hash(run, "benchmark")
    return grouped(
        run,
        STAGE,
        inputs,
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
        links = [
            *_near(members[:_MOST], limit),
            *_evaluated(members, theirs, limit),
            *_cut(members, met),
        ]
    else:
        links = [Link(m.name, kind, members[0].name) for m in members[1:]]
        links += [Link(m.name, "benchmark", theirs[0].name) for m in members if theirs]
    for link in links:
        yield layout.shard_of(link.id), link


def _cut(members: list[Member], met: tuple[str, str]) -> Iterator[Link]:
    if len(members) > _MOST:
        left = len(members) - _MOST
        yield Link(members[_MOST].name, "cut", " ".join(met), number=left)


def _near(members: list[Member], limit: float) -> Iterator[Link]:
    """Links that join all that are near each other, directly or by others; as many as
    that takes, or a thousand copies would have half a million."""
    table = hashes.table([m.hashes for m in members])
    turned = np.array([m.turned for m in members], bool)
    # Joined are records; one of them may be here mirrored as well.
    _, cluster = np.unique([m.name for m in members], return_inverse=True)
    for kind in ("near", "mirrored"):
        for i, one in enumerate(members[:-1]):
            found = hashes.distances(table[i], table[i + 1 :])
            other = turned[i + 1 :]
            # Of two mirrored ones the originals are as near.
            fits = ~other & ~turned[i] if kind == "near" else other ^ turned[i]
            near = fits & (found <= limit)
            while (new := np.flatnonzero(near & (cluster[i + 1 :] != cluster[i]))).size:
                first, second = sorted((one.name, members[i + 1 + new[0]].name))
                yield Link(second, kind, first, distance=float(found[new[0]]))
                cluster[cluster == cluster[i + 1 + new[0]]] = cluster[i]


def _evaluated(
    members: list[Member], theirs: list[Member], limit: float
) -> Iterator[Link]:
    if not theirs:
        return
    table = hashes.table([m.hashes for m in theirs])
    for member in members:
        found = hashes.distances(hashes.table([member.hashes])[0], table)
        best = int(found.argmin())
        if found[best] <= limit:
            yield Link(
                member.name, "benchmark", theirs[best].name, distance=float(found[best])
            )


def _write(layout: Layout, key: Key, shard: int, rows: list[Link]) -> None:
    # A pair meets in several bands.
    ordered = sorted(set(rows), key=dataclasses.astuple)
    shards.write_shard(layout, key, shard, ordered, Link)
