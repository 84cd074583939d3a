"""Window order, coordinates and lengths against transformers' vision utilities."""

import numpy as np
import pytest
import torch
from transformers import vision_utils

from gve_jax.preprocess import Geometry, patches

GRIDS = [
    (1, 6, 6),
    (4, 6, 6),
    (1, 8, 8),
    (1, 16, 8),
    (3, 10, 14),
    (2, 2, 24),
    (2, 32, 2),
    (1, 2, 2),
    (4, 28, 28),
    (4, 18, 32),
]


@pytest.mark.parametrize("window_size", [56, 112])
@pytest.mark.parametrize("grid", GRIDS)
def test_layout_equals_transformers(grid, window_size):
    got = patches.layout(grid, Geometry(window_size=window_size))
    thw = torch.tensor([grid])
    index, seqlens = vision_utils.get_vision_window_index(thw, 2, window_size, 14)
    np.testing.assert_array_equal(got.order, index.numpy())
    np.testing.assert_array_equal(got.window_lengths, np.diff(seqlens.numpy()))
    np.testing.assert_array_equal(got.place[got.order], np.arange(len(got.order)))

    coords = vision_utils.get_vision_position_ids(thw, 2).numpy()
    in_windows = coords.reshape(-1, 4, 2)[index.numpy()].reshape(-1, 2)
    np.testing.assert_array_equal(got.coords, in_windows)

    frames = vision_utils.get_vision_cu_seqlens(thw)
    np.testing.assert_array_equal(got.frame_lengths, np.diff(frames.numpy()))


@pytest.mark.parametrize("grid", GRIDS)
def test_without_windows_the_order_is_raster(grid):
    got = patches.layout(grid, Geometry(patch_size=16, window_size=0))
    thw = torch.tensor([grid])
    np.testing.assert_array_equal(got.order, np.arange(np.prod(grid) // 4))
    np.testing.assert_array_equal(got.place, got.order)
    coords = vision_utils.get_vision_position_ids(thw, 2).numpy()
    np.testing.assert_array_equal(got.coords, coords)
    frames = vision_utils.get_vision_cu_seqlens(thw)
    np.testing.assert_array_equal(got.frame_lengths, np.diff(frames.numpy()))
    assert got.window_lengths.shape == (0,)


@pytest.mark.parametrize(
    "geometry", [Geometry(), Geometry(patch_size=16, window_size=0)]
)
def test_patch_holds_the_pixels_at_its_coords(geometry):
    rng = np.random.default_rng(0)
    side = geometry.patch_size
    grid = (2, 10, 14)
    frames = rng.integers(0, 256, (4, 10 * side, 14 * side, 3), dtype=np.uint8)
    assert patches.grid_of(frames, geometry) == grid
    rows = patches.patchify(frames, geometry)
    assert rows.shape == (280, geometry.patch_dim)
    rows = rows.reshape(-1, 3, 2, side, side)
    coords = patches.layout(grid, geometry).coords
    per_group = len(rows) // 2
    for i in [0, 1, 17, 100, per_group, 2 * per_group - 1]:
        group, (y, x) = i // per_group, coords[i] * side
        block = frames[2 * group : 2 * group + 2, y : y + side, x : x + side]
        np.testing.assert_array_equal(rows[i], block.transpose(3, 0, 1, 2))


def test_odd_last_frame_is_shown_twice():
    frames = np.random.default_rng(0).integers(0, 256, (3, 28, 28, 3), dtype=np.uint8)
    rows = patches.patchify(frames, Geometry()).reshape(2, 4, 3, 2, 14, 14)
    np.testing.assert_array_equal(rows[1, :, :, 0], rows[1, :, :, 1])
    assert (rows[0, :, :, 0] != rows[0, :, :, 1]).any()
