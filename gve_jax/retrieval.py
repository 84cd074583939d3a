"""Exact retrieval on the device and its metrics: arrays in, numbers out.

One total order everywhere: higher score first, equal scores by lower row index. Rows
that hold NaN (items that could not be embedded) never answer and are never found, so
failures cannot gain from being last in a short list. Scores accumulate in float32.

Whoever ranks data whose row order may know the answer (relevant rows first, say) must
shuffle the rows beforehand: then ties are worth what chance gives, no more.
"""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

# Rows whose maximum is taken together when the best k are selected.
_BLOCK = 128
# Elements of the largest temporary array, which bounds memory to a few 100 MB.
_BUDGET = 1 << 25


class Ranking(NamedTuple):
    """What `rank` finds for n queries; -1 and -inf fill places without an answer."""

    indices: np.ndarray  # int32 [n, k], best first
    scores: np.ndarray  # float32 [n, k]
    ranks: np.ndarray  # float64 [n], 1-based, of the best positive; inf: never found


def top_k(
    queries: np.ndarray, corpus: np.ndarray, k: int, chunk: int = 1 << 16
) -> tuple[np.ndarray, np.ndarray]:
    """The k best corpus rows of each query, exact.

    The corpus (an array or a memory map) goes through the device in chunks, so memory
    does not grow with it.

    Args:
      queries: float [n, d].
      corpus: float [m, d].
      k: at least 1; places beyond m stay empty.
      chunk: corpus rows on the device at a time.

    Returns:
      Scores float32 [n, k] and row indices int32 [n, k]; -inf and -1 where empty.
    """
    n, m = len(queries), len(corpus)
    chunk = min(_up(chunk, _BLOCK), _up(m, _BLOCK))
    rows = _query_rows(n, chunk)
    scores = np.full((n, k), -np.inf, np.float32)
    indices = np.full((n, k), -1, np.int32)
    for q in range(0, n, rows):
        query = jnp.asarray(_pad(queries[q : q + rows], rows))
        best = (jnp.full((rows, k), -jnp.inf), jnp.full((rows, k), -1, jnp.int32))
        for c in range(0, m, chunk):
            part = jnp.asarray(_pad(corpus[c : c + chunk], chunk))
            best = _merge(best, query, part, jnp.int32(c), k=k)
        scores[q : q + rows] = np.asarray(best[0])[: n - q]
        indices[q : q + rows] = np.asarray(best[1])[: n - q]
    return scores, indices


def rank(
    queries: np.ndarray,
    corpus: np.ndarray,
    positives: Sequence[np.ndarray],
    k: int = 10,
    candidates: Sequence[np.ndarray] | None = None,
) -> Ranking:
    """Ranks the corpus, or each query's candidates, and finds the best positive.

    Args:
      queries: float [n, d]; corpus: float [m, d].
      positives: n arrays of relevant corpus rows, none empty.
      k: answers kept per query.
      candidates: n arrays of corpus rows; only these compete for their query.
    """
    n = len(queries)
    if candidates is None:
        width = _up(len(corpus), _BLOCK)
        rows = _query_rows(n, width)
        whole = jnp.asarray(_pad(corpus, width))
        places, wanted = None, positives
    else:
        # Ascending rows, so that equal scores fall to the lower row here as well.
        places = [np.unique(c) for c in candidates]
        wanted = [
            np.searchsorted(c, p[np.isin(p, c)])
            for c, p in zip(places, positives, strict=True)
        ]
        width = max(len(c) for c in places)
        rows = _query_rows(n, width * queries.shape[1])
        places = _ragged(places, width)
    wanted = _ragged(wanted, _power_of_two(max(map(len, wanted), default=1)))
    out = []
    for q in range(0, n, rows):
        query = jnp.asarray(_pad(queries[q : q + rows], rows))
        relevant = jnp.asarray(_pad(wanted[q : q + rows], rows, -1))
        if places is None:
            found = _rank_whole(query, whole, relevant, k=min(k, width))
        else:
            rows_of = _pad(places[q : q + rows], rows, -1)
            part = jnp.asarray(np.asarray(corpus, np.float32)[rows_of])
            found = _rank_candidates(
                query, part, jnp.asarray(rows_of), relevant, k=min(k, width)
            )
        out.append([np.asarray(x)[: n - q] for x in found])
    scores, indices, ranks = (np.concatenate(x) for x in zip(*out, strict=True))
    if (short := k - scores.shape[1]) > 0:
        scores = np.pad(scores, ((0, 0), (0, short)), constant_values=-np.inf)
        indices = np.pad(indices, ((0, 0), (0, short)), constant_values=-1)
    if places is not None:
        rows_of = np.take_along_axis(places, np.maximum(indices, 0), axis=1)
        indices = np.where(indices >= 0, rows_of, -1)
    return Ranking(indices.astype(np.int32), scores, np.where(ranks > 0, ranks, np.inf))


