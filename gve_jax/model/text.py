"""The language model: embeddings -> the pooled token's state, or logits by its head."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

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
from gve_jax.model.rows import Rows, take_rows
from gve_jax.sharding import constrain


class Cache(NamedTuple):
    """Keys, already rotated, and values that later tokens attend to."""

    k: jax.Array  # [layers, b, s, kv_heads, d]
    v: jax.Array  # as k

    @classmethod
    def empty(cls, cfg: ModelConfig, b: int, size: int) -> "Cache":
        """Room for `size` tokens of each of `b` items."""
        c = cfg.text
        heads = (c.num_key_value_heads, c.head_dim)
        zeros = jnp.zeros((c.num_hidden_layers, b, size, *heads), cfg.dtype)
        return cls(zeros, zeros)

    def write(self, layer, k, v, slots=None) -> "Cache":
        """With [b, l, kv_heads, d] of one layer at places 0..l-1, or, if l is 1 and
        `slots` int [b] is given, at each item's own."""

        def put(old, new):
            if slots is None:
                return jax.lax.dynamic_update_slice(old, new[None], (layer, 0, 0, 0, 0))
            return old.at[layer, np.arange(len(new)), slots].set(new[:, 0])

        return Cache(put(self.k, k), put(self.v, v))


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
        rows: Rows,
        rotary: Rotary,
        dropout: Dropout | None = None,
        pooled: bool = False,
    ) -> jax.Array:
        """One block.

        Args:
          x: [n, d], tokens.
          rows: the items among them.
          rotary: of the tokens.
          dropout: of LoRA's inputs; None if deterministic.
          pooled: the output of each item's last token alone is wanted: queries and MLP
            of the others are skipped.

        Returns:
          [n, d], or [rows.count, d] if `pooled`.
        """
        y = self.norm1(x)
        dropped = dropout(y) if dropout else None
        k, v = map(rows.spread, self._keys_values(y, rotary, dropped))
        if not pooled:
            q = rows.spread(self._queries(y, rotary, dropped))
            # Causality alone keeps padding out; lengths tell which rows to pass over.
            lengths = None if rows.index is None else rows.lengths
            out = self._attend(q, k, v, lengths, causal=True)
            return self._finish(x, rows.gather(out), dropout)
        take = lambda z: take_rows(z, rows.pooled)  # noqa: E731
        x, y, rotary = take(x), take(y), Rotary(*map(take, rotary))
        q = self._queries(y, rotary, take(dropped) if dropout else None)
        out = self._attend(q[:, None], k, v, rows.lengths, causal=False)
        return self._finish(x, out[:, 0], dropout)

    def cached(
        self,
        x: jax.Array,
        b: int,
        rotary: Rotary,
        cache: Cache,
        layer: int | jax.Array,
        slots: jax.Array | None = None,
    ) -> tuple[jax.Array, Cache]:
        """One block, which keeps its keys and values.

        Args:
          x: [b*l, d], prompts; or [b, d], one more token of each item.
          b: items.
          rotary: of these tokens.
          cache: of all layers.
          layer: this one's number.
          slots: int [b], the place of that one token, which sees those before it in
            the cache. None: prompts, from place 0 on.

        Returns:
          (states as x, the cache with these tokens).
        """
        y = self.norm1(x)
        q, k, v = (
            z.reshape(b, -1, *z.shape[1:])
            for z in (self._queries(y, rotary), *self._keys_values(y, rotary))
        )
        cache = cache.write(layer, k, v, slots)
        lengths = None
        if slots is not None:
            k, v, lengths = cache.k[layer], cache.v[layer], slots + 1
        out = self._attend(q, k, v, lengths, causal=slots is None)
        return self._finish(x, out.reshape(len(x), *out.shape[2:])), cache

    def _queries(self, y, rotary, dropped=None) -> jax.Array:
        """[n, d] -> [n, heads, head_dim], rotated."""
        c = self.cfg.text
        q = self.q(y, dropped).reshape(-1, c.num_attention_heads, c.head_dim)
        return rotate(self.q_norm(q) if c.qk_norm else q, rotary)

    def _keys_values(self, y, rotary, dropped=None) -> tuple[jax.Array, jax.Array]:
        """[n, d] -> [n, kv_heads, head_dim] twice, keys rotated."""
        c = self.cfg.text
        k = self.k(y, dropped).reshape(-1, c.num_key_value_heads, c.head_dim)
        v = self.v(y, dropped).reshape(k.shape)
        return rotate(self.k_norm(k) if c.qk_norm else k, rotary), v

    def _attend(self, q, k, v, lengths, causal) -> jax.Array:
        kind = self.cfg.attention
        return attention(q, k, v, lengths=lengths, causal=causal, implementation=kind)

    def _finish(self, x, mixed, dropout=None) -> jax.Array:
        """Attention's output projection and the MLP, each added to x."""
        x += self.o(name_attention(mixed.reshape(len(x), -1)))
        x = constrain(x, "tokens", None)
        return constrain(x + self.mlp(self.norm2(x), dropout), "tokens", None)


