"""The vision tower: patches in window order -> one feature row per merged unit."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from gve_jax.model.attention import attention
from gve_jax.model.config import ModelConfig
from gve_jax.model.layers import (
    Linear,
    RMSNorm,
    SwiGLU,
    name_attention,
    permute,
    run_stack,
    stack,
)
from gve_jax.model.rope import Rotary, rotate, vision_rotary
from gve_jax.types import VisionInputs

_EPS = 1e-6  # of the tower's norms, in all Qwen2.5-VL models
# Channel statistics of CLIP's training images, RGB in [0, 1].
MEAN = np.array([0.48145466, 0.4578275, 0.40821073])
STD = np.array([0.26862954, 0.26130258, 0.27577711])


class Layout(NamedTuple):
    """Patches [n] as rows of slots [rows * size], among which attention runs."""

    rows: int
    rotary: Rotary  # of the slots
    lengths: jax.Array | None = None  # int [rows]; None: all slots are real
    index: jax.Array | None = None  # int [rows * size] -> n; None: slots are patches
    slot: jax.Array | None = None  # int [n] -> rows * size
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
    p, size = slot.shape[1], index.shape[2]
    first = np.arange(b)[:, None]
    index = (index.reshape(b, -1) + first * p).reshape(-1)
    slot = (slot + first * (rows * size)).reshape(-1)
    real_slots = np.arange(size) < lengths[:, :, None]
    real_patches = np.arange(p) < lengths.sum(1, keepdims=True)
    return Layout(
        b * rows,
        Rotary(*(jnp.take(x, index, axis=0, mode="clip") for x in rotary)),
        lengths.reshape(-1),
        index,
        slot,
        real_slots.reshape(-1),
        real_patches.reshape(-1),
    )


class VisionBlock(nnx.Module):
    """Pre-norm attention and SwiGLU, both with biases."""

    def __init__(self, cfg: ModelConfig, rngs: nnx.Rngs):
        c = cfg.vision
        self.cfg = cfg
        gain = (2 * c.depth) ** -0.5  # the residual stream keeps its variance
        self.norm1 = RMSNorm(cfg, c.hidden_size, _EPS)
        self.norm2 = RMSNorm(cfg, c.hidden_size, _EPS)
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
        self.mlp = SwiGLU(
            cfg, rngs, c.hidden_size, c.intermediate_size, bias=True, gain=gain
        )

    def __call__(self, x, full, windows: Layout, frames: Layout) -> jax.Array:
        """x [n, d]; `full` (bool) attends within frames, else within windows."""
        qkv = self.qkv(self.norm1(x))
        if isinstance(full, (bool, np.bool_)):
            out = self.attend(qkv, frames if full else windows)
        else:
            out = jax.lax.cond(
                full,
                lambda qkv: self.attend(qkv, frames),
                lambda qkv: self.attend(qkv, windows),
                qkv,
            )
        x += self.proj(name_attention(out))
        return x + self.mlp(self.norm2(x))

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

    def __init__(self, cfg: ModelConfig, rngs: nnx.Rngs):
        c = cfg.vision
        wide = c.hidden_size * c.spatial_merge_size**2
        self.wide = wide
        self.norm = RMSNorm(cfg, c.hidden_size, _EPS)
        self.fc1 = Linear(cfg, rngs, wide, (wide,), ("embed", "mlp"), bias=True)
        self.fc2 = Linear(
            cfg, rngs, wide, (cfg.text.hidden_size,), ("mlp", "embed"), bias=True
        )

    def __call__(self, x: jax.Array) -> jax.Array:
        """[n, d] -> [n / 4, text d]."""
        x = self.norm(x).reshape(-1, self.wide)
        return self.fc2(jax.nn.gelu(self.fc1(x), approximate=False))


class VisionTower(nnx.Module):
    """Patch embedding, blocks and merger."""

    def __init__(self, cfg: ModelConfig, rngs: nnx.Rngs):
        c = cfg.vision
        self.cfg = cfg
        self.patch_embed = Linear(
            cfg, rngs, c.patch_dim, (c.hidden_size,), ("patch", "embed")
        )
        self.blocks = stack(lambda r: VisionBlock(cfg, r), rngs, c.depth)
        self.merger = Merger(cfg, rngs)

    def __call__(self, inputs: VisionInputs) -> jax.Array:
        """Features of merged units, in window order: [b * p / 4, text d]."""
        c = self.cfg.vision
        patches, coords = inputs.patches, inputs.coords
        rotary = vision_rotary(coords.reshape(-1, 2), c.head_dim, c.rope_theta)
        windows = make_layout(
            inputs.window_lengths, inputs.window_index, inputs.window_slot, rotary
        )
        frames = make_layout(
            inputs.frame_lengths, inputs.frame_index, inputs.frame_slot, rotary
        )
        x = normalise(patches.reshape(-1, patches.shape[-1]), self.cfg)
        x = self.patch_embed(x)
        full = np.isin(np.arange(c.depth), c.fullatt_block_indexes)
        x = run_stack(
            self.cfg,
            self.blocks,
            x,
            full,
            lambda block, x, full: block(x, full, windows, frames),
        )
        return self.merger(x)


def normalise(patches: jax.Array, cfg: ModelConfig) -> jax.Array:
    """uint8 patches [n, patch_dim], channel outermost, to CLIP-normalised floats."""
    inner = cfg.vision.patch_dim // cfg.vision.in_channels
    scale = np.repeat(1 / (255 * STD), inner).astype(np.float32)
    shift = np.repeat(-MEAN / STD, inner).astype(np.float32)
    return (patches.astype(jnp.float32) * scale + shift).astype(cfg.dtype)