def recall(ranks: np.ndarray, k: int) -> np.ndarray:
    """float64 [n]: 1 where any positive is among the first k, else 0."""
    return (ranks <= k).astype(np.float64)


def ndcg(
    indices: np.ndarray, positives: Sequence[np.ndarray], k: int = 10
) -> np.ndarray:
    """float64 [n]: normalised discounted cumulative gain at k, binary relevance.

    Args:
      indices: int [n, >= k], best first, -1 for none.
      positives: n arrays of relevant rows, none empty.
    """
    gains = 1.0 / np.log2(np.arange(2, k + 2))
    ideal = np.cumsum(gains)
    hits = np.stack(
        [np.isin(row[:k], p) for row, p in zip(indices, positives, strict=True)]
    )
    sizes = np.array([len(np.unique(p)) for p in positives])
    return (hits * gains).sum(1) / ideal[np.minimum(sizes, k) - 1]


def median_rank(ranks: np.ndarray, num_items: np.ndarray | int) -> float:
    """Median rank of the best positive; one never found counts as the last place."""
    return float(np.median(np.minimum(ranks, num_items)))


def chance(num_positives: np.ndarray, num_items: np.ndarray, k: int) -> np.ndarray:
    """Probability that a random order has any positive among the first k.

    1 - C(N - P, k) / C(N, k) for P positives among N items (arrays that broadcast).
    """
    positives = np.asarray(num_positives, np.float64)
    items = np.asarray(num_items, np.float64)
    miss = np.ones(np.broadcast_shapes(positives.shape, items.shape))
    for i in range(k):
        left = items - i
        miss = miss * np.clip((left - positives) / np.maximum(left, 1), 0, 1)
    return 1 - miss


