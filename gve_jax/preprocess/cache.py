"""Decoded and resized frames on disk, so that a file is decoded once.

One file per (content, cut, frame rule, budget, decoder). Readers verify a checksum: a
file that does not hold what its name says counts as absent and is made anew.
"""

import hashlib
import json
import os
import pathlib
import struct
import tempfile
import zlib
from collections.abc import Callable

import numpy as np

from gve_jax.types import Frames, UserError

_HEADER = struct.Struct("<8sIIIdI")  # magic, n, height, width, duration, checksum
_MAGIC = b"gveframe"
_VERSION = 1  # part of the key: raise it when frames of equal keys would differ


class FrameCache:
    """Frames by key, in a folder. An empty folder name: nothing is kept."""

    def __init__(self, folder: str | os.PathLike):
        self._folder = pathlib.Path(folder) if folder else None

    def get(self, make_key: Callable[[], tuple], make: Callable[[], Frames]) -> Frames:
        """The frames under a key, made and kept if absent.

        Args:
          make_key: gives all that decides the frames, as a tuple that JSON can hold.
            Not asked without a folder: it reads whole files.
          make: makes them.

        Raises:
          UserError: the folder cannot be written.
          Whatever the two functions raise; nothing is kept then.
        """
        if self._folder is None:
            return make()
        text = json.dumps([_VERSION, *make_key()])
        name = hashlib.sha256(text.encode()).hexdigest()
        path = self._folder / name[:2] / f"{name}.frames"
        frames = _read(path)
        if frames is None:
            frames = make()
            try:
                _write(path, frames)
            except OSError as e:
                raise UserError(
                    f"preprocess.cache_dir = {self._folder}: cannot be written ({e})"
                ) from e
        return frames


def _read(path: pathlib.Path) -> Frames | None:
    """None if the file is absent or damaged."""
    try:
        data = path.read_bytes()
    except OSError:
        return None
    if len(data) < _HEADER.size:
        return None
    magic, n, height, width, duration, checksum = _HEADER.unpack_from(data)
    size = _HEADER.size + 8 * n + n * height * width * 3
    if magic != _MAGIC or len(data) != size or checksum != _checksum(data):
        return None
    seconds = np.frombuffer(data, np.float64, n, _HEADER.size)
    pixels = np.frombuffer(data, np.uint8, offset=_HEADER.size + 8 * n)
    return Frames(pixels.reshape(n, height, width, 3), seconds, duration)


def _write(path: pathlib.Path, frames: Frames) -> None:
    n, height, width, _ = frames.pixels.shape
    body = np.ascontiguousarray(frames.seconds, np.float64).tobytes()
    body += np.ascontiguousarray(frames.pixels).tobytes()
    header = [_MAGIC, n, height, width, float(frames.duration)]
    checksum = _checksum(_HEADER.pack(*header, 0) + body)
    path.parent.mkdir(parents=True, exist_ok=True)
    # Written aside and renamed: other threads and runs see all of it or nothing.
    handle, temporary = tempfile.mkstemp(dir=path.parent, suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as f:
            f.write(_HEADER.pack(*header, checksum))
            f.write(body)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def _checksum(data: bytes) -> int:
    """Of all but the checksum itself, the last field of the header."""
    data = memoryview(data)
    return zlib.crc32(data[_HEADER.size :], zlib.crc32(data[: _HEADER.size - 4]))