class TextModel(nnx.Module):
    """Token embedding, blocks, final norm and, if the config has it, the head.

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
        if cfg.head and not cfg.tie_word_embeddings:
            self.head = Linear(
                cfg, rngs, c.hidden_size, (c.vocab_size,), ("embed", "vocab")
            )

    def embed(self, tokens: jax.Array) -> jax.Array:
        """int [n] -> [n, d]."""
        rows = jnp.take(self.embedding[...], tokens, axis=0, mode="clip")
        return constrain(rows.astype(self.cfg.dtype), "tokens", None)

    def __call__(
        self,
        x: jax.Array,
        positions: jax.Array,
        rows: Rows,
        *,
        deep: Sequence[jax.Array] = (),
        dropout_key: jax.Array | None = None,
        prune_last: bool = True,
    ) -> jax.Array:
        """The final state of the last token of each item.

        Padding is on the right, where causal attention never looks: no key is masked.

        Args:
          x: [b*l, d] input embeddings.
          positions: int [b, 3, l].
          rows: the items; their last tokens are not those of a medium.
          deep: [b*l, d] each, added after the first layers (DeepStack).
          dropout_key: JAX key of LoRA's dropout; None: deterministic.
          prune_last: skip what the last token does not need; the result is equal.

        Returns:
          [rows.count, d] after the final norm.
        """
        cfg = self.cfg
        rotary, add_deep = self._rotary(positions), _adder(deep)
        drop = dropout_key is not None and cfg.lora_rank and cfg.lora_dropout

        def run(block, x, layer, pooled=False):
            dropout = None
            if drop:
                key = jax.random.fold_in(dropout_key, layer)
                dropout = Dropout(key, cfg.lora_dropout)
            return block(x, rows, rotary, dropout, pooled)

        def run_deep(block, x, layer):
            return add_deep(run(block, x, layer), layer)

        depth = cfg.text.num_hidden_layers - 1
        if depth:
            x = run_stack(cfg, self.layers, x, np.arange(depth), run_deep)
        graph, state = nnx.split(self.last)
        last = lambda x, s: run(nnx.merge(graph, s), x, depth, prune_last)  # noqa: E731
        x = remat(cfg, last)(x, state)
        return self.norm(x if prune_last else take_rows(x, rows.pooled))

    def cached(
        self,
        x: jax.Array,
        positions: jax.Array,
        cache: Cache,
        slots: jax.Array | None = None,
        *,
        deep: Sequence[jax.Array] = (),
    ) -> tuple[jax.Array, Cache]:
        """Runs all blocks over prompts, or over one more token of each item.

        Args:
          x: [b*l, d] input embeddings; l is 1 if `slots` is given.
          positions: int [b, 3, l].
          cache: `Cache.empty`, or that of the earlier tokens.
          slots, deep: as in `DecoderBlock.cached` and `__call__`.

        Returns:
          ([b*l, d] before the final norm, the cache with these tokens).
        """
        b, depth = len(positions), self.cfg.text.num_hidden_layers - 1
        rotary, add_deep = self._rotary(positions), _adder(deep)

        def run(block, carry, layer):
            x, cache = block.cached(carry[0], b, rotary, carry[1], layer, slots)
            return add_deep(x, layer), cache

        if depth:
            x, cache = run_stack(
                self.cfg, self.layers, (x, cache), np.arange(depth), run
            )
        return self.last.cached(x, b, rotary, cache, depth, slots)

    def logits(self, x: jax.Array) -> jax.Array:
        """[n, d] of `cached` -> float32 [n, vocab]; in bfloat16 near ones would tie."""
        tied = self.cfg.tie_word_embeddings
        matrix = self.embedding[...] if tied else self.head.kernel[...]
        return jax.lax.dot_general(
            self.norm(x),
            matrix.astype(x.dtype),
            (((1,), (1 if tied else 0,)), ((), ())),
            preferred_element_type=jnp.float32,
        )

    def _rotary(self, positions: jax.Array) -> Rotary:
        c = self.cfg.text
        return text_rotary(
            positions, c.head_dim, c.rope_theta, c.mrope_section, c.mrope_interleaved
        )


def _adder(deep: Sequence[jax.Array]) -> Callable[..., jax.Array]:
    """(x, layer) -> x with the features of that layer, if it has any."""
    if not deep:
        return lambda x, layer: x
    rows = jnp.stack(deep)

    def add(x, layer):
        more = lambda x: x + rows[jnp.minimum(layer, len(deep) - 1)]  # noqa: E731
        return when(layer < len(deep), more, lambda x: x, x)

    return add
