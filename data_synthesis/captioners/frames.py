"""A video as pictures, for captioners that take no video files.

It runs in a process that can be killed, and imports little for that.
"""

import cv2

from gve_jax import media
from gve_jax.media import Limits, MediaError
from gve_jax.types import Item

NUMBER = 8  # as the embedder takes
_SHORT_SIDE = 448  # pixels, at most


def as_jpegs(limits: Limits, item: Item) -> tuple[bytes, ...] | str:
    """JPEG bytes of frames evenly spread over a video, or why there are none."""
    try:
        frames = media.read_video(item.video, NUMBER, limits=limits)
    except MediaError as e:
        return f"{e.code}: {e.message}"
    height, width = frames.pixels.shape[1:3]
    scale = min(1.0, _SHORT_SIDE / min(height, width))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    jpegs = []
    for pixels in frames.pixels:
        small = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
        _, data = cv2.imencode(".jpg", cv2.cvtColor(small, cv2.COLOR_RGB2BGR))
        jpegs.append(data.tobytes())
    return tuple(jpegs)
