"""The language model without its head: embeddings -> the pooled token's state."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from gve_jax.model.attention import attention
from gve_jax.model.config import ModelConfig
from gve_jax.model.layers import (
    Dropout,
    Linear,
    RMSNorm,
    SwiGLU,
    name_attention,
    random_normal,
    remat,
    run_stack,
    stack,
    when,
)
from gve_jax.model.rope import Rotary, rotate, text_rotary


class DecoderBlock(nnx.Module):
    """Pre-norm grouped-query attention and SwiGLU, LoRA on six projections."""

    def __init__(self, cfg: ModelConfig, rngs: nnx.Rngs):
        c = cfg.text
        self.cfg = cfg
        gain = (2 * c.num_hidden_layers) ** -0.5
        queries = (c.num_attention_heads, c.head_dim)
        keys = (c.num_key_value_heads, c.head_dim)
        self.norm1 = RMSNorm(cfg, c.hidden_size, c.rms_norm_eps)
        self.norm2 = RMSNorm(cfg, c.hidden_size, c.rms_norm_eps)
        if c.qk_norm:
            self.q_norm = RMSNorm(cfg, c.head_dim, c.rms_norm_eps)
            self.k_norm = RMSNorm(cfg, c.head_dim, c.rms_norm_eps)
        options = dict(bias=c.attention_bias, lora=True)
        q_axes, kv_axes = ("embed", "heads", None), ("embed", "kv_heads", None)
        self.q = Linear(cfg, rngs, c.hidden_size, queries, q_axes, **options)
        self.k = Linear(cfg, rngs, c.hidden_size, keys, kv_axes, **options)
        self.v = Linear(cfg, rngs, c.hidden_size, keys, kv_axes, **options)
        mixed = c.num_attention_heads * c.head_dim
        self.o = Linear(
            cfg, rngs, mixed, (c.hidden_size,), ("heads", "embed"), gain=gain
        )
        self.mlp = SwiGLU(
            cfg, rngs, c.hidden_size, c.intermediate_size, lora=True, gain=gain
        )

    def __call__(
        self,
        x: jax.Array,
        b: int,
        rotary: Rotary,
        dropout: Dropout | None = None,
        pooled: jax.Array | None = None,
    ) -> jax.Array:
        """One block.

        Args:
          x: [b*l, d].
          b: items.
          rotary: of the b*l tokens.
          dropout: of LoRA's inputs; None if deterministic.
          pooled: int [b], the one token of each item whose output is wanted: queries
            and MLP of the others are skipped. None: all tokens.

        Returns:
          [b*l, d], or [b, d] if `pooled` is given.
        """
        c, n = self.cfg.text, len(x)
        y = self.norm1(x)
        dropped = dropout(y) if dropout else None
        k = self.k(y, dropped).reshape(n, c.num_key_value_heads, c.head_dim)
        v = self.v(y, dropped).reshape(b, -1, c.num_key_value_heads, c.head_dim)
        lengths, q_rotary = None, rotary
        if pooled is not None:
            rows = pooled + np.arange(b) * (n // b)
            take = lambda z: jnp.take(z, rows, axis=0, mode="clip")  # noqa: E731
            x, y, q_rotary = take(x), take(y), Rotary(*map(take, rotary))
            dropped = take(dropped) if dropout else None
            lengths = pooled + 1
        q = self.q(y, dropped).reshape(-1, c.num_attention_heads, c.head_dim)
        if c.qk_norm:
            q, k = self.q_norm(q), self.k_norm(k)
        out = attention(
            rotate(q, q_rotary).reshape(b, -1, *q.shape[1:]),
            rotate(k, rotary).reshape(v.shape),
            v,
            lengths=lengths,
            causal=pooled is None,
            implementation=self.cfg.attention,
        )
        x += self.o(name_attention(out.reshape(len(x), -1)))
        return x + self.mlp(self.norm2(x), dropout)


class TextModel(nnx.Module):
    """Token embedding, blocks and final norm.

    The last block is kept apart from the stack: it runs for the pooled token alone, and
    slicing it off a stack would copy all weights of the others.
    """

    def __init__(self, cfg: ModelConfig, rngs: nnx.Rngs):
        c = cfg.text
        self.cfg = cfg
        std = cfg.init_std or c.hidden_size**-0.5
        self.embedding = nnx.Param(
            random_normal(rngs, (c.vocab_size, c.hidden_size), std, cfg.param_dtype),
            axes=("vocab", "embed"),
        )
        if c.num_hidden_layers > 1:
            self.layers = stack(
                lambda r: DecoderBlock(cfg, r), rngs, c.num_hidden_layers - 1
            )
        self.last = DecoderBlock(cfg, rngs)
        self.norm = RMSNorm(cfg, c.hidden_size, c.rms_norm_eps)

    def embed(self, tokens: jax.Array) -> jax.Array:
        """int [n] -> [n, d]."""
        rows = jnp.take(self.embedding[...], tokens, axis=0, mode="clip")
        return rows.astype(self.cfg.dtype)

    def __call__(
        self,
        x: jax.Array,
        positions: jax.Array,
        pooled: jax.Array,
        *,
        deep: Sequence[jax.Array] = (),
        dropout_key: jax.Array | None = None,
        prune_last: bool = True,
    ) -> jax.Array:
        """The final state of one token of each item.

        Padding is on the right, where causal attention never looks: no key is masked.

        Args:
          x: [b*l, d] input embeddings.
          positions: int [b, 3, l].
          pooled: int [b], the token whose state is returned; not one of a medium.
          deep: [b*l, d] each, added after the first layers (DeepStack).
          dropout_key: JAX key of LoRA's dropout; None: deterministic.
          prune_last: skip what the pooled token does not need; the result is equal.

        Returns:
          [b, d] after the final norm.
        """
        cfg, c, b = self.cfg, self.cfg.text, len(positions)
        rotary = text_rotary(
            positions, c.head_dim, c.rope_theta, c.mrope_section, c.mrope_interleaved
        )
        drop = dropout_key is not None and cfg.lora_rank and cfg.lora_dropout

        def run(block, x, layer, pooled=None):
            dropout = None
            if drop:
                key = jax.random.fold_in(dropout_key, layer)
                dropout = Dropout(key, cfg.lora_dropout)
            return block(x, b, rotary, dropout, pooled)

        def run_deep(block, x, layer):
            x = run(block, x, layer)
            if not deep:
                return x
            add = lambda x: x + rows[jnp.minimum(layer, len(deep) - 1)]  # noqa: E731
            return when(layer < len(deep), add, lambda x: x, x)

        rows = jnp.stack(deep) if deep else None

        depth = c.num_hidden_layers - 1
        if depth:
            x = run_stack(cfg, self.layers, x, np.arange(depth), run_deep)
        graph, state = nnx.split(self.last)
        last = lambda x, s, p=None: run(nnx.merge(graph, s), x, depth, p)  # noqa: E731
        if prune_last:
            x = remat(cfg, last)(x, state, pooled)
        else:
            x = remat(cfg, last)(x, state)
            x = jnp.take(x, pooled + np.arange(b) * (len(x) // b), axis=0, mode="clip")
        return self.norm(x)
