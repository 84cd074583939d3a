"""What one look at all frames of a video tells: soundness, motion, shots, hashes."""

import functools
import hashlib
import resource
from collections.abc import Callable
from typing import NamedTuple

import cv2
import numpy as np
import scenedetect

from data_synthesis import hashes, motion
from gve_jax import media
from gve_jax.media import Limits
from gve_jax.preprocess.workers import Reader
from gve_jax.types import Item

# PySceneDetect's own default; the frames' short side is that of `motion`.
_ADAPTIVE = 3.0


class Inspection(NamedTuple):
    """`num_frames` are those that decode, `declared` those of the packets (0: unknown).

    `hashes` and `mirrored` are of 8 frames, `frames_sha256` of all of them, scaled;
    `cuts` are the seconds at which shots begin, the first being 0.
    """

    width: int
    height: int
    duration: float
    fps: float
    num_frames: int
    declared: int
    codec: str
    container: str
    motion: motion.Motion
    hashes: tuple[str, ...]
    mirrored: tuple[str, ...]
    frames_sha256: str
    cuts: tuple[float, ...]


def inspect(path: str, limits: Limits, min_shot: float) -> Inspection:
    """Decodes a video once, scaled down, in memory that does not grow with it.

    Args:
      min_shot: seconds; shorter shots are not told apart.

    Raises:
      MediaError: see `gve_jax.media.read_video`.
    """
    info = media.probe(path, limits)
    at_motion = motion.times(info.duration)
    at_hash = np.linspace(0, info.duration, hashes.FRAMES, endpoint=False)
    grey, coloured = [], []
    detector = scenedetect.AdaptiveDetector(
        adaptive_threshold=_ADAPTIVE, min_scene_len=float(min_shot)
    )
    cuts, digest, count, seconds = [0.0], hashlib.sha256(), 0, 0.0
    for seconds, frame in media.stream_video(path, motion.SHORT_SIDE, limits):
        count += 1
        digest.update(str(frame.shape).encode())
        digest.update(frame.tobytes())
        picture = None
        while len(grey) < len(at_motion) and seconds >= at_motion[len(grey)]:
            if picture is None:
                picture = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)
            grey.append(picture)
        while len(coloured) < len(at_hash) and seconds >= at_hash[len(coloured)]:
            coloured.append(frame)
        time = scenedetect.FrameTimecode(float(seconds), fps=max(info.fps, 1.0))
        # PySceneDetect takes OpenCV's order of channels.
        found = detector.process_frame(time, np.ascontiguousarray(frame[..., ::-1]))
        cuts += [cut.seconds for cut in found]
    # Times that no frame was found at, the duration being a guess: the last one serves.
    coloured += [frame] * (len(at_hash) - len(coloured))
    return Inspection(
        width=info.width,
        height=info.height,
        duration=max(info.duration, float(seconds)),
        fps=info.fps,
        num_frames=count,
        declared=info.num_frames or 0,
        codec=info.codec,
        container=info.container,
        motion=motion.measure(grey),
        hashes=hashes.video_hash(coloured),
        mirrored=hashes.video_hash(hashes.mirrored(coloured)),
        frames_sha256=digest.hexdigest(),
        cuts=tuple(cuts),
    )


def identify(max_seconds: float, item: Item) -> tuple | str:
    """What tells a trusted video apart: (`frames_sha256`, `hashes`), or "CODE: reason".

    It may be longer than others: up to a million frames.
    """
    limits = Limits(max_seconds=max_seconds, max_frames=1_000_000)
    try:
        found = inspect(item.video, limits, min_shot=1.0)  # its shots are not used
    except media.MediaError as e:
        return f"{e.code}: {e.message}"
    return found.frames_sha256, found.hashes


def bounded(read: Callable[[Item], tuple | str], megabytes: int, item: Item):
    """Reads an item in a process of its own that may not reserve all there is.

    Who started the process looks at what it uses ten times a second; this is for what
    is quicker.
    """
    _bound_memory(megabytes)
    try:
        return read(item)
    except MemoryError:
        return f"lost: reading takes over {megabytes} MB of memory"


def reader(read: Callable[[Item], tuple | str], timeout_s: float, megabytes: int):
    """A `Reader` of one process, which is killed for time or for memory.

    The decoder has limits of its own; these are for where it does not look.
    """
    read = functools.partial(bounded, read, megabytes)
    return Reader(read, processes=1, timeout_s=timeout_s, memory_mb=megabytes)


@functools.cache  # once in a process
def _bound_memory(megabytes: int) -> None:
    """Lets this process reserve twice so much beside what it has (on Linux).

    Twice, as threads reserve more than they use.
    """
    try:
        with open("/proc/self/statm") as f:
            now = int(f.read().split()[0]) * resource.getpagesize()
    except OSError:
        return
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    most = now + 2 * megabytes * 2**20
    if hard == resource.RLIM_INFINITY or most < hard:
        resource.setrlimit(resource.RLIMIT_AS, (most, hard))


def media_limits(config) -> Limits:
    """Of `config.media`."""
    side = config.max_side
    return Limits(
        max_pixels=side * side,
        max_seconds=config.max_seconds,
        max_damage=config.max_damage,
    )
