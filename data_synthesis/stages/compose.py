"""`compose`: the texts of composed queries, and whether their two halves are needed.

The captioner writes them, for as many pairs as the quotas of `extend` need and some
more. A query that finds its target no better than its text or its medium alone does,
among distractors, is `not_compositional` and dropped. Without an embedder nothing is
tested.
"""

import dataclasses
import functools
import hashlib
import heapq
import json
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from data_synthesis import asking, draws, pipelines, prompts, quotas, requests, shards
from data_synthesis.asking import Answered, Task
from data_synthesis.captioners import choice
from data_synthesis.captioners.base import Medium
from data_synthesis.embedding import Client, Embedded, fingerprint
from data_synthesis.record import Failure, Generation, Record, batched, read_table
from data_synthesis.run import Run, Stage, key
from data_synthesis.searching import score
from data_synthesis.shards import Key, Layout
from data_synthesis.stages.candidates import captions_of, selected
from data_synthesis.stages.embed import Vector
from data_synthesis.tables import COMPOSED, Pair, Ranks, Side, map_pairs
from gve_jax.types import Item

STAGE = Stage(
    "compose",
    ("candidates", "select", "vectors"),
    ("seed", "consistency.embedder", "extend.pool",
     *(f"caption.{k}" for k in
       ("captioner", "max_tokens", "temperature", "attempts", "repair_json"))),
    version=2,
)  # fmt: skip
_PROMPTS = {"TI2V": "image_query", "TV2V": "clip_query"}


class Pool(NamedTuple):
    """Videos of all shards that composed targets are ranked among, in seeded order."""

    ids: tuple[str, ...]
    clusters: tuple[str, ...]
    vectors: np.ndarray  # float32 [n, d]

    def sha256(self) -> str:
        names = json.dumps([self.ids, self.clusters]).encode()
        return hashlib.sha256(names + self.vectors.tobytes()).hexdigest()


def work(run: Run) -> pipelines.Work:
    limits = quotas.asked(run)
    pool = make_pool(run) if run.config.consistency.embedder else None
    more = {
        "limits": shards.config_sha256(limits),
        "captioner": choice.fingerprint(run.config),
        "embedder": fingerprint(run.config.consistency.embedder),
        "prompts": prompts.digest(*_PROMPTS.values(), "reask"),
        "pool": pool.sha256() if pool else "",
    }
    keys = tuple(
        key(run, STAGE, shards.input_hashes(run.layout, shard, STAGE.inputs) | more)
        for shard in range(run.layout.shards)
    )
    work = functools.partial(_shard, run, limits, pool)
    return pipelines.Work(run.layout, keys, work)


def make_pool(run: Run) -> Pool:
    """Twice as many as are needed: those that repeat a target are passed over."""
    number = 2 * run.config.extend.pool
    rows = (
        (draws.uniform(run.config.seed, row["record"], "pool"), *row.values())
        for table in quotas.columns(run, "candidates", "record", "cluster", "task")
        for row in table.to_pylist()
        if row["task"] == "T2V"  # each record has one at most
    )
    drawn = [row[:3] for row in heapq.nsmallest(number, rows)]
    wanted = {name for _, name, _ in drawn}
    vectors = {
        vector.id: vector.array
        for shard in sorted({run.layout.shard_of(name) for name in wanted})
        for vector in read_table(run.layout.table("vectors", shard), Vector)
        if vector.role == "video" and vector.id in wanted
    }
    found = [(name, cluster) for _, name, cluster in drawn if name in vectors]
    table = np.array([vectors[name] for name, _ in found], np.float32)
    names, clusters = zip(*found, strict=True) if found else ((), ())
    return Pool(names, clusters, table)


def _shard(run: Run, limits, pool: Pool | None, layout: Layout, key: Key, shard: int):
    records = {r.id: r for r in read_table(layout.table("select", shard), Record)}
    videos, embed = {}, None
    if pool is not None:
        client = Client.shared(f"--checkpoint={run.config.consistency.embedder}")
        embed = client.embed
        videos = {
            vector.id: vector.array
            for vector in read_table(layout.table("vectors", shard), Vector)
            if vector.role == "video"
        }

    def process(pairs: list[Pair]) -> list[Pair]:
        cheap = [pair for pair in pairs if pair.task not in COMPOSED]
        composed = [pair for pair in pairs if pair.task in COMPOSED]
        wanted = [pair for pair in composed if pair.order <= limits[pair.task]]
        spare = [
            pair.leave("drop", STAGE.name, "over_quota")
            for pair in composed
            if pair.order > limits[pair.task]
        ]
        tasks = [make_task(run, pair, records) for pair in wanted]
        with asking.session(run, STAGE.name, shard) as session:
            answers = session.ask(tasks)
        written = [
            answered(pair, answer, session.made(task.request, answer))
            for pair, task, answer in zip(wanted, tasks, answers, strict=True)
        ]
        if pool is not None:
            alive = [pair for pair in written if pair.alive]
            batch = run.config.consistency.batch
            tested = check_necessity(run, alive, videos, pool, embed, batch)
            written = [pair for pair in written if not pair.alive] + tested
        return [*cheap, *spare, *written]

    map_pairs(layout, key, shard, "candidates", process)


