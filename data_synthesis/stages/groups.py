"""`groups`: writes into each record what only a look at all of them can tell.

Duplicates of duplicates are one cluster. One of its records stands for it, and the
others repeat that one: the one of the smallest id among those that text, video and
motion keep, so that a good video is not lost to a copy with a useless text. A cluster
of which one repeats the benchmark does so as a whole.
"""

import collections
import dataclasses
import functools
from collections.abc import Iterator

from data_synthesis import pipelines, shards
from data_synthesis.record import Group, Record, read_table
from data_synthesis.run import Run, Stage, grouped, whole_stage_hash
from data_synthesis.shards import Key, Layout
from data_synthesis.stages.links import Link
from data_synthesis.thresholds import unfit
from gve_jax.types import UserError

# The thresholds, because they say which record of a cluster is kept.
STAGE = Stage("groups", ("qc",), ("text", "media", "motion"))
_STRENGTH = ("bytes", "frames", "near", "mirrored")  # kinds of links that make groups
_SHOWN = 5  # records named in a message


def work(run: Run) -> pipelines.Grouped:
    """All shards follow from all of `qc` and `links`.

    Raises:
      UserError: records repeat the benchmark, and `duplicates.waive` is false.
    """
    if run.config.duplicates.benchmark and not run.config.duplicates.waive:
        _refuse_hits(run)
    inputs = {stage: whole_stage_hash(run, stage) for stage in ("qc", "links")}
    return grouped(
        run,
        STAGE,
        inputs,
        functools.partial(_expand, run, inputs["links"]),
        functools.partial(_meet, run.layout),
        functools.partial(_write, run),
    )


def _refuse_hits(run: Run) -> None:
    hits: dict[str, str] = {}
    for link in shards.read_stage(run.layout, "links", Link):
        if link.kind == "benchmark":
            hits.setdefault(link.id, link.other)
    if not hits:
        return
    first = sorted(hits)[:_SHOWN]
    names = {
        record.id: record.name
        for shard in {run.layout.shard_of(name) for name in first}
        for record in read_table(run.layout.table("qc", shard), Record)
        if record.id in first
    }
    shown = ", ".join(f"{names[name]!r} repeats {hits[name]}" for name in first)
    shown += ", ..." if len(hits) > _SHOWN else ""
    raise UserError(
        f"config.duplicates.benchmark: {len(hits)} raw records repeat videos that "
        f"models are evaluated on ({shown}): remove them, or set "
        "config.duplicates.waive, and they are dropped"
    )


def _alone(record: Record, texts: dict[str, int]) -> Group:
    return Group(text_videos=texts.get(record.id, 1), cluster=record.id)


def _texts(layout: Layout, shard: int) -> dict[str, int]:
    links = read_table(layout.table("links", shard), Link)
    return {link.id: link.number for link in links if link.kind == "text"}


def _expand(run: Run, links: str, shard: int) -> Iterator[tuple[str, tuple]]:
    """Of records that have duplicates or repeat the benchmark, by their cluster."""
    layout = run.layout
    cluster, kinds, hits = _all_clusters(layout, links)
    texts = _texts(layout, shard)
    for record in read_table(layout.table("qc", shard), Record):
        if record.id in cluster:
            alone = dataclasses.replace(record, group=_alone(record, texts))
            useless = bool(unfit(alone, run.config))
            row = useless, record.id, kinds[record.id], hits.get(record.id, "")
            yield cluster[record.id], row


def _meet(layout: Layout, cluster: str, rows: Iterator[tuple]):
    members = sorted(rows)
    hits = [hit for *_, hit in members if hit]
    for place, (_, name, kind, _) in enumerate(members):
        group = Group(
            cluster=cluster,
            duplicate=kind if place else "",
            benchmark=min(hits, default=""),
        )
        yield layout.shard_of(name), (name, group)


def _write(run: Run, layout: Layout, key: Key, shard: int, rows: list) -> None:
    groups, texts = dict(rows), _texts(layout, shard)

    def process(records: Iterator[Record]) -> Iterator[Record]:
        for record in records:
            group = _alone(record, texts)
            if record.id in groups:
                group = dataclasses.replace(
                    groups[record.id], text_videos=group.text_videos
                )
            yield dataclasses.replace(record, group=group)

    shards.map_shard(layout, key, shard, "qc", process)


@functools.lru_cache(1)  # all links: once in a process, not for each shard
def _all_clusters(layout: Layout, sha256: str):
    """`_clusters` of the finished stage, whose hash says which."""
    return _clusters(shards.read_stage(layout, "links", Link))


def _clusters(
    links: Iterator[Link],
) -> tuple[dict[str, str], dict[str, str], dict[str, str]]:
    """Of each linked record: smallest id of its cluster, its strongest link to another
    record; and of those that repeat a file of the benchmark, that file."""
    parent: dict[str, str] = {}
    kinds: dict[str, str] = collections.defaultdict(lambda: _STRENGTH[-1])
    hits: dict[str, str] = {}

    def root(name: str) -> str:
        while parent.setdefault(name, name) != name:
            parent[name] = parent[parent[name]]
            name = parent[name]
        return name

    for link in links:
        if link.kind == "benchmark":
            root(link.id)
            hits[link.id] = min(link.other, hits.get(link.id, link.other))
        elif link.kind in _STRENGTH:
            for name in (link.id, link.other):
                kinds[name] = min(kinds[name], link.kind, key=_STRENGTH.index)
            one, two = sorted((root(link.id), root(link.other)))
            parent[two] = one
    return {name: root(name) for name in parent}, kinds, hits
