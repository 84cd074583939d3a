"""M-RoPE positions: (temporal, height, width) of each token.

As `get_rope_index` of transformers 5.24. Text counts up on all three axes; a medium
keeps its start on each axis and counts grid steps from there; what follows it continues
at start + max(rows, columns) of its merged grid, whatever its duration, so late groups
of a long video may lie beyond the text after them.

The families differ in time. Qwen2-VL counts temporal groups; Qwen2.5-VL counts steps of
real time; Qwen3-VL writes the time of each group as text before it, and each group is a
medium of its own.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from gve_jax.preprocess.geometry import Geometry, Grid


class Placed(NamedTuple):
    """A medium in the token sequence, or one group of a video."""

    start: int  # index of its first placeholder
    grid: Grid  # temporal groups, rows and columns of patches
    # Seconds of a temporal group; None: groups are counted.
    seconds_per_grid: float | None = None


def seconds_per_grid(
    num_frames: int, duration: float, time: str, geometry: Geometry
) -> float | None:
    """Seconds of video behind one temporal group; None for towers that count groups.

    "real" is `temporal patch / sampling fps` with the sampling rate of transformers'
    `VideoMetadata.sampled_fps`: sampled frames over the duration of the (cut) video,
    the display of the last frame included. It is not the spacing of the samples, which
    from first to last frame is a little wider. A video without duration, such as a
    single frame repeated, gives 0: all its groups are at one time. "nominal" takes one
    frame a second.
    """
    if not geometry.tokens_per_second:
        return None
    if time == "nominal":
        return float(geometry.temporal_patch_size)
    return geometry.temporal_patch_size * max(duration, 0.0) / num_frames


def group_times(seconds: np.ndarray, time: str, geometry: Geometry) -> list[float]:
    """The time of each temporal group: the mean of its first and its last frame's.

    As `Qwen3VLProcessor._calculate_timestamps` of transformers: the last frame is
    repeated to fill its group. A cut of a video counts from its own first frame, as it
    would if it were a file.

    Args:
      seconds: float64 [n], of the frames.
      time: "real", or "nominal" for one frame a second.
      geometry: of the vision tower.
    """
    if time == "nominal":
        seconds = np.arange(len(seconds), dtype=np.float64)
    size = geometry.temporal_patch_size
    seconds = seconds - seconds[0]
    seconds = np.pad(seconds, (0, -len(seconds) % size), mode="edge").reshape(-1, size)
    return ((seconds[:, 0] + seconds[:, -1]) / 2).tolist()


def mrope_positions(
    length: int, media: Sequence[Placed], geometry: Geometry
) -> np.ndarray:
    """Positions of a sequence of `length` tokens, int32 [3, length].

    Args:
      length: tokens of text and media together.
      media: in the order of the sequence, not overlapping.
      geometry: of the vision tower.
    """
    out = np.empty((3, length), np.int32)
    at = 0  # tokens done
    position = 0
    for start, (groups, rows, columns), seconds in media:
        out[:, at:start] = np.arange(position, position + start - at)
        position += start - at
        rows, columns = rows // geometry.merge_size, columns // geometry.merge_size
        # float32 and truncation are the reference's; in float64 a step of, say,
        # 1.9999999 would round differently.
        step = np.float32(1)
        if seconds is not None:
            step = np.float32(geometry.tokens_per_second) * np.float32(seconds)
        temporal = (np.arange(groups, dtype=np.float32) * step).astype(np.int32)
        at = start + groups * rows * columns
        block = out[:, start:at].reshape(3, groups, rows, columns)
        block[0] = temporal[:, None, None]
        block[1] = np.arange(rows)[:, None]
        block[2] = np.arange(columns)
        out[:, start:at] = block.reshape(3, -1) + position
        position += max(rows, columns)
    out[:, at:] = np.arange(position, position + length - at)
    return out
