"""Renders the procedural world.

python -m data_synthesis.world --output=runs/world --seed=0 --videos=2000
"""

import os

from absl import flags

from data_synthesis.world.build import build
from data_synthesis.world.plan import MIN_VIDEOS
from gve_jax.main import run

_OUTPUT = flags.DEFINE_string("output", None, "Folder to write: new, empty or begun.")
_SEED = flags.DEFINE_integer("seed", 0, "Everything follows from it.")
_VIDEOS = flags.DEFINE_integer(
    "videos", 2000, f"Number of training videos, {MIN_VIDEOS} or more."
)
_PROCESSES = flags.DEFINE_integer(
    "processes", os.cpu_count() or 1, "Rendering processes; they change no byte."
)


def main(argv: list[str]) -> None:
    del argv
    manifest = build(_OUTPUT.value, _SEED.value, _VIDEOS.value, _PROCESSES.value)
    counts = ", ".join(f"{k} {v}" for k, v in manifest["counts"].items())
    print(f"world: {_OUTPUT.value} holds {counts}")


if __name__ == "__main__":
    run(main, required=["output"])
