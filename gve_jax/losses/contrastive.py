"""The losses of a training step."""

from collections.abc import Iterable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from ml_collections import ConfigDict

from gve_jax.losses.exchange import Batch, choose, pair_losses
from gve_jax.losses.tiles import MASKED, Rules
from gve_jax.types import PairBatch, UserError


class LossCurves(NamedTuple):
    """What the paper logs and what the masks took, each a float32 scalar."""

    loss: jax.Array
    positive_score: jax.Array  # mean cosine of the positives
    mean_score: jax.Array  # mean cosine of all in-batch pairs
    hard_gap: jax.Array  # mean of (positive - its hardest unmasked negative)
    accuracy: jax.Array  # share of queries whose positive scores highest
    # Negatives of a query that are left out, on average: as positives in disguise ...
    masked_identity: jax.Array
    masked_score: jax.Array  # ... and, of the others, for scoring too high


def contrastive_loss(
    query: jax.Array,
    target: jax.Array,
    negatives: jax.Array | None,
    batch: PairBatch,
    loss: ConfigDict,
    temperature: jax.Array | float,
    mesh: Mesh | None = None,
) -> tuple[jax.Array, LossCurves]:
    """The loss of a training step: InfoNCE and what `config.loss` adds to it.

    With `matryoshka` it is the mean over the whole vectors and their prefixes of these
    lengths, normalised anew (Kusupati et al. 2022, arXiv 2205.13147). `distillation`
    is the weight of that loss, which is of the whole vectors.

    Args:
      query, target: [b, d] unit vectors.
      negatives: [b*k, d] unit vectors, those of row 0 first.
      batch: its ids are used, its kinds with `modality_mask`, and its scores with
        `distillation`.
      loss: `config.loss`.
      temperature: above 0; in training it may follow a schedule.
      mesh: what the batch is spread over; None: one device has all of it.

    Returns:
      The scalar loss in float32 and its curves; but for `loss` itself they are those of
      InfoNCE of the whole vectors.

    Raises:
      UserError: an unknown `loss.exchange`; `loss.matryoshka` outside of 1..d-1.
      ValueError: a modality mask without kinds.
    """
    d = query.shape[1]
    for dim in loss.matryoshka:
        if not 0 < dim < d:
            raise UserError(
                f"loss.matryoshka: {dim} is not between 0 and the {d} dimensions of "
                "the embeddings; leave it out"
            )
    kinds = {}
    if loss.modality_mask:
        if batch.target_kinds is None:
            raise ValueError("loss.modality_mask: the batch has no target_kinds")
        kinds = dict(
            target_kinds=batch.target_kinds, negative_kinds=batch.negative_kinds
        )
    parts = [
        info_nce(
            *vectors,
            temperature=temperature,
            query_weight=loss.query_weight,
            mask_margin=loss.mask_margin,
            query_ids=batch.query_ids,
            target_ids=batch.target_ids,
            source_ids=batch.source_ids,
            negative_ids=batch.negative_ids,
            **kinds,
            hardness=loss.hardness,
            mesh=mesh,
            exchange=loss.exchange,
        )
        for vectors in _prefixes((query, target, negatives), loss.matryoshka)
    ]
    total = jnp.mean(jnp.stack([value for value, _ in parts]))
    if loss.distillation and negatives is not None:
        total += loss.distillation * distillation(
            query, target, negatives, batch.negative_ids, batch.scores, temperature
        )
    return total, parts[0][1]._replace(loss=jax.lax.stop_gradient(total))


