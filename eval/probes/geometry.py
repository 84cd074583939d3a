"""The shape of the embedding space, from vectors alone.

Vectors are float32 [n, d] unit rows; rows of NaN (no vector) are left out.
"""

from collections.abc import Callable, Sequence

import numpy as np

from eval.datasets import RetrievalSet
from eval.probes.records import Subject
from gve_jax import retrieval
from gve_jax.types import Item

TOP = 10
_HUBS = 5  # shown


def hubness(queries: np.ndarray, corpus: np.ndarray, k: int = TOP) -> dict:
    """How unevenly corpus items are found (Radovanovic et al., JMLR 2010).

    N_k of an item is the number of queries that have it among their k best of the
    whole corpus, candidate lists aside. Beside each number stands what it would be if
    every query drew its k items at random: N_k is then binomial.

    Returns:
      k; "skewness" of N_k, third standardised moment; "never", share of items with N_k
      = 0; "most", the greatest N_k as a multiple of the mean; and "counts", int [m].
    """
    queries = _finite(queries)
    m = int((~np.isnan(corpus[:, 0])).sum())
    k = min(k, m)
    _, found = retrieval.top_k(queries, corpus, k)
    counts = np.bincount(found[found >= 0], minlength=len(corpus))
    there = counts[~np.isnan(corpus[:, 0])].astype(np.float64)
    n, p = len(queries), k / m
    spread = np.sqrt(n * p * (1 - p))
    centred = there - there.mean()
    sd = there.std()
    return {
        "k": k,
        "skewness": float((centred**3).mean() / sd**3) if sd else 0.0,
        "skewness_at_random": float((1 - 2 * p) / spread) if spread else 0.0,
        "never": float((there == 0).mean()),
        "never_at_random": float((1 - p) ** n),
        "most": float(there.max() / there.mean()),
        "counts": counts,
    }


def gap(queries: np.ndarray, corpus: np.ndarray) -> dict:
    """How far the two sides lie apart (Liang et al., NeurIPS 2022).

    Returns:
      "distance" of the centroids, 0..2; mean cosines of distinct queries ("within
      queries"), of distinct corpus items, and between the sides; "separable": the share
      of vectors that a plane halfway between the centroids puts on their own side, the
      plane being that of every other vector: 0.5 where the sides mix.
    """
    queries, corpus = _finite(queries), _finite(corpus)
    centres = queries.mean(0), corpus.mean(0)
    return {
        "distance": float(np.linalg.norm(centres[0] - centres[1])),
        "within_queries": _mean_cosine(queries),
        "within_corpus": _mean_cosine(corpus),
        "between": float(centres[0] @ centres[1]),
        "separable": _separable(queries, corpus),
    }


def anisotropy(vectors: np.ndarray) -> dict:
    """How much of the space the vectors use.

    Returns:
      "mean_cosine" of distinct vectors (0 if they point everywhere); of the eigenvalues
      l of their covariance the "participation_ratio" (sum l)^2 / sum l^2 and the
      "effective_rank" exp(-sum p ln p), p = l / sum l (Roy and Vetterli, EUSIPCO 2007);
      and the "limit" of both, min(n - 1, d).
    """
    vectors = _finite(vectors).astype(np.float64)
    n, d = vectors.shape
    centred = vectors - vectors.mean(0)
    # The smaller of the two Gram matrices has the same eigenvalues but for zeros.
    gram = centred @ centred.T if n < d else centred.T @ centred
    values = np.maximum(np.linalg.eigvalsh(gram), 0)
    total = values.sum()
    # Vectors that are all the same vary in no direction.
    p = values[values > 0] / total if total > 0 else np.ones(0)
    return {
        "mean_cosine": _mean_cosine(vectors),
        "participation_ratio": float(1 / (p**2).sum()) if len(p) else 0.0,
        "effective_rank": float(np.exp(-(p * np.log(p)).sum())) if len(p) else 0.0,
        "limit": min(n - 1, d),
    }


def measure_hubness(subject: Subject) -> dict:
    def row(data: RetrievalSet, queries: np.ndarray, corpus: np.ndarray) -> dict:
        found = hubness(queries, corpus)
        counts = found.pop("counts")
        best = np.argsort(-counts, kind="stable")[:_HUBS]
        hubs = [{"id": data.corpus[i].id, "found": int(counts[i])} for i in best]
        return found | {"hubs": hubs}

    return _each(subject, row)


def measure_gap(subject: Subject) -> dict:
    """Per dataset, and per pair of modalities over all datasets that have it."""
    pairs: dict[str, list] = {}

    def row(data: RetrievalSet, queries: np.ndarray, corpus: np.ndarray) -> dict:
        pair = f"{_modality(data.queries)} to {_modality(data.corpus)}"
        pairs.setdefault(pair, []).append((queries, corpus))
        return {"pair": pair} | gap(queries, corpus)

    found = _each(subject, row)
    pooled = {
        pair: gap(*(np.concatenate(side) for side in zip(*sides, strict=True)))
        for pair, sides in pairs.items()
    }
    return found | {"pairs": pooled}


def measure_anisotropy(subject: Subject) -> dict:
    def row(_, queries: np.ndarray, corpus: np.ndarray) -> dict:
        return {"queries": anisotropy(queries), "corpus": anisotropy(corpus)}

    return _each(subject, row)


def _each(subject: Subject, row: Callable[..., dict]) -> dict:
    """A row for each dataset that has vectors to measure."""
    rows, left_out = {}, {}
    for data in subject.sets:
        name = data.name
        sides = subject.sides.queries[name], subject.sides.corpus[name]
        if min(len(_finite(side)) for side in sides) < 2:
            left_out[name] = "fewer than two vectors on a side"
        else:
            rows[name] = row(data, *sides)
    return {"datasets": rows} | ({"left_out": left_out} if left_out else {})


def _finite(vectors: np.ndarray) -> np.ndarray:
    return vectors[~np.isnan(vectors[:, 0])]


def _mean_cosine(rows: np.ndarray) -> float:
    """Over pairs of distinct unit rows: (|sum|^2 - n) / (n (n - 1))."""
    n = len(rows)
    total = rows.sum(0, dtype=np.float64)
    return float((total @ total - n) / (n * (n - 1))) if n > 1 else 1.0


def _separable(queries: np.ndarray, corpus: np.ndarray) -> float:
    right = []
    for fitted in (0, 1):
        a, b = queries[fitted::2].mean(0), corpus[fitted::2].mean(0)
        normal, middle = a - b, (a + b) / 2
        sides = queries[1 - fitted :: 2], corpus[1 - fitted :: 2]
        for sign, rows in zip((1, -1), sides, strict=True):
            right.append((sign * ((rows - middle) @ normal) > 0).mean())
    return float(np.mean(right))


def _modality(items: Sequence[Item]) -> str:
    """The commonest modality: UVRB's sides have one each."""
    kinds = [item.kind for item in items]
    kind = max(set(kinds), key=kinds.count)
    names = ("text", "image", "video")
    return "+".join(name for i, name in enumerate(names) if kind >> i & 1)
