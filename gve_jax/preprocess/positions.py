"""M-RoPE positions: (temporal, height, width) of each token.

As `Qwen2_5_VLModel.get_rope_index` of transformers 5.23. Text counts up on all three
axes; a medium keeps its start on each axis and counts grid steps from there; what
follows it continues at start + max(rows, columns) of its merged grid, whatever its
duration, so late groups of a long video may lie beyond the text after them.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from gve_jax.preprocess.patches import TEMPORAL, Grid
from gve_jax.preprocess.resize import MERGE


class Placed(NamedTuple):
    """A medium in the token sequence."""

    start: int  # index of its first placeholder
    grid: Grid  # temporal groups, rows and columns of patches
    seconds_per_grid: float | None = None  # None for an image


def seconds_per_grid(num_frames: int, duration: float, time: str) -> float:
    """Seconds of video behind one temporal group.

    "real" is `temporal patch / sampling fps` with the sampling rate of transformers'
    `VideoMetadata.sampled_fps`: sampled frames over the duration of the (cut) video,
    the display of the last frame included. It is not the spacing of the samples, which
    from first to last frame is a little wider. A video without duration, such as a
    single frame repeated, gives 0: all its groups are at one time. "nominal" takes one
    frame a second.
    """
    if time == "nominal":
        return float(TEMPORAL)
    return TEMPORAL * max(duration, 0.0) / num_frames


def mrope_positions(
    length: int, media: Sequence[Placed], tokens_per_second: float
) -> np.ndarray:
    """Positions of a sequence of `length` tokens, int32 [3, length].

    Args:
      length: tokens of text and media together.
      media: in the order of the sequence, not overlapping.
      tokens_per_second: temporal positions in one second of video.
    """
    out = np.empty((3, length), np.int32)
    at = 0  # tokens done
    position = 0
    for start, (groups, rows, columns), seconds in media:
        out[:, at:start] = np.arange(position, position + start - at)
        position += start - at
        rows, columns = rows // MERGE, columns // MERGE
        # float32 and truncation are the reference's; in float64 a step of, say,
        # 1.9999999 would round differently.
        step = 1.0 if seconds is None else seconds
        scale = 1 if seconds is None else tokens_per_second
        step = np.float32(scale) * np.float32(step)
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
