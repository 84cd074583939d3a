"""Renders the procedural world.

python -m data_synthesis.world --output=runs/world --seed=0 --videos=2000
"""

import os
import sys
import time

from absl import app, flags
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)

from data_synthesis.world.build import MIN_VIDEOS, build
from gve_jax.types import UserError

_OUTPUT = flags.DEFINE_string("output", None, "Folder to write.", required=True)
_SEED = flags.DEFINE_integer("seed", 0, "Everything follows from it.")
_VIDEOS = flags.DEFINE_integer(
    "videos", 2000, f"Number of training videos, {MIN_VIDEOS} or more."
)
_PROCESSES = flags.DEFINE_integer(
    "processes", os.cpu_count() or 1, "Rendering processes; changes no byte."
)


class _Lines:
    """Progress as plain lines, at most one every five seconds."""

    def __init__(self):
        self.stage, self.shown = "", 0.0

    def __call__(self, stage: str, done: int, total: int) -> None:
        now = time.monotonic()
        if stage == self.stage and done < total and now - self.shown < 5:
            return
        self.stage, self.shown = stage, now
        print(f"world: {stage} {done}/{total}", flush=True)


def _bar(progress: Progress):
    tasks = {}

    def report(stage: str, done: int, total: int) -> None:
        if stage not in tasks:
            tasks[stage] = progress.add_task(stage, total=total)
        progress.update(tasks[stage], completed=done)

    return report


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments: {argv[1:]}")
    settings = (_OUTPUT.value, _SEED.value, _VIDEOS.value, _PROCESSES.value)
    try:
        if sys.stdout.isatty():
            columns = (
                TextColumn("world: {task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeRemainingColumn(),
            )
            with Progress(*columns, console=Console()) as progress:
                manifest = build(*settings, _bar(progress))
        else:
            manifest = build(*settings, _Lines())
    except UserError as e:
        print(f"error: {e}", file=sys.stderr)
        sys.exit(1)
    except OSError as e:
        print(f"error: {e.filename}: {e.strerror}", file=sys.stderr)
        sys.exit(1)
    counts = ", ".join(f"{k} {v}" for k, v in manifest["counts"].items())
    print(f"world: {_OUTPUT.value} holds {counts}")


if __name__ == "__main__":
    app.run(main)
