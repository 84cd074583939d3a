"""Which frames, and in what order of seeks: pure functions of timestamps."""

import itertools
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import NamedTuple

import numpy as np


class Timeline(NamedTuple):
    """When each frame of a video is shown."""

    ticks: list[int]  # strictly increasing presentation times, one a frame
    tick: Fraction  # seconds of one tick
    last: int  # ticks the last frame is shown for

    @property
    def duration(self) -> float:
        """Seconds, the last frame's display included."""
        return float((self.ticks[-1] + self.last - self.ticks[0]) * self.tick)

    def seconds(self) -> list[float]:
        """Of each frame, since the first."""
        # Python divides integers with one rounding, so 0.1 s is 0.1 in any time base.
        num, den, origin = self.tick.numerator, self.tick.denominator, self.ticks[0]
        return [(t - origin) * num / den for t in self.ticks]


class Choice(NamedTuple):
    """The frames of a sample."""

    indices: list[int]  # into the timeline, never decreasing
    seconds: np.ndarray  # float64 [n], since the first frame of the whole video
    duration: float  # seconds from the first frame of the cut to the end of its last


def make_timeline(
    times: Sequence[int | None],
    durations: Sequence[int],
    tick: Fraction,
    rate: Fraction,
) -> Timeline:
    """A timeline from decoded frames in output order.

    Where any timestamp is missing or not after the one before it, the timestamps lie
    (concatenated files, broken muxers) while the decoder's order does not: then the
    frames are numbered at the nominal rate instead.

    Args:
      times: presentation time in ticks of each frame, None where unknown.
      durations: ticks each frame is shown for, 0 where unknown.
      tick: seconds of one tick.
      rate: nominal frames a second.
    """
    trusted = all(t is not None for t in times) and all(
        a < b for a, b in itertools.pairwise(times)
    )
    if not trusted:
        return Timeline(list(range(len(times))), 1 / rate, 1)
    last = durations[-1]
    if last <= 0:
        gaps = sorted(b - a for a, b in itertools.pairwise(times))
        last = gaps[len(gaps) // 2] if gaps else round(1 / (rate * tick))
    return Timeline(list(times), tick, max(last, 1))


def uniform_indices(ticks: Sequence[int], num: int) -> list[int]:
    """Frames nearest to `num` times spread evenly from the first to the last frame.

    The times are linspace(ticks[0], ticks[-1], num). Of two frames equally near the
    one with the even index is taken, so at a constant frame rate the answer is
    `np.linspace(0, n - 1, num).round()`, the rule of Qwen's own video reader. All in
    integers: no rounding error, and hostile timestamps cannot overflow. Videos with
    fewer than `num` frames repeat frames by the same rule.

    Args:
      ticks: strictly increasing presentation times, at least one.
      num: how many frames, at least 1; for 1 it is the first frame.
    """
    if num == 1:
        return [0]
    steps, first, span = num - 1, ticks[0], ticks[-1] - ticks[0]
    chosen = []
    for i in range(num):
        target = first * steps + i * span  # in 1/steps of a tick
        j = bisect_left(ticks, -(-target // steps))  # first frame not before it
        if j > 0:
            after, before = ticks[j] * steps - target, target - ticks[j - 1] * steps
            if before < after or (before == after and j % 2 == 1):
                j -= 1
        chosen.append(j)
    return chosen


def frames_at(
    total: int, seconds: float, *, fps: float, least: int, most: int, multiple: int
) -> int:
    """How many frames to sample at `fps`, as `smart_nframes` of qwen-vl-utils.

    Args:
      total: frames of the (cut) video.
      seconds: its duration.
      fps: frames a second that are wanted, within the bounds that follow.
      least, most: frames of a sample; but no more than `total`.
      multiple: the answer is a multiple of it, at least 1: frames of a too short video
        are repeated, where qwen-vl-utils refuses it.
    """
    num = min(max(seconds * fps, least), most, total)
    return max(int(num // multiple), 1) * multiple


def choose(
    line: Timeline,
    num: int | Callable[[int, float], int],
    start: float | None,
    end: float | None,
    seconds: Sequence[float] | None = None,
) -> Choice | None:
    """Samples a video or a cut of it.

    A cut holds the frames with start <= t < end, t in seconds since the first frame;
    its sample runs from its first to its last frame. A cut so short that no frame
    begins in it holds the one on show at `start`. `num` is how many frames to sample,
    or says so from the number of frames in the cut and its duration. `seconds` are
    those of the timeline, if they are at hand.

    Returns:
      The sample, or None where the cut begins after the video ends.
    """
    ticks, total = line.ticks, line.duration
    seconds = line.seconds() if seconds is None else seconds
    low, high = 0, len(ticks)
    if start is not None:
        if start >= total:
            return None
        low = bisect_left(seconds, start)
    if end is not None:
        high = bisect_left(seconds, end)
    if low >= high:
        low = max(bisect_right(seconds, start or 0.0) - 1, 0)
        high = low + 1
    stop = seconds[high] if high < len(seconds) else total
    if end is not None:
        stop = min(stop, end)
    begin = seconds[low] if start is None else max(seconds[low], start)
    duration = max(stop - begin, 0.0)
    if callable(num):
        num = num(high - low, duration)
    indices = [low + i for i in uniform_indices(ticks[low:high], num)]
    return Choice(indices, np.array([seconds[i] for i in indices]), duration)


class Segment(NamedTuple):
    """One run of the decoder."""

    start: int  # packet the decoder begins at (decode order), a keyframe or 0
    targets: tuple[int, ...]  # packets whose frames are kept, in presentation order


def decode_plan(
    pts: Sequence[int],
    keyframe: Sequence[bool],
    targets: Sequence[int],
    seek_cost: int = 8,
) -> list[Segment]:
    """Where to seek and where to decode through.

    A frame needs every packet from its keyframe on: the last keyframe at or before it
    both in decode order and in presentation order (frames shown before the keyframe
    they follow, as in open GOPs, lean on the GOP before). The decoder runs on as long
    as the next target's keyframe is behind it or less than `seek_cost` packets ahead,
    so no packet is decoded twice and no GOP is entered twice.

    Args:
      pts: presentation time of each packet, in decode order.
      keyframe: whether decoding can begin at the packet.
      targets: wanted packets, in presentation order.
      seek_cost: what a seek costs, in packets: the decoder's delay is lost and
        filled again.

    Returns:
      Segments whose targets, joined, are `targets`.
    """
    keys = [k for k, key in enumerate(keyframe) if key]
    segments: list[Segment] = []
    position = 0  # the packet the decoder has come to
    for target in dict.fromkeys(targets):
        begin = 0
        for k in reversed(keys[: bisect_right(keys, target)]):
            if pts[k] <= pts[target]:
                begin = k
                break
        if begin > position + seek_cost:
            segments.append(Segment(begin, (target,)))
            position = target
            continue
        if not segments:
            segments.append(Segment(0, ()))
        run = segments[-1]
        # Broken streams may ask for a packet before the one the run begins at.
        segments[-1] = Segment(min(run.start, begin), (*run.targets, target))
        position = max(position, target)
    return segments
