"""Encoders in Python for tests of `python -m eval --encoder`."""

import zlib

import numpy as np

from eval.encoders.frames import FrameEncoder


class Colours(FrameEncoder):
    """Mean colours of the frames in space and time; of a text, numbers by its hash."""

    def __init__(self, scale: float = 1.0, fault: str = ""):
        self.fault, self.batches = fault, []
        super().__init__(12, identity={"scale": scale}, num_frames=4, batch_size=3)

    def encode(self, items):
        self.batches.append([(x.text, x.video is not None) for x in items])
        found = np.stack([self._one(x) for x in items])
        if self.fault == "shape":
            return found[:, :5]
        if self.fault == "nan":
            found[-1, 3] = np.nan
        return found

    def _one(self, item):
        if item.text:
            seed = zlib.crc32(f"{item.instruction} {item.text}".encode())
            return np.random.default_rng(seed).normal(size=12)
        assert item.video.dtype == np.uint8 and item.video.shape == (4, 48, 48, 3)
        return item.video.mean((1, 2)).reshape(-1) - 99.0


def not_an_encoder():
    return Colours(fault="shape")
