"""A row of frames of a video, as a small picture for a page.

It lives by itself so that the process that decodes starts without Beam.
"""

import cv2
import numpy as np

from data_synthesis import video
from gve_jax import media
from gve_jax.types import Item

_FRAMES, _HEIGHT, _QUALITY = 4, 72, 70
_WIDEST = 2.4  # of a frame, in heights: what is wider is cut at its sides


def contact_sheet(limits, item: Item) -> tuple | str:
    """(JPEG,) of frames evenly spread over a video, or "CODE: reason".

    Args:
      limits: `config.media`.
    """
    try:
        found = media.read_video(
            item.video, _FRAMES, limits=video.media_limits(limits)
        ).pixels
    except media.MediaError as e:
        return f"{e.code}: {e.message}"
    height, width = found.shape[1:3]
    size = (max(1, round(_HEIGHT * width / height)), _HEIGHT)
    frames = [cv2.resize(f, size, interpolation=cv2.INTER_AREA) for f in found]
    most = int(_WIDEST * _HEIGHT)
    cut = max(0, size[0] - most) // 2
    row = np.concatenate([f[:, cut : cut + most] for f in frames], 1)
    ok, data = cv2.imencode(
        ".jpg", row[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, _QUALITY]
    )
    if not ok:
        raise RuntimeError(f"{item.video}: cv2 could not encode {row.shape}")
    return (data.tobytes(),)
