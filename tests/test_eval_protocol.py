"""Scores, bounds, abilities and averages, against plain NumPy and by hand."""

import hashlib
import itertools
import math

import numpy as np
import pytest
import small_uvrb as small
from hypothesis import given, settings
from hypothesis import strategies as st

from configs import uvrb_mini
from eval import abilities, loaders, protocol, run, summary, uvrb, vectors
from eval.datasets import RetrievalSet
from gve_jax.types import Item


@pytest.mark.parametrize("model", uvrb.PUBLISHED_ABILITIES)
def test_published_abilities_are_reproduced(model):
    ours = abilities.abilities(uvrb.PUBLISHED[model]["datasets"])
    ours["AVG"] = abilities.ability_average(ours)
    printed = uvrb.PUBLISHED_ABILITIES[model]
    assert ours.keys() == printed.keys()
    for name, value in printed.items():
        # 0.001 of rounding, as the paper's inputs are rounded too.
        assert abs(ours[name] - value) <= 0.001 + 1e-9, name


@pytest.mark.parametrize("model", ["CLIP4Clip", "GVE-3B", "GVE-7B"])
def test_published_dataset_averages_are_reproduced(model):
    published = uvrb.PUBLISHED[model]
    mean = sum(published["datasets"].values()) / 16
    assert abs(mean - published["dataset_average"]) <= 0.001


def test_abilities_by_hand_and_with_gaps():
    scores = {name: 0.0 for name in uvrb.DATASETS} | {"CRB-S": 1.0, "MSRVTT": 0.9}
    ours = abilities.abilities(scores)
    assert math.isclose(ours["S"], 0.5) and math.isclose(ours["CG"], 0.3)
    assert math.isclose(ours["FG"], 0.5 / 3)
    assert math.isclose(ours["TXT"], (0.3 + 0.5 / 3) / 3)
    del scores["VDC-O"]
    ours = abilities.abilities(scores)
    assert ours["S"] is None and ours["FG"] is None and ours["TXT"] is None
    assert math.isclose(ours["CG"], 0.3) and ours["T"] == 0
    assert abilities.ability_average(ours) is None


def test_every_dataset_belongs_to_one_leaf_ability():
    leaves = ("CG", "S", "T", "PR", "LC", "CMP", "VIS")
    names = [d for a in leaves for d in abilities.datasets_of(a)]
    assert sorted(names) == sorted(uvrb.DATASETS)


def test_correlations_by_hand():
    table = {
        "a": {"x": 1.0, "y": 1.0, "z": 3.0},
        "b": {"x": 2.0, "y": 10.0, "z": 2.0},
        "c": {"x": 3.0, "y": 11.0, "z": 1.0},
    }
    pearson = abilities.correlations(table, "pearson")
    spearman = abilities.correlations(table, "spearman")
    # cov(x, y) = 10, var(x) = 2, var(y) = 182/3.
    assert math.isclose(pearson[0, 1], 10 / math.sqrt(2 * 182 / 3))
    assert math.isclose(spearman[0, 1], 1) and math.isclose(spearman[0, 2], -1)
    with pytest.raises(ValueError, match="kendall"):
        abilities.correlations(table, "kendall")


def _plain_set(n, name="MSRVTT", candidates=None, positives=None):
    positives = positives or [np.array([i]) for i in range(n)]
    return RetrievalSet(
        facts=uvrb.DATASETS[name],
        queries=tuple(Item(id=f"q{i}", text="x") for i in range(len(positives))),
        corpus=tuple(Item(id=f"c{i}", text="x") for i in range(n)),
        positives=tuple(positives),
        candidates=candidates,
    )


def test_a_constant_model_scores_as_chance_whatever_the_file_order():
    # The positives stand first, in the file and in their lists.
    n, lists = 400, 40
    ones = np.ones((n, 4), np.float32)
    data = _plain_set(
        n,
        "MS-TI",
        positives=[np.array([i % lists]) for i in range(n)],
        candidates=tuple(
            np.array(
                [
                    i % lists,
                    *range(lists + 9 * (i % lists), lists + 9 * (i % lists) + 9),
                ]
            )
            for i in range(n)
        ),
    )
    row = protocol.evaluate(data, ones, ones, resamples=100, seed=0).row
    assert row["chance"] == pytest.approx(0.1)
    # 40 distinct lists: three standard errors.
    assert row["score"] <= 0.1 + 3 * math.sqrt(0.09 / lists)
    whole = protocol.evaluate(_plain_set(n), ones, ones, resamples=100, seed=0).row
    assert whole["score"] == 1 / n
    assert whole["chance"] == pytest.approx(1 / n)


