"""Videos a second, 8 frames evenly spaced, against decord and torchcodec.

python benchmarks/decode_throughput.py --clips=FOLDER --rounds=5

All videos of the folder, or without one the real clips that the test extra brings, are
read at their full size by as many threads (or processes) as there are cores, each with
one decoding thread. The other readers are asked for the frames of the same numbers, and
their pixels are compared first. Rounds are interleaved; medians are compared, in
brackets to our threads. On a machine that does other work too, time of the CPU is the
one to compare. What does not import is named and left out.
"""

import functools
import os
import pathlib
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from absl import app, flags

from eval.encoders import reading
from gve_jax.preprocess import Reader
from gve_jax.types import Item
from tests import real_clips

_CLIPS = flags.DEFINE_string("clips", None, "Folder of videos; default: real clips.")
_MOST = flags.DEFINE_integer("most", 60, "Reads of a round, the videos in turn.")
_ROUNDS = flags.DEFINE_integer("rounds", 5, "Of each reader.")

FRAMES = 8


def with_decord() -> Callable[[str], np.ndarray]:
    import decord

    def read(path: str) -> np.ndarray:
        video = decord.VideoReader(path, num_threads=1)
        rows = np.linspace(0, len(video) - 1, FRAMES).round().astype(int)
        return video.get_batch(rows).asnumpy()

    return read


def with_torchcodec() -> Callable[[str], np.ndarray]:
    from torchcodec.decoders import VideoDecoder

    def read(path: str) -> np.ndarray:
        video = VideoDecoder(path, dimension_order="NHWC", num_ffmpeg_threads=1)
        rows = np.linspace(0, len(video) - 1, FRAMES).round().astype(int)
        return video.get_frames_at(rows.tolist()).data.numpy()

    return read


def main(_) -> None:
    cores = os.cpu_count() or 1
    folder = pathlib.Path(_CLIPS.value or tempfile.mkdtemp())
    if not _CLIPS.value:
        for name in real_clips.CLIPS:
            real_clips.path(name, folder)
    paths = sorted(map(str, folder.glob("*.mp4")))
    paths = [paths[i % len(paths)] for i in range(_MOST.value)]
    items = [Item(str(i), video=path) for i, path in enumerate(paths)]
    pool = ThreadPoolExecutor(cores)
    read = functools.partial(reading.read, FRAMES, None)
    elsewhere = Reader(read, cores)
    # Each is consumed as it comes, as an encoder would.
    sides = {
        "gve_jax threads": lambda: list(pool.map(lambda i: read(i).video.shape, items)),
        "gve_jax processes": lambda: [x.video.shape for x in elsewhere.ahead(items)],
    }
    ours = [read(item).video for item in items[: len(set(paths))]]
    for name, make in (("decord", with_decord), ("torchcodec", with_torchcodec)):
        try:
            other = make()
        except (ImportError, OSError, RuntimeError) as e:
            print(f"{name}: left out ({str(e).strip().splitlines()[0]})")
            continue
        theirs = [other(path) for path in paths[: len(ours)]]
        error = [np.abs(a.astype(int) - b).mean() for a, b in zip(ours, theirs)]  # noqa: B905
        print(f"{name}: pixels differ by {max(error):.2f} of 255 on average at most")
        sides[name] = lambda o=other: list(pool.map(lambda p: o(p).shape, paths))
    times = {name: [] for name in sides}
    work = {name: [] for name in sides}
    for round_ in range(_ROUNDS.value + 1):
        for name, run in sides.items():
            start, worked = time.perf_counter(), time.process_time()
            run()
            if round_:  # the first warms caches and starts processes
                times[name].append(time.perf_counter() - start)
                work[name].append(time.process_time() - worked)
    print(f"{len(set(paths))} videos, {len(paths)} reads a round, {cores} at once")
    first = next(iter(sides))
    for name in sides:
        seconds, spent = (statistics.median(x[name]) for x in (times, work))
        ratio = statistics.median(times[first]) / seconds
        line = f"{name:<18} {len(paths) / seconds:6.1f} videos/s ({ratio:.2f})"
        if name != "gve_jax processes":  # whose time is not this process's
            ratio = statistics.median(work[first]) / spent
            line += f", {len(paths) / spent:6.1f} a second of CPU ({ratio:.2f})"
        print(line)


if __name__ == "__main__":
    app.run(main)
