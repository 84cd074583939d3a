"""Perceptual hashes of videos: equal for copies at another size or quality.

A hash is of 8 frames, 64 bits each: the signs of the lowest DCT frequencies of a small
grey picture against their median (pHash). Two videos are near duplicates where the mean
distance over the frames is small; mirrored copies are looked for by the hash of the
mirrored frames.
"""

from collections.abc import Iterator, Sequence

import cv2
import numpy as np

FRAMES = 8
_SIDE = 32
# Bits of one band; bands of a frame. A video meets all that share a band with it.
_BAND = 16


def phash(frame: np.ndarray) -> int:
    """64 bits of a picture, uint8 [h, w] grey or [h, w, 3] RGB."""
    if frame.ndim == 3:
        frame = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)
    small = cv2.resize(frame, (_SIDE, _SIDE), interpolation=cv2.INTER_AREA)
    low = cv2.dct(small.astype(np.float32))[:8, :8].ravel()
    # The first is the mean brightness, no shape.
    bits = low > np.median(low[1:])
    return int(np.packbits(bits).tobytes().hex(), 16)


def video_hash(frames: list[np.ndarray]) -> tuple[str, ...]:
    """Of 8 frames evenly spread over a video: 16 hex digits each."""
    return tuple(f"{phash(frame):016x}" for frame in frames)


def mirrored(frames: list[np.ndarray]) -> list[np.ndarray]:
    return [np.ascontiguousarray(frame[:, ::-1]) for frame in frames]


def pack(hashes: tuple[str, ...]) -> bytes:
    """8 bytes a frame."""
    return bytes.fromhex("".join(hashes))


def table(packed: Sequence[bytes]) -> np.ndarray:
    """uint64 [n, 8] of packed hashes."""
    return np.frombuffer(b"".join(packed), np.uint64).reshape(len(packed), FRAMES)


def distances(one: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Mean number of differing bits of a frame, 0 to 64: [n], of [8] and [n, 8]."""
    return np.bitwise_count(others ^ one).mean(-1)


def bands(hashes: tuple[str, ...]) -> Iterator[str]:
    """Keys that near duplicates share at least one of, almost always.

    Frames of one picture (black, white) tell nothing, and give no key.
    """
    digits = _BAND // 4
    for number, frame in enumerate(hashes):
        for start in range(0, len(frame), digits):
            part = frame[start : start + digits]
            if len(set(frame)) > 2:
                yield f"{number}.{start}.{part}"