def test_random_vectors_score_as_chance():
    n = 600
    rng = np.random.default_rng(0)
    queries, corpus = rng.normal(size=(2, n, 16)).astype(np.float32)
    positives = [rng.choice(n, size=1 + i % 3, replace=False) for i in range(n)]
    data = _plain_set(n, "CMRB", positives=positives)
    row = protocol.evaluate(data, queries, corpus, resamples=300, seed=0).row
    assert row["low"] < row["chance"] < row["high"]
    assert row["metric"] == "recall@10" and row["score"] == row["recall@10"]


def test_the_protocol_against_plain_numpy():
    n = 50
    rng = np.random.default_rng(1)
    queries = rng.normal(size=(n, 8)).astype(np.float32)
    corpus = (queries + rng.normal(size=(n, 8))).astype(np.float32)
    outcome = protocol.evaluate(_plain_set(n), queries, corpus, resamples=50, seed=0)
    scores = queries @ corpus.T
    ranks = 1 + (scores > np.diag(scores)[:, None]).sum(1)
    np.testing.assert_array_equal(outcome.ranking.ranks, ranks)
    np.testing.assert_array_equal(
        outcome.ranking.indices, np.argsort(-scores, axis=1)[:, :10]
    )
    row = outcome.row
    assert row["score"] == row["recall@1"] == (ranks == 1).mean()
    assert row["recall@5"] == (ranks <= 5).mean()
    gains = np.where(ranks <= 10, 1 / np.log2(ranks + 1), 0)
    assert row["ndcg@10"] == pytest.approx(gains.mean())
    assert row["median_rank"] == np.median(ranks)
    assert row["low"] <= row["score"] <= row["high"]


def _hash_order(data):
    """Places of corpus rows in the order that decides ties."""
    hashes = [hashlib.sha256(item.id.encode()).hexdigest() for item in data.corpus]
    return [sorted(hashes).index(h) for h in hashes]


def test_ties_several_positives_and_candidates_by_hand():
    # Their ids' hashes begin with 12, d0, 9c, 7c and 00.
    assert _hash_order(_plain_set(5)) == [1, 4, 3, 2, 0]
    corpus = np.array([[1, 0], [1, 0], [0, 1], [1, 0], [0.5, 0]], np.float32)
    queries = np.array([[1, 0], [1, 0], [0, 1], [-1, 0], [1, 0]], np.float32)
    positives = [np.array(p) for p in ([1], [3, 4], [2], [2], [0, 1, 3])]
    data = _plain_set(5, "MSRVTT", positives=positives)
    outcome = protocol.evaluate(data, queries, corpus, resamples=9, seed=0)
    # Of q0, q1 and q4: c0, c3 and c1 tie, then c4, c2. What ties in q4 is all right.
    assert outcome.ranking.indices[0].tolist() == [0, 3, 1, 4, 2] + [-1] * 5
    assert outcome.ranking.ranks.tolist() == [3, 2, 1, 1, 1]
    row = outcome.row
    assert row["ties"] == 2  # q0 and q1
    assert row["score"] == 3 / 5 and row["recall@5"] == 1
    assert row["mrr"] == pytest.approx((1 / 2 + 1 / 3 + 3) / 5)
    assert row["median_rank"] == 1
    second, third, fourth = (1 / math.log2(k) for k in (3, 4, 5))
    gains = [third, (second + fourth) / (1 + second), 1, 1, 1]
    assert row["ndcg@10"] == pytest.approx(np.mean(gains))
    assert row["chance"] == pytest.approx((1 + 2 + 1 + 1 + 3) / 25)
    assert row["bounds"] == [3 / 5, 3 / 5]

    lists = [np.array(c) for c in ([1, 3], [0, 4], [0, 2], [0, 2, 4], [1, 2])]
    positives = [np.array(p) for p in ([1], [4], [2], [2], [1])]
    data = _plain_set(5, "MS-TI", tuple(lists), positives)
    outcome = protocol.evaluate(data, queries, corpus, resamples=9, seed=0)
    assert outcome.ranking.ranks.tolist() == [2, 2, 1, 1, 1]
    assert outcome.ranking.indices[3].tolist() == [2, 4, 0] + [-1] * 7
    assert outcome.row["score"] == 3 / 5 and outcome.row["ties"] == 1
    assert outcome.row["chance"] == pytest.approx((4 * 1 / 2 + 1 / 3) / 5)


