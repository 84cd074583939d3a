"""Contrastive losses: arrays in, scalar and curves out."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

# Large and finite: exp() gives exactly 0 and gradients stay free of NaN.
_MASKED = -1e9


class LossCurves(NamedTuple):
    """What the paper logs, each a float32 scalar."""

    loss: jax.Array
    positive_score: jax.Array  # mean cosine of the positives
    mean_score: jax.Array  # mean cosine of all in-batch pairs
    hard_gap: jax.Array  # mean of (positive - its hardest unmasked negative)
    accuracy: jax.Array  # share of queries whose positive scores highest


def info_nce(
    query: jax.Array,
    target: jax.Array,
    *,
    temperature: float,
    query_weight: float = 0.5,
    mask_margin: float = 0.1,
    query_ids: jax.Array,
    target_ids: jax.Array,
    source_ids: jax.Array,
    negatives: jax.Array | None = None,
    negative_ids: jax.Array | None = None,
) -> tuple[jax.Array, LossCurves]:
    """Symmetric InfoNCE over the whole batch (METHOD section 3).

    Row i's positive is target i. Its negatives are the other rows' targets and, from
    query to target, every hard negative of the batch. A negative is left out of the
    denominator where it is the positive in disguise: same source, same query content,
    same target content (by id), or scoring above the positive by more than
    `mask_margin`.

    Args:
      query, target: [b, d] unit vectors.
      temperature: above 0; the paper uses 0.03.
      query_weight: weight of query->target in 0..1; the rest is target->query.
      mask_margin: in cosine; the paper's code uses 0.1.
      query_ids, target_ids, source_ids: int32 [b] content hashes.
      negatives: [b*k, d] unit vectors; those of row 0 first.
      negative_ids: int32 [b*k] content hashes, -1 where a slot is unused; needed with
        `negatives`.

    Returns:
      The scalar loss in float32 and its curves.
    """
    # float32: at temperature 0.03 a bfloat16 cosine is off by up to 0.13 logits.
    query, target = query.astype(jnp.float32), target.astype(jnp.float32)
    batch = query.shape[0]
    scores = query @ target.T  # [b b]
    positive = jnp.diagonal(scores)  # [b]

    def same(ids: jax.Array) -> jax.Array:
        return ids[:, None] == ids[None, :]

    diagonal = jnp.eye(batch, dtype=bool)
    duplicate = same(query_ids) | same(target_ids) | same(source_ids)
    limit = positive[:, None] + mask_margin  # [b 1]
    row_mask = (duplicate | (scores > limit)) & ~diagonal
    from_target = scores.T
    column_mask = (duplicate | (from_target > limit)) & ~diagonal

    row_scores = jnp.where(row_mask, _MASKED, scores)
    if negatives is not None:
        hard = query @ negatives.astype(jnp.float32).T  # [b b*k]
        hard_mask = (
            (hard > limit)
            | (negative_ids[None, :] == target_ids[:, None])
            | (negative_ids[None, :] < 0)
        )
        row_scores = jnp.concatenate(
            [row_scores, jnp.where(hard_mask, _MASKED, hard)], axis=1
        )
    column_scores = jnp.where(column_mask, _MASKED, from_target)

    def cross_entropy(rows: jax.Array) -> jax.Array:
        logits = rows / temperature
        return jnp.mean(jax.nn.logsumexp(logits, axis=1) - positive / temperature)

    loss = query_weight * cross_entropy(row_scores) + (
        1 - query_weight
    ) * cross_entropy(column_scores)
    off_diagonal = row_scores.at[jnp.arange(batch), jnp.arange(batch)].set(_MASKED)
    hardest = jnp.max(off_diagonal, axis=1)
    has_negative = hardest > _MASKED / 2
    gap = jnp.where(has_negative, positive - hardest, 0.0)
    curves = LossCurves(
        loss=loss,
        positive_score=jnp.mean(positive),
        mean_score=jnp.mean(scores),
        hard_gap=jnp.sum(gap) / jnp.maximum(jnp.sum(has_negative), 1),
        accuracy=jnp.mean((positive >= hardest).astype(jnp.float32)),
    )
    return loss, jax.tree.map(jax.lax.stop_gradient, curves)
