"""Optimiser, training state and the two pure halves of a training step.

Gradients depend on the shapes of a batch, the update does not: compiled apart, the
update is compiled once.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from ml_collections import ConfigDict

from gve_jax.losses import LossCurves, contrastive_loss
from gve_jax.train.gradcache import encode_in_chunks
from gve_jax.types import EncoderInputs, PairBatch, UserError


class TrainState(NamedTuple):
    """All that a step changes. `trainable` holds the parameters being trained."""

    step: jax.Array  # int32 scalar: updates, the skipped ones included
    skipped: jax.Array  # int32 scalar: those whose gradients were not finite
    skipped_in_row: jax.Array  # int32 scalar: the last of them without another between
    trainable: nnx.State
    opt_state: optax.OptState


class UpdateMetrics(NamedTuple):
    """Scalars of one update."""

    grad_norm: jax.Array  # float32, before clipping
    learning_rate: jax.Array  # float32
    skipped: jax.Array  # as in the state
    skipped_in_row: jax.Array


def learning_rate(optim: ConfigDict, steps: int) -> optax.Schedule:
    """Linear warm-up, then cosine to `end_lr` at the last step."""
    return optax.warmup_cosine_decay_schedule(
        init_value=0.0 if optim.warmup_steps else optim.peak_lr,
        peak_value=optim.peak_lr,
        warmup_steps=optim.warmup_steps,
        # A run shorter than its warm-up ends in it.
        decay_steps=max(steps, optim.warmup_steps + 1),
        end_value=optim.end_lr,
    )


def temperature(loss: ConfigDict, step: jax.Array) -> jax.Array | float:
    """Falls by equal factors from the start's to the final one in `anneal_steps`."""
    if not loss.anneal_steps:
        return loss.temperature
    done = jnp.minimum(step / loss.anneal_steps, 1.0)
    ratio = loss.temperature / loss.start_temperature
    return loss.start_temperature * ratio**done


def make_optimizer(
    optim: ConfigDict, schedule: optax.Schedule
) -> optax.GradientTransformation:
    """`optim.name` with global-norm clipping; norms' scales and biases do not decay.

    "muon" (Liu et al. 2025, arXiv 2502.16982) orthogonalises the updates of the linear
    layers, scaled to the size of AdamW's; all else (token embedding, biases, norms)
    stays with AdamW, with Nesterov's momentum.

    Raises:
      UserError: an unknown name.
    """

    def decays(params: Any) -> Any:
        return jax.tree_util.tree_map_with_path(lambda path, _: _decays(path), params)

    if optim.name == "adamw":
        rule = optax.adamw(
            schedule,
            b1=optim.b1,
            b2=optim.b2,
            weight_decay=optim.weight_decay,
            mask=decays,
        )
    elif optim.name == "muon":
        rule = optax.contrib.muon(
            schedule,
            weight_decay=optim.weight_decay,
            adam_b1=optim.b1,
            adam_b2=optim.b2,
            consistent_rms=0.2,  # about that of AdamW's updates
            muon_weight_dimension_numbers=_matrices,
        )
    else:
        raise UserError(f'optim.name: {optim.name!r} is neither "adamw" nor "muon"')
    return optax.chain(optax.clip_by_global_norm(optim.clip_norm), rule)


def _decays(path: tuple) -> bool:
    name = jax.tree_util.keystr(path)
    return "norm" not in name and "bias" not in name


def _matrices(params: Any) -> Any:
    """Which axes of a linear layer's weight are its input and its output."""

    def dimensions(path: tuple, variable: nnx.Variable) -> Any:
        axes = variable.get_metadata("axes")
        first = int(axes[0] == "layers")  # a stack holds one matrix per layer
        dims = None
        if _decays(path) and "vocab" not in axes:
            outputs = tuple(range(first + 1, len(axes)))
            dims = optax.contrib.MuonDimensionNumbers(first, outputs)
        return jax.tree.map(lambda _: dims, variable)

    return jax.tree_util.tree_map_with_path(
        dimensions, params, is_leaf=lambda x: isinstance(x, nnx.Variable)
    )


def make_gradient(
    graphdef: nnx.GraphDef, config: ConfigDict, mesh: jax.sharding.Mesh
) -> Callable[..., tuple[nnx.State, LossCurves]]:
    """(trainable, frozen, batch, step, part) -> (gradients of `trainable`, curves).

    Pure. `step` and `part` are int32 scalars: updates done before, and the number of
    this batch among those that are averaged for the next.

    The frozen parameters are an argument, never a closure constant: XLA would fold
    gigabytes of them into the program.
    """
    dropout = config.model.trainable == "lora" and config.model.lora.dropout > 0

    def encode(params, inputs: EncoderInputs, key: jax.Array | None) -> jax.Array:
        return nnx.merge(graphdef, *params)(inputs, dropout_key=key)

    encode = functools.partial(
        encode_in_chunks, encode, chunk=config.train.chunk, mesh=mesh
    )

    def loss_fn(
        trainable: nnx.State,
        frozen: nnx.State,
        batch: PairBatch,
        step: jax.Array,
        part: jax.Array,
    ) -> tuple[jax.Array, LossCurves]:
        params = trainable, frozen
        keys = [None] * 3
        if dropout:
            key = jax.random.fold_in(jax.random.key(config.seed), step)
            keys = jax.random.split(jax.random.fold_in(key, part), 3)
        negatives = None
        if batch.negatives is not None:
            negatives = encode(params, batch.negatives, keys[2])
        return contrastive_loss(
            encode(params, batch.query, keys[0]),
            encode(params, batch.target, keys[1]),
            negatives,
            batch,
            config.loss,
            temperature(config.loss, step),
            mesh,
        )

    return jax.grad(loss_fn, has_aux=True)


def make_update(
    optimizer: optax.GradientTransformation,
    schedule: optax.Schedule,
    accumulate: int = 1,
) -> Callable[[TrainState, nnx.State], tuple[TrainState, UpdateMetrics]]:
    """(state, sum of the gradients of `accumulate` batches) -> (next state, metrics).

    Pure. An update whose gradients are not finite is skipped: the step counts, the
    weights and the optimiser stay.
    """

    def update(state: TrainState, grads: nnx.State) -> tuple[TrainState, UpdateMetrics]:
        grads = jax.tree.map(lambda g: g / accumulate, grads)
        norm = optax.tree.norm(grads)
        finite = jnp.isfinite(norm)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.trainable)
        trainable = optax.apply_updates(state.trainable, updates)
        keep = lambda new, old: jnp.where(finite, new, old)  # noqa: E731
        metrics = UpdateMetrics(
            grad_norm=norm,
            learning_rate=jnp.asarray(schedule(state.step), jnp.float32),
            skipped=state.skipped + ~finite,
            skipped_in_row=jnp.where(finite, 0, state.skipped_in_row + 1),
        )
        state = TrainState(
            step=state.step + 1,
            skipped=metrics.skipped,
            skipped_in_row=metrics.skipped_in_row,
            trainable=jax.tree.map(keep, trainable, state.trainable),
            opt_state=jax.tree.map(keep, opt_state, state.opt_state),
        )
        return state, metrics

    return update
