"""`groups`: writes into each record what only a look at all of them can tell.

Duplicates of duplicates are one cluster; its record of the smallest id is the one that
the others repeat.
"""

import collections
import dataclasses
from collections.abc import Iterator

from data_synthesis import pipelines, shards
from data_synthesis.record import Group, Record, read_table
from data_synthesis.run import Context, Run, Stage, mapped, whole_stage_hash
from data_synthesis.stages.links import Link

STAGE = Stage("groups", ("qc",), ())
_STRENGTH = ("bytes", "frames", "near", "mirrored")


def work(run: Run) -> pipelines.Work:
    return mapped(run, STAGE, process, links=whole_stage_hash(run, "links"))


def process(rows: Iterator[Record], context: Context) -> Iterator[Record]:
    layout = context.run.layout
    parent, kinds = _clusters(shards.read_stage(layout, "links", Link))
    texts = {
        link.id: link.number
        for link in read_table(layout.table("links", context.shard), Link)
        if link.kind == "text"
    }
    for record in rows:
        cluster = parent.get(record.id, record.id)
        group = Group(
            text_videos=texts.get(record.id, 1),
            cluster=cluster,
            duplicate="" if cluster == record.id else kinds[record.id],
        )
        yield dataclasses.replace(record, group=group)


def _clusters(links: Iterator[Link]) -> tuple[dict[str, str], dict[str, str]]:
    """Smallest id of each linked record's cluster; the strongest link of each."""
    parent: dict[str, str] = {}
    kinds: dict[str, str] = collections.defaultdict(lambda: _STRENGTH[-1])

    def root(name: str) -> str:
        while parent.setdefault(name, name) != name:
            parent[name] = parent[parent[name]]
            name = parent[name]
        return name

    for link in links:
        if link.kind == "text":
            continue
        for name in (link.id, link.other):
            kinds[name] = min(kinds[name], link.kind, key=_STRENGTH.index)
        one, two = sorted((root(link.id), root(link.other)))
        parent[two] = one
    return {name: root(name) for name in parent}, kinds
