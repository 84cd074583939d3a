"""`probes`: vectors of queries that get negatives, and of what these are drawn from.

The main table has the queries, as `Vector`s of role "query" by the ids of their pairs;
the table `targets` the videos that any pair asks for, once each.
"""

import functools
import hashlib

from data_synthesis import pipelines, shards
from data_synthesis.embedding import Client, fingerprint
from data_synthesis.record import Record, batched, read_table
from data_synthesis.rectify import normalised
from data_synthesis.run import Run, Stage, key
from data_synthesis.shards import Key, Layout
from data_synthesis.stages.candidates import captions_of, selected
from data_synthesis.stages.embed import Vector
from data_synthesis.tables import Pair, Target, kept_pairs
from gve_jax.types import UserError

STAGE = Stage(
    "probes",
    ("extend", "select", "vectors"),
    ("consistency.embedder", "mine.negatives"),
)


def work(run: Run) -> pipelines.Work:
    """Raises UserError for negatives of a task whose targets are no videos."""
    for task, number in run.config.mine.negatives.items():
        if number and not task.endswith("2V"):
            raise UserError(
                f"config.mine.negatives.{task}={number}: negatives are videos; only "
                "tasks that ask for one take them"
            )
    model = {"embedder": fingerprint(run.config.consistency.embedder)}
    keys = tuple(
        key(run, STAGE, shards.input_hashes(run.layout, shard, STAGE.inputs) | model)
        for shard in range(run.layout.shards)
    )
    work = functools.partial(_shard, run)
    return pipelines.Work(run.layout, keys, work, beside=("targets",))


def _shard(run: Run, layout: Layout, key: Key, shard: int) -> None:
    queries: list[Vector] = []
    targets: list[Target] = []
    prober = ""
    if run.config.consistency.embedder:
        client = Client.shared(f"--checkpoint={run.config.consistency.embedder}")
        prober = client.contract["weights_hash"]
        records = {
            record.id: record
            for record in read_table(layout.table("select", shard), Record)
        }
        videos = {
            vector.id: vector
            for vector in read_table(layout.table("vectors", shard), Vector)
            if vector.role == "video"
        }
        pairs = list(kept_pairs(layout, shard))
        targets = find_targets(run, pairs, records, videos, client.embed)
        wanted = [p for p in pairs if run.config.mine.negatives.get(p.task, 0)]
        for batch in batched(wanted, run.config.consistency.batch):
            found = client.embed([pair.query.item(run) for pair in batch])
            queries += [
                Vector(pair.id, "query", found.vectors[row].tobytes())
                for row, pair in enumerate(batch)
                if row not in found.failures
            ]
    # Before the manifest that says that the shard is whole.
    beside = key._replace(stage="targets")
    shards.write_shard(layout, beside, shard, targets, Target)
    shards.write_shard(
        layout, key, shard, queries, Vector, extra=lambda: {"prober": prober}
    )


def find_targets(
    run: Run,
    pairs: list[Pair],
    records: dict[str, Record],
    videos: dict[str, Vector],
    embed,
) -> list[Target]:
    """The distinct videos that pairs of a shard ask for, by id; whole ones and parts.

    Whole videos have their vectors already. What cannot be embedded is none.
    """
    first: dict[str, Pair] = {}
    for pair in pairs:
        if pair.target.video:
            first.setdefault(pair.target.id, pair)
    vectors = {
        name: videos[pair.record].data
        for name, pair in first.items()
        if pair.target.start is None and pair.record in videos
    }
    parts = [name for name in first if name not in vectors]
    for batch in batched(parts, run.config.consistency.batch):
        found = embed([first[name].target.item(run) for name in batch])
        vectors |= {
            name: found.vectors[row].tobytes()
            for row, name in enumerate(batch)
            if row not in found.failures
        }
    return [
        Target(
            id=name,
            split=pair.split,
            record=pair.record,
            source=pair.source,
            cluster=pair.cluster,
            texts=_texts(records[pair.record]),
            side=pair.target,
            vector=vectors[name],
        )
        for name, pair in sorted(first.items())
        if name in vectors
    ]


def _texts(record: Record) -> tuple[str, ...]:
    """What describes a video: its annotation and the caption that asks for it."""
    _, caption = selected(captions_of(record))
    texts = {record.text.rectified, caption} - {""}
    return tuple(sorted(map(text_hash, texts)))


def text_hash(text: str) -> str:
    """Equal for texts of the same words."""
    return hashlib.blake2b(normalised(text).encode(), digest_size=8).hexdigest()
