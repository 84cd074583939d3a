"""Frames to patches in window order, with the layout that attention needs.

A patch is a row of 3 * 2 * 14 * 14 bytes in the order (channel, frame of the pair, y,
x), the order of `pixel_values` in `transformers`. They stay uint8: rescaling and
normalising happen on the device. Four patches of a 2 x 2 square are consecutive rows
and form one merged unit, one token of the language model. Units are ordered by the
windows of the vision tower's local attention, as its `get_vision_window_index` does.
"""

import functools
from typing import NamedTuple

import numpy as np

from gve_jax.preprocess.resize import MERGE, PATCH

TEMPORAL = 2  # frames in a patch
UNIT = MERGE * MERGE  # patches in a merged unit
PATCH_DIM = 3 * TEMPORAL * PATCH * PATCH

Grid = tuple[int, int, int]  # temporal groups, rows and columns of patches


class Layout(NamedTuple):
    """What depends on the grid alone. u merged units, p = 4 * u patches."""

    order: np.ndarray  # int32 [u]: raster unit at each window-order place
    place: np.ndarray  # int32 [u]: window-order place of each raster unit
    coords: np.ndarray  # int32 [p, 2]: row, column; in window order
    window_lengths: np.ndarray  # int32 [w], patches
    frame_lengths: np.ndarray  # int32 [g], patches


@functools.lru_cache(maxsize=1024)
def layout(grid: Grid, window_size: int = 112) -> Layout:
    """The layout of one image or video; do not write to its arrays.

    Args:
      grid: temporal groups, rows and columns of patches; rows and columns even.
      window_size: pixels along each side of an attention window.
    """
    groups, rows, columns = grid
    side = window_size // PATCH // MERGE  # units along each side of a window
    height, width = rows // MERGE, columns // MERGE
    y, x = np.mgrid[:height, :width].reshape(2, -1)
    window = (y // side) * -(-width // side) + x // side  # of each unit of a frame
    # Stable: within a window, units stay in raster order.
    order = np.argsort(window, kind="stable")
    lengths = np.bincount(window) * UNIT

    corner = np.stack([y, x], axis=-1)[order] * MERGE  # [u/g 2]
    inner = np.array([(i, j) for i in range(MERGE) for j in range(MERGE)])
    coords = (corner[:, None] + inner).reshape(-1, 2)

    area = height * width
    order = (order + area * np.arange(groups)[:, None]).reshape(-1)
    result = Layout(
        order=order.astype(np.int32),
        place=np.argsort(order).astype(np.int32),
        coords=np.tile(coords, (groups, 1)).astype(np.int32),
        window_lengths=np.tile(lengths, groups).astype(np.int32),
        frame_lengths=np.full(groups, rows * columns, np.int32),
    )
    for array in result:
        array.flags.writeable = False
    return result


def grid_of(frames: np.ndarray) -> Grid:
    """The grid of uint8 [n, h, w, 3] with sides in multiples of 28."""
    n, height, width, _ = frames.shape
    return -(-n // TEMPORAL), height // PATCH, width // PATCH


def patchify(frames: np.ndarray, window_size: int = 112) -> np.ndarray:
    """Cuts resized frames into patches.

    Args:
      frames: uint8 [n, h, w, 3], sides in multiples of 28. An odd last frame is shown
        twice, so an image (n = 1) fills both frames of its patches.

    Returns:
      uint8 [p, 1176] in window order, p = ceil(n / 2) * h / 14 * w / 14.
    """
    if len(frames) % TEMPORAL:
        frames = np.concatenate([frames, frames[-1:]])
    groups, rows, columns = grid = grid_of(frames)
    height, width = rows // MERGE, columns // MERGE
    x = frames.reshape(
        groups, TEMPORAL, height, MERGE, PATCH, width, MERGE, PATCH, 3
    )  # [g t h i y w j x c]
    x = x.transpose(0, 2, 5, 3, 6, 8, 1, 4, 7)  # [g h w i j c t y x]
    units = x.reshape(groups * height * width, UNIT * PATCH_DIM)
    order = layout(grid, window_size).order
    if (order[1:] < order[:-1]).any():  # else one window a frame: already in order
        units = units[order]
    return units.reshape(-1, PATCH_DIM)
