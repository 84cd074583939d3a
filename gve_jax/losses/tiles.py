"""The score matrix, tile by tile: log-sum-exps of its negatives, and its gradient.

Only vectors are kept: scores are computed once on the way forth, for both directions,
and again on the way back. Shape letters: b queries, n candidates, c candidates of a
tile, d dimensions.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

# Large and finite: exp() gives exactly 0, and a sum of nothing is no NaN.
MASKED = -1e9
# Scores of a tile, 8 MiB, unless it would be narrower than the lanes of a TPU.
TILE = 1 << 21
_LANES = 128


class Rules(NamedTuple):
    """float32 scalars."""

    temperature: jax.Array
    mask_margin: jax.Array
    hardness: jax.Array


class Side(NamedTuple):
    """Queries, or what they are compared with: targets, then hard negatives."""

    vectors: jax.Array  # float32 [n d]
    # int32 [n 5]: row of the batch, ids of query, target and source, kind of the
    # target. A hard negative has the id and kind of its own, and -1 else; a target id
    # of -1 takes no part.
    labels: jax.Array
    # float32 [n], score of the pair; MASKED of hard negatives: every score exceeds it,
    # so that they have no negatives themselves.
    positive: jax.Array


class LogSum(NamedTuple):
    """Of exp(logits) so far, float32 [n]: total * exp(top). Added to many times, a
    logarithm would be rounded each time."""

    top: jax.Array
    total: jax.Array

    @classmethod
    def none(cls, n: int) -> "LogSum":
        return cls(jnp.full(n, MASKED), jnp.zeros(n))

    def add(self, logits: jax.Array, axis: int) -> "LogSum":
        """With these, [n c] or, along axis 0, [c n]."""
        top = jnp.maximum(self.top, jnp.max(logits, axis))
        added = jnp.sum(jnp.exp(logits - jnp.expand_dims(top, axis)), axis)
        return LogSum(top, self.total * jnp.exp(self.top - top) + added)

    def log(self) -> jax.Array:
        return self.top + jnp.log(self.total)


class RowTotals(NamedTuple):
    """What the negatives of each query came to so far; [b]."""

    logits: LogSum
    hardest: jax.Array  # float32, highest score
    identity: jax.Array  # int32, how many were left out as positives in disguise
    score: jax.Array  # int32, and how many more for scoring too high

    @classmethod
    def none(cls, b: int) -> "RowTotals":
        zeros = jnp.zeros(b, jnp.int32)
        return cls(LogSum.none(b), jnp.full(b, MASKED), zeros, zeros)


def add_scores(
    rules: Rules, rows: Side, columns: Side, sums: tuple[RowTotals, LogSum]
) -> tuple[RowTotals, LogSum]:
    """`sums`, of rows and of columns, with these scores added."""

    def step(i, carry):
        totals, by_column = carry
        start, part = _cut(columns, rows, i)
        tile = _tile(rules, rows, part)
        negatives = jnp.where(tile.row_mask, MASKED, tile.scores)
        totals = RowTotals(
            totals.logits.add(tile.row_logits, axis=1),
            jnp.maximum(totals.hardest, jnp.max(negatives, axis=1)),
            totals.identity + jnp.sum(tile.identity, axis=1),
            totals.score + jnp.sum(tile.row_mask & tile.candidate, axis=1),
        )
        seen = _slice(by_column, start, len(part.labels))
        seen = seen.add(tile.column_logits, axis=0)
        return totals, _update(by_column, start, seen)

    return lax.fori_loop(0, _count(columns, rows), step, sums)


class Outcome(NamedTuple):
    """Of rows or columns, float32 [n]: what the way back needs of the way forth."""

    loss: jax.Array
    weight: jax.Array  # its cotangent over the temperature


def add_gradients(
    rules: Rules,
    rows: Side,
    by_row: Outcome,
    block: tuple[Side, Outcome],
    grads: tuple[jax.Array, jax.Array],
) -> tuple[jax.Array, jax.Array]:
    """`grads` of rows [b d] and columns [n d] with those of these negatives added."""
    columns, by_column = block

    def step(i, carry):
        d_rows, d_columns = carry
        start, part = _cut(columns, rows, i)
        out = _slice(by_column, start, len(part.labels))
        tile = _tile(rules, rows, part)
        # exp(logit - loss): a negative's share of the denominator.
        share = by_row.weight[:, None] * jnp.exp(tile.row_logits - by_row.loss[:, None])
        share += out.weight * jnp.exp(tile.column_logits - out.loss)
        d_rows += _matmul("bc,cd->bd", share, part.vectors)
        added = _slice(d_columns, start, len(part.labels))
        added += _matmul("bc,bd->cd", share, rows.vectors)
        return d_rows, _update(d_columns, start, added)

    return lax.fori_loop(0, _count(columns, rows), step, grads)


class _Tile(NamedTuple):
    """[b c]; logits are less the positive's own, and MASKED where left out."""

    scores: jax.Array
    candidate: jax.Array
    identity: jax.Array
    row_mask: jax.Array
    row_logits: jax.Array
    column_logits: jax.Array


def _tile(rules: Rules, rows: Side, columns: Side) -> _Tile:
    scores = _matmul("bd,cd->bc", rows.vectors, columns.vectors)
    row, query, target, source, kind = rows.labels.T[:, :, None]  # each [b 1]
    row_c, query_c, target_c, source_c, kind_c = columns.labels.T  # each [c]
    negative = (row != row_c) & (kind == kind_c) & (target_c >= 0)
    same = (query == query_c) | (target == target_c) | (source == source_c)
    candidate = negative & ~same

    def logits(positive):
        mask = ~candidate | (scores > positive + rules.mask_margin)
        # Less the positive's score before the division: near 0 where it matters, so
        # that a small loss keeps its digits.
        raw = (scores - positive) / rules.temperature + rules.hardness * scores
        return mask, jnp.where(mask, MASKED, raw)

    row_mask, row_logits = logits(rows.positive[:, None])
    _, column_logits = logits(columns.positive)
    return _Tile(
        scores, candidate, negative & same, row_mask, row_logits, column_logits
    )


def _matmul(spec: str, a: jax.Array, b: jax.Array) -> jax.Array:
    # By default GPUs and TPUs would round float32 to tf32 or bfloat16: at temperature
    # 0.03 a bfloat16 cosine is off by up to 0.13 logits.
    return jnp.einsum(spec, a, b, precision=lax.Precision.HIGHEST)


def _count(columns: Side, rows: Side) -> int:
    n, b = len(columns.positive), len(rows.positive)
    return -(-n // max(_LANES, TILE // b))


def _cut(columns: Side, rows: Side, i: jax.Array) -> tuple[jax.Array, Side]:
    """Where tile i starts, and its columns.

    All tiles are of one width. Columns that the last shares with the one before take
    no part in it, which spares a padded copy of them all.
    """
    n = len(columns.positive)
    width = -(-n // _count(columns, rows))
    start = jnp.minimum(i * width, n - width)
    part = _slice(columns, start, width)
    fresh = start + jnp.arange(width) >= i * width
    return start, part._replace(labels=jnp.where(fresh[:, None], part.labels, -1))


def _slice(arrays: Any, start: jax.Array, width: int) -> Any:
    return jax.tree.map(lambda x: lax.dynamic_slice_in_dim(x, start, width), arrays)


def _update(arrays: Any, start: jax.Array, parts: Any) -> Any:
    return jax.tree.map(
        lambda x, part: lax.dynamic_update_slice_in_dim(x, part, start, 0),
        arrays,
        parts,
    )
