"""InfoNCE over a batch that devices share: every query meets every target.

Each device keeps its own queries. It sees the targets and hard negatives of all others
either at once ("gather") or block by block, passed around ("ring"), as Inf-CL does on
GPUs (Cheng et al. 2024, arXiv 2410.17243). A score serves both directions, so queries
never travel: the log-sum-exps of the columns do, one number each. The derivative is
written by hand and collective too; between the ways forth and back only embeddings and
such vectors are kept.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import Mesh, PartitionSpec

from gve_jax.losses.tiles import (
    MASKED,
    LogSum,
    Outcome,
    RowTotals,
    Rules,
    Side,
    add_gradients,
    add_scores,
)
from gve_jax.sharding import RULES, batch_ways
from gve_jax.types import UserError

# Gathered float32 embeddings beyond this are passed around instead.
_GATHER_BYTES = 64 << 20
_AXES = RULES["batch"]
_BATCH, _WHOLE = PartitionSpec(_AXES), PartitionSpec()


class Exchange(NamedTuple):
    """How devices see each other's rows; no mesh: one device has them all."""

    form: str  # "alone", "gather" or "ring"
    mesh: Mesh | None


class PairLosses(NamedTuple):
    """float32 [b]: -log of the positive's share, positive and its negatives being 1."""

    row: jax.Array  # among targets and hard negatives, of the query
    column: jax.Array  # among queries, of the target


class PairScores(NamedTuple):
    """What curves are made of, without derivative."""

    positive: jax.Array  # float32 [b]
    totals: RowTotals  # of the queries' negatives


def choose(form: str, mesh: Mesh | None, rows: int, d: int) -> Exchange:
    """The exchange of `rows` targets and hard negatives [rows d] of a whole batch.

    Raises:
      UserError: an unknown form.
    """
    if form not in ("auto", "gather", "ring"):
        raise UserError(f'loss.exchange: {form!r} is none of "auto", "gather", "ring"')
    if mesh is None or batch_ways(mesh) == 1:
        return Exchange("alone", None)
    if form == "auto":
        form = "ring" if rows * d * 4 > _GATHER_BYTES else "gather"
    return Exchange(form, mesh)


class Batch(NamedTuple):
    """Of b pairs with k hard negatives each."""

    query: jax.Array  # float32 [b d]
    target: jax.Array  # float32 [b d]
    negatives: jax.Array | None  # float32 [b*k d]
    labels: jax.Array  # int32 [b 5], as in Side
    negative_labels: jax.Array | None  # int32 [b*k 5]


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def pair_losses(
    exchange: Exchange, rules: Rules, batch: Batch
) -> tuple[PairLosses, PairScores]:
    """The losses of all pairs, with derivatives by the embeddings alone."""
    return _forth(exchange, rules, batch)[0]


def _forth(exchange: Exchange, rules: Rules, batch: Batch) -> tuple:
    gather = exchange.form == "gather"

    def local(rules, batch):
        positive = jnp.sum(batch.query * batch.target, axis=1)
        rows, columns = _sides(batch, positive)
        if gather:
            columns = lax.all_gather(columns, _AXES, tiled=True)
        totals, by_column = _meet(
            exchange,
            functools.partial(add_scores, rules, rows),
            columns,
            (RowTotals.none(len(positive)), LogSum.none(len(columns.positive))),
        )
        lse = by_column.log()
        if gather:  # what each device found of everyone's columns
            parts = lse.reshape(batch_ways(exchange.mesh), -1)
            lse = jax.nn.logsumexp(lax.all_to_all(parts, _AXES, 0, 0), axis=0)
        both = totals.logits.log(), lse[: len(positive)]
        losses = PairLosses(*map(jax.nn.softplus, both))
        return losses, PairScores(positive, totals), columns if gather else None

    run = _on_mesh(exchange, local, (_BATCH, _BATCH, _WHOLE))
    losses, scores, gathered = run(rules, batch)
    return (losses, scores), (rules, batch, losses, scores.positive, gathered)


def _back(exchange: Exchange, kept: tuple, cotangents: tuple) -> tuple[None, Batch]:
    gather = exchange.form == "gather"
    rules, batch, losses, positive, gathered = kept
    weights = jax.tree.map(lambda x: x / rules.temperature, cotangents[0])

    def local(whole, split):
        rules, gathered = whole
        batch, positive, losses, weights = split
        b = len(positive)
        rows, columns = _sides(batch, positive)
        by_row, by_column = map(Outcome, losses, weights)
        # Hard negatives have no direction of their own: nothing of it weighs.
        extra = len(columns.positive) - b
        by_column = jax.tree.map(lambda x: jnp.pad(x, (0, extra)), by_column)
        if gather:
            columns = gathered
            by_column = lax.all_gather(by_column, _AXES, tiled=True)
        d_query, d_columns = _meet(
            exchange,
            functools.partial(add_gradients, rules, rows, by_row),
            (columns, by_column),
            (jnp.zeros_like(batch.query), jnp.zeros_like(columns.vectors)),
        )
        if gather:
            d_columns = lax.psum_scatter(d_columns, _AXES, tiled=True)
        # The positive's share less 1; expm1 keeps its digits where the loss is small.
        pull = sum(w * jnp.expm1(-x) for w, x in zip(weights, losses, strict=True))
        pull = pull[:, None]
        d_query += pull * batch.target
        d_target = d_columns[:b] + pull * batch.query
        d_negatives = d_columns[b:] if extra else None
        return Batch(d_query, d_target, d_negatives, None, None)

    run = _on_mesh(exchange, local, _BATCH)
    return None, run((rules, gathered), (batch, positive, losses, weights))


pair_losses.defvjp(_forth, _back)


def _sides(batch: Batch, positive: jax.Array) -> tuple[Side, Side]:
    rows = Side(batch.query, batch.labels, positive)
    columns = rows._replace(vectors=batch.target)
    if batch.negatives is not None:
        none = jnp.full(len(batch.negatives), MASKED)
        negatives = Side(batch.negatives, batch.negative_labels, none)
        columns = jax.tree.map(lambda *x: jnp.concatenate(x), columns, negatives)
    return rows, columns


def _meet(exchange: Exchange, visit: Callable, block: Any, sums: tuple) -> tuple:
    """`sums` (of the own rows, of the block's columns) after all that meet here did.

    In a ring a block and its sums go once around and come home.
    """
    if exchange.form != "ring":
        return visit(block, sums)
    ways = batch_ways(exchange.mesh)
    around = [(i, (i + 1) % ways) for i in range(ways)]

    def step(_, carry):
        block, sums = carry
        own, passing = visit(block, sums)
        block, passing = lax.ppermute((block, passing), _AXES, around)
        return block, (own, passing)

    return lax.fori_loop(0, ways, step, (block, sums))[1]


def _on_mesh(exchange: Exchange, run: Callable, out_specs: Any) -> Callable:
    """`run(whole, split)` on each device, `split` being its own rows."""
    if exchange.mesh is None:
        return run
    return jax.shard_map(
        run,
        mesh=exchange.mesh,
        in_specs=(_WHOLE, _BATCH),
        out_specs=out_specs,
        check_vma=False,  # no derivative goes through: they are those written above
    )
