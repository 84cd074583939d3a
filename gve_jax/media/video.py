"""Video files to uniformly sampled RGB frames, by PyAV.

Two ways lead to the same frames. The planned way reads all packets without decoding
them, picks the frames by their timestamps and decodes only the GOPs they lie in. The
sequential way decodes the whole file, twice: to learn which frames there are, and to
fetch the picked ones. It is taken where the container cannot seek exactly, its packets
lack timestamps, or anything at all went wrong on the planned way.
"""

import os
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from typing import NamedTuple

import av
import numpy as np

from gve_jax.media import files
from gve_jax.media.image import Animation
from gve_jax.media.limits import Limits, MediaError, Meter, only_media_errors
from gve_jax.media.reader import Packets, Reader, Turn
from gve_jax.media.sampling import (
    Choice,
    Timeline,
    choose,
    decode_plan,
    make_timeline,
)
from gve_jax.types import Frames

DECODER = f"pyav-{av.__version__}"
# How many frames: a number, or a function of those in the cut and its seconds.
Num = int | Callable[[int, float], int]
# Demuxers with an index of keyframes. In the others a seek lands near, not at.
_SEEKABLE = {"mov", "matroska,webm", "avi"}


class VideoInfo(NamedTuple):
    """What a video is, by its packets and its first frame, not by its header."""

    width: int  # upright
    height: int  # upright
    duration: float  # seconds, last frame's display included
    num_frames: int | None  # None where only decoding would tell
    fps: float  # mean over the video
    codec: str
    container: str
    has_audio: bool


def _take(
    reader: Reader,
    frames: Iterable[tuple[int, av.VideoFrame]],
    wanted: Iterable[int],
    like: np.ndarray | None = None,
) -> dict[int, np.ndarray]:
    """The wanted ones of (key, frame), keys ascending; scaled to the size of `like`,
    or of the first one where the size changes within a stream."""
    open_keys, found = set(wanted), {}
    last = max(open_keys)
    for key, frame in frames:
        if key in open_keys:
            found[key] = reader.to_rgb(frame, like)
            like = found[key] if like is None else like
            open_keys.remove(key)
        if not open_keys or key > last:
            break
    return found


class Plan(NamedTuple):
    """Which frames there are, by the packets alone."""

    packets: Packets
    order: list[int]  # packets that give a frame, in presentation order
    line: Timeline  # of these frames; its ticks are their timestamps


def may_plan(reader: Reader) -> bool:
    """Whether it is worth reading the packets for a plan."""
    seekable = reader.demuxer in _SEEKABLE and not reader.pts_are_guesses
    return seekable and not reader.lost_samples()


def make_plan(reader: Reader, table: Packets) -> Plan | None:
    """From all packets; None where only decoding tells which frames there are."""
    if not table.usable() or reader.damage:
        return None
    order = sorted(
        (k for k, shown in enumerate(table.shown) if shown), key=table.pts.__getitem__
    )
    line = make_timeline(
        [table.pts[k] for k in order],
        [table.duration[k] for k in order],
        reader.stream.time_base,
        reader.rate,
    )
    return Plan(table, order, line)


def _planned(
    reader: Reader, num: Num, start: float | None, end: float | None
) -> tuple[Choice, np.ndarray] | None:
    """The planned way; None where the sequential one has to be taken."""
    plan = make_plan(reader, reader.packets()) if may_plan(reader) else None
    if plan is None:
        return None
    table, order, line = plan
    choice = choose_or_refuse(reader.path, line, num, start, end)
    wanted = [order[i] for i in choice.indices]
    context = reader.stream.codec_context
    reader.meter.check_output(len(choice.indices), context.width, context.height)
    reader.meter.start_pass()
    pixels: dict[int, np.ndarray] = {}
    for segment in decode_plan(table.pts, table.keyframe, wanted):
        frames = reader.frames_from(table, segment.start)
        timed = ((f.pts, f) for f in frames if f.pts is not None)
        like = next(iter(pixels.values()), None)
        pixels |= _take(reader, timed, [table.pts[k] for k in segment.targets], like)
    times = [table.pts[k] for k in wanted]
    if reader.damage or reader.disordered or not pixels.keys() >= set(times):
        return None
    return choice, np.stack([pixels[t] for t in times])


def _sequential(
    reader: Reader, num: Num, start: float | None, end: float | None
) -> tuple[Choice, np.ndarray]:
    """The sequential way: the frames are those that decode, in that order."""
    times = [(frame.pts, frame.duration or 0) for frame in reader.frames()]
    line = decoded_timeline(reader, times)
    choice = choose_or_refuse(reader.path, line, num, start, end)
    context = reader.stream.codec_context
    reader.meter.check_output(len(choice.indices), context.width, context.height)
    found = _take(reader, enumerate(reader.frames()), choice.indices)
    if not found.keys() >= set(choice.indices):
        raise MediaError(reader.path, "unreadable", "the file changed while read")
    return choice, np.stack([found[i] for i in choice.indices])


