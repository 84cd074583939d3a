"""A contract as the processors of transformers are configured."""

from collections.abc import Iterator
from typing import NamedTuple

from gve_jax.contract import Contract
from gve_jax.model import ModelConfig


class _Classes(NamedTuple):
    processor: str
    video: str


_CLASSES = {
    "qwen2_vl": _Classes("Qwen2VLProcessor", "Qwen2VLVideoProcessor"),
    "qwen2_5_vl": _Classes("Qwen2_5_VLProcessor", "Qwen2VLVideoProcessor"),
    "qwen3_vl": _Classes("Qwen3VLProcessor", "Qwen3VLVideoProcessor"),
}
# What Qwen3VLProcessor puts in the place of a video's placeholder, for each group.
_VIDEO_GROUP = "<{seconds} seconds><|vision_start|><|video_pad|><|vision_end|>"
# Share of `max_video_tokens` that Qwen2VLVideoProcessor takes for a video.
_VIDEO_SHARE = 0.9


def processor_files(config: ModelConfig, contract: Contract) -> dict[str, dict]:
    """File name -> content, for AutoProcessor and the processors it is made of."""
    classes = _CLASSES[config.family]
    return {
        "processor_config.json": {"processor_class": classes.processor},
        "preprocessor_config.json": {
            "processor_class": classes.processor,
            "image_processor_type": "Qwen2VLImageProcessor",
            "size": {
                "shortest_edge": contract.image_min_pixels or contract.min_pixels,
                "longest_edge": contract.image_max_pixels or contract.max_pixels,
            },
            **_geometry(config),
        },
        "video_preprocessor_config.json": {
            "processor_class": classes.processor,
            "video_processor_type": classes.video,
            "do_sample_frames": True,
            **_frames(contract),
            **_video_budget(config, contract),
            **_geometry(config),
        },
    }


def differences(contract: Contract) -> Iterator[str]:
    """What the processors of transformers cannot be told, or do in another way.

    Of the images nothing is on this list, but with torchvision installed they are
    resized by it, whose values differ by one level of 255 here and there from those of
    Pillow, which are ours: `AutoImageProcessor.from_pretrained(folder, backend="pil")`.
    """
    if contract.positions == "sequential":
        yield (
            "positions are sequential: beside images and videos give the model "
            "position_ids of your own, 0, 1, 2 ...; sentence-transformers cannot"
        )
    if contract.time != "real":
        yield f"time is {contract.time!r}; for transformers the time of videos is real"
    group = _VIDEO_GROUP if contract.family == "qwen3_vl" else ""
    if contract.video_group != group:
        yield f"groups of a video are {contract.video_group!r}, not {group!r}"
    if contract.family == "qwen3_vl":
        if contract.fps:
            yield (
                f"frames of videos below {contract.min_pixels} pixels are not "
                "enlarged, and of an odd number of sampled frames none is left out"
            )
        return
    yield (
        "of a video other frames are sampled: those at the beginning of equal spans, "
        "not from the first to the last; for equal vectors sample them and set "
        "do_sample_frames=False"
    )


def _geometry(config: ModelConfig) -> dict:
    v = config.vision
    return {
        "patch_size": v.patch_size,
        "temporal_patch_size": v.temporal_patch_size,
        "merge_size": v.spatial_merge_size,
        "image_mean": list(v.image_mean),
        "image_std": list(v.image_std),
    }


def _frames(c: Contract) -> dict:
    if c.fps:
        return {"fps": c.fps, "min_frames": c.min_frames, "max_frames": c.num_frames}
    if c.family == "qwen3_vl":
        # Its class has an `fps` that a file cannot unset: with bounds that meet, any
        # does.
        return {"min_frames": c.num_frames, "max_frames": c.num_frames}
    return {"num_frames": c.num_frames}


def _video_budget(config: ModelConfig, c: Contract) -> dict:
    v = config.vision
    unit = (v.patch_size * v.spatial_merge_size) ** 2
    low, high = c.min_pixels, c.max_pixels
    if c.family != "qwen3_vl":
        budget = {
            "size": {"shortest_edge": low, "longest_edge": high},
            "cap_pixels_per_frame": bool(c.total_pixels),
        }
        if c.total_pixels:
            budget["max_video_tokens"] = round(c.total_pixels / unit / _VIDEO_SHARE)
        return budget
    # Its sizes are of all frames together.
    groups = -(-c.num_frames // v.temporal_patch_size)
    if not c.fps:
        if c.total_pixels:
            high = min(high, max(c.total_pixels / groups, int(low * 1.05)))
        return {
            "size": {
                "shortest_edge": low * c.num_frames,
                "longest_edge": int(high * c.num_frames),
            },
            "cap_pixels_per_frame": False,
        }
    total = c.total_pixels or high * groups
    return {
        "size": {
            "shortest_edge": low,
            "longest_edge": total * v.temporal_patch_size,
        },
        "cap_pixels_per_frame": True,
        "max_video_tokens": high // unit,
    }
