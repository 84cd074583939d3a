"""Rows gathered within each entry of a batch."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from gve_jax.types import Segments


def take_rows(x: jax.Array, index: jax.Array) -> jax.Array:
    """Rows of x, entry by entry, so that a mesh that splits the batch gathers locally.

    Args:
      x: [b*n, ...].
      index: int [b, ...] -> n.

    Returns:
      [b*m, ...], m indices an entry.
    """
    b = len(index)
    index = index.reshape(b, -1)
    take = lambda x, i: jnp.take(x, i, axis=0, mode="clip")  # noqa: E731
    if b == 1:
        return take(x, index[0])
    out = jax.vmap(take)(x.reshape(b, -1, *x.shape[1:]), index)
    return out.reshape(-1, *x.shape[1:])


class Rows(NamedTuple):
    """Where attention finds the items of a batch among its tokens [n].

    Without `index`, items are equal stretches of the tokens, padded on the right.
    """

    count: int  # items r, those that are padding included
    pooled: jax.Array  # int [b, r/b]: the last token of each in its entry
    lengths: jax.Array  # int [r]; 0: no item
    index: jax.Array | None = None  # int [b, r/b * m]
    slot: jax.Array | None = None  # int [b, n/b]

    @classmethod
    def of(cls, lengths: jax.Array, segments: Segments | None) -> "Rows":
        """Of EncoderInputs."""
        if segments is None:
            return cls(len(lengths), lengths[:, None] - 1, lengths)
        b, s, _ = segments.index.shape
        last = jnp.maximum(segments.lengths, 1)[:, :, None] - 1
        return cls(
            b * s,
            jnp.take_along_axis(segments.index, last, axis=2)[:, :, 0],
            segments.lengths.reshape(-1),
            segments.index.reshape(b, -1),
            segments.slot,
        )

    def spread(self, x: jax.Array) -> jax.Array:
        """Tokens [n, ...] -> items [r, m, ...]."""
        if self.index is not None:
            x = take_rows(x, self.index)
        return x.reshape(self.count, -1, *x.shape[1:])

    def gather(self, x: jax.Array) -> jax.Array:
        """Items [r, m, ...] -> tokens [n, ...]."""
        x = x.reshape(-1, *x.shape[2:])
        return x if self.slot is None else take_rows(x, self.slot)


@jax.custom_vjp
def permute(x: jax.Array, index: jax.Array, back: jax.Array, real: jax.Array):
    """`take_rows` whose backward pass is a gather too: a scatter is slow everywhere.

    Args:
      x: [b*n, ...].
      index: int [b, ...] -> n, m of them an entry.
      back: int [b, ...] -> m, n of them an entry: where each real row of x went.
      real: bool [b*n], rows of x that went to one place; the others are padding, and
        their gradient is zero.
    """
    del back, real
    return take_rows(x, index)


def _permute_forward(x, index, back, real):
    return permute(x, index, back, real), (back, real)


def _permute_backward(residuals, g):
    back, real = residuals
    rows = take_rows(g, back)
    real = real.reshape(-1, *(1,) * (rows.ndim - 1))
    return jnp.where(real, rows, 0), None, None, None


permute.defvjp(_permute_forward, _permute_backward)
