"""Train an embedder; started again on the same workdir, it resumes.

python -m gve_jax.train --config=configs/world.py --workdir=runs/world \
    --config.optim.peak_lr=4e-3
"""

from absl import flags
from ml_collections import config_flags

from gve_jax.main import run
from gve_jax.train.loop import train

_CONFIG = config_flags.DEFINE_config_file("config", None, "Experiment file.")
_WORKDIR = flags.DEFINE_string("workdir", None, "Where checkpoints and metrics go.")


def main(_: list[str]) -> None:
    train(_CONFIG.value, _WORKDIR.value)


if __name__ == "__main__":
    run(main, required=("config", "workdir"))