def make_task(run: Run, pair: Pair, records: dict[str, Record]) -> Task:
    """What the captioner is asked for a composed pair."""
    clip = pair.task == "TV2V"
    file = pair.query.video if clip else pair.query.image
    target, reference = records[pair.record], records[pair.reference]
    facts = {
        "name": target.name,
        "reference": reference.name,
        "time": repr(pair.time),
    }
    _, caption = selected(captions_of(target))
    return requests.query(
        pair.id, pair.relation, Medium(file.absolute(run), file.sha256),
        caption or target.text.rectified, facts, run.config.caption, clip=clip,
    )  # fmt: skip


def answered(pair: Pair, found: Answered, generation: Generation) -> Pair:
    """The pair with its text, or ended by the failure of its request."""
    if found.failure is not None:
        return pair.leave(
            "error", STAGE.name, *found.failure.codes,
            failure=found.failure, generation=generation,
        )  # fmt: skip
    query = dataclasses.replace(pair.query, text=found.value["query"])
    return dataclasses.replace(pair, query=query, generation=generation)


def check_necessity(
    run: Run,
    pairs: list[Pair],
    videos: dict[str, np.ndarray],
    pool: Pool,
    embed: Callable[[Sequence[Item]], Embedded],
    size: int,
) -> list[Pair]:
    """Tests each pair whether its query needs both halves; see `ranks`.

    Args:
      videos: id -> vector of the whole video of each record of the shard.
      embed: items -> vectors.
      size: items that are embedded at once.
    """
    out = []
    for batch in batched(pairs, max(1, size // 4)):
        items = [
            side.item(run)
            for pair in batch
            for side in (
                pair.query,
                Side(pair.query.text, instruction=pair.query.instruction),
                dataclasses.replace(pair.query, text=""),
                pair.target,  # it may be a part of its video
            )
        ]
        embedded = embed(items)
        for place, pair in enumerate(batch):
            rows = range(4 * place, 4 * place + 4)
            failed = [embedded.failures[r] for r in rows if r in embedded.failures]
            if failed:
                failure = Failure(("embedding",), failed[0][:2048], 1, pair.id)
                out.append(
                    pair.leave("error", STAGE.name, "embedding", failure=failure)
                )
                continue
            *queries, target = embedded.vectors[rows]
            out.append(_tested(pair, queries, target, videos, pool, run))
    return out


def _tested(pair: Pair, queries, target, videos, pool: Pool, run: Run) -> Pair:
    clusters = {pair.cluster, pair.reference_cluster}
    places = [i for i, c in enumerate(pool.clusters) if c not in clusters]
    places = places[: run.config.extend.pool]
    if len(places) < run.config.extend.pool:
        return pair  # too few videos to tell anything
    distractors = [pool.vectors[places]]
    if pair.reference != pair.record and pair.reference in videos:
        distractors.append(videos[pair.reference][None])
    found = ranks(queries, target, np.concatenate(distractors))
    pair = dataclasses.replace(pair, ranks=found)
    if found.both < min(found.text, found.media):
        return pair
    return pair.leave("drop", STAGE.name, "not_compositional")


def ranks(
    queries: Sequence[np.ndarray], target: np.ndarray, distractors: np.ndarray
) -> Ranks:
    """Ranks of a target by the whole query, its text and its medium.

    What scores as the target does ranks before it. The reference's own video is among
    the distractors: a medium alone finds that one.

    Args:
      queries: three unit vectors [d], in that order; target: [d].
      distractors: [n, d].
    """
    found = []
    for query in queries:
        own = score(query, target[None])[0]
        found.append(1 + int(np.sum(score(query, distractors) >= own)))
    return Ranks(*found, pool=len(distractors))
