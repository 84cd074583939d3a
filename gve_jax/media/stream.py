"""All frames of a video, one after the other: memory does not grow with its length."""

import os
from collections.abc import Iterator
from contextlib import closing

import numpy as np
from PIL import Image

from gve_jax.media import files
from gve_jax.media.image import Animation
from gve_jax.media.limits import Limits, Meter, only_media_errors
from gve_jax.media.reader import Reader


def stream_video(
    path: str | os.PathLike,
    short_side: int | None = None,
    limits: Limits | None = None,
) -> Iterator[tuple[float, np.ndarray]]:
    """Yields every frame with its presentation time.

    Args:
      path: a video, or an image (a video of one frame, or an animation).
      short_side: pixels of the shorter side; larger frames are scaled down to it.
      limits: caps on size, work and damage. Its time runs while the caller works, too.

    Yields:
      Seconds since the first frame, strictly increasing; uint8 [height, width, 3] RGB,
      upright. Frames are as `read_video` gives them, before scaling.

    Raises:
      MediaError: missing, no video, damaged or over the limits; damage may only be
        known after the last frame.
    """
    path = os.fspath(path)
    full, kind, name, size = files.inspect(path)
    meter = Meter(path, limits or Limits())
    with only_media_errors(path, meter):
        if kind == files.IMAGE:
            with closing(Animation(full, name, meter)) as source:
                line = source.timeline()
                for i, tick in enumerate(line.ticks):
                    seconds = float((tick - line.ticks[0]) * line.tick)
                    pixels = source.read([i])[0]
                    height, width = _target(pixels, short_side).shape[:2]
                    image = Image.fromarray(pixels).resize(
                        (width, height), Image.Resampling.BILINEAR
                    )
                    yield seconds, np.asarray(image)
            return
        with closing(Reader(path, full, name, size, meter)) as reader:
            count, last, start, like = 0, -1.0, None, None
            for frame in reader.frames():
                if like is None:
                    like = _target(reader.to_rgb(frame, None), short_side)
                nominal = float(count / reader.rate)
                if frame.pts is None or reader.pts_are_guesses:
                    seconds = nominal
                else:
                    start = frame.pts if start is None else start
                    seconds = float((frame.pts - start) * reader.stream.time_base)
                # Broken timestamps: the decoder's order holds, its rate must do.
                seconds = max(seconds, last + float(1 / reader.rate) * 1e-3)
                last = seconds
                count += 1
                # swscale scales before it makes RGB: little is computed twice.
                yield seconds, reader.to_rgb(frame, like)
            reader.check_damage(count, reader.lost_samples())


def _target(pixels: np.ndarray, short_side: int | None) -> np.ndarray:
    """An array of the size that frames get."""
    height, width = pixels.shape[:2]
    scale = min(1.0, (short_side or min(height, width)) / min(height, width))
    size = (max(1, round(height * scale)), max(1, round(width * scale)), 3)
    return np.broadcast_to(np.uint8(0), size)
