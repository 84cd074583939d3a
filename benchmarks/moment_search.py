"""Moments found in long world videos: by windows, and by whole-video vectors.

python -m benchmarks.moment_search --folder=runs/moments \
    --checkpoint=runs/quickstart/train

Renders long videos of many scenes that no training video shows, indexes them as anyone
would, and asks for scenes by descriptions that are true of one scene alone. A moment is
found where the first result is of the right video and the span it names begins, or
begins and ends, within --within seconds of the scene. Whole-video vectors name all of
the video. --window=0.3 --seconds=... scale windows and scenes alike: the model of the
quickstart has seen scenes of three seconds.
"""

import dataclasses
import os
import pathlib
import subprocess
import sys
import time

import numpy as np
from absl import flags

from data_synthesis.world import captions
from data_synthesis.world.facts import scene_satisfies
from data_synthesis.world.jobs import Job, run_jobs
from data_synthesis.world.plan import SHOT_OF_MANY
from data_synthesis.world.scene import Scene, Video, sample_scene, stream
from gve_jax.embed.flags import embedder_from_flags
from gve_jax.index.filters import parse_filter
from gve_jax.index.searching import Hit, Searcher, make_query
from gve_jax.main import run

_FOLDER = flags.DEFINE_string("folder", None, "For videos and index; kept.")
_VIDEOS = flags.DEFINE_integer("videos", 30, "How many.")
_SCENES = flags.DEFINE_integer("scenes", 20, "Of a video.")
_LENGTH = flags.DEFINE_list("length", ["8", "12"], "Least and most seconds of a scene.")
_WINDOW = flags.DEFINE_float("window", 10, "Seconds of a window.")
_STRIDE = flags.DEFINE_float("stride", 5, "Seconds from one to the next.")
_WITHIN = flags.DEFINE_float("within", 2, "Seconds.")
_SEED = flags.DEFINE_integer("seed", 0, "Of the videos and descriptions.")
_FORM = "general"
_INSTRUCTION = "Find the video according to the general text description."
_TRIES = 8  # descriptions of a scene, until one is true of it alone


def make_videos() -> list[Video]:
    wish = dataclasses.replace(SHOT_OF_MANY, seconds=tuple(map(float, _LENGTH.value)))
    found = []
    for number in range(_VIDEOS.value):
        rng = stream(_SEED.value, "moment search", number)
        scenes = [sample_scene(rng, "test", wish) for _ in range(_SCENES.value)]
        found.append(Video(f"moments_{number:03}", "test", "moments", tuple(scenes)))
    return found


def description(scene: Scene, others: list[Scene], number: int) -> str | None:
    """A text that is true of this scene and of no other; None if none was found."""
    rng = stream(_SEED.value, "description", number)
    for _ in range(_TRIES):
        caption = captions.of_scene(scene, _FORM, rng)
        facts = [fact[1:] for fact in caption.facts]
        if sum(scene_satisfies(other, facts) for other in others) == 1:
            return caption.text
    return None


def span_of(hit: Hit) -> tuple[float, float]:
    """The moment that a result names: its best window, where it has one."""
    if hit.kind == "video" and hit.spans:
        return hit.spans[0].start, hit.spans[0].end
    return hit.start, hit.end


def report(name: str, answers: list[list[Hit]], moments: list[tuple]) -> None:
    video, video5, start, both = [], [], [], []
    for hits, (file, low, high) in zip(answers, moments, strict=True):
        named = span_of(hits[0])
        right = pathlib.Path(hits[0].file).stem == file
        video.append(right)
        video5.append(file in [pathlib.Path(hit.file).stem for hit in hits[:5]])
        start.append(right and abs(named[0] - low) <= _WITHIN.value)
        both.append(start[-1] and abs(named[1] - high) <= _WITHIN.value)
    cells = [f"{np.mean(x):8.1%}" for x in (video, video5, start, both)]
    print(f"{name:14}{'  '.join(cells)}", flush=True)


def main(_: list[str]) -> None:
    folder = pathlib.Path(_FOLDER.value)
    videos = make_videos()
    paths = [str(folder / "videos" / f"{video.id}.mp4") for video in videos]
    run_jobs(
        [Job(_SEED.value, v, p) for v, p in zip(videos, paths, strict=True)],
        os.cpu_count() or 1,
    )
    index = folder / f"index-{_WINDOW.value:g}-{_STRIDE.value:g}"
    began = time.monotonic()
    command = [
        *(sys.executable, "-m", "gve_jax.index", "build", str(folder / "videos")),
        *(f"--index={index}", f"--checkpoint={flags.FLAGS.checkpoint}"),
        *(f"--window={_WINDOW.value}", f"--stride={_STRIDE.value}"),
    ]
    subprocess.run(command, check=True)
    hours = sum(video.seconds for video in videos) / 3600
    print(f"{hours:.2f} hours, indexed in {time.monotonic() - began:.0f} s")

    scenes = [scene for video in videos for scene in video.scenes]
    places = [(v.id, *span) for v in videos for span in v.spans()]
    queries, moments = [], []
    for number, (scene, place) in enumerate(zip(scenes, places, strict=True)):
        if text := description(scene, scenes, number):
            queries.append(make_query(text, instruction=_INSTRUCTION))
            moments.append(place)
    print(f"{len(queries)} of {len(scenes)} scenes have a description of their own")
    searcher = Searcher(index, embedder_from_flags())
    print(f"{'':14}   video   in five     start      both")
    for name, text in {
        "windows": "kind=window",
        "whole videos": "kind=video",
        "both together": "",
    }.items():
        report(name, searcher.search(queries, 5, parse_filter(text)), moments)


if __name__ == "__main__":
    run(main, required=("folder", "checkpoint"))
