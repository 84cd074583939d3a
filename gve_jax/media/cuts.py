"""Many cuts of one long video, in passes over it whose memory does not grow with it."""

import os
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager

import av
import numpy as np

from gve_jax.media import files
from gve_jax.media.limits import Limits, MediaError, Meter, only_media_errors
from gve_jax.media.reader import Packets, Reader, Turn
from gve_jax.media.sampling import Choice, Timeline
from gve_jax.media.video import (
    Num,
    choose_or_refuse,
    decoded_timeline,
    make_plan,
    may_plan,
)
from gve_jax.types import Frames

# Whoever reads hours watches the progress instead, and ends the process.
_LONG = Limits(max_seconds=86_400.0, max_frames=Limits.max_packets)
_OFTEN = 64  # frames from one None to the next
_Cut = tuple[float | None, float | None]
# Pixels [n, h, w, 3] of a sample of so many frames -> the same at another size.
_Fit = Callable[[np.ndarray, int], np.ndarray]


class LongVideo:
    """A video read from its start to its end, more than once. For one thread.

    First its packets by `scan`, then, where these do not say when frames are shown or
    there is more to see, all frames by `look`, then the wanted ones by `read`. These
    iterators say something often, whatever the length of the video, so that who waits
    in vain knows that a file is hopeless.

    Attributes:
      line: when its frames are shown; None until it is known.
    """

    def __init__(self, path: str | os.PathLike, limits: Limits = _LONG):
        """Looks at its first bytes. Raises MediaError as `read_video`."""
        self.path = os.fspath(path)
        full, kind, name, size = files.inspect(path)
        if kind != files.VIDEO:
            raise MediaError(path, "no_video", "an image where a video is due")
        self._meter = Meter(self.path, limits)
        self._reader = Reader(self.path, full, name, size, self._meter)
        self.line: Timeline | None = None
        self._planned = False
        # Of all frames that decode: timestamps and durations; and how many did not.
        self._decoded: tuple[list[tuple[int | None, int]], int] | None = None

    def __enter__(self) -> "LongVideo":
        return self

    def __exit__(self, *_) -> None:
        self._reader.close()

    def scan(self) -> Iterator[None]:
        """Reads its packets. Raises MediaError as `read_video`."""
        with self._only_media_errors():
            self._reader.open()
            if may_plan(self._reader):
                table = Packets([], [], [], [], [])
                yield from self._reader.scan(table)
                plan = make_plan(self._reader, table)
                self._planned = plan is not None
                self.line = plan and plan.line

    def look(self, short_side: int) -> Iterator[np.ndarray]:
        """All frames, quick and rough: uint8 [h, w, 3], not turned upright.

        Args:
          short_side: pixels of the shorter side.

        Raises:
          MediaError: too much of it is damaged.
        """
        reader, size, decoded = self._reader, None, []
        most = self._meter.limits.max_pixels
        with self._only_media_errors():
            frames = reader.frames()
            context = reader.stream.codec_context
            # A fourth of the work, and no concern of who looks at small pictures.
            context.options = context.options | {"skip_loop_filter": "all"}
            for frame in frames:
                width, height = frame.width, frame.height
                self._meter.check_pixels(width, height, most, "max_pixels")
                if size is None:
                    scale = short_side / min(width, height)
                    size = [max(1, round(x * scale)) for x in (width, height)]
                decoded.append((frame.pts, frame.duration or 0))
                yield frame.to_ndarray(
                    format="rgb24",
                    width=size[0],
                    height=size[1],
                    interpolation="FAST_BILINEAR",
                    threads=1,
                )
            self._decoded = decoded, reader.damage
            if self.line is None:
                self.line = decoded_timeline(reader, decoded)

    def seconds(self, numbers: Sequence[int]) -> list[float]:
        """When frames that `look` gave are shown, by their numbers from 0."""
        ticks = self.line.ticks
        if self._planned:
            times = [t for t, _ in self._decoded[0]]
            ticks = [ticks[0], *(t for i in numbers if (t := times[i]) is not None)]
            return self.line._replace(ticks=ticks).seconds()[1:]
        seconds = self.line.seconds()
        return [seconds[i] for i in numbers]

    def read(
        self, cuts: Sequence[_Cut], num: Num, fit: _Fit
    ) -> Iterator[tuple[int, Frames | MediaError] | None]:
        """The samples that `read_video` would take of these cuts.

        Each comes as soon as its last frame is decoded. Where frames are damaged or
        out of order it is decided anew for each cut whether to go by the packets or by
        what decodes, as `read_video` does.

        Args:
          cuts: starts and ends in seconds; (None, None) is the whole video.
          num: frames of a sample, as in `read_video`.
          fit: brings frames to the size that is kept.

        Yields:
          The number of a cut and its frames, or why there are none; None in between.

        Raises:
          MediaError: there is no going on.
        """
        left = dict(enumerate(cuts))
        with self._only_media_errors():
            if self._planned:
                yield from self._pass(self.line, True, left, num, fit)
            if not left:
                return
            try:
                line = yield from self._decoded_line()
            except MediaError as e:
                yield from ((i, e) for i in left)
                return
            yield from self._pass(line, False, left, num, fit)
            for i in left:
                yield i, MediaError(self.path, "unreadable", "changed while read")

    def _pass(
        self,
        line: Timeline,
        planned: bool,
        left: dict[int, _Cut],
        num: Num,
        fit: _Fit,
    ) -> Iterator[tuple[int, Frames | MediaError] | None]:
        """Samples of the cuts that are left; none is, of those that it yields.

        Frames are known by their timestamps where it is planned, else by number.
        """
        reader, seconds = self._reader, line.seconds()
        wanted: dict[int, list[_Sample]] = {}
        for i, (start, end) in list(left.items()):
            try:
                choice = choose_or_refuse(self.path, line, num, start, end, seconds)
            except MediaError as e:
                del left[i]
                yield i, e
                continue
            sample = _Sample(i, choice)
            for index in set(choice.indices):
                wanted.setdefault(index, []).append(sample)
        index_of = {line.ticks[index]: index for index in wanted}
        before = disorder = 0  # faults up to the last keyframe; what came out of order
        for number, frame in enumerate(reader.frames()):
            disorder += reader.disordered
            reader.disordered = False
            faults = reader.damage + disorder
            before = faults if frame.key_frame else before
            fitted: dict[tuple, np.ndarray] = {}  # by size and number of frames
            index = index_of.get(frame.pts) if planned else number
            for sample in wanted.pop(index, ()):
                if not sample.pixels:
                    sample.size, sample.faults = _upright_size(frame), before
                key = (sample.size, len(sample.choice.indices))
                if key not in fitted:
                    like = np.broadcast_to(np.uint8(0), (*sample.size, 3))
                    fitted[key] = fit(reader.to_rgb(frame, like)[None], key[1])[0]
                sample.pixels[index] = fitted[key]
                sound = faults == sample.faults or not planned
                if sample.full() and sound:
                    del left[sample.number]
                    yield sample.number, sample.frames()
            if not wanted:
                break
            if number % _OFTEN == 0:
                yield None

    def _decoded_line(self) -> Generator[None, None, Timeline]:
        if self._decoded is None:
            frames = []
            for frame in self._reader.frames():
                frames.append((frame.pts, frame.duration or 0))
                if len(frames) % _OFTEN == 0:
                    yield None
            self._decoded = frames, self._reader.damage
        frames, self._reader.damage = self._decoded
        return decoded_timeline(self._reader, frames)

    @contextmanager
    def _only_media_errors(self) -> Iterator[None]:
        with only_media_errors(self.path, self._meter):
            yield


class _Sample:
    """A cut, some of whose frames are there."""

    def __init__(self, number: int, choice: Choice):
        self.number, self.choice = number, choice
        self.pixels: dict[int, np.ndarray] = {}  # frame -> uint8 [h, w, 3]
        self.size = (0, 0)  # height and width of the first, as decoded
        self.faults = 0  # there were when its first frame's keyframe came

    def full(self) -> bool:
        return len(self.pixels) == len(set(self.choice.indices))

    def frames(self) -> Frames:
        pixels = np.stack([self.pixels[i] for i in self.choice.indices])
        return Frames(pixels, self.choice.seconds, self.choice.duration)


def _upright_size(frame: av.VideoFrame) -> tuple[int, int]:
    size = frame.height, frame.width
    return size[::-1] if Turn.of(frame).transpose else size
