"""`mine`: hard negatives, by the embedder, among all videos that a split asks for.

A candidate that is of the target's source or duplicates, or that the query's text
describes, cannot be a negative. The others have ranks 1, 2, ... by (score, id). Taken
are the first of rank `last_rank` or better that score at most `ceiling` of what the
target does (TopK-PercPos of NV-Retriever, arXiv 2407.15831). A target that is itself
not among the first `weak_rank` is a weak positive: what looks better may be right, and
there are no negatives.

The search is exact: candidates come from jax in float32, more of them until the ranks
that matter are sure in float64, whatever the machine and the number of processes.
"""

import collections
import functools
import pathlib
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from data_synthesis import pipelines, shards
from data_synthesis.record import read_table
from data_synthesis.run import Run, Stage, key, whole_stage_hash
from data_synthesis.searching import Search, exact, score
from data_synthesis.shards import Counts, Key, Layout
from data_synthesis.stages.embed import Vector
from data_synthesis.stages.probes import text_hash
from data_synthesis.tables import File, Mined, Negative, Pair, Side, kept_pairs

STAGE = Stage("mine", ("extend", "probes"), ("mine",))
OUTCOMES = ("mined", "short", "weak_positive", "unreadable", "no_prober")
# Candidates that are looked at beyond the ranks that matter, at first.
_MORE = 28


class Corpus(NamedTuple):
    """Of one split; `rows` has the columns of `tables.Target` but the vectors."""

    vectors_path: pathlib.Path
    vectors: np.ndarray  # float32 [m, d], a memory map
    rows: pa.Table  # memory-mapped as well
    sha256: str


class Verdict(NamedTuple):
    """`taken`: (row of the corpus, rank, score) of each negative."""

    outcome: str
    positive_score: float
    positive_rank: int
    taken: list[tuple[int, int, float]]


def work(run: Run) -> pipelines.Work:
    digest = write_corpora(run)
    keys = tuple(
        key(
            run,
            STAGE,
            shards.input_hashes(run.layout, shard, STAGE.inputs) | {"targets": digest},
        )
        for shard in range(run.layout.shards)
    )
    return pipelines.Work(run.layout, keys, functools.partial(_shard, run, digest))


# --- the corpus ---


def write_corpora(run: Run) -> str:
    """Writes OUT/targets/SPLIT.npy and .arrow, if they are not there; their hash.

    Shard by shard: what is held does not grow with the corpus.
    """
    layout, digest = run.layout, whole_stage_hash(run, "targets")
    state = layout.root / "targets" / "corpora.txt"
    if state.exists() and state.read_text() == digest:
        return digest
    state.unlink(missing_ok=True)
    for split in sorted(run.config.extend.splits):
        _write_corpus(layout, split)
    state.write_text(digest)  # last: it says that the others are whole
    return digest


def _write_corpus(layout: Layout, split: str) -> None:
    npy, arrow = _corpus_paths(layout, split)
    count, dim = 0, 1
    for table in _target_tables(layout, split):
        count += len(table)
        dim = len(table["vector"][0].as_py()) // 4 if len(table) else dim
    vectors = np.lib.format.open_memmap(
        npy, mode="w+", dtype=np.float32, shape=(max(count, 1), dim)
    )
    start, writer = 0, None
    for table in _target_tables(layout, split):
        data = b"".join(table["vector"].to_pylist())
        end = start + len(table)
        vectors[start:end] = np.frombuffer(data, np.float32).reshape(len(table), dim)
        start, rows = end, table.drop_columns(["vector"])
        writer = writer or pa.ipc.new_file(str(arrow), rows.schema)
        writer.write_table(rows)
    if not count:
        vectors[:] = np.nan  # nothing is found there
    vectors.flush()
    writer.close()


def _target_tables(layout: Layout, split: str) -> Iterator[pa.Table]:
    for shard in range(layout.shards):
        table = pq.read_table(layout.table("targets", shard))
        yield table.filter(pc.equal(table["split"], split))


def _corpus_paths(layout: Layout, split: str) -> tuple[pathlib.Path, pathlib.Path]:
    folder = layout.root / "targets"
    return folder / f"{split}.npy", folder / f"{split}.arrow"


def open_corpus(layout: Layout, split: str, sha256: str) -> Corpus:
    npy, arrow = _corpus_paths(layout, split)
    rows = pa.ipc.open_file(pa.memory_map(str(arrow))).read_all()
    return Corpus(npy, np.load(npy, mmap_mode="r")[: len(rows)], rows, sha256)


# --- the pairs of a shard ---


def _shard(run: Run, digest: str, layout: Layout, key: Key, shard: int) -> None:
    wanted = run.config.mine.negatives
    pairs = [p for p in kept_pairs(layout, shard) if wanted.get(p.task, 0)]
    if run.config.consistency.embedder:
        prober = shards.manifest(layout, "probes", shard)["extra"]["prober"]
        queries = {
            v.id: v.array for v in read_table(layout.table("probes", shard), Vector)
        }
        rows = [
            row
            for split in sorted({pair.split for pair in pairs})
            for row in mine(
                [pair for pair in pairs if pair.split == split],
                queries,
                open_corpus(layout, split, digest),
                Search.shared(),
                run.config.mine,
                prober,
            )
        ]
    else:
        rows = [Mined(p.id, p.task, p.split, "no_prober") for p in pairs]
    rows.sort(key=lambda row: row.id)
    extra = {
        task: {o: sum((r.task, r.outcome) == (task, o) for r in rows) for o in OUTCOMES}
        for task in sorted(wanted)
    }
    shards.write_shard(
        layout, key, shard, rows, Mined,
        counts=lambda: _counts(rows), extra=lambda: {"tasks": extra},
    )  # fmt: skip


