"""A file to encoded spans, in a process that can be killed; never imports jax."""

from collections.abc import Iterator
from typing import NamedTuple

from gve_jax import media
from gve_jax.index.windows import SHORT_SIDE, ShotCuts, Windows, windows_of
from gve_jax.media import LongVideo, MediaError
from gve_jax.preprocess import Processor
from gve_jax.types import Encoded, Frames, Item, UserError

_OFTEN = 64  # frames looked at from one sign of life to the next


class Job(NamedTuple):
    """A file to be read."""

    path: str
    kind: str  # "video" or "image"
    done: frozenset[tuple[float, float]] = frozenset()  # windows that are known


class Span(NamedTuple):
    """A file or a part of it; fields as in `store.SCHEMA`."""

    kind: str
    start: float | None = None
    end: float | None = None
    duration: float = 0.0


class Part(NamedTuple):
    """A span, and why it could not be encoded where it is text."""

    span: Span
    encoded: Encoded | str


class End(NamedTuple):
    """The last part of a job; `silent`: a file without pictures is no fault."""

    error: str = ""
    silent: bool = False


def read(processor: Processor, rule: Windows, job: Job) -> Iterator[Part | float | End]:
    """All spans of a file as they are decoded; between them the share that is done.

    A span's `Encoded` equals what `processor.encode` makes of its `Item`, but a long
    video is read from its start to its end, not once for each span.
    """
    end = End()
    try:
        if job.kind == "image":
            item = Item(job.path, image=job.path)
            yield Part(Span("image"), processor.try_encode(item))
        else:
            with media.LongVideo(job.path) as video:
                yield from _video(processor, rule, job, video)
    except UserError as e:
        end = End(str(e), getattr(e, "code", "") == "no_video")
    yield end


def _video(
    processor: Processor, rule: Windows, job: Job, video: LongVideo
) -> Iterator[Part | float]:
    for i, _ in enumerate(video.scan()):
        if i % _OFTEN == 0:
            yield 0.0
    cuts, before, planned = [], 0.0, video.line is not None
    long = planned and 0 < rule.window < video.line.duration
    if not planned or (long and rule.snap):
        before = 0.5
        shots = ShotCuts()
        for i, frame in enumerate(video.look(SHORT_SIDE)):
            shots.see(frame)
            if i % _OFTEN == 0:
                yield before * i / len(video.line.ticks) if planned else 0.0
        cuts = video.seconds(shots.numbers()) if rule.snap else []
    duration = video.line.duration
    windows = windows_of(duration, rule, cuts) if rule.window else []
    spans = [Span("video", None, None, duration)]
    if planned and not windows:  # by seeking
        item = Item(job.path, video=job.path)
        yield Part(spans[0], processor.try_encode(item))
        return
    todo = [window for window in windows if window not in job.done]
    spans += [Span("window", *window, duration) for window in todo]
    found = video.read(
        [(span.start, span.end) for span in spans],
        processor.num_frames,
        lambda pixels, total: processor.fit(pixels, total, job.path),
    )
    share = before
    for one in found:
        if one is not None:
            i, frames = one
            yield Part(spans[i], _encoded(processor, job.path, spans[i], frames))
            share = before + (1 - before) * (spans[i].end or duration) / duration
        yield share


def _encoded(
    processor: Processor, path: str, span: Span, frames: Frames | MediaError
) -> Encoded | str:
    if isinstance(frames, MediaError):
        return str(frames)
    item = Item(path, video=path, start=span.start, end=span.end)
    try:
        return processor.encode(item, video=frames)
    except UserError as e:
        return str(e)
