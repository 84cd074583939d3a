"""`corpus`: the tables corpus, queries and relevance; and that no split leaks.

Equal targets are one row, equal queries of one task and instruction are one row, and a
query may have several positives. A source or a cluster of duplicates that is in two
splits ends the run: the splits are made so that this cannot be.
"""

import functools
from collections.abc import Iterator

from data_synthesis import draws, pipelines, shards
from data_synthesis.run import Run, Stage, grouped, whole_stage_hash
from data_synthesis.shards import Key, Layout
from data_synthesis.tables import CorpusRow, Pair, QueryRow, Relevance, kept_pairs
from gve_jax.types import UserError

STAGE = Stage("corpus", ("extend",), ())
TABLES = {"queries": QueryRow, "relevance": Relevance}  # beside `corpus` itself


def work(run: Run) -> pipelines.Grouped:
    """All shards follow from all of `extend`."""
    inputs = {"extend": whole_stage_hash(run, "extend")}
    return grouped(
        run,
        STAGE,
        inputs,
        functools.partial(_expand, run.layout),
        functools.partial(_meet, run.layout),
        _write,
        beside=tuple(TABLES),
    )


def query_id(pair: Pair) -> str:
    return draws.identity("query", pair.task, pair.query.id)


def _expand(layout: Layout, shard: int) -> Iterator[tuple[tuple[str, str], tuple]]:
    for pair in kept_pairs(layout, shard):
        yield ("corpus", pair.target.id), (pair.split, pair.target)
        yield ("queries", query_id(pair)), (pair.split, pair.task, pair.query)
        yield ("relevance", query_id(pair)), (
            pair.split, pair.task, pair.target.id, pair.id,
        )  # fmt: skip
        for thing in leakable(pair):
            yield thing, (pair.split,)


def leakable(pair: Pair) -> set[tuple[str, str]]:
    """(kind, name) of all that must be in one split alone."""
    found = {("source", pair.source), ("cluster", pair.cluster)}
    if pair.reference:
        found |= {
            ("source", pair.reference_source), ("cluster", pair.reference_cluster)
        }  # fmt: skip
    return found


def _meet(layout: Layout, met: tuple[str, str], rows: Iterator):
    # Equal contents may have other paths: the order must not tell which is taken.
    (kind, name), members = met, sorted(rows, key=repr)
    splits = tuple(sorted({member[0] for member in members}))
    if kind == "corpus":
        yield layout.shard_of(name), CorpusRow(name, members[0][1], splits)
    elif kind == "queries":
        task, query = members[0][1:]
        yield layout.shard_of(name), QueryRow(name, task, query, splits)
    elif kind == "relevance":
        for split, task, target, pair in members:
            row = Relevance(name, target, task, split, pair)
            yield layout.shard_of(name), row
    elif len(splits) > 1:
        raise UserError(
            f"{kind} {name} is in the splits {' and '.join(splits)}: training would "
            "see what it is measured on; a record's group must be the same everywhere"
        )


def _write(layout: Layout, key: Key, shard: int, rows: list) -> None:
    for name, kind in TABLES.items():
        # Before the corpus' manifest, which says that the shard is whole.
        beside = key._replace(stage=name)
        found = [row for row in rows if isinstance(row, kind)]
        shards.write_shard(layout, beside, shard, sorted(found, key=_order), kind)
    found = [row for row in rows if isinstance(row, CorpusRow)]
    shards.write_shard(layout, key, shard, sorted(found, key=_order), CorpusRow)


def _order(row) -> tuple[str, ...]:
    if isinstance(row, Relevance):
        return row.query_id, row.pair_id
    return (row.id,)
