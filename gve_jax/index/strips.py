"""What a found span looks like: frames of it side by side, as a JPEG."""

import collections
import io
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
from PIL import Image, ImageFilter, ImageOps

from gve_jax import media
from gve_jax.index.store import local_path

# A file that takes longer is shown without a picture.
_LIMITS = media.Limits(max_seconds=20)


def strip(
    file: str,
    kind: str,
    start: float | None,
    end: float | None,
    *,
    frames: int,
    height: int,
    width: int | None = None,
) -> bytes:
    """Frames spread evenly over a span, or the image, each in a cell of its own.

    Args:
      file, kind, start, end: of an item of an index.
      frames: how many; of an image it is one.
      height: of a cell in pixels.
      width: likewise; frames are centred in it. None: that of the frames.

    Raises:
      MediaError: it cannot be read.
    """
    path = local_path(file)
    if kind == "image":
        pictures = [media.read_image(path, _LIMITS)]
    else:
        pictures = media.read_video(path, frames, start, end, _LIMITS).pixels
    out = io.BytesIO()
    cells = [np.asarray(_cell(pixels, height, width)) for pixels in pictures]
    Image.fromarray(np.concatenate(cells, axis=1)).save(out, "JPEG", quality=80)
    return out.getvalue()


class StripCache:
    """Strips by name, the last ones, up to some bytes; each is made once."""

    def __init__(self, kept_bytes: int = 64 << 20, threads: int = 4):
        self._kept_bytes, self._bytes = kept_bytes, 0
        self._pool = ThreadPoolExecutor(threads)
        self._lock = threading.Lock()
        self._made: collections.OrderedDict[str, Future[bytes]]
        self._made = collections.OrderedDict()

    def get(self, name: str, make: Callable[[], bytes]) -> Future[bytes]:
        """The strip of a name; one that fails is tried again when it is next asked."""
        with self._lock:
            if found := self._made.get(name):
                self._made.move_to_end(name)
                return found
            found = self._made[name] = self._pool.submit(make)
        found.add_done_callback(lambda done: self._keep(name, done))
        return found

    def _keep(self, name: str, done: Future[bytes]) -> None:
        with self._lock:
            if done.exception() is not None:
                self._made.pop(name)
                return
            self._bytes += len(done.result())
            for oldest in list(self._made):
                if self._bytes <= self._kept_bytes:
                    break
                if self._made[oldest].done():
                    self._bytes -= len(self._made.pop(oldest).result())


def _cell(pixels: np.ndarray, height: int, width: int | None) -> Image.Image:
    """The whole picture in the middle of a dark and blurred one that fills the cell."""
    picture = Image.fromarray(pixels)
    size = (width or max(1, round(picture.width * height / picture.height)), height)
    front = ImageOps.contain(picture, size)
    if front.size == size:
        return front
    behind = ImageOps.fit(picture, (32, 18)).resize(size, Image.Resampling.BILINEAR)
    behind = behind.filter(ImageFilter.GaussianBlur(8)).point(lambda v: v * 0.6)
    left, top = (size[0] - front.width) // 2, (size[1] - front.height) // 2
    behind.paste(front, (left, top))
    return behind
