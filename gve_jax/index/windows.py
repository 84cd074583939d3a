"""Windows of a video: even in time, their borders moved to shot cuts nearby."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

SHORT_SIDE = 36  # pixels of the frames that cuts are sought in
# A cut changes a frame by so many levels of 255 on average, and so many times as much
# as the frames around it change: fast motion, flashes and time lapses do not.
_LEAST, _TIMES, _AROUND = 8.0, 2.0, 2


class Windows(NamedTuple):
    """How videos are cut; kept in the index."""

    window: float  # seconds; 0: there are no windows
    stride: float  # seconds from one to the next, at most `window`
    snap: bool  # to shot cuts


class ShotCuts:
    """Finds hard cuts; frames come one after the other."""

    def __init__(self):
        self._last: np.ndarray | None = None
        self._changes: list[float] = []

    def see(self, frame: np.ndarray) -> None:
        """uint8 [h, w, 3], always of one size."""
        frame = frame.astype(np.int16)
        last = frame if self._last is None else self._last
        self._changes.append(float(np.abs(frame - last).mean()))
        self._last = frame

    def numbers(self) -> list[int]:
        """Of the frames, from 0, that shots begin with; without the first of all."""
        change = np.array(self._changes)
        padded = np.pad(change, _AROUND)
        rest = [
            np.roll(padded, k)[_AROUND : _AROUND + len(change)]
            for k in range(-_AROUND, _AROUND + 1)
            if k
        ]
        found = (change >= _LEAST) & (change >= _TIMES * np.max(rest, axis=0))
        return np.flatnonzero(found).tolist()


def windows_of(
    duration: float, rule: Windows, cuts: Sequence[float] = ()
) -> list[tuple[float, float]]:
    """Starts and ends in seconds; together they cover the video.

    Evenly placed, the last one ends with the video. Each border then moves to the
    nearest cut, by at most a quarter of a window and half of a stride: so a window is
    half to one and a half times as long as it should be. No gap comes about, because
    of two borders the earlier one never moves past the other.

    Args:
      duration: of the video, seconds; one no longer than a window has none.
      rule: its `window` is above 0, its `stride` above 0 and at most that.
      cuts: seconds at which shots begin.
    """
    window, stride, _ = rule
    if duration <= window:
        return []
    # Rounding makes neither a window more nor a gap.
    count = int(np.ceil((duration - window) / stride - 1e-6))
    starts = np.append(np.arange(count) * stride, duration - window)
    ends = np.append(np.maximum(starts[:-1] + window, starts[1:]), duration)
    if len(cuts):
        cuts = np.sort(cuts)
        most = min(window / 4, stride / 2)
        starts[1:] = _snapped(starts[1:], cuts, most)
        ends[:-1] = _snapped(ends[:-1], cuts, most)
    return list(dict.fromkeys(zip(starts.tolist(), ends.tolist(), strict=True)))


def _snapped(times: np.ndarray, cuts: np.ndarray, most: float) -> np.ndarray:
    after = np.searchsorted(cuts, times)
    near = cuts[np.stack([np.maximum(after - 1, 0), np.minimum(after, len(cuts) - 1)])]
    nearest = np.where(np.abs(near[0] - times) <= np.abs(near[1] - times), *near)
    return np.where(np.abs(nearest - times) <= most, nearest, times)
