"""Frames to patches in window order, with the layout that attention needs.

A patch is a row of 3 * temporal * side * side bytes in the order (channel, frame of the
group, y, x), the order of `pixel_values` in `transformers`. They stay uint8: rescaling
and normalising happen on the device. The patches of a square of 2 x 2 are consecutive
rows and form one merged unit, one token of the language model. Units are ordered by the
windows of the vision tower's local attention, as `get_vision_window_index` of
`transformers` does, or in raster order for towers without windows.
"""

import functools
from typing import NamedTuple

import numpy as np

from gve_jax.preprocess.geometry import Geometry, Grid


class Layout(NamedTuple):
    """What depends on the grid alone. u merged units of p patches together."""

    order: np.ndarray  # int32 [u]: raster unit at each window-order place
    place: np.ndarray  # int32 [u]: window-order place of each raster unit
    coords: np.ndarray  # int32 [p, 2]: row, column; in window order
    window_lengths: np.ndarray  # int32 [w], patches; w = 0 without windows
    frame_lengths: np.ndarray  # int32 [g], patches


@functools.lru_cache(maxsize=1024)
def layout(grid: Grid, geometry: Geometry) -> Layout:
    """The layout of one image or video; do not write to its arrays.

    Args:
      grid: temporal groups, rows and columns of patches; rows and columns are
        multiples of `geometry.merge_size`.
      geometry: of the vision tower.
    """
    groups, rows, columns = grid
    merge = geometry.merge_size
    height, width = rows // merge, columns // merge
    y, x = np.mgrid[:height, :width].reshape(2, -1)
    order = np.arange(height * width)
    lengths = np.zeros(0, np.int64)
    if geometry.window_size:
        side = geometry.window_size // geometry.factor  # units along a window's sides
        window = (y // side) * -(-width // side) + x // side  # of each unit of a frame
        # Stable: within a window, units stay in raster order.
        order = np.argsort(window, kind="stable")
        lengths = np.bincount(window) * geometry.unit

    corner = np.stack([y, x], axis=-1)[order] * merge  # [u/g 2]
    inner = np.array([(i, j) for i in range(merge) for j in range(merge)])
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


def grid_of(frames: np.ndarray, geometry: Geometry) -> Grid:
    """The grid of uint8 [n, h, w, 3] with sides in multiples of `geometry.factor`."""
    n, height, width, _ = frames.shape
    side = geometry.patch_size
    return -(-n // geometry.temporal_patch_size), height // side, width // side


def patchify(frames: np.ndarray, geometry: Geometry) -> np.ndarray:
    """Cuts resized frames into patches.

    Args:
      frames: uint8 [n, h, w, 3], sides in multiples of `geometry.factor`. The last
        frame is repeated to fill its group, so an image (n = 1) fills all frames of
        its patches.
      geometry: of the vision tower.

    Returns:
      uint8 [p, geometry.patch_dim] in window order, p the product of the grid.
    """
    temporal, side, merge = (
        geometry.temporal_patch_size,
        geometry.patch_size,
        geometry.merge_size,
    )
    missing = -len(frames) % temporal
    if missing:
        frames = np.concatenate([frames, frames[-1:].repeat(missing, 0)])
    groups, rows, columns = grid = grid_of(frames, geometry)
    height, width = rows // merge, columns // merge
    x = frames.reshape(
        groups, temporal, height, merge, side, width, merge, side, 3
    )  # [g t h i y w j x c]
    x = x.transpose(0, 2, 5, 3, 6, 8, 1, 4, 7)  # [g h w i j c t y x]
    units = x.reshape(groups * height * width, geometry.unit * geometry.patch_dim)
    order = layout(grid, geometry).order
    if (order[1:] < order[:-1]).any():  # else one window a frame: already in order
        units = units[order]
    return units.reshape(-1, geometry.patch_dim)
