"""Sizes and pixels against transformers: live for images, golden for videos."""

import importlib.util
import pathlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.models.qwen2_vl import image_processing_pil_qwen2_vl as witness

from gve_jax.preprocess import patches, resize
from gve_jax.preprocess.geometry import QWEN2_5_VL, Geometry, Grid
from gve_jax.preprocess.resize import frame_budget, smart_resize
from gve_jax.types import UserError

_SCRIPT = pathlib.Path(__file__).parent / "golden" / "make_video_golden.py"
_spec = importlib.util.spec_from_file_location("make_video_golden", _SCRIPT)
golden = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(golden)


@settings(max_examples=500, deadline=None)
@given(
    st.integers(1, 5000),
    st.integers(1, 5000),
    st.integers(1, 300 * 784),
    st.integers(0, 300 * 784),
    st.sampled_from([28, 32]),
)
def test_smart_resize_equals_transformers(height, width, low, more, factor):
    try:
        expected = witness.smart_resize(height, width, factor, low, low + more)
    except ValueError:
        with pytest.raises(UserError, match="aspect ratio"):
            smart_resize(height, width, low, low + more, factor)
        return
    assert smart_resize(height, width, low, low + more, factor) == expected


def test_contract_budget_gives_fewer_than_201_tokens():
    for height, width in [(360, 640), (720, 1280), (1920, 1080), (100, 100)]:
        h, w = smart_resize(height, width, 128 * 784, 200 * 784, 28)
        assert 100 <= h * w // 784 <= 200


# (frames, height, width, factor, budgets of a frame and of all) -> size, by
# `fetch_video` of qwen-vl-utils 0.0.14.
@pytest.mark.parametrize(
    "n, height, width, factor, low, high, total, expected",
    [
        (8, 720, 1280, 32, 131072, 786432, 7864320, (640, 1152)),
        (64, 720, 1280, 32, 131072, 786432, 7864320, (352, 640)),
        (64, 480, 360, 32, 131072, 786432, 7864320, (480, 352)),
        (128, 720, 1280, 32, 131072, 786432, 7864320, (256, 480)),
        (8, 1080, 1920, 28, 100352, 602112, 19267584, (560, 1008)),
        (2, 96, 96, 32, 131072, 786432, 7864320, (384, 384)),
        (100, 1080, 1920, 28, 100352, 156800, 1568000, (224, 420)),
    ],
)
def test_total_budget_is_that_of_qwen(
    n, height, width, factor, low, high, total, expected
):
    most = frame_budget(n // 2, low, high, total)
    assert smart_resize(height, width, low, most, factor) == expected
    assert frame_budget(n // 2, low, high, 0) == high


def test_total_budget_leaves_every_frame_its_least():
    assert frame_budget(64, 131072, 786432, 7864320) == 137625  # 5 % above
    assert frame_budget(64, 131072, 131072, 7864320) == 131072


def raster(rows: np.ndarray, grid: Grid, geometry: Geometry) -> np.ndarray:
    """Window order back to the order of transformers' `pixel_values`."""
    units = rows.reshape(-1, geometry.unit * geometry.patch_dim)
    return units[patches.layout(grid, geometry).place].reshape(rows.shape)


@pytest.mark.parametrize(
    "height, width",
    [(84, 84), (224, 224), (100, 333), (333, 100), (5, 9), (2000, 30), (640, 361)],
)
@pytest.mark.parametrize("budget", [(9 * 784, 9 * 784), (128 * 784, 200 * 784)])
@pytest.mark.parametrize(
    "geometry", [Geometry(), Geometry(patch_size=16, window_size=0)]
)
def test_image_equals_transformers(height, width, budget, geometry):
    rng = np.random.default_rng(height)
    image = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    low, high = budget
    processor = witness.Qwen2VLImageProcessorPil(
        size={"shortest_edge": low, "longest_edge": high},
        patch_size=geometry.patch_size,
    )
    expected = processor(images=[image], return_tensors="np")

    size = smart_resize(height, width, low, high, geometry.factor)
    resized = resize.resize_image(image, *size)
    grid = patches.grid_of(resized[None], geometry)
    got = raster(patches.patchify(resized[None], geometry), grid, geometry)

    np.testing.assert_array_equal(expected["image_grid_thw"], [grid])
    pixels = got.reshape(len(got), 3, -1).astype(np.float64) / 255
    mean = np.array(processor.image_mean)[:, None]
    std = np.array(processor.image_std)[:, None]
    np.testing.assert_allclose(
        ((pixels - mean) / std).reshape(got.shape),
        expected["pixel_values"],
        atol=1e-6,
        rtol=0,
    )


@pytest.fixture(scope="module")
def stored():
    with np.load(golden.GOLDEN) as file:
        return dict(file)


@pytest.mark.parametrize("name", golden.CASES)
def test_video_equals_torchvision_golden_bit_for_bit(stored, name):
    case = golden.CASES[name]
    frames = golden.make_frames(case)
    size = smart_resize(case.height, case.width, case.min_pixels, case.max_pixels, 28)
    resized = resize.resize_frames(frames, *size)
    grid = patches.grid_of(resized, QWEN2_5_VL)
    assert grid == tuple(stored[f"{name}_grid"])
    got = raster(patches.patchify(resized, QWEN2_5_VL), grid, QWEN2_5_VL)
    np.testing.assert_array_equal(got, stored[f"{name}_patches"])


def test_pillow_would_differ_by_a_level(stored):
    """Why videos have a resize of their own; and that the golden test can fail."""
    case = golden.CASES["wide"]
    frames = golden.make_frames(case)
    size = smart_resize(case.height, case.width, case.min_pixels, case.max_pixels, 28)
    resized = np.stack([resize.resize_image(f, *size) for f in frames])
    grid = patches.grid_of(resized, QWEN2_5_VL)
    got = raster(patches.patchify(resized, QWEN2_5_VL), grid, QWEN2_5_VL)
    distance = np.abs(got.astype(int) - stored["wide_patches"])
    assert distance.max() == 1
    assert 0.99 < (distance == 0).mean() < 1


def test_golden_file_is_small():
    assert golden.GOLDEN.stat().st_size < 1_000_000
