"""M-RoPE positions and times against `get_rope_index` of each family's own model."""

import numpy as np
import pytest
import torch
from transformers.models.qwen3_vl.processing_qwen3_vl import Qwen3VLProcessor
from transformers.video_utils import VideoMetadata

from gve_jax.preprocess import Geometry
from gve_jax.preprocess.geometry import QWEN2_5_VL
from gve_jax.preprocess.positions import (
    Placed,
    group_times,
    mrope_positions,
    seconds_per_grid,
)
from tests.model_witness import index_models

COUNTS = Geometry(window_size=0, tokens_per_second=0)
MEDIA = [
    [],
    [((1, 10, 14), None)],
    [((4, 6, 6), 2.0)],
    [((4, 6, 6), 0.0)],
    [((4, 28, 4), 0.37), ((1, 6, 10), None)],
    [((5, 2, 40), 21.7), ((1, 2, 2), None)],
    [((24, 4, 4), 1.9999999)],
    [((24, 4, 4), 1 / 3)],
]


@pytest.fixture(scope="module")
def models():
    return index_models()


def reference_positions(model, kinds, grids, seconds):
    """`kinds`: per token 0 text, 1 image, 2 video; `grids`: of the media in order."""
    kinds = torch.tensor([kinds])
    images = torch.tensor([g for g, s in zip(grids, seconds, strict=True) if s is None])
    videos = [(g, s) for g, s in zip(grids, seconds, strict=True) if s is not None]
    ids, _ = model.get_rope_index(
        torch.zeros_like(kinds),
        kinds,
        image_grid_thw=images if len(images) else None,
        video_grid_thw=torch.tensor([g for g, _ in videos]) if videos else None,
        second_per_grid_ts=torch.tensor([s for _, s in videos]) if videos else None,
    )
    return ids[:, 0].numpy()


@pytest.mark.parametrize("media", MEDIA)
@pytest.mark.parametrize("between", [0, 1, 5])
@pytest.mark.parametrize("family", ["qwen2_vl", "qwen2_5_vl"])
def test_positions_equal_get_rope_index(models, family, media, between):
    if family == "qwen2_5_vl":
        models[family].config.vision_config.tokens_per_second = 2
    kinds, placed = [0] * 7, []
    for (t, h, w), seconds in media:
        step = seconds if family == "qwen2_5_vl" else None
        placed.append(Placed(len(kinds), (t, h, w), step))
        kinds += [1 if seconds is None else 2] * (t * h * w // 4) + [0] * between
    kinds += [0] * 9
    geometry = QWEN2_5_VL if family == "qwen2_5_vl" else COUNTS
    got = mrope_positions(len(kinds), placed, geometry)
    expected = reference_positions(
        models[family], kinds, [g for g, _ in media], [s for _, s in media]
    )
    assert got.dtype == np.int32
    np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("media", MEDIA)
@pytest.mark.parametrize("between", [1, 5])
def test_groups_of_a_video_are_media_of_their_own(models, media, between):
    """Qwen3-VL: the time of each group stands in the text before it."""
    kinds, placed = [0] * 7, []
    for (t, h, w), seconds in media:
        for _ in range(t):
            placed.append(Placed(len(kinds), (1, h, w)))
            kinds += [1 if seconds is None else 2] * (h * w // 4) + [0] * between
    kinds += [0] * 9
    got = mrope_positions(len(kinds), placed, COUNTS)
    expected = reference_positions(
        models["qwen3_vl"], kinds, [g for g, _ in media], [s for _, s in media]
    )
    np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("frames", [1, 2, 7, 8, 25, 200, 3000])
@pytest.mark.parametrize("fps", [10, 24, 25, 30000 / 1001, 60])
@pytest.mark.parametrize("tokens_per_second", [2, 4])
def test_real_time_equals_that_of_sampled_metadata(
    models, frames, fps, tokens_per_second
):
    """From a video's length and rate, the way the processor of transformers goes."""
    model = models["qwen2_5_vl"]
    indices = np.linspace(0, frames - 1, 8).round().astype(int).tolist()
    metadata = VideoMetadata(total_num_frames=frames, fps=fps, frames_indices=indices)
    model.config.vision_config.tokens_per_second = tokens_per_second
    expected = reference_positions(
        model, [0, *[2] * 4, 0], [(4, 2, 2)], [2 / metadata.sampled_fps]
    )
    geometry = Geometry(tokens_per_second=tokens_per_second)
    seconds = seconds_per_grid(8, frames / fps, "real", geometry)
    got = mrope_positions(6, [Placed(1, (4, 2, 2), seconds)], geometry)
    np.testing.assert_array_equal(got, expected)


def test_nominal_time_is_one_frame_a_second():
    assert seconds_per_grid(8, 300.0, "nominal", QWEN2_5_VL) == 2.0
    assert seconds_per_grid(8, 0.0, "real", QWEN2_5_VL) == 0.0
    assert seconds_per_grid(8, 300.0, "nominal", COUNTS) is None
    assert group_times(np.zeros(5), "nominal", COUNTS) == [0.5, 2.5, 4.0]


@pytest.mark.parametrize("num", [1, 2, 7, 8, 64])
@pytest.mark.parametrize("frames", [1, 8, 25, 200, 3000])
@pytest.mark.parametrize("fps", [10, 24, 25, 30000 / 1001, 60])
def test_times_of_groups_equal_those_of_qwen3(num, frames, fps):
    indices = np.linspace(0, frames - 1, num).round().astype(int)
    # `self` is not read.
    expected = Qwen3VLProcessor._calculate_timestamps(None, indices.tolist(), fps, 2)
    assert group_times(indices / fps, "real", COUNTS) == expected
