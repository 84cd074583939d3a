"""Exact retrieval on the device and its metrics: arrays in, numbers out.

One total order everywhere: higher score first, equal scores by lower row index. Rows
that hold NaN (items that could not be embedded) never answer and are never found, so
failures cannot gain from being last in a short list. Scores accumulate in float32.

Corpus rows may be spread over devices, queries are on all of them: each device finds
its k best, and of these the k best are taken. Devices hold rows in ascending order, so
the total order is that of one device.

Whoever ranks data whose row order may know the answer (relevant rows first, say) must
shuffle the rows beforehand: then ties are worth what chance gives, no more.
"""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

# Rows whose maximum is taken together when the best k are selected.
_BLOCK = 128
# Elements of the largest temporary array, which bounds memory to a few 100 MB.
_BUDGET = 1 << 25
# Corpus rows that another device is worth.
_ROWS_EACH = 1 << 13
# Of arrays over the devices: the same on all; by rows; by columns.
_WHOLE, _SPREAD = PartitionSpec(), PartitionSpec("rows")
_COLUMNS = PartitionSpec(None, "rows")


class Ranking(NamedTuple):
    """What `rank` finds for n queries; -1 and -inf fill places without an answer."""

    indices: np.ndarray  # int32 [n, k], best first
    scores: np.ndarray  # float32 [n, k]
    ranks: np.ndarray  # float64 [n], 1-based, of the best positive; inf: never found
    # bool [n]: something else scores exactly as the best positive, so that the order of
    # rows decided which is first; false if it was never found.
    tied: np.ndarray


def place(corpus: np.ndarray, devices: Sequence[jax.Device] | None = None) -> jax.Array:
    """The corpus on the device, for many searches; rows of NaN fill it up.

    Args:
      corpus: float [m, d]. On a CPU its memory may be shared: do not write to it.
      devices: that hold equal shares; by default as many of this process as rows are
        worth.

    Returns:
      float32 [m or more, d], sharded by rows.
    """
    devices = _devices(len(corpus), devices)
    return _place(corpus, _up(len(corpus), _BLOCK * len(devices)), devices)


