"""Frames -> files: H.264 in MP4, JPEG. Same frames, same bytes; never half a file."""

import os
import random
from collections.abc import Iterable
from fractions import Fraction

import av
import cv2
import numpy as np

from data_synthesis.world.scene import FPS, VIEW


def write_video(
    path: str, frames: Iterable[np.ndarray], fps: int = FPS, crf: int = 27
) -> None:
    """Writes uint8 RGB frames [h, w, 3] (even sides) as MP4, atomically.

    One encoder thread: x264 output depends on the number of threads.
    """
    part = path + ".part"
    # bitexact keeps the library's version out of the container.
    with av.open(part, "w", format="mp4", options={"fflags": "+bitexact"}) as out:
        stream = None
        for index, frame in enumerate(frames):
            if stream is None:
                stream = out.add_stream(
                    "libx264",
                    rate=fps,
                    options={"preset": "superfast", "crf": str(crf), "threads": "1"},
                )
                stream.height, stream.width = frame.shape[:2]
                stream.pix_fmt = "yuv420p"
                stream.codec_context.thread_count = 1
            planes = cv2.cvtColor(frame, cv2.COLOR_RGB2YUV_I420)
            picture = av.VideoFrame.from_ndarray(planes, format="yuv420p")
            picture.pts = index
            picture.time_base = Fraction(1, fps)
            out.mux(stream.encode(picture))
        out.mux(stream.encode(None))
    os.replace(part, path)


def write_image(path: str, image: np.ndarray, quality: int = 80) -> None:
    """Writes a uint8 RGB image as JPEG, atomically."""
    ok, data = cv2.imencode(
        ".jpg",
        cv2.cvtColor(image, cv2.COLOR_RGB2BGR),
        [cv2.IMWRITE_JPEG_QUALITY, quality],
    )
    if not ok:
        raise RuntimeError(f"{path}: cv2 could not encode an image {image.shape}")
    write_bytes(path, data.tobytes())


def write_bytes(path: str, data: bytes) -> None:
    """Writes a file at once: a reader sees all of it or nothing."""
    part = path + ".part"
    with open(part, "wb") as f:
        f.write(data)
    os.replace(part, path)


class Jitter:
    """One other camera on the same scene: crop, light and tint, fixed for a clip.

    Strong enough that a frame cannot be matched to its video by its colours and where
    they are, mild enough that colours keep their names. The crop keeps `focus`, a
    point (x, y) in pixels, well inside.
    """

    def __init__(self, rng: random.Random, focus: tuple[float, float]):
        self.side = round(VIEW * rng.uniform(0.68, 0.95))
        self.x = self._offset(rng, focus[0])
        self.y = self._offset(rng, focus[1])
        gain = rng.uniform(0.72, 1.28)
        values = np.arange(256, dtype=np.float32)
        tables = [
            values * gain * rng.uniform(0.86, 1.14) + rng.uniform(-16, 16)
            for _ in range(3)
        ]
        self.table = np.clip(np.stack(tables, 1), 0, 255).astype(np.uint8)[None]

    def _offset(self, rng: random.Random, focus: float) -> int:
        low = max(0, min(VIEW - self.side, int(focus) + 26 - self.side))
        high = max(low, min(VIEW - self.side, int(focus) - 26))
        return rng.randint(low, high)

    def __call__(self, frame: np.ndarray) -> np.ndarray:
        """uint8 [VIEW, VIEW, 3] -> the same size, seen otherwise."""
        crop = frame[self.y : self.y + self.side, self.x : self.x + self.side]
        full = cv2.resize(crop, (VIEW, VIEW), interpolation=cv2.INTER_LINEAR)
        return cv2.LUT(full, self.table)
