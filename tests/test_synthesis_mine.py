"""Hard negatives of the synthesis: exact, in one order, by plain loops as witness."""

import dataclasses
import json

import numpy as np
import pyarrow as pa
import pytest

from data_synthesis import shards
from data_synthesis.config import default_config
from data_synthesis.record import read_table, write_table
from data_synthesis.searching import Search, exact
from data_synthesis.stages import (
    candidates,
    compose,
    extend,
    mine,
    probes,
    score_captions,
    select,
)
from data_synthesis.stages.embed import Vector
from data_synthesis.stages.probes import text_hash
from data_synthesis.tables import TASKS, File, Mined, Pair, Side, Target, kept_pairs
from gve_jax.retrieval import top_k
from gve_jax.types import UserError
from tests import stub_synthesis as stub

STAGES = (score_captions, select, candidates, compose, extend, probes, mine)


def in_process(queries, path, k):
    """What `Search` does, without a process."""
    return top_k(queries, np.load(path, mmap_mode="r"), k)


def made_corpus(folder, number: int, seed: int, distinct: int = 10**6, dim: int = 6):
    """Targets of random vectors, some of them equal, and a pair for each."""
    rng = np.random.default_rng(seed)
    table = rng.normal(size=(number, dim))
    table[number // 2 :: 3] = table[: len(table[number // 2 :: 3])]  # exact ties
    table = table[np.arange(number) % distinct]
    table = (table / np.linalg.norm(table, axis=1, keepdims=True)).astype(np.float32)
    targets, pairs, queries = [], [], {}
    for i, found in enumerate(table):
        name = f"{(i * 7919) % number:04d}"  # not in the order of the rows
        side = Side(video=File(f"v{i}.mp4", name))
        cluster, source = f"c{i // 3}", f"s{i // 2}"
        text = f"the same words {i % 9}" if i % 4 == 0 else f"text {i}"
        targets.append(
            Target(
                id=name, split="train", record=f"r{i}", source=source, cluster=cluster,
                texts=(text_hash(text),), side=side, vector=found.tobytes(),
            )
        )  # fmt: skip
        query = found + rng.normal(size=dim) * rng.choice([0.05, 0.5, 2.0])
        queries[f"p{i}"] = (query / np.linalg.norm(query)).astype(np.float32)
        target = _Named(video=side.video, name=name)
        pairs.append(
            Pair(
                id=f"p{i}", task="T2V", split="train", query=Side(f"{text.upper()}!"),
                target=target, record=f"r{i}", source=source, cluster=cluster,
                order=0.0,
            )
        )  # fmt: skip
    np.save(folder / "corpus.npy", table)
    write_table(folder / "targets.parquet", Target, targets)
    rows = pa.parquet.read_table(folder / "targets.parquet").drop_columns(["vector"])
    corpus = mine.Corpus(folder / "corpus.npy", table, rows, "hash")
    return corpus, targets, pairs, queries


@dataclasses.dataclass(frozen=True)
class _Named(Side):
    name: str = ""

    @property
    def id(self) -> str:
        return self.name


def brute_force(pair, queries, targets, config):
    """(outcome, rank of the positive, negatives) from the list of all scores."""
    query = queries[pair.id].astype(np.float64)
    scores = {
        t.id: float(np.sum(np.frombuffer(t.vector, np.float32).astype(float) * query))
        for t in targets
    }
    own = scores[pair.target.id]
    allowed = [
        t
        for t in targets
        if t.source != pair.source
        and t.cluster != pair.cluster
        and text_hash(pair.query.text) not in t.texts
    ]
    allowed.sort(key=lambda t: (-scores[t.id], t.id))
    place = sum((-scores[t.id], t.id) < (-own, pair.target.id) for t in allowed)
    if own <= 0 or place >= config.weak_rank:
        return "weak_positive", place + 1 if place < config.weak_rank else 0, []
    negatives = [
        (t.record, rank, scores[t.id])
        for rank, t in enumerate(allowed, 1)
        if rank <= config.last_rank and scores[t.id] <= config.ceiling * own
    ][: config.negatives["T2V"]]
    short = len(negatives) < config.negatives["T2V"]
    return "short" if short else "mined", place + 1, negatives


@pytest.mark.parametrize(("distinct", "number"), [(10**6, 3), (40, 20)])
def test_negatives_by_brute_force(tmp_path, monkeypatch, distinct, number):
    """Also where so many are equal that the search's order of rows would tell."""
    # Few candidates at first, so that many have to be asked for again.
    monkeypatch.setattr(mine, "_MORE", 1)
    corpus, targets, pairs, queries = made_corpus(tmp_path, 300, 1, distinct)
    config = default_config().mine
    config.update(dict(last_rank=max(8, number), weak_rank=20, ceiling=0.9))
    config.negatives.T2V = number
    found = list(mine.mine(pairs, queries, corpus, in_process, config, "prober"))
    assert len({row.id for row in found}) == len(found) == len(pairs)
    by_id = {pair.id: pair for pair in pairs}
    outcomes = set()
    for row in found:
        outcome, rank, negatives = brute_force(by_id[row.id], queries, targets, config)
        assert (row.outcome, row.positive_rank) == (outcome, rank)
        got = [(n.record, n.rank, n.score) for n in row.negatives]
        assert got == negatives
        assert all(n.margin == row.positive_score - n.score for n in row.negatives)
        assert (row.prober, row.corpus_sha256) == ("prober", "hash")
        outcomes.add(outcome)
    assert outcomes >= {"short", "weak_positive"} and (
        "mined" in outcomes or number > 8
    )


def test_pairs_in_any_order_and_number_find_the_same(tmp_path):
    corpus, _, pairs, queries = made_corpus(tmp_path, 200, 3)
    config = default_config().mine

    def found(some):
        rows = mine.mine(some, queries, corpus, in_process, config, "p")
        return {row.id: row for row in rows}

    whole = found(pairs)
    assert whole == found(pairs[::-1]) == found(pairs[:70]) | found(pairs[70:])


def test_what_cannot_be_read_is_an_error_and_no_negative(tmp_path):
    corpus, _, pairs, queries = made_corpus(tmp_path, 60, 4)
    del queries["p7"]
    rows = list(
        mine.mine(pairs, queries, corpus, in_process, default_config().mine, "p")
    )
    assert [r.id for r in rows if r.outcome == "unreadable"] == ["p7"]
    assert mine._counts(rows).errors == 1
    mine._counts(rows).check("mine")


def test_rescoring_knows_what_it_cannot_know():
    """Rows that a search might have left out are not sure."""
    rng = np.random.default_rng(5)
    corpus = rng.normal(size=(50, 4)).astype(np.float32)
    query = rng.normal(size=4).astype(np.float32)
    true = corpus.astype(float) @ query
    order = np.argsort(-true)
    rows = order[:10]
    corpus[order[10]] = corpus[order[9]]  # as good as the last that was found
    found = true[rows].astype(np.float32), rows
    scores, places, sure = exact(query, corpus, [f"{r:02d}" for r in rows], found)
    assert sure == 9 and list(rows[places]) == list(rows)
    assert np.allclose(scores, true[rows], atol=1e-6)
    # The whole corpus leaves nothing out.
    every = true.astype(np.float32), np.arange(50)
    assert exact(query, corpus, [f"{r:02d}" for r in range(50)], every)[2] == 50


def test_equal_scores_are_in_the_order_of_names():
    corpus = np.ones((4, 2), np.float32)
    found = np.full(3, 2, np.float32), np.array([3, 1, 0])
    _, places, _ = exact(np.ones(2, np.float32), corpus, ["b", "c", "a"], found)
    assert list(places) == [2, 0, 1]


def test_a_process_searches(tmp_path):
    rng = np.random.default_rng(6)
    corpus, queries = (rng.normal(size=(n, 8)).astype(np.float32) for n in (700, 5))
    np.save(tmp_path / "c.npy", corpus)
    search = Search()
    try:
        for k in (3, 40):
            scores, rows = search(queries, tmp_path / "c.npy", k)
            order = np.argsort(-(queries @ corpus.T), axis=1)[:, :k]
            assert (rows == order).all()
            assert np.allclose(
                scores, np.take_along_axis(queries @ corpus.T, order, 1), atol=1e-5
            )
        with pytest.raises(UserError, match="ended without an answer"):
            search(queries, tmp_path / "none.npy", 3)
    finally:
        search.close()


def test_negatives_must_be_videos(tmp_path):
    run, _ = stub.begin(tmp_path, number=2)
    config = default_config()
    config.mine.negatives = dict(T2I=1)
    with pytest.raises(UserError, match=r"config\.mine\.negatives\.T2I=1"):
        probes.work(run._replace(config=config))


@pytest.fixture(scope="module")
def mined(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patched:
        stub.patch(patched)
        patched.setattr(Search, "shared", classmethod(lambda cls: in_process))
        equal = dict.fromkeys(TASKS, 100)
        run, _ = stub.begin(tmp_path_factory.mktemp("run"), spare=20.0, quotas=equal)
        stub.go(run, STAGES)
        yield run


def test_the_corpus_of_a_split_is_what_its_pairs_ask_for(mined):
    layout = mined.layout
    pairs = [p for s in range(layout.shards) for p in kept_pairs(layout, s)]
    for split in ("train", "validation"):
        corpus = mine.open_corpus(layout, split, "")
        wanted = {p.target.id for p in pairs if p.split == split and p.target.video}
        ids = corpus.rows["id"].to_pylist()
        assert set(ids) == wanted and len(ids) == len(wanted)
        for row, side in enumerate(corpus.rows["side"].to_pylist()):
            item = Side(video=File(**side["video"]), start=side["start"]).item(mined)
            assert (corpus.vectors[row] == stub.embed([item]).vectors[0]).all()


def test_stage_mine_is_the_brute_force_of_its_tables(mined):
    layout, config = mined.layout, mined.config.mine
    targets = list(shards.read_stage(layout, "targets", Target))
    queries = {v.id: v.array for v in shards.read_stage(layout, "probes", Vector)}
    rows = {row.id: row for row in shards.read_stage(layout, "mine", Mined)}
    pairs = [p for s in range(layout.shards) for p in kept_pairs(layout, s)]
    wanted = [p for p in pairs if config.negatives.get(p.task, 0)]
    assert rows.keys() == {p.id for p in wanted}
    assert {p.task for p in wanted} == {"T2V", "TI2V", "TV2V"}
    for pair in wanted:
        assert (queries[pair.id] == stub.embed([pair.query.item(mined)]).vectors).all()
        near = [t for t in targets if t.split == pair.split]
        outcome, rank, negatives = brute_force(pair, queries, near, config)
        row = rows[pair.id]
        assert (row.outcome, row.positive_rank) == (outcome, rank)
        got = [(n.record, n.rank) for n in row.negatives]
        assert got == [n[:2] for n in negatives]
        assert row.prober == "stub"
    total = shards.stage_counts(layout, "mine")
    assert total.entered == len(wanted) and total.errors == 0


def test_without_a_prober_all_pairs_are_told_so(tmp_path, monkeypatch):
    stub.patch(monkeypatch)
    run, _ = stub.begin(tmp_path, number=12, embedder=False)
    stub.go(run, STAGES)
    rows = list(shards.read_stage(run.layout, "mine", Mined))
    assert rows and {row.outcome for row in rows} == {"no_prober"}
    assert shards.stage_counts(run.layout, "mine").reasons == {"no_prober": len(rows)}


def test_a_changed_corpus_is_written_anew_and_a_lost_shard_alone(mined, monkeypatch):
    layout = mined.layout
    stub.patch(monkeypatch)
    monkeypatch.setattr(Search, "shared", classmethod(lambda cls: in_process))
    before = {s: layout.table("mine", s).read_bytes() for s in range(layout.shards)}
    layout.manifest("mine", 1).unlink()
    (layout.root / "targets" / "corpora.txt").unlink()
    assert stub.go(mined, STAGES) == 1
    after = {s: layout.table("mine", s).read_bytes() for s in range(layout.shards)}
    assert before == after
    assert json.loads(layout.manifest("mine", 1).read_text())["counts"]["entered"]
    assert list(read_table(layout.table("mine", 1), Mined))