def top_k(
    queries: np.ndarray,
    corpus: np.ndarray | jax.Array,
    k: int,
    chunk: int = 1 << 16,
    devices: Sequence[jax.Device] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """The k best corpus rows of each query, exact.

    Args:
      queries: float [n, d].
      corpus: float [m, d]; an array or a memory map goes through the device in chunks,
        so that memory does not grow with it. Or what `place` returns.
      k: at least 1; places beyond m stay empty.
      chunk: corpus rows on the device at a time.
      devices: as of `place`, where the corpus is not placed yet.

    Returns:
      Scores float32 [n, k] and row indices int32 [n, k]; -inf and -1 where empty.
    """
    n, m = len(queries), len(corpus)
    if isinstance(corpus, jax.Array):
        mesh, chunk = corpus.sharding.mesh, m
        parts = iter([(0, corpus)])
    else:
        devices = _devices(m, devices)
        mesh, step = _mesh(devices), _BLOCK * len(devices)
        chunk = min(_up(chunk, step), _up(m, step))
        parts = (
            (c, _place(corpus[c : c + chunk], chunk, devices))
            for c in range(0, m, chunk)
        )
    rows = _query_rows(n, chunk)
    everywhere = NamedSharding(mesh, _WHOLE)
    steps = [_pad(queries[q : q + rows], rows) for q in range(0, n, rows)]
    steps = jax.device_put(steps, everywhere)
    empty = np.full((rows, k), -np.inf, np.float32), np.full((rows, k), -1, np.int32)
    best = [jax.device_put(empty, everywhere) for _ in steps]
    for offset, part in parts:
        # The chunk before is searched while this one is read; no more are held.
        jax.block_until_ready(best)
        offset = jax.device_put(np.int32(offset), everywhere)
        best = [
            _merge(found, query, part, offset, k=k, mesh=mesh)
            for found, query in zip(best, steps, strict=True)
        ]
    scores, indices = (np.concatenate([np.asarray(b[i]) for b in best]) for i in (0, 1))
    return scores[:n], indices[:n]


def rank(
    queries: np.ndarray,
    corpus: np.ndarray,
    positives: Sequence[np.ndarray],
    k: int = 10,
    candidates: Sequence[np.ndarray] | None = None,
    devices: Sequence[jax.Device] | None = None,
) -> Ranking:
    """Ranks the corpus, or each query's candidates, and finds the best positive.

    Args:
      queries: float [n, d]; corpus: float [m, d].
      positives: n arrays of relevant corpus rows, distinct, none empty.
      k: answers kept per query.
      candidates: n arrays of corpus rows; only these compete for their query.
      devices: that the corpus is spread over, as in `place`; not with candidates.
    """
    n = len(queries)
    if candidates is None:
        whole = place(corpus, devices)
        mesh, width = whole.sharding.mesh, len(whole)
        rows = _query_rows(n, width)
        places, wanted = None, positives
    else:
        mesh = _mesh(jax.local_devices()[:1])
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
    everywhere = NamedSharding(mesh, _WHOLE)
    out = []
    for q in range(0, n, rows):
        query = _pad(queries[q : q + rows], rows)
        relevant = _pad(wanted[q : q + rows], rows, -1)
        query, relevant = jax.device_put((query, relevant), everywhere)
        if places is None:
            found = _rank_whole(query, whole, relevant, k=min(k, width), mesh=mesh)
        else:
            rows_of = _pad(places[q : q + rows], rows, -1)
            part = np.asarray(corpus, np.float32)[rows_of]
            part, rows_of = jax.device_put((part, rows_of), everywhere)
            found = _rank_candidates(
                query, part, rows_of, relevant, k=min(k, width), mesh=mesh
            )
        out.append([np.asarray(x)[: n - q] for x in found])
    scores, indices, ranks, tied = (np.concatenate(x) for x in zip(*out, strict=True))
    if (short := k - scores.shape[1]) > 0:
        scores = np.pad(scores, ((0, 0), (0, short)), constant_values=-np.inf)
        indices = np.pad(indices, ((0, 0), (0, short)), constant_values=-1)
    if places is not None:
        rows_of = np.take_along_axis(places, np.maximum(indices, 0), axis=1)
        indices = np.where(indices >= 0, rows_of, -1)
    ranks = np.where(ranks > 0, ranks, np.inf)
    return Ranking(indices.astype(np.int32), scores, ranks, tied)


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
    # One search over (query, row) pairs, as numbers; -1 becomes the row 0 of nothing.
    lengths = [len(p) for p in positives]
    rows = np.concatenate(positives) + 1
    width = 1 + max(rows.max(), indices.max() + 1)
    pairs = np.unique(np.repeat(np.arange(len(lengths)), lengths) * width + rows)
    asked = np.arange(len(indices))[:, None] * width + indices[:, :k] + 1
    hits = np.isin(asked, pairs)
    sizes = np.bincount(pairs // width)
    return (hits * gains).sum(1) / ideal[np.minimum(sizes, k) - 1]


def reciprocal_rank(ranks: np.ndarray) -> np.ndarray:
    """float64 [n]: 1 / rank of the best positive, 0 where it was never found."""
    return 1.0 / ranks


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


@functools.partial(jax.jit, static_argnames=("k", "mesh"))
def _merge(best, queries, part, offset, *, k, mesh):
    def local(queries, part):
        scores, columns = _select(_scores(queries, part, "nd,md->nm"), k)
        return scores, columns + jax.lax.axis_index("rows") * len(part)

    scores, columns = jax.shard_map(
        local, mesh=mesh, in_specs=(_WHOLE, _SPREAD), out_specs=_COLUMNS
    )(queries, part)
    # What was found before has lower indices, so it stands first.
    scores = jnp.concatenate([best[0], scores], axis=1)
    indices = jnp.concatenate([best[1], columns + offset], axis=1)
    return _best(scores, indices, k, mesh)


def _best(scores, indices, k, mesh):
    """The k best of [n, m], on every device; ties to the lower column."""
    scores, place = jax.lax.top_k(scores, min(k, scores.shape[1]))
    indices = jnp.take_along_axis(indices, place, axis=1)
    found = scores, jnp.where(scores > -jnp.inf, indices, -1)
    return jax.lax.with_sharding_constraint(found, NamedSharding(mesh, _WHOLE))


def _rank(scores, relevant, k):
    """Of a device's columns [n, m]: its k best, and ranks and ties among all columns.

    Args:
      relevant: int32 [n, p], columns of all devices, -1 for none.
    """
    m = scores.shape[1]
    first_column = jax.lax.axis_index("rows") * m
    best, columns = _select(scores, k)
    here = relevant - first_column
    held = jnp.take_along_axis(scores, jnp.clip(here, 0, m - 1), axis=1)
    held = jnp.where((relevant >= 0) & (here >= 0) & (here < m), held, -jnp.inf)
    top = jax.lax.pmax(held.max(1, keepdims=True), "rows")
    level = held == top
    found = top[:, 0] > -jnp.inf
    first = jnp.where(level, here + first_column, jnp.iinfo(jnp.int32).max)
    first = jax.lax.pmin(first.min(1, keepdims=True), "rows")
    ahead = (scores > top) | ((scores == top) & (jnp.arange(m) + first_column < first))
    ahead, others = jax.lax.psum(
        (ahead.sum(1), (scores == top).sum(1) - level.sum(1)), "rows"
    )
    ranks = jnp.where(found, ahead + 1, 0)
    return best, columns + first_column, ranks, found & (others > 0)


_RANKED = (_COLUMNS, _COLUMNS, _WHOLE, _WHOLE)


@functools.partial(jax.jit, static_argnames=("k", "mesh"))
def _rank_whole(queries, corpus, relevant, *, k, mesh):
    def local(queries, corpus, relevant):
        return _rank(_scores(queries, corpus, "nd,md->nm"), relevant, k)

    best, columns, *rest = jax.shard_map(
        local, mesh=mesh, in_specs=(_WHOLE, _SPREAD, _WHOLE), out_specs=_RANKED
    )(queries, corpus, relevant)
    return *_best(best, columns, k, mesh), *rest


@functools.partial(jax.jit, static_argnames=("k", "mesh"))
def _rank_candidates(queries, rows, rows_of, relevant, *, k, mesh):
    def local(queries, rows, rows_of, relevant):
        scores = _scores(queries, rows, "nd,nmd->nm")
        return _rank(jnp.where(rows_of >= 0, scores, -jnp.inf), relevant, k)

    # Of one device: lists are short.
    best, columns, *rest = jax.shard_map(
        local, mesh=mesh, in_specs=_WHOLE, out_specs=_RANKED
    )(queries, rows, rows_of, relevant)
    return *_best(best, columns, k, mesh), *rest


def _devices(rows: int, devices: Sequence[jax.Device] | None) -> Sequence[jax.Device]:
    return devices or jax.local_devices()[: max(1, rows // _ROWS_EACH)]


def _mesh(devices: Sequence[jax.Device]) -> Mesh:
    return Mesh(np.array(devices), ("rows",))


def _place(corpus, length: int, devices: Sequence[jax.Device]) -> jax.Array:
    """Rows as float32, filled up to `length` with NaN, in equal parts."""

    def part(at: tuple[slice, slice]) -> np.ndarray:
        start, stop, _ = at[0].indices(length)
        rows = corpus[start:stop]
        if len(rows) == stop - start:
            return np.asarray(rows, np.float32)
        return _pad(rows, stop - start)

    return jax.make_array_from_callback(
        (length, corpus.shape[1]), NamedSharding(_mesh(devices), _SPREAD), part
    )


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