def _counts(rows: list[Mined]) -> Counts:
    """A pair is kept with fewer negatives, or none; it is an error if unreadable."""
    found = collections.Counter(row.outcome for row in rows)
    reasons = {outcome: found[outcome] for outcome in OUTCOMES[1:] if found[outcome]}
    errors = found["unreadable"]
    return Counts(len(rows), len(rows) - errors, 0, errors, reasons)


def mine(
    pairs: list[Pair],
    queries: dict[str, np.ndarray],
    corpus: Corpus,
    search: Callable,
    config,
    prober: str,
) -> Iterator[Mined]:
    """What is found for each pair of one split.

    Args:
      queries: id -> unit vector, of the pairs whose query can be read.
      search: (queries, path of the corpus, k) -> scores and rows, see `Search`.
      config: `config.mine`.
    """
    place = _places(corpus, [pair.target.id for pair in pairs])
    readable = [p for p in pairs if p.id in queries and p.target.id in place]
    for pair in pairs:
        if pair.id not in queries or pair.target.id not in place:
            yield Mined(pair.id, pair.task, pair.split, "unreadable")
    k, waiting = max(config.last_rank, config.weak_rank) + _MORE, readable
    while waiting:
        k = min(k, len(corpus.rows))
        vectors = np.stack([queries[pair.id] for pair in waiting])
        scores, rows = search(vectors, corpus.vectors_path, k)
        unsure = []
        for number, pair in enumerate(waiting):
            there = rows[number] >= 0
            found = scores[number][there], rows[number][there]
            verdict = judge(
                pair, queries[pair.id], place[pair.target.id], corpus, found, config
            )
            if verdict is None:
                unsure.append(pair)
            else:
                yield _mined(pair, verdict, corpus, prober)
        waiting, k = unsure, 2 * k


def _places(corpus: Corpus, names: list[str]) -> dict[str, int]:
    """Rows of the corpus, without all of its names in memory as objects."""
    found = pc.is_in(corpus.rows["id"], value_set=pa.array(names, pa.string()))
    rows = np.flatnonzero(found.to_numpy())
    ids = corpus.rows["id"].take(pa.array(rows)).to_pylist()
    return dict(zip(ids, rows.tolist(), strict=True))


def judge(
    pair: Pair,
    query: np.ndarray,
    target: int,
    corpus: Corpus,
    found: tuple[np.ndarray, np.ndarray],
    config,
) -> Verdict | None:
    """What becomes of one pair; None if more candidates are needed to tell.

    Args:
      target: row of the corpus.
      found: scores and rows of the best candidates.
    """
    near = corpus.rows.take(pa.array(found[1]))
    columns = {n: near[n].to_pylist() for n in ("id", "source", "cluster", "texts")}
    scores, order, sure = exact(query, corpus.vectors, columns["id"], found)
    text = text_hash(pair.query.text)
    barred = [
        columns["source"][i] == pair.source
        or columns["cluster"][i] == pair.cluster
        or text in columns["texts"][i]
        for i in order
    ]
    free = np.flatnonzero(~np.array(barred, bool))
    certain = free[free < sure]
    needed = max(config.last_rank, config.weak_rank)
    if len(certain) < needed and len(order) < len(corpus.rows):
        return None
    own = float(score(query, corpus.vectors[[target]])[0])
    name = corpus.rows["id"][target].as_py()
    before = sum(
        (-scores[i], columns["id"][order[i]]) < (-own, name) for i in free[:needed]
    )
    if own <= 0 or before >= config.weak_rank:
        rank = int(before) + 1 if before < config.weak_rank else 0
        return Verdict("weak_positive", own, rank, [])
    taken = [
        (int(found[1][order[i]]), rank, float(scores[i]))
        for rank, i in enumerate(free[: config.last_rank], 1)
        if scores[i] <= config.ceiling * own
    ][: config.negatives[pair.task]]
    short = len(taken) < config.negatives[pair.task]
    return Verdict("short" if short else "mined", own, int(before) + 1, taken)


def _mined(pair: Pair, verdict: Verdict, corpus: Corpus, prober: str) -> Mined:
    negatives = []
    for row, rank, value in verdict.taken:
        found = corpus.rows.slice(row, 1).to_pylist()[0]
        side = found["side"]
        negatives.append(
            Negative(
                side=Side(
                    video=File(**side["video"]), start=side["start"], end=side["end"]
                ),
                record=found["record"],
                rank=rank,
                score=value,
                margin=verdict.positive_score - value,
            )
        )
    return Mined(
        id=pair.id,
        task=pair.task,
        split=pair.split,
        outcome=verdict.outcome,
        positive_score=verdict.positive_score,
        positive_rank=verdict.positive_rank,
        prober=prober,
        corpus_sha256=corpus.sha256,
        negatives=tuple(negatives),
    )
