"""Train an embedder; started again on the same workdir, it resumes.

python -m gve_jax.train --config=configs/world.py --workdir=runs/world \
    --config.optim.peak_lr=4e-3

Several processes, each with this and its number:
    --coordinator=HOST:PORT --processes=2 --process=0
"""

import importlib
import importlib.util
from collections.abc import Callable

from absl import flags
from ml_collections import ConfigDict, config_flags

from gve_jax import distributed
from gve_jax.main import run
from gve_jax.train.loop import train
from gve_jax.types import UserError

_CONFIG = config_flags.DEFINE_config_file("config", None, "Experiment file.")
_WORKDIR = flags.DEFINE_string("workdir", None, "Where checkpoints and metrics go.")
_ALLOW_MISSING = flags.DEFINE_bool(
    "allow-missing", False, "Train without those corpora of the config that are absent."
)
# Evaluates on UVRB; of a checkout, not of the package.
_EVALUATOR = "eval.during_training"


def main(_: list[str]) -> None:
    distributed.initialize()
    config = _CONFIG.value
    train(
        config,
        _WORKDIR.value,
        evaluate=_evaluator(config) if config.train.eval_every else None,
        allow_missing=_ALLOW_MISSING.value,
    )


def _evaluator(config: ConfigDict) -> Callable | None:
    """UVRB's, if the config names its folder; it is read and checked here."""
    if not config.eval.root:
        return None
    if importlib.util.find_spec("eval") is None:
        raise UserError(
            f"eval.root={config.eval.root} needs the folder eval, which is not part of "
            "the package: run in a checkout of the project"
        )
    return importlib.import_module(_EVALUATOR).evaluator(config)


if __name__ == "__main__":
    run(main, required=("config", "workdir"))
