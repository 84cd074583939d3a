"""Frames out of their order: what a probe of temporal understanding shows a model."""

import functools
import hashlib
import itertools

import numpy as np

from gve_jax.types import Frames, UserError

ORDERS = ("reversed", "shuffled", "single")


def reorder(frames: Frames, order: str | None) -> Frames:
    """The frames in another order; their times stay as they were, ascending.

    Args:
      frames: as sampled.
      order: None, as they are; "reversed"; "shuffled", by a permutation that depends
        on the number of frames only; or "single", the middle frame in each place.

    Raises:
      UserError: there is no such order.
    """
    if order is None:
        return frames
    n = len(frames.pixels)
    if order == "reversed":
        rows = np.arange(n)[::-1]
    elif order == "shuffled":
        rows = shuffled(n)
    elif order == "single":
        rows = np.full(n, n // 2)
    else:
        raise UserError(f"frame_order is {order!r}, not one of {ORDERS}")
    return frames._replace(pixels=frames.pixels[rows])


@functools.lru_cache(maxsize=64)
def shuffled(n: int) -> np.ndarray:
    """int [n]: a permutation of 0..n-1 that is the same on every machine.

    Half of all pairs of frames, as nearly as n allows, stand the wrong way around
    (Kendall's tau about 0), so that no order is left; never the identity if n > 1.
    """
    pairs = n * (n - 1) // 2
    for salt in itertools.count():
        keys = [hashlib.sha256(f"{salt}/{i}".encode()).digest() for i in range(n)]
        order = np.array(sorted(range(n), key=keys.__getitem__), np.int64)
        wrong = int(np.triu(order[:, None] > order, 1).sum())
        if n == 1 or (wrong and abs(2 * wrong - pairs) <= max(1, pairs // 10)):
            order.flags.writeable = False  # it is shared
            return order