def _witness(data, queries, corpus):
    """Every metric by sorting each query's list in Python."""
    scores = queries.astype(np.float64) @ corpus.astype(np.float64).T
    hashes = _hash_order(data)
    lists = data.candidates or [np.arange(len(corpus))] * len(queries)
    found = {key: [] for key in ("ndcg@10", "mrr", "rank", "ties")}
    for q, (among, right) in enumerate(zip(lists, data.positives, strict=True)):
        there = [c for c in among.tolist() if np.isfinite(scores[q, c])]
        order = sorted(there, key=lambda c: (-scores[q, c], hashes[c]))
        places = [order.index(p) + 1 for p in right if p in order]
        rank = min(places, default=math.inf)
        ideal = sum(1 / math.log2(i + 2) for i in range(min(10, len(right))))
        gain = sum(1 / math.log2(p + 1) for p in places if p <= 10)
        best = max((scores[q, p] for p in right if p in order), default=None)
        found["rank"].append(rank)
        found["ndcg@10"].append(gain / ideal)
        found["mrr"].append(1 / rank)
        found["ties"].append(any(scores[q, c] == best for c in {*there} - {*right}))
    return {key: np.array(values) for key, values in found.items()}


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), lists=st.booleans())
def test_metrics_against_python_on_random_data(seed, lists):
    rng = np.random.default_rng(seed)
    n, m = 16, 20
    # Products of small integers tie often.
    queries = rng.integers(-2, 3, (n, 3)).astype(np.float32)
    corpus = rng.integers(-2, 3, (m, 3)).astype(np.float32)
    queries[rng.random(n) < 0.1] = np.nan
    corpus[rng.random(m) < 0.2] = np.nan
    draw = [rng.permutation(m)[: rng.integers(3, 13)] for _ in range(n)]
    draw[0] = rng.permutation(m)[:12]  # the longest is always as long: one program
    positives = [np.sort(d[: 1 + i % 3]) for i, d in enumerate(draw)]
    data = _plain_set(
        m,
        "MS-TI" if lists else "CMRB",
        tuple(np.sort(d) for d in draw) if lists else None,
        positives,
    )
    outcome = protocol.evaluate(data, queries, corpus, resamples=9, seed=0)
    row, expected = outcome.row, _witness(data, queries, corpus)
    np.testing.assert_array_equal(outcome.ranking.ranks, expected["rank"])
    for k in (1, 5, 10):
        assert row[f"recall@{k}"] == (expected["rank"] <= k).mean()
    for key in ("ndcg@10", "mrr"):
        assert row[key] == pytest.approx(expected[key].mean())
    assert row["ties"] == expected["ties"].sum()
    low, high = row["bounds"]
    assert 0 <= low <= row["score"] <= high <= 1
    assert row["effective"]["queries"] == n - np.isnan(queries[:, 0]).sum()
    assert row["missing"] == n + m - sum(row["effective"].values())


def _completions(there, missing):
    """All rankings that keep the order of what is there, missing items anywhere."""
    for count in range(len(missing) + 1):
        for some in itertools.combinations(missing, count):
            for order in itertools.permutations([*there, *some]):
                if [c for c in order if c in there] == there:
                    yield order


@pytest.mark.parametrize("cutoff", [1, 2, 3])
@pytest.mark.parametrize("lists", [False, True])
def test_bounds_are_those_of_all_completions(cutoff, lists):
    rng = np.random.default_rng(cutoff)
    n, m = 24, 6
    lost_corpus = np.isin(np.arange(m), [1, 4, 5])
    lost_queries = np.arange(n) % 10 == 0
    among = [
        np.sort(rng.permutation(m)[: rng.integers(2, m)]) if lists else np.arange(m)
        for _ in range(n)
    ]
    positives = [rng.permutation(c)[: 1 + i % 2] for i, c in enumerate(among)]
    ranks, expected = [], []
    for lost, candidates, right in zip(lost_queries, among, positives, strict=True):
        there = [c for c in rng.permutation(candidates).tolist() if not lost_corpus[c]]
        missing = [c for c in candidates.tolist() if lost_corpus[c]]
        if lost:  # any order of any of them
            there, missing = [], candidates.tolist()
        places = [there.index(p) + 1 for p in right if p in there]
        ranks.append(min(places, default=math.inf))
        scores = [
            any(p in order[:cutoff] for p in right)
            for order in _completions(there, missing)
        ]
        expected.append((min(scores), max(scores)))
    found = protocol.bounds(
        np.array(ranks),
        cutoff,
        positives,
        among if lists else None,
        lost_queries,
        lost_corpus,
    )
    np.testing.assert_array_equal(np.stack(found, axis=1), expected)
    assert len({*expected}) >= 2  # of 0 to 0, 0 to 1 and 1 to 1


