"""gve_jax.retrieval against plain NumPy and numbers worked out by hand."""

import itertools
import math

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gve_jax import retrieval


def _brute_force(queries, corpus, k):
    """Indices and scores by a stable sort; NaN rows never answer."""
    scores = queries.astype(np.float64) @ corpus.astype(np.float64).T
    scores[np.isnan(scores)] = -np.inf
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    best = np.take_along_axis(scores, order, axis=1)
    order = np.where(np.isfinite(best), order, -1)
    pad = ((0, 0), (0, k - order.shape[1]))
    return (
        np.pad(order, pad, constant_values=-1),
        np.pad(best, pad, constant_values=-np.inf),
        scores,
    )


def _small_integers(seed, n, m, d=5, nan=0.1):
    """Products of small integers are exact in float32 and tie often."""
    rng = np.random.default_rng(seed)
    queries = rng.integers(-2, 3, (n, d)).astype(np.float32)
    corpus = rng.integers(-2, 3, (m, d)).astype(np.float32)
    corpus[rng.random(m) < nan] = np.nan
    return rng, queries, corpus


@pytest.mark.parametrize(
    ("n", "m", "k", "chunk"),
    [(3, 1, 1, 128), (7, 5, 10, 64), (20, 2000, 3, 1 << 16), (33, 3000, 10, 512)],
)
def test_top_k_equals_a_stable_sort(n, m, k, chunk):
    _, queries, corpus = _small_integers(m, n, m)
    queries[0] = np.nan
    scores, indices = retrieval.top_k(queries, corpus, k, chunk)
    expected, best, _ = _brute_force(queries, corpus, k)
    np.testing.assert_array_equal(indices, expected)
    np.testing.assert_array_equal(scores, best)
    assert (indices[0] == -1).all()


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), k=st.sampled_from([1, 2, 7]))
def test_top_k_with_wild_ties(seed, k):
    # One dimension, so that nearly all scores tie, over block and chunk borders.
    _, queries, corpus = _small_integers(seed, 4, 1500, d=1, nan=0.3)
    _, indices = retrieval.top_k(queries, corpus, k, chunk=512)
    np.testing.assert_array_equal(indices, _brute_force(queries, corpus, k)[0])


def test_top_k_of_unit_vectors_beyond_one_query_step():
    rng = np.random.default_rng(0)
    queries, corpus = (
        x / np.linalg.norm(x, axis=1, keepdims=True)
        for x in rng.normal(size=(2, 1100, 24)).astype(np.float32)
    )
    scores, indices = retrieval.top_k(queries, corpus, 10, chunk=256)
    exact = queries.astype(np.float64) @ corpus.T.astype(np.float64)
    best = -np.sort(-exact, axis=1)[:, :10]
    np.testing.assert_allclose(scores, best, atol=1e-6)
    found = np.take_along_axis(exact, indices, axis=1)
    np.testing.assert_allclose(found, best, atol=1e-6)


def test_rank_is_the_place_of_the_best_positive():
    rng, queries, corpus = _small_integers(1, 30, 700)
    queries[4] = np.nan
    positives = [rng.choice(700, size=1 + i % 4, replace=False) for i in range(30)]
    found = retrieval.rank(queries, corpus, positives, k=10)
    expected, best, scores = _brute_force(queries, corpus, 10)
    np.testing.assert_array_equal(found.indices, expected)
    np.testing.assert_array_equal(found.scores, best)
    for i in range(30):
        order = np.argsort(-scores[i], kind="stable").tolist()
        places = [order.index(p) + 1 for p in positives[i] if np.isfinite(scores[i, p])]
        assert found.ranks[i] == min(places, default=math.inf)
        best_positive = scores[i, positives[i]].max()
        others = np.delete(scores[i], positives[i])
        tied = np.isfinite(best_positive) and (others == best_positive).any()
        assert found.tied[i] == tied
        # Ranks and answers tell one story.
        hit = np.isin(found.indices[i], positives[i]).any()
        assert hit == (found.ranks[i] <= 10)


def test_rank_among_candidates_only():
    rng, queries, corpus = _small_integers(2, 40, 90, nan=0.05)
    candidates = [
        rng.choice(90, size=rng.integers(1, 13), replace=False) for _ in queries
    ]
    positives = [c[:1] for c in candidates]  # first in its list: must not help
    found = retrieval.rank(queries, corpus, positives, 10, candidates)
    _, _, scores = _brute_force(queries, corpus, 10)
    for i, among in enumerate(candidates):
        order = sorted(among.tolist(), key=lambda c: (-scores[i, c], c))
        order = [c for c in order if np.isfinite(scores[i, c])]
        filled = [c for c in found.indices[i].tolist() if c >= 0]
        assert filled == order[:10]
        truth = positives[i][0]
        assert found.ranks[i] == (
            order.index(truth) + 1 if truth in order else math.inf
        )


def test_constant_vectors_score_as_chance():
    corpus = np.ones((50, 8), np.float32)
    positives = [np.array([i]) for i in range(50)]
    found = retrieval.rank(corpus, corpus, positives)
    assert retrieval.recall(found.ranks, 1).mean() == 1 / 50
    assert retrieval.recall(found.ranks, 10).mean() == 10 / 50


