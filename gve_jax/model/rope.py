"""Rotary positions: axial 2-D for vision, multimodal (M-RoPE) for text.

Angles, cosines and sines are float32: positions reach thousands, where bfloat16 has a
step of eight or more. They are computed once a forward, not once a layer.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np


class Rotary(NamedTuple):
    """Cosine and sine of the first half of a head; the second half is equal."""

    cos: jax.Array  # float32 [n, 1, head_dim / 2]
    sin: jax.Array


def _inv_freq(theta: float, dim: int) -> np.ndarray:
    exponents = np.arange(0, dim, 2, dtype=np.float32) / np.float32(dim)
    # NumPy's float32 powers are off by some units in the last place, torch's are not.
    powers = np.float64(theta) ** exponents.astype(np.float64)
    return np.float32(1) / powers.astype(np.float32)


def _rotary(angles: jax.Array) -> Rotary:
    return Rotary(jnp.cos(angles)[:, None], jnp.sin(angles)[:, None])


def vision_rotary(coords: jax.Array, head_dim: int, theta: float) -> Rotary:
    """Axial angles: the first quarter of a head turns by row, the second by column.

    Args:
      coords: int [n, 2], row and column of each patch in its frame.
      head_dim: features of a head, a multiple of 4.
      theta: base of the frequencies.
    """
    freqs = _inv_freq(theta, head_dim // 2)  # [head_dim / 4]
    angles = coords.astype(jnp.float32)[:, :, None] * freqs  # [n, 2, head_dim / 4]
    return _rotary(angles.reshape(len(coords), -1))


def text_rotary(
    positions: jax.Array,
    head_dim: int,
    theta: float,
    sections: tuple[int, ...],
    interleaved: bool = False,
) -> Rotary:
    """M-RoPE: frequency bands turn by temporal, height and width positions.

    Args:
      positions: int [b, 3, l]: temporal, height, width.
      head_dim: features of a head.
      theta: base of the frequencies.
      sections: frequencies of each of the three bands, summing to head_dim / 2.
      interleaved: the bands take turns, thw thw ..., and what the shorter ones leave
        over is temporal (Qwen3-VL); else they follow one another.

    Returns:
      Rotary of n = b*l tokens.
    """
    freqs = _inv_freq(theta, head_dim)  # [head_dim / 2]
    if interleaved:
        band = np.zeros(head_dim // 2, np.int64)
        for axis in (1, 2):
            band[axis : 3 * sections[axis] : 3] = axis
    else:
        band = np.repeat(np.arange(3), sections)  # [head_dim / 2]
    # The position that each frequency sees.  # [b l head_dim/2]
    seen = positions.astype(jnp.float32).transpose(0, 2, 1)[:, :, band]
    return _rotary((seen * freqs).reshape(-1, head_dim // 2))


def rotate(x: jax.Array, rotary: Rotary) -> jax.Array:
    """Rotates heads: pairs are (i, i + head_dim / 2), as in Hugging Face.

    Args:
      x: [n, heads, head_dim], any float dtype, kept.
      rotary: of the same n tokens.
    """
    a, b = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    cos, sin = rotary
    turned = jnp.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1)
    return turned.astype(x.dtype)
