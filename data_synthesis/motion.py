"""How much a video moves, whatever its resolution, noise or flicker.

A pixel moves where optical flow says so and where the blurred frame changed by more
than the whole picture did. Flow alone takes noise for motion; differences alone take
flicker and fades for it. Flow is measured in parts of the diagonal, so that a video
scores the same at any size.
"""

import itertools
from typing import NamedTuple

import cv2
import numpy as np

# Frames are taken twice a second, so many of them at least and at most.
RATE, LEAST, MOST = 2.0, 9, 33
SHORT_SIDE = 224
# A pixel moves above these: flow over the diagonal, grey levels of the blurred frame.
_FLOW, _CHANGE = 1e-3, 4.0
# Distance of the quartiles, in grey levels, below which a picture is plain.
_PLAIN = 8.0
# A pair of frames is frozen where the blurred pictures differ by less, on average.
_FROZEN = 0.25
# A pair of frames moves where so many of its pixels do.
PRESETS = {"default": 0.007, "noise_free": 0.002}


class Motion(NamedTuple):
    """Over pairs of neighbouring frames: shares of moving pixels, in 0..1.

    `flow` is the 99.5th percentile of flow over the diagonal, its mean over pairs.
    """

    moving: tuple[float, ...]  # of each pair
    mean: float
    p95: float
    freeze: float  # share of pairs that show the same picture
    flow: float

    def share_above(self, preset: str) -> float:
        """Share of the pairs that move."""
        return float(np.mean([m >= PRESETS[preset] for m in self.moving] or [0.0]))


def times(duration: float) -> np.ndarray:
    """float64 [n]: at which seconds frames are taken from a video of that duration."""
    number = int(np.clip(round(duration * RATE) + 1, LEAST, MOST))
    return np.linspace(0.0, duration, number, endpoint=False)


def measure(frames: list[np.ndarray]) -> Motion:
    """Motion between grey frames, uint8 [h, w], of equal size, in order of time."""
    if len(frames) < 2:
        return Motion((), 0.0, 0.0, 1.0, 0.0)
    height, width = frames[0].shape
    diagonal = float(np.hypot(height, width))
    estimator = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_FAST)
    # Its threads are the machine's: a pool of processes would fight over them.
    cv2.setNumThreads(1)
    blurred = [cv2.GaussianBlur(f, (0, 0), 2.0).astype(np.float32) for f in frames]
    moving, frozen, fast = [], [], []
    pairs = zip(itertools.pairwise(frames), itertools.pairwise(blurred), strict=True)
    for (one, two), (soft, softer) in pairs:
        flow = estimator.calc(
            np.ascontiguousarray(one), np.ascontiguousarray(two), None
        )
        length = np.hypot(flow[..., 0], flow[..., 1]) / diagonal
        # Flicker and fades change brightness, or contrast too: what either explains
        # did not move.
        changes = [softer - gain * soft for gain in (1.0, _gain(soft, softer))]
        change = np.min([np.abs(c - np.median(c)) for c in changes], 0)
        moving.append(float(np.mean((length > _FLOW) & (change > _CHANGE))))
        frozen.append(bool(np.mean(np.abs(softer - soft)) < _FROZEN))
        fast.append(float(np.percentile(length, 99.5)))
    return Motion(
        tuple(moving),
        float(np.mean(moving)),
        float(np.percentile(moving, 95)),
        float(np.mean(frozen)),
        float(np.mean(fast)),
    )


def _gain(soft: np.ndarray, softer: np.ndarray) -> float:
    """How much more contrast the second picture has; by quartiles, so that a small
    thing that moves does not count. 1 for plain pictures."""
    spans = [np.subtract(*np.percentile(p, (75, 25))) for p in (soft, softer)]
    return float(spans[1] / spans[0]) if min(spans) >= _PLAIN else 1.0
