"""The protocol: from vectors to the scores of one dataset."""

import hashlib
import zlib
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
    id: fixed, but unrelated to the order of the files, which may know the answer.

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
        "median_rank": retrieval.median_rank(found.ranks, sizes),
        "num_queries": len(queries),
        "num_corpus": len(corpus),
        "missing": int(np.isnan(queries[:, 0]).sum() + np.isnan(corpus[:, 0]).sum()),
        "chance": float(retrieval.chance(num_positives, sizes, cutoff).mean()),
    }
    return Outcome(row, found, samples)