def info_nce(
    query: jax.Array,
    target: jax.Array,
    negatives: jax.Array | None = None,
    *,
    temperature: jax.Array | float,
    query_weight: float = 0.5,
    mask_margin: float = 0.1,
    query_ids: jax.Array,
    target_ids: jax.Array,
    source_ids: jax.Array,
    negative_ids: jax.Array | None = None,
    target_kinds: jax.Array | None = None,
    negative_kinds: jax.Array | None = None,
    hardness: float = 0.0,
    mesh: Mesh | None = None,
    exchange: str = "auto",
) -> tuple[jax.Array, LossCurves]:
    """Symmetric InfoNCE over the whole batch, as GVE is trained (arXiv 2510.27571).

    Row i's positive is target i. Its negatives are the other rows' targets and, from
    query to target, every hard negative of the batch. A negative is left out of the
    denominator where it is the positive in disguise: same source, same query content,
    same target content (by id), or scoring above the positive by more than
    `mask_margin`; and, given kinds, where its kind is not that of the row's target
    (MAMCL of UNITE, Kong et al. 2025, arXiv 2505.19650).

    Args:
      query, target: [b, d] unit vectors.
      negatives: [b*k, d] unit vectors; those of row 0 first.
      temperature: above 0; the paper uses 0.03. No gradient is taken of it.
      query_weight: weight of query->target in 0..1; the rest is target->query.
      mask_margin: in cosine; the paper's code uses 0.1.
      query_ids, target_ids, source_ids: int32 [b] content hashes, at least 0.
      negative_ids: int32 [b*k] content hashes, -1 where a slot is unused; needed with
        `negatives`.
      target_kinds, negative_kinds: int32 [b] and [b*k] modalities, at least 0.
      hardness: a negative's logit is its score / temperature + hardness * its score,
        the latter a constant, so that hard ones weigh more (LLaVE, Lan et al. 2025,
        arXiv 2503.04812, with 9).
      mesh: what the batch is spread over; None: one device has all of it.
      exchange: "gather", "ring" or "auto": a ring where much would be gathered.

    Returns:
      The scalar loss in float32 and its curves.

    Raises:
      UserError: an unknown `exchange`.
    """
    # float32: at temperature 0.03 a bfloat16 cosine is off by up to 0.13 logits.
    query, target = query.astype(jnp.float32), target.astype(jnp.float32)
    b, d = query.shape
    labels = _labels(jnp.arange(b), query_ids, target_ids, source_ids, target_kinds)
    negative_labels = None
    if negatives is not None:
        negatives = negatives.astype(jnp.float32)
        none = jnp.full(len(negatives), -1)
        negative_labels = _labels(none, none, negative_ids, none, negative_kinds)
    rows = b if negatives is None else b + len(negatives)
    losses, (positive, totals) = pair_losses(
        choose(exchange, mesh, rows, d),
        Rules(*map(jnp.float32, (temperature, mask_margin, hardness))),
        Batch(query, target, negatives, labels, negative_labels),
    )
    loss = query_weight * jnp.mean(losses.row)
    loss += (1 - query_weight) * jnp.mean(losses.column)

    has_negative = totals.hardest > MASKED / 2
    gap = jnp.where(has_negative, positive - totals.hardest, 0.0)
    curves = LossCurves(
        loss=loss,
        positive_score=jnp.mean(positive),
        # The mean of all products is the product of the means.
        mean_score=jnp.sum(jnp.mean(query, axis=0) * jnp.mean(target, axis=0)),
        hard_gap=jnp.sum(gap) / jnp.maximum(jnp.sum(has_negative), 1),
        accuracy=jnp.mean((positive >= totals.hardest).astype(jnp.float32)),
        masked_identity=jnp.mean(totals.identity.astype(jnp.float32)),
        masked_score=jnp.mean(totals.score.astype(jnp.float32)),
    )
    return loss, jax.tree.map(jax.lax.stop_gradient, curves)


def distillation(
    query: jax.Array,
    target: jax.Array,
    negatives: jax.Array,
    negative_ids: jax.Array,
    scores: jax.Array,
    temperature: jax.Array | float,
) -> jax.Array:
    """Cross entropy to a teacher's ranking of each query's target and hard negatives.

    Mean over rows of -sum p log s, with p and s the softmax over [target, own k
    negatives] of the teacher's and of our scores / temperature (as Qwen3-VL-Embedding
    does with its reranker, Li et al. 2026, arXiv 2601.04720). Rows without all scores
    are left out.

    Args:
      query, target: [b, d] unit vectors.
      negatives: [b*k, d] unit vectors, those of row 0 first.
      negative_ids: int32 [b*k], -1 where a slot is unused.
      scores: float32 [b, 1 + k], NaN where there are none.
      temperature: above 0. No gradient is taken of it.

    Returns:
      float32 scalar, 0 where no row has scores.
    """
    query, target, negatives = (
        x.astype(jnp.float32) for x in (query, target, negatives)
    )
    b, d = query.shape
    temperature = jax.lax.stop_gradient(temperature)
    positive = jnp.sum(query * target, axis=1, keepdims=True)
    ours = jnp.einsum(
        "bd,bkd->bk",
        query,
        negatives.reshape(b, -1, d),
        precision=jax.lax.Precision.HIGHEST,
    )
    ours = jnp.concatenate([positive, ours], axis=1)  # [b 1+k]
    used = jnp.pad(negative_ids.reshape(b, -1), ((0, 0), (1, 0))) >= 0

    def logits(values):
        return jnp.where(used, values / temperature, MASKED)

    known = ~jnp.any(jnp.isnan(scores) & used, axis=1)  # [b]
    theirs = jax.nn.softmax(logits(jnp.nan_to_num(scores)))
    entropy = -jnp.sum(theirs * jax.nn.log_softmax(logits(ours)), axis=1)
    return jnp.sum(jnp.where(known, entropy, 0.0)) / jnp.maximum(jnp.sum(known), 1)


def _labels(*columns: jax.Array | None) -> jax.Array:
    """int32 [n 5], zeros for what is not given."""
    first = columns[0]
    given = [jnp.zeros_like(first) if x is None else x for x in columns]
    return jnp.stack([jnp.asarray(x, jnp.int32) for x in given], axis=1)


def _prefixes(vectors: tuple, dims: Iterable[int]) -> list[tuple]:
    """`vectors`, then their leading dimensions as unit vectors."""

    def cut(x, dim):
        x = x[:, :dim].astype(jnp.float32)
        return x * jax.lax.rsqrt(jnp.sum(x * x, axis=1, keepdims=True) + 1e-24)

    return [vectors] + [
        jax.tree.map(lambda x, dim=dim: cut(x, dim), vectors) for dim in dims
    ]
