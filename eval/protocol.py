"""The protocol: from vectors to the scores of one dataset."""

import hashlib
import zlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from eval.datasets import RetrievalSet
from gve_jax import retrieval

TOP = 10


class Outcome(NamedTuple):
    """Scores of one dataset, and what the report and the abilities need of it."""

    row: dict  # as in results.json
    ranking: retrieval.Ranking  # over the dataset's own corpus rows
    samples: np.ndarray  # float64 [resamples]: the score under resampled queries


def evaluate(
    data: RetrievalSet,
    queries: np.ndarray,
    corpus: np.ndarray,
    *,
    resamples: int,
    seed: int,
) -> Outcome:
    """Scores one dataset.

    Precision@1 is recall@1 (one answer, right or wrong), ranked among the candidates
    where the dataset has them. Equal scores are ordered by the SHA-256 of the corpus
    id: fixed, but unrelated to the order of the files, which may know the answer;
    "ties" counts the queries whose best positive scores as something wrong does.

    What has no vector counts as wrong in "score" and is "missing"; "bounds" are what
    the score could be with it, see `bounds`.

    Args:
      queries: float32 [n, d] unit rows, NaN where there is no vector.
      corpus: float32 [m, d], likewise.
    """
    order = np.argsort(
        [hashlib.sha256(item.id.encode()).hexdigest() for item in data.corpus]
    )
    place = np.argsort(order)
    candidates = data.candidates and [place[c] for c in data.candidates]
    found = retrieval.rank(
        queries, corpus[order], [place[p] for p in data.positives], TOP, candidates
    )
    found = found._replace(
        indices=np.where(found.indices >= 0, order[found.indices], -1).astype(np.int32)
    )
    sizes = np.array(
        [len(c) for c in data.candidates]
        if data.candidates
        else [len(corpus)] * len(queries)
    )
    cutoff = int(data.facts.metric.rpartition("@")[2])
    scores = retrieval.recall(found.ranks, cutoff)
    # Seeded per dataset, so that a part of the benchmark gives the same intervals.
    samples = retrieval.bootstrap(
        scores, resamples, [seed, zlib.crc32(data.name.encode())]
    )
    low, high = retrieval.interval(samples)
    lost = np.isnan(queries).any(1), np.isnan(corpus).any(1)
    worst, best = bounds(
        found.ranks, cutoff, data.positives, data.candidates, lost[0], lost[1]
    )
    num_positives = np.array([len(p) for p in data.positives])
    row = {
        "metric": data.facts.metric,
        "score": float(scores.mean()),
        "low": low,
        "high": high,
        **{
            f"recall@{k}": float(retrieval.recall(found.ranks, k).mean())
            for k in (1, 5, 10)
        },
        "ndcg@10": float(retrieval.ndcg(found.indices, data.positives, 10).mean()),
        "mrr": float(retrieval.reciprocal_rank(found.ranks).mean()),
        "median_rank": retrieval.median_rank(found.ranks, sizes),
        "num_queries": len(queries),
        "num_corpus": len(corpus),
        "missing": int(sum(x.sum() for x in lost)),
        "effective": {
            side: int((~x).sum())
            for side, x in zip(("queries", "corpus"), lost, strict=True)
        },
        "bounds": [float(worst.mean()), float(best.mean())],
        "ties": int(found.tied.sum()),
        "chance": float(retrieval.chance(num_positives, sizes, cutoff).mean()),
    }
    return Outcome(row, found, samples)


def bounds(
    ranks: np.ndarray,
    cutoff: int,
    positives: Sequence[np.ndarray],
    candidates: Sequence[np.ndarray] | None,
    lost_queries: np.ndarray,
    lost_corpus: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Recall@cutoff of each query if all that is missing were the worst or the best.

    For each query by itself, over all places that missing items could take in its
    ranking, or not be found at all, and over all rankings where the query is missing:

    - The worst: missing items that are wrong stand before the best positive that is
      there, whose rank grows by their number; missing positives are not found. A query
      that is missing, or all of whose positives are, has 0.
    - The best: a missing positive, or any positive of a missing query, comes first.
      Where neither is missing, missing items come last, as they do in the score.

    So the score lies between them, and without anything missing they equal it.

    Args:
      ranks: float64 [n] of the best positive among what is there; inf: not found.
      cutoff: the k of recall@k.
      positives: n arrays of corpus rows, distinct.
      candidates: n arrays of distinct corpus rows, which hold the positives, or None.
      lost_queries: bool [n]; lost_corpus: bool [m]: without a vector.

    Returns:
      Two arrays float64 [n] of 0 and 1.
    """
    lost = np.array([lost_corpus[c].sum() for c in candidates or [slice(None)]])
    lost_positives = np.array([lost_corpus[p].sum() for p in positives])
    worst = retrieval.recall(ranks + (lost - lost_positives), cutoff)
    best = retrieval.recall(ranks, cutoff)
    best[lost_queries | (lost_positives > 0)] = 1
    return worst, best