def test_missing_vectors_are_never_found_even_in_a_short_list():
    corpus = np.full((3, 4), np.nan, np.float32)
    corpus[0] = 1
    queries = np.ones((2, 4), np.float32)
    queries[1] = np.nan
    found = retrieval.rank(queries, corpus, [np.array([2]), np.array([0])])
    np.testing.assert_array_equal(found.ranks, [np.inf, np.inf])
    assert found.indices[0].tolist() == [0] + [-1] * 9
    assert retrieval.recall(found.ranks, 10).sum() == 0
    assert retrieval.median_rank(found.ranks, 3) == 3


def test_metrics_by_hand():
    ranks = np.array([1, 2, 6, 11, np.inf])
    assert retrieval.recall(ranks, 1).tolist() == [1, 0, 0, 0, 0]
    assert retrieval.recall(ranks, 5).mean() == 2 / 5
    assert retrieval.recall(ranks, 10).mean() == 3 / 5
    assert retrieval.median_rank(ranks, 100) == 6

    indices = np.array([[7, 3, 5, -1], [0, 1, 2, 3], [9, 8, -1, -1]])
    positives = [np.array([3, 5]), np.array([0]), np.array([4])]
    two = (1 / math.log2(3) + 1 / math.log2(4)) / (1 + 1 / math.log2(3))
    np.testing.assert_allclose(retrieval.ndcg(indices, positives, 4), [two, 1, 0])
    # More positives than places: a full list is perfect.
    full = retrieval.ndcg(np.array([[0, 1]]), [np.array([0, 1, 2])], 2)
    np.testing.assert_allclose(full, [1])


@pytest.mark.parametrize(("positives", "items", "k"), [(1, 6, 1), (2, 6, 3), (3, 4, 2)])
def test_chance_equals_counting_all_orders(positives, items, k):
    orders = list(itertools.permutations(range(items)))
    hits = sum(any(x < positives for x in order[:k]) for order in orders)
    expected = hits / len(orders)
    np.testing.assert_allclose(
        retrieval.chance(np.array([positives]), np.array([items]), k), [expected]
    )


def test_chance_in_short_lists_is_certain():
    assert retrieval.chance(np.array([1]), np.array([4]), 10).tolist() == [1.0]


def test_bootstrap_against_the_normal_limit_and_a_loop():
    values = (np.arange(400) < 100).astype(np.float64)
    means = retrieval.bootstrap(values, 4000, [1, 2])
    low, high = retrieval.interval(means)
    error = 1.96 * math.sqrt(0.25 * 0.75 / 400)
    np.testing.assert_allclose([low, high], [0.25 - error, 0.25 + error], atol=0.006)
    np.testing.assert_array_equal(means, retrieval.bootstrap(values, 4000, [1, 2]))
    assert not np.array_equal(means, retrieval.bootstrap(values, 4000, [1, 3]))
    # More values than one step holds: drawn a row at a time.
    many = np.random.default_rng(0).normal(size=1 << 22)
    assert retrieval.bootstrap(many, 3, [0]).shape == (3,)


def test_one_compilation_serves_all_steps():
    rng = np.random.default_rng(0)
    corpus = rng.normal(size=(1000, 8)).astype(np.float32)
    queries = rng.normal(size=(1500, 8)).astype(np.float32)
    retrieval.top_k(queries, corpus, 5, chunk=256)
    before = retrieval._merge._cache_size()
    retrieval.top_k(queries[:1100], corpus[:900], 5, chunk=256)
    assert retrieval._merge._cache_size() == before


def test_corpora_spread_over_devices_are_ranked_as_on_one():
    # Small integers, so that scores tie within and across devices.
    rng, queries, corpus = _small_integers(3, 30, 2900, d=3)
    positives = [rng.choice(2900, size=1 + i % 4, replace=False) for i in range(30)]
    corpus[positives[5]] = np.nan
    devices = jax.devices()
    assert len(devices) == 8
    expected, best, _ = _brute_force(queries, corpus, 12)
    placed = retrieval.place(corpus, devices)
    assert {s.data.shape for s in placed.addressable_shards} == {(384, 3)}
    for found in (
        retrieval.top_k(queries, placed, 12),
        retrieval.top_k(queries, corpus, 12, chunk=1024, devices=devices),
    ):
        np.testing.assert_array_equal(found[1], expected)
        np.testing.assert_array_equal(found[0], best)
    one = retrieval.rank(queries, corpus, positives, 12, devices=devices[:1])
    spread = retrieval.rank(queries, corpus, positives, 12, devices=devices)
    for a, b in zip(one, spread, strict=True):
        np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(spread.indices, expected)
    assert np.isinf(spread.ranks[5]) and spread.tied.any()


def test_a_placed_corpus_is_searched_as_it_is():
    _, queries, corpus = _small_integers(4, 9, 333)
    placed = retrieval.place(corpus)
    assert len(placed) == 384 and len(placed.sharding.device_set) == 1
    _, indices = retrieval.top_k(queries, placed, 400)
    np.testing.assert_array_equal(indices, _brute_force(queries, corpus, 400)[0])


def test_more_rows_are_worth_more_devices():
    corpus = np.ones((3 << 13, 2), np.float32)
    assert len(retrieval.place(corpus).sharding.device_set) == 3