def bootstrap(values: np.ndarray, resamples: int, seed: Sequence[int]) -> np.ndarray:
    """float64 [resamples]: means of `values` [n] drawn with replacement, seeded."""
    rng = np.random.default_rng(seed)
    n, step = len(values), max(1, (1 << 22) // len(values))
    return np.concatenate(
        [
            values[rng.integers(n, size=(min(step, resamples - r), n))].mean(1)
            for r in range(0, resamples, step)
        ]
    )


def interval(means: np.ndarray) -> tuple[float, float]:
    """The central 95 % of bootstrap means (percentile method)."""
    low, high = np.percentile(means, (2.5, 97.5))
    return float(low), float(high)


def _scores(queries: jax.Array, rows: jax.Array, spec: str) -> jax.Array:
    # HIGHEST: by default GPUs and TPUs would round float32 inputs to tf32 or bfloat16.
    raw = jnp.einsum(spec, queries, rows, precision=jax.lax.Precision.HIGHEST)
    # lax.top_k orders NaN above all and -0 below 0: neither is meant here.
    return jnp.where(jnp.isnan(raw), -jnp.inf, jnp.where(raw == 0, 0.0, raw))


def _select(scores: jax.Array, k: int) -> tuple[jax.Array, jax.Array]:
    """Scores and columns of the k best of [n, m], ties to the lower column.

    Every one of the k best lies in one of the k blocks with the greatest maxima: were
    it in another, k items would beat it. The same holds for ties, because blocks are
    contiguous and lax.top_k takes the lower block of equals.
    """
    n, m = scores.shape
    if m % _BLOCK or m // _BLOCK <= k:
        return jax.lax.top_k(scores, min(k, m))
    blocks = scores.reshape(n, m // _BLOCK, _BLOCK)
    _, chosen = jax.lax.top_k(blocks.max(-1), k)
    chosen = jnp.sort(chosen, axis=-1)  # the order of columns, which decides ties
    kept = jnp.take_along_axis(blocks, chosen[:, :, None], axis=1).reshape(n, -1)
    best, place = jax.lax.top_k(kept, k)
    block = jnp.take_along_axis(chosen, place // _BLOCK, axis=1)
    return best, block * _BLOCK + place % _BLOCK


@functools.partial(jax.jit, static_argnames="k", donate_argnames="best")
def _merge(best, queries, part, offset, *, k):
    scores, columns = _select(_scores(queries, part, "nd,md->nm"), k)
    # What was found before has lower indices, so it stands first.
    scores = jnp.concatenate([best[0], scores], axis=1)
    indices = jnp.concatenate([best[1], columns + offset], axis=1)
    scores, place = jax.lax.top_k(scores, k)
    indices = jnp.take_along_axis(indices, place, axis=1)
    return scores, jnp.where(scores > -jnp.inf, indices, -1)


def _rank(scores, relevant, k):
    best, columns = _select(scores, k)
    columns = jnp.where(best > -jnp.inf, columns, -1)
    held = jnp.take_along_axis(scores, jnp.maximum(relevant, 0), axis=1)
    held = jnp.where(relevant >= 0, held, -jnp.inf)
    top = held.max(1, keepdims=True)
    m = scores.shape[1]
    first = jnp.where((held == top) & (relevant >= 0), relevant, m).min(1)[:, None]
    ahead = (scores > top) | ((scores == top) & (jnp.arange(m) < first))
    ranks = jnp.where(top[:, 0] > -jnp.inf, ahead.sum(1) + 1, 0)
    return best, columns, ranks


@functools.partial(jax.jit, static_argnames="k")
def _rank_whole(queries, corpus, relevant, *, k):
    return _rank(_scores(queries, corpus, "nd,md->nm"), relevant, k)


@functools.partial(jax.jit, static_argnames="k")
def _rank_candidates(queries, rows, rows_of, relevant, *, k):
    scores = _scores(queries, rows, "nd,nmd->nm")
    return _rank(jnp.where(rows_of >= 0, scores, -jnp.inf), relevant, k)


def _query_rows(n: int, width: int) -> int:
    """Queries per step: a power of two, so that few shapes are compiled."""
    return min(_power_of_two(n), max(8, _power_of_two(_BUDGET // width + 1) // 2), 1024)


def _power_of_two(n: int) -> int:
    return 1 << max(n - 1, 0).bit_length()


def _up(n: int, multiple: int) -> int:
    return -(-max(n, 1) // multiple) * multiple


def _pad(rows: np.ndarray, length: int, value=np.nan) -> np.ndarray:
    """Rows as float32 or int32, filled up to `length`."""
    dtype = np.float32 if np.issubdtype(rows.dtype, np.floating) else np.int32
    out = np.full((length, *rows.shape[1:]), value, dtype)
    out[: len(rows)] = rows
    return out


def _ragged(lists: Sequence[np.ndarray], width: int) -> np.ndarray:
    """int32 [n, width], filled with -1."""
    out = np.full((len(lists), width), -1, np.int32)
    for row, values in zip(out, lists, strict=True):
        row[: len(values)] = values
    return out
