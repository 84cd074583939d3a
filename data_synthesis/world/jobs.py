"""Rendering jobs: one video and all that is cut from it, drawn once.

A job is skipped if its files are there: files are written whole or not at all, so an
interrupted build goes on where it stopped.
"""

import multiprocessing
import os
import signal
from collections.abc import Iterable
from concurrent import futures
from concurrent.futures.process import BrokenProcessPool
from typing import NamedTuple

import cv2

from data_synthesis.world import encode, motion, render
from data_synthesis.world.scene import Scene, Video, stream
from gve_jax.progress import ProgressLine
from gve_jax.types import UserError


class Still(NamedTuple):
    """A frame as JPEG: of a scene, at time u in 0..1; `jitter` seeds another look."""

    path: str
    scene: int
    u: float
    jitter: str | None = None


class Clip(NamedTuple):
    """A part [start, end] (0..1) of a scene as its own file, re-encoded.

    `frozen` repeats its first frame instead: a static video.
    """

    path: str
    scene: int
    start: float = 0.0
    end: float = 1.0
    jitter: str | None = None
    frozen: bool = False


class Job(NamedTuple):
    """`path` of the whole video ("" for none) and what is cut from it."""

    seed: int
    video: Video
    path: str
    stills: tuple[Still, ...] = ()
    clips: tuple[Clip, ...] = ()

    @property
    def outputs(self) -> list[str]:
        cuts = [c.path for c in (*self.stills, *self.clips)]
        return [self.path, *cuts] if self.path else cuts


def run_job(job: Job) -> int:
    """Writes what is missing of a job's files. Returns how many were written."""
    missing = {p for p in job.outputs if not os.path.exists(p)}
    if not missing:
        return 0
    cv2.setNumThreads(1)
    whole = job.path in missing
    drawn = []
    for index, scene in enumerate(job.video.scenes):
        clips = [c for c in job.clips if c.scene == index and c.path in missing]
        stills = [s for s in job.stills if s.scene == index and s.path in missing]
        if not (whole or clips or stills):
            continue
        stage = render.Stage(scene)
        frames = list(stage.frames()) if whole or clips else []
        drawn += frames
        for clip in clips:
            _write_clip(job.seed, clip, scene, frames)
        for still in stills:
            image, quality = stage.frame(still.u), 85
            if still.jitter is not None:
                rng = stream(job.seed, "still", still.jitter)
                image = encode.Jitter(rng, motion.seen_at(scene, 0, still.u))(image)
                quality = rng.randint(45, 80)
            encode.write_image(still.path, image, quality)
    if whole:
        encode.write_video(job.path, drawn)
    return len(missing)


def _write_clip(seed: int, clip: Clip, scene: Scene, frames: list) -> None:
    first = int(clip.start * (len(frames) - 1))
    last = max(first + 8, round(clip.end * (len(frames) - 1)) + 1)
    part = frames[first:last]
    if clip.frozen:
        part = [part[0]] * len(part)
    crf = 27
    if clip.jitter is not None:
        rng = stream(seed, "clip", clip.jitter)
        middle = (clip.start + clip.end) / 2
        look = encode.Jitter(rng, motion.seen_at(scene, 0, middle))
        part = [look(f) for f in part]
        crf = rng.randint(25, 34)
    encode.write_video(clip.path, part, crf=crf)


def run_jobs(jobs: Iterable[Job], processes: int) -> None:
    """Runs jobs in worker processes; the files do not depend on how many.

    Raises:
      UserError: a worker died.
    """
    jobs = list(jobs)
    todo = [j for j in jobs if not all(map(os.path.exists, j.outputs))]
    # The longest first, so that no worker ends alone on a long one.
    todo.sort(key=lambda j: (-j.video.seconds, j.video.id))
    for folder in sorted({os.path.dirname(p) for j in todo for p in j.outputs}):
        os.makedirs(folder, exist_ok=True)
    with ProgressLine("world", len(jobs), "videos", len(jobs) - len(todo)) as line:
        if processes == 1 or len(todo) < 8:
            for job in todo:
                run_job(job)
                line.advance()
            return
        # Spawned, not forked: the caller may have threads (progress, BLAS).
        context = multiprocessing.get_context("spawn")
        pool = futures.ProcessPoolExecutor(processes, context, _ignore_interrupt)
        try:
            for _ in pool.map(run_job, todo, chunksize=4):
                line.advance()
        except BrokenProcessPool:
            raise UserError(
                f"--processes={processes}: a rendering process was killed (out of "
                "memory?); run the same command again, with fewer, to go on"
            ) from None
        finally:
            pool.shutdown(cancel_futures=True)


def _ignore_interrupt() -> None:
    # Ctrl-C reaches every process; the parent alone answers it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def main_in_sight(video: Video, index: int, purpose: str, seed: int) -> float:
    """A time in 0..1 of a scene at which its main thing shows; random, seeded."""
    scene = video.scenes[index]
    rng = stream(seed, purpose, video.id, index)
    for _ in range(50):
        u = rng.random()
        x, y = motion.seen_at(scene, 0, u)
        alpha = motion.state(scene, 0, u).alpha
        if alpha > 0.8 and 16 < x < 152 and 16 < y < 152:
            return u
    return 0.5