def decoded_timeline(
    reader: Reader, frames: Sequence[tuple[int | None, int]]
) -> Timeline:
    """The timeline of all frames that decoded, (timestamp, duration) in ticks.

    Raises MediaError if too many did not.
    """
    reader.check_damage(len(frames), reader.lost_samples())
    times, durations = map(list, zip(*frames, strict=True))
    if reader.pts_are_guesses and None not in times:
        times.sort()
    return make_timeline(times, durations, reader.stream.time_base, reader.rate)


def choose_or_refuse(
    path: str,
    line: Timeline,
    num: Num,
    start: float | None,
    end: float | None,
    seconds: Sequence[float] | None = None,
) -> Choice:
    """`sampling.choose`; raises MediaError where a cut begins after the end."""
    choice = choose(line, num, start, end, seconds)
    if choice is None:
        raise MediaError(
            path,
            "bad_cut",
            f"the cut starts at {start:g} s, the video ends at {line.duration:.3f} s",
        )
    return choice


def read_video(
    path: str | os.PathLike,
    num_frames: Num = 8,
    start: float | None = None,
    end: float | None = None,
    limits: Limits | None = None,
) -> Frames:
    """Samples frames evenly in presentation time, first and last frame included.

    The rule is `sampling.uniform_indices` on the frames that the file holds, whatever
    its header says; a video with fewer frames repeats some. Thread-safe.

    Args:
      path: a video, or an image (a video of one frame, or an animation).
      num_frames: frames to return, at least 1; or a function that says so from the
        number of frames in the (cut) video and its seconds.
      start: cut: only frames with start <= t < end, in seconds since the first frame.
      end: see `start`.
      limits: caps on size, work and damage.

    Returns:
      That many frames. `seconds` count from the first frame of the whole video,
      also in a cut; `duration` is that of the cut.

    Raises:
      MediaError: missing, no video, damaged, over the limits, or an empty cut.
    """
    limits = limits or Limits()
    path = os.fspath(path)
    if not callable(num_frames) and num_frames < 1:
        raise ValueError(f"num_frames is {num_frames}, at least 1 is needed")
    if not (0 <= (start or 0) < (float("inf") if end is None else end)):
        raise MediaError(
            path, "bad_cut", f"start={start} and end={end} do not span any time"
        )
    full, kind, name, size = files.inspect(path)
    meter = Meter(path, limits)
    with only_media_errors(path, meter):
        if kind == files.IMAGE:
            with closing(Animation(full, name, meter)) as source:
                line = source.timeline()
                choice = choose_or_refuse(path, line, num_frames, start, end)
                meter.check_output(len(choice.indices), *source.size())
                pixels = source.read(choice.indices)
        else:
            with closing(Reader(path, full, name, size, meter)) as reader:
                reader.open()
                sample = _planned(reader, num_frames, start, end)
                if sample is None:
                    sample = _sequential(reader, num_frames, start, end)
                choice, pixels = sample
    return Frames(pixels, choice.seconds, choice.duration)


def probe(path: str | os.PathLike, limits: Limits | None = None) -> VideoInfo:
    """Describes a video by reading its packets and decoding one frame.

    Raises:
      MediaError: as `read_video`.
    """
    limits = limits or Limits()
    path = os.fspath(path)
    full, kind, name, size = files.inspect(path)
    meter = Meter(path, limits)
    with only_media_errors(path, meter):
        if kind == files.IMAGE:
            with closing(Animation(full, name, meter)) as source:
                line = source.timeline()
                width, height = source.size()
            seconds = (line.ticks[-1] + line.last) / 1000
            count = len(line.ticks)
            return VideoInfo(
                width=width,
                height=height,
                duration=seconds,
                num_frames=count,
                fps=count / seconds,
                codec=source.codec,
                container="image",
                has_audio=False,
            )
        with closing(Reader(path, full, name, size, meter)) as reader:
            reader.open()
            return _describe(reader)


def _describe(reader: Reader) -> VideoInfo:
    table = reader.packets()
    tick, rate = reader.stream.time_base, float(reader.rate)
    times = [
        (t, d)
        for t, shown, d in zip(table.pts, table.shown, table.duration, strict=True)
        if shown
    ]
    count: int | None = None
    duration = len(times) / rate
    if table.usable():
        times.sort()
        line = make_timeline([t for t, _ in times], [d for _, d in times], tick, rate)
        count = len(times)
        duration = line.duration
    frame = next(reader.frames(), None)
    if frame is None:
        reader.check_damage(0, 0)
    width, height = frame.width, frame.height
    if Turn.of(frame).transpose:
        width, height = height, width
    return VideoInfo(
        width=width,
        height=height,
        duration=duration,
        num_frames=count,
        fps=count / duration if count else rate,
        codec=reader.stream.codec_context.name,
        container=reader.demuxer,
        has_audio=reader.has_audio,
    )
