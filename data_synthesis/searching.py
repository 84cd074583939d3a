"""Exact search of a corpus of vectors: found by jax aside, settled here in float64."""

import functools
import pathlib

import numpy as np

from data_synthesis.aside import Aside
from gve_jax.types import UserError

# What a score in float32 may be off by: ten times what sums of thousands of terms are.
_ERROR = 1e-5
_BLOCK = 4096  # rows of a corpus that are looked at together


class Search:
    """A process that searches; for one thread. It ends with this one, or by `close`."""

    @classmethod
    @functools.cache
    def shared(cls) -> "Search":
        """The one of this process: shards follow each other, starting takes long."""
        return cls()

    def __init__(self):
        self._aside = Aside("the search", "gve_jax.mine.serve")

    def close(self) -> None:
        self._aside.close()

    def __call__(
        self, queries: np.ndarray, corpus: pathlib.Path, k: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Scores float32 [n, k] and rows int32 [n, k], as of `gve_jax.mine.serve`.

        Raises:
          UserError: the process ended.
        """
        request = {"corpus": str(corpus), "k": k, "queries": len(queries)}
        self._aside.send(request, np.ascontiguousarray(queries, "<f4").tobytes())
        size = 4 * len(queries) * k
        try:
            scores, rows = self._aside.data(size), self._aside.data(size)
        except UserError as e:
            raise UserError(
                f"the search of {corpus} ended without an answer ({e})"
            ) from None
        shape = len(queries), k
        return (
            np.frombuffer(scores, "<f4").reshape(shape),
            np.frombuffer(rows, "<i4").reshape(shape),
        )


def exact(
    query: np.ndarray,
    corpus: np.ndarray,
    names: list[str],
    found: tuple[np.ndarray, np.ndarray],
) -> tuple[np.ndarray, np.ndarray, int]:
    """Rescores what a search found for a query, and orders it by (score, name).

    Args:
      query: float32 [d].
      corpus: float32 [m, d], for its rows.
      names: of the found rows, for equal scores.
      found: scores and rows [k], without empty places.

    Returns:
      Scores float64 [k], the highest first; the places [k] in `found` that they have;
      and how many of them are sure: no row that was not found belongs among these.
    """
    scores, rows = found
    exactly = score(query, corpus[rows])
    order = np.lexsort((np.array(names), -exactly))
    if len(rows) == len(corpus):
        return exactly[order], order, len(rows)
    sure = int(np.sum(exactly > scores.min() + _ERROR))
    return exactly[order], order, sure


def nearest_before(
    places: np.ndarray, corpus: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Of some rows of a corpus, for each the nearest of those that come before it.

    Args:
      places: int [n], the rows.
      corpus: float32 [m, d].

    Returns:
      Scores float64 [n] and rows int [n], of equal scores the first; -inf and -1 for
      the first row of all, which has none before it.
    """
    queries = np.ascontiguousarray(corpus[places])
    best = np.full(len(places), -np.inf, np.float32)
    maybe = []  # query, row and its score in float32, which is not sure
    for start in range(0, int(max(places, default=0)), _BLOCK):
        rows = np.arange(start, min(start + _BLOCK, len(corpus)))
        scores = queries @ corpus[rows].T
        scores[rows >= places[:, None]] = -np.inf
        best = np.maximum(best, scores.max(1))
        who, where = np.nonzero(scores > best[:, None] - 2 * _ERROR)
        maybe.append((who, rows[where], scores[who, where]))
    found = np.full(len(places), -np.inf)
    nearest = np.full(len(places), -1)
    for who, rows, scores in maybe:  # in the order of the rows
        close = scores > best[who] - 2 * _ERROR
        for i, row in zip(who[close], rows[close], strict=True):
            exactly = cosine(queries[i], corpus[row])
            if exactly > found[i]:
                found[i], nearest[i] = exactly, row
    return found, nearest


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    """Of two unit vectors, as `score` computes it."""
    return float(score(a, b[None])[0])


def score(query: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    """Float64 [n] of float32 [d] and [n, d], summed in one order everywhere."""
    return np.sum(vectors.astype(np.float64) * query.astype(np.float64), axis=1)
