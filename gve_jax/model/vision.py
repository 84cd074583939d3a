"""The vision tower: patches -> one feature row per merged unit, in their order."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from gve_jax.model.attention import attention
from gve_jax.model.config import ModelConfig
from gve_jax.model.layers import (
    MLP,
    LayerNorm,
    Linear,
    RMSNorm,
    SwiGLU,
    name_attention,
    random_normal,
    run_stack,
    stack,
    when,
)
from gve_jax.model.rope import Rotary, rotate, vision_rotary
from gve_jax.model.rows import permute, take_rows
from gve_jax.sharding import constrain
from gve_jax.types import VisionInputs

_EPS = 1e-6  # of the tower's norms, in all families


class Layout(NamedTuple):
    """Patches [n] as rows of slots [rows * size], among which attention runs."""

    rows: int
    rotary: Rotary  # of the slots
    lengths: jax.Array | None = None  # int [rows]; None: all slots are real
    index: jax.Array | None = None  # int [b, ...] -> n / b; None: slots are patches
    slot: jax.Array | None = None  # int [b, n / b] -> slots of the entry
    real_slots: jax.Array | None = None  # bool [rows * size]
    real_patches: jax.Array | None = None  # bool [n]


def make_layout(lengths, index, slot, rotary: Rotary) -> Layout:
    """A layout of a batch.

    Args:
      lengths: int [b, rows], patches in each row.
      index: int [b, rows, size] -> p, or None if regular.
      slot: int [b, p] -> rows * size, or None if regular.
      rotary: of the b*p patches.
    """
    b, rows = lengths.shape
    if index is None:
        return Layout(b * rows, rotary)
    real_slots = np.arange(index.shape[2]) < lengths[:, :, None]
    real_patches = np.arange(slot.shape[1]) < lengths.sum(1, keepdims=True)
    return Layout(
        b * rows,
        Rotary(*(take_rows(x, index) for x in rotary)),
        lengths.reshape(-1),
        index,
        slot,
        real_slots.reshape(-1),
        real_patches.reshape(-1),
    )


def _norm(cfg: ModelConfig, size: int) -> nnx.Module:
    return (RMSNorm if cfg.vision.norm == "rms" else LayerNorm)(cfg, size, _EPS)


class VisionBlock(nnx.Module):
    """Pre-norm attention and MLP, both with biases."""

    def __init__(self, cfg: ModelConfig, rngs: nnx.Rngs):
        c = cfg.vision
        self.cfg = cfg
        gain = (2 * c.depth) ** -0.5  # the residual stream keeps its variance
        self.norm1 = _norm(cfg, c.hidden_size)
        self.norm2 = _norm(cfg, c.hidden_size)
        self.qkv = Linear(
            cfg,
            rngs,
            c.hidden_size,
            (3, c.num_heads, c.head_dim),
            ("embed", None, "heads", None),
            bias=True,
        )
        self.proj = Linear(
            cfg,
            rngs,
            c.hidden_size,
            (c.hidden_size,),
            ("heads", "embed"),
            bias=True,
            gain=gain,
        )
        sizes = (c.hidden_size, c.intermediate_size)
        if c.mlp == "swiglu":
            self.mlp = SwiGLU(cfg, rngs, *sizes, bias=True, gain=gain)
        else:
            self.mlp = MLP(cfg, rngs, *sizes, c.mlp, gain=gain)

    def __call__(self, x, full, windows: Layout | None, frames: Layout) -> jax.Array:
        """x [n, d]; `full` (bool) attends within frames, else within windows, of which
        a tower without them has None."""
        qkv = self.qkv(self.norm1(x))
        if windows is None:
            out = self.attend(qkv, frames)
        else:
            out = when(
                full,
                lambda qkv: self.attend(qkv, frames),
                lambda qkv: self.attend(qkv, windows),
                qkv,
            )
        x = constrain(x + self.proj(name_attention(out)), "tokens", None)
        return constrain(x + self.mlp(self.norm2(x)), "tokens", None)

    def attend(self, qkv: jax.Array, layout: Layout) -> jax.Array:
        """[n, 3*d] -> [n, d]."""
        c, n = self.cfg.vision, len(qkv)
        if layout.index is not None:
            qkv = permute(qkv, layout.index, layout.slot, layout.real_patches)
        qkv = qkv.reshape(-1, 3 * c.num_heads, c.head_dim)
        qk = rotate(qkv[:, : 2 * c.num_heads], layout.rotary)
        shape = (layout.rows, -1, c.num_heads, c.head_dim)
        out = attention(
            qk[:, : c.num_heads].reshape(shape),
            qk[:, c.num_heads :].reshape(shape),
            qkv[:, 2 * c.num_heads :].reshape(shape),
            lengths=layout.lengths,
            implementation=self.cfg.attention,
        ).reshape(-1, c.hidden_size)
        if layout.index is not None:
            out = permute(out, layout.slot, layout.index, layout.real_slots)
        return out.reshape(n, c.hidden_size)


class Merger(nnx.Module):
    """Concatenates each unit of 2x2 patches and maps it to the language model."""

    def __init__(self, cfg: ModelConfig, rngs: nnx.Rngs, norm_units: bool = False):
        """`norm_units` normalises whole units, else patch by patch."""
        c = cfg.vision
        self.wide = wide = c.hidden_size * c.spatial_merge_size**2
        self.norm_units = norm_units
        self.norm = _norm(cfg, wide if norm_units else c.hidden_size)
        self.fc1 = Linear(cfg, rngs, wide, (wide,), ("embed", "mlp"), bias=True)
        self.fc2 = Linear(
            cfg, rngs, wide, (cfg.text.hidden_size,), ("mlp", "embed"), bias=True
        )

    def __call__(self, x: jax.Array) -> jax.Array:
        """[n, d] -> [n / 4, text d]."""
        if self.norm_units:
            x = self.norm(x.reshape(-1, self.wide))
        else:
            x = self.norm(x).reshape(-1, self.wide)
        return self.fc2(jax.nn.gelu(self.fc1(x), approximate=False))


class LearnedPositions(nnx.Module):
    """A square grid of vectors, interpolated to the grid of each frame."""

    def __init__(self, cfg: ModelConfig, rngs: nnx.Rngs):
        c = cfg.vision
        std = cfg.init_std or c.hidden_size**-0.5
        shape = (c.num_position_embeddings, c.hidden_size)
        self.side = math.isqrt(c.num_position_embeddings)
        self.dtype = jnp.dtype(cfg.dtype)
        self.table = nnx.Param(
            random_normal(rngs, shape, std, cfg.param_dtype), axes=("patch", "embed")
        )

    def __call__(self, coords: jax.Array, extents: jax.Array) -> jax.Array:
        """[n, d]: bilinear, with the grids' corners on each other.

        Args:
          coords: int [n, 2], row and column of each patch.
          extents: int [n, 2], rows and columns of its frame.
        """
        most = self.side - 1
        at = coords.astype(jnp.float32) * most / jnp.maximum(extents - 1, 1)
        low = jnp.minimum(jnp.floor(at), most)
        high = jnp.minimum(low + 1, most)
        share = at - low
        total = 0.0
        table = self.table[...]
        for row, y in ((low[:, 0], 1 - share[:, 0]), (high[:, 0], share[:, 0])):
            for column, x in ((low[:, 1], 1 - share[:, 1]), (high[:, 1], share[:, 1])):
                index = (row * self.side + column).astype(jnp.int32)
                taken = jnp.take(table, index, axis=0, mode="clip")
                total += taken.astype(jnp.float32) * (y * x)[:, None]
        return total.astype(self.dtype)


class Features(NamedTuple):
    """What the language model sees of the media, in the order of the patches."""

    units: jax.Array  # [n / 4, text d]
    deep: tuple[jax.Array, ...] = ()  # as units; added after its first layers


class VisionTower(nnx.Module):
    """Patch embedding, blocks and merger."""

    def __init__(self, cfg: ModelConfig, rngs: nnx.Rngs):
        c = cfg.vision
        self.cfg = cfg
        self.patch_embed = Linear(
            cfg,
            rngs,
            c.patch_dim,
            (c.hidden_size,),
            ("patch", "embed"),
            bias=c.patch_bias,
        )
        if c.num_position_embeddings:
            self.positions = LearnedPositions(cfg, rngs)
        self.blocks = stack(lambda r: VisionBlock(cfg, r), rngs, c.depth)
        self.merger = Merger(cfg, rngs)
        if taps := len(c.deepstack_visual_indexes):
            self.deep_mergers = stack(lambda r: Merger(cfg, r, True), rngs, taps)

    def __call__(self, inputs: VisionInputs) -> Features:
        """Features of merged units, in the order of the patches."""
        c = self.cfg.vision
        patches = inputs.patches.reshape(-1, inputs.patches.shape[-1])
        coords = inputs.coords.reshape(-1, 2)
        rotary = vision_rotary(coords, c.head_dim, c.rope_theta)
        frames = make_layout(
            inputs.frame_lengths, inputs.frame_index, inputs.frame_slot, rotary
        )
        windows = None
        if c.window_size:
            windows = make_layout(
                inputs.window_lengths, inputs.window_index, inputs.window_slot, rotary
            )
        x = self.patch_embed(normalise(patches, self.cfg))
        if c.num_position_embeddings:
            x += self.positions(coords, inputs.extents.reshape(-1, 2))
        x = constrain(x, "tokens", None)

        layers = np.arange(c.depth)
        full = np.isin(layers, c.fullatt_block_indexes)
        tapped = np.isin(layers, c.deepstack_visual_indexes)
        each = np.stack([full, tapped, np.cumsum(tapped) - 1], 1)

        def call(block, carry, one):
            x, taps = carry
            full, tapped = (
                one[i] if isinstance(one, jax.Array) else bool(one[i]) for i in (0, 1)
            )
            x = block(x, full, windows, frames)
            if c.deepstack_visual_indexes:
                keep = lambda taps, x: taps.at[one[2]].set(x)  # noqa: E731
                taps = when(tapped, keep, lambda taps, x: taps, taps, x)
            return x, taps

        taps = jnp.zeros((len(c.deepstack_visual_indexes), *x.shape), x.dtype)
        x, taps = run_stack(self.cfg, self.blocks, (x, taps), each, call)
        if not c.deepstack_visual_indexes:
            return Features(self.merger(x))
        graph, state = nnx.split(self.deep_mergers)
        deep = tuple(
            nnx.merge(graph, jax.tree.map(lambda p, i=i: p[i], state))(tap)
            for i, tap in enumerate(taps)
        )
        return Features(self.merger(x), deep)


def normalise(patches: jax.Array, cfg: ModelConfig) -> jax.Array:
    """uint8 patches [n, patch_dim], channel outermost, to normalised floats."""
    c = cfg.vision
    inner = c.patch_dim // c.in_channels
    mean, std = np.array(c.image_mean), np.array(c.image_std)
    scale = np.repeat(1 / (255 * std), inner).astype(np.float32)
    shift = np.repeat(-mean / std, inner).astype(np.float32)
    return (patches.astype(jnp.float32) * scale + shift).astype(cfg.dtype)
