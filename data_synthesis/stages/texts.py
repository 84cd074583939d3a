"""`texts`: texts in nearly the same words, within a video and across videos.

They are only reported. Of the records of one file one is kept anyway, and two videos
may well show the same. Records meet by their file, and by each band of their MinHash;
whether two texts are the same is then settled exactly. Of a group of very many texts
the first are compared with each other, and a "cut" says so.
"""

import dataclasses
import functools
from collections.abc import Iterator
from typing import NamedTuple

from data_synthesis import pipelines, shards, shingles
from data_synthesis.record import Record, read_table
from data_synthesis.rectify import normalised
from data_synthesis.run import Run, Stage, grouped, whole_stage_hash
from data_synthesis.shards import Key, Layout
from data_synthesis.stages.links import Link

STAGE = Stage("texts", ("qc",), ())
# Texts of one group that are compared, each with each.
_MOST = 400


class Told(NamedTuple):
    """A record's text, folded; it travels as a plain tuple."""

    name: str
    sha256: str  # of the file
    text: str


def work(run: Run) -> pipelines.Grouped:
    """All shards follow from all of `qc`."""
    inputs = {"qc": whole_stage_hash(run, "qc")}
    return grouped(
        run,
        STAGE,
        inputs,
        functools.partial(_expand, run.layout),
        functools.partial(_meet, run.layout),
        _write,
    )


def _expand(layout: Layout, shard: int) -> Iterator[tuple[tuple[str, str], tuple]]:
    for record in read_table(layout.table("qc", shard), Record):
        text = normalised(record.text.rectified)
        if record.alive and text:
            told = tuple(Told(record.id, record.source.sha256, text))
            yield ("within", record.source.sha256), told
            for band in shingles.bands(text):
                yield ("across", band), told


def _meet(layout: Layout, met: tuple[str, str], rows: Iterator[tuple]):
    """At most one link of each record: one is enough to say that it repeats."""
    members = sorted(Told(*row) for row in rows)
    if met[0] == "across":  # equal ones are shared texts: the first of each
        first: dict[str, Told] = {}
        for member in members:
            first.setdefault(member.text, member)
        members = list(first.values())
    grams = [shingles.grams(member.text) for member in members[:_MOST]]
    links = []
    for j, two in enumerate(members[:_MOST]):
        for i, one in enumerate(members[:j]):
            if met[0] == "across" and one.sha256 == two.sha256:
                continue
            found = shingles.jaccard(grams[i], grams[j])
            if found >= shingles.SAME:
                links.append(Link(two.name, met[0], one.name, distance=1 - found))
                break
    if left := members[_MOST:]:
        links.append(Link(left[0].name, "cut", " ".join(met), number=len(left)))
    for link in links:
        yield layout.shard_of(link.id), link


def _write(layout: Layout, key: Key, shard: int, rows: list[Link]) -> None:
    # Two texts meet in several bands.
    ordered = sorted(set(rows), key=dataclasses.astuple)
    shards.write_shard(layout, key, shard, ordered, Link)
