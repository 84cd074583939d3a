"""What a `FrameEncoder` is shown, read without jax: in processes of its own."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from PIL import Image

from gve_jax import media
from gve_jax.preprocess import reorder
from gve_jax.types import Item, UserError


class Shown(NamedTuple):
    """An item as an encoder sees it; what it has not is None."""

    text: str | None
    instruction: str | None  # of queries; the other side has none
    video: np.ndarray | None  # uint8 [num_frames, h, w, 3], RGB
    image: np.ndarray | None  # uint8 [h, w, 3], RGB


def read(num_frames: int, prepare: Callable | None, item: Item) -> Shown | str:
    """Decodes an item, or says why it cannot.

    Args:
      num_frames: of a video, evenly spaced in time.
      prepare: maps frames uint8 [n, h, w, 3] to those to be shown; None: as they are.
      item: what to read.
    """
    prepare = prepare or (lambda frames: frames)
    video = image = None
    try:
        if item.video:
            found = media.read_video(item.video, num_frames, item.start, item.end)
            video = prepare(reorder(found, item.frame_order).pixels)
        if item.image:
            image = prepare(media.read_image(item.image)[None])[0]
    except UserError as e:
        return str(e)
    return Shown(item.text, item.instruction, video, image)


def centre_square(size: int, frames: np.ndarray) -> np.ndarray:
    """The shorter side scaled to `size`, as CLIP's bicubic, and the centre cut out.

    Args:
      size: pixels.
      frames: uint8 [n, h, w, 3].

    Returns:
      uint8 [n, size, size, 3].
    """
    height, width = frames.shape[1:3]
    short = min(height, width)
    to = (width * size // short, height * size // short)
    left, top = ((n - size) // 2 for n in to)
    return np.stack(
        [
            np.asarray(Image.fromarray(frame).resize(to, Image.Resampling.BICUBIC))
            for frame in frames
        ]
    )[:, top : top + size, left : left + size]


def squeeze(size: int, frames: np.ndarray) -> np.ndarray:
    """uint8 [n, h, w, 3] to [n, size, size, 3], whatever the aspect ratio."""
    to = (size, size)
    return np.stack(
        [
            np.asarray(Image.fromarray(frame).resize(to, Image.Resampling.BILINEAR))
            for frame in frames
        ]
    )
