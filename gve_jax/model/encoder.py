"""The encoder: padded batches -> unit vectors."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name

from gve_jax.model.config import ModelConfig
from gve_jax.model.layers import LoRAParam
from gve_jax.model.rows import Rows, take_rows
from gve_jax.model.text import TextModel
from gve_jax.model.vision import VisionTower
from gve_jax.types import EncoderInputs, UserError

# The name of what a frozen vision tower made, for policies of rematerialisation.
FROZEN_FEATURES = "frozen_features"


class Encoder(nnx.Module):
    """A Qwen-VL model as an embedder: vision tower and language model.

    With `cfg.head` it generates text too; see `gve_jax.model.generate`.
    """

    def __init__(self, cfg: ModelConfig, rngs: nnx.Rngs):
        self.cfg = cfg
        self.visual = VisionTower(cfg, rngs)
        self.text = TextModel(cfg, rngs)

    def __call__(
        self,
        inputs: EncoderInputs,
        *,
        dropout_key: jax.Array | None = None,
        prune_last: bool = True,
    ) -> jax.Array:
        """Embeds a batch.

        Args:
          inputs: as `Processor.collate` or `packing.collate` make them; text-only
            batches have no `vision`.
          dropout_key: JAX key of LoRA's dropout; None: deterministic.
          prune_last: skip the work of the last layer that pooling throws away.

        Returns:
          float32 [b, d], unit vectors; [b*s, d] of packed rows, those where there is
          no item finite rubbish.
        """
        x, deep = self.embed_inputs(inputs)
        x = self.text(
            x,
            inputs.positions,
            Rows.of(inputs.lengths, inputs.segments),
            deep=deep,
            dropout_key=dropout_key,
            prune_last=prune_last,
        )
        # float32: a bfloat16 norm is off by up to half a percent.
        x = x.astype(jnp.float32)
        return x * jax.lax.rsqrt(jnp.sum(x * x, axis=-1, keepdims=True) + 1e-24)

    def embed_inputs(
        self, inputs: EncoderInputs
    ) -> tuple[jax.Array, Sequence[jax.Array]]:
        """What the language model sees: [b*l, d], and its DeepStack features."""
        x = self.text.embed(inputs.tokens.reshape(-1))
        if inputs.vision is None:
            return x, ()
        features = self.visual(inputs.vision)  # rows of b*p/4 units
        if self.cfg.lora_rank:
            # The tower is frozen: nothing of it is kept or done twice.
            features = jax.tree.map(_frozen, features)
        seen = inputs.visual_index.reshape(-1, 1) >= 0
        take = lambda rows: take_rows(rows, inputs.visual_index)  # noqa: E731
        x = jnp.where(seen, take(features.units), x)
        return x, [jnp.where(seen, take(rows), 0) for rows in features.deep]


def _frozen(x: jax.Array) -> jax.Array:
    return checkpoint_name(jax.lax.stop_gradient(x), FROZEN_FEATURES)


def abstract(cfg: ModelConfig) -> tuple[Any, nnx.State]:
    """(graphdef, parameters as ShapeDtypeStructs) without computing anything.

    Each leaf is an nnx.Variable whose metadata `axes` names its logical axes.
    """
    model = nnx.eval_shape(lambda: Encoder(cfg, nnx.Rngs(0)))
    return nnx.split(model)


def create(cfg: ModelConfig, seed: int, shardings=None) -> tuple[Any, nnx.State]:
    """(graphdef, random parameters), the same for any mesh.

    `nnx.merge(graphdef, params)(inputs)` embeds. `shardings`, of
    `gve_jax.sharding.shardings`, places the parameters as they are made.
    """
    graph, _ = abstract(cfg)
    return graph, random_state(cfg, seed, shardings)


def random_state(cfg: ModelConfig, seed: int, shardings=None, only=nnx.Param):
    """The random parameters of one Variable type; the others are not computed."""
    # It runs once, so that compiling it is what takes the time.
    fast = {"xla_backend_optimization_level": 0}
    make = jax.jit(
        lambda key: nnx.state(Encoder(cfg, nnx.Rngs(key)), only),
        out_shardings=shardings,
        compiler_options=fast if jax.default_backend() == "cpu" else None,
    )
    return make(jax.random.key(seed))


def partition(params: nnx.State, kind: str) -> tuple[nnx.State, nnx.State]:
    """Splits parameters into (trainable, frozen).

    Args:
      params: a state of `create`.
      kind: "lora" (the low-rank updates) or "all".

    Returns:
      Two states; `nnx.merge(graphdef, trainable, frozen)` joins them.
    """
    if kind == "lora":
        trainable, frozen = nnx.split_state(params, LoRAParam, ...)
    elif kind == "all":
        trainable, frozen = params, nnx.State({})
    else:
        raise UserError(f'model.trainable: {kind!r} is neither "lora" nor "all"')
    if not jax.tree.leaves(trainable):
        raise UserError('model.trainable: "lora" needs model.lora.rank above 0')
    return trainable, frozen