def test_what_is_missing_bounds_abilities_and_averages():
    whole, gap = np.eye(4, dtype=np.float32), np.eye(4, dtype=np.float32)
    gap[3] = np.nan
    outcomes = {
        name: protocol.evaluate(
            _plain_set(4, name),
            whole,
            gap if name == "CRB-S" else whole,
            resamples=9,
            seed=0,
        )
        for name in uvrb.DATASETS
    }
    row = outcomes["CRB-S"].row
    assert row["score"] == 3 / 4 and row["effective"] == {"queries": 4, "corpus": 3}
    # At worst what is missing stands before all others' only positives.
    assert row["bounds"] == [0, 1]
    results = summary.summarise(outcomes)
    bounds = results["ability_bounds"]
    assert bounds["S"] == [1 / 2, 1] and bounds["T"] == [1, 1]
    assert bounds["FG"] == pytest.approx([2.5 / 3, 1])
    assert bounds["dataset_average"] == [15 / 16, 1]
    fine = 2.5 / 3
    average = ((2 + fine) / 3 + fine + 4) / 6
    assert bounds["ability_average"] == pytest.approx([average, 1])
    fine = 6 / 7
    average = (11 / 12 + fine + 4) / 6
    assert bounds["ability_average_flat"] == pytest.approx([average, 1])
    assert results["dataset_average"] == (15 + 3 / 4) / 16
    assert results["complete"] is False
    assert results["incomplete"] == {
        "CRB-S": "no vector for 0 of 4 queries and 1 of 4 corpus items"
    }


def test_datasets_of_ones_own_have_rows_and_no_part_in_means():
    vectors_of = np.eye(4, dtype=np.float32)
    facts = uvrb.Dataset("mine", "text", "recall@2", "Find it.")
    own = RetrievalSet(
        facts,
        *[tuple(Item(id=f"{i}", text="x") for i in range(4))] * 2,
        tuple(np.array([(i + 1) % 4]) for i in range(4)),
    )
    sets = [*(_plain_set(4, name) for name in uvrb.DATASETS), own]
    sides = {data.name: vectors_of for data in sets}
    outcomes = summary.score(sets, vectors.Sides(sides, sides, {}, {}), 9, 0)
    results = summary.summarise(outcomes)
    assert results["datasets"]["mine"]["score"] < 1
    assert results["complete"] is True and results["incomplete"] == {}
    assert results["dataset_average"] == results["ability_average_flat"] == 1
    del outcomes["CMRB"]
    results = summary.summarise(outcomes)
    assert results["incomplete"] == {"CMRB": "not evaluated"}
    assert results["dataset_average"] is results["abilities"]["T"] is None
    assert results["ability_bounds"]["T"] is None


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """All sixteen, twelve queries each; MS-TI and MS-TV with lists of ten."""
    root = tmp_path_factory.mktemp("uvrb")
    n = 12
    for name, facts in uvrb.DATASETS.items():
        folder = small.write_dataset(root, name, n, facts.query_modality)
        if facts.metric == "precision@1":
            rows = [
                {
                    "qid": f"{name}_query_{i}",
                    "pos": [f"{name}_corpus_{i}"],
                    "candidates": [f"{name}_corpus_{(i + j) % n}" for j in range(10)],
                }
                for i in range(n)
            ]
            small.write_rows(folder / "jsonl" / "instances.jsonl", rows)
    return root


def test_a_perfect_encoder_scores_one_everywhere(world, tmp_path):
    config = uvrb_mini.get_config(str(world))
    config.eval.gallery = 1
    config.eval.bootstrap = 50
    sets = run.read(config, loaders.names(()))
    results = run.run(config, sets, small.FakeEmbedder(), tmp_path)
    assert len(results["datasets"]) == 16 and results["complete"] is True
    for row in results["datasets"].values():
        assert row["bounds"] == [1, 1] and row["ties"] == 0 and row["median_rank"] == 1
        for key in ("score", "low", "high", "recall@1", "ndcg@10", "mrr"):
            assert row[key] == 1, key
    assert set(results["abilities"].values()) == {1}
    assert set(results["abilities_flat"].values()) == {1}
    for key in ("dataset_average", "ability_average", "ability_average_flat"):
        assert results[key] == pytest.approx(1)


def test_a_random_encoder_is_at_chance_on_every_set(world):
    config = uvrb_mini.get_config(str(world))
    sets = run.read(config, loaders.names(()))
    rng = np.random.default_rng(0)
    scores = {data.name: [] for data in sets}
    for _ in range(30):
        sides = [
            {d.name: rng.normal(size=(12, 8)).astype(np.float32) for d in sets}
            for _ in range(2)
        ]
        outcomes = summary.score(sets, vectors.Sides(*sides, {}, {}), 1, 0)
        for name, outcome in outcomes.items():
            scores[name].append(outcome.row["score"])
    for name, found in scores.items():
        chance = outcomes[name].row["chance"]
        few = {"MS-TI": 1 / 10, "MS-TV": 1 / 10, "CMRB": 10 / 12, "LoVR-TH": 10 / 12}
        assert chance == pytest.approx(few.get(name, 1 / 12))
        error = np.std(found) / math.sqrt(len(found))
        assert abs(np.mean(found) - chance) < 3.5 * error, name
