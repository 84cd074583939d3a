"""`links`: which records repeat each other, or the benchmark; which texts are shared.

Records that have something in common meet in a group: the bytes of their files, their
decoded frames, a band of their perceptual hashes, their text. What a group finds goes
to the shard of the record it is about. Of a band that very many share, only the first
are compared.
"""

import dataclasses
import functools
import itertools
from collections.abc import Iterator

from data_synthesis import hashes, pipelines, shards
from data_synthesis.record import Record, read_table
from data_synthesis.rectify import normalised
from data_synthesis.run import Run, Stage, key, whole_stage_hash
from data_synthesis.shards import Key, Layout

STAGE = Stage("links", ("qc",), ("duplicates",))
# Records of one band that are compared, each with each.
_MOST = 400


@dataclasses.dataclass(frozen=True)
class Link:
    """`kind`: "bytes", "frames", "near", "mirrored" (to record `other`) or "text"
    (`number` videos share it)."""

    id: str
    kind: str
    other: str = ""
    number: int = 0
    distance: float = 0.0


def work(run: Run) -> pipelines.Grouped:
    """All shards follow from all of `qc`."""
    inputs = {"qc": whole_stage_hash(run, "qc")}
    return pipelines.Grouped(
        run.layout,
        (key(run, STAGE, inputs),) * run.layout.shards,
        tuple(range(run.layout.shards)),
        functools.partial(_expand, run.layout),
        functools.partial(_meet, run.layout, run.config.duplicates.max_distance),
        _write,
    )


def _expand(layout: Layout, shard: int) -> Iterator[tuple[tuple[str, str], tuple]]:
    for record in read_table(layout.table("qc", shard), Record):
        if not record.alive:
            continue
        yield ("bytes", record.source.sha256), (record.id,)
        yield ("frames", record.frames_sha256), (record.id,)
        if text := normalised(record.text.rectified):
            yield ("text", text), (record.id, record.source.sha256)
        for band in hashes.bands(record.hashes):
            yield ("band", band), (record.id, record.hashes, False)
        for band in hashes.bands(record.mirrored):
            yield ("band", band), (record.id, record.mirrored, True)


def _meet(layout: Layout, limit: float, met: tuple[str, str], rows: Iterator):
    kind, members = met[0], sorted(rows)
    if len(members) < 2:
        return
    if kind == "text":
        videos = len({sha256 for _, sha256 in members})
        links = [Link(i, "text", number=videos) for i, _ in members if videos > 1]
    elif kind == "band":
        links = list(_near(members[:_MOST], limit))
    else:
        first = members[0][0]
        links = [Link(i, kind, first) for (i,) in members[1:]]
    for link in links:
        yield layout.shard_of(link.id), link


def _near(members: list[tuple], limit: float) -> Iterator[Link]:
    for (a, one, turned), (b, two, other) in itertools.combinations(members, 2):
        if a == b or (turned and other):
            continue
        found = hashes.distance(one, two)
        if found <= limit:
            kind = "mirrored" if turned or other else "near"
            yield Link(max(a, b), kind, min(a, b), distance=found)


def _write(layout: Layout, key: Key, shard: int, rows: list[Link]) -> None:
    # A pair meets in several bands.
    ordered = sorted(set(rows), key=dataclasses.astuple)
    shards.write_shard(layout, key, shard, ordered, Link)
