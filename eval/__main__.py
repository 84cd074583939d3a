"""Evaluate an encoder on UVRB; started again, it goes on where it stopped.

python -m eval --config=configs/uvrb_mini.py --checkpoint=runs/quickstart/train \
    --output=runs/quickstart/eval --datasets=MSRVTT,CRB-T

Instead of --checkpoint: --encoder=package.module:factory, or --vectors=FOLDER.
"""

import pathlib
import shlex
import sys

from absl import flags
from ml_collections import config_flags

from eval import loaders
from eval.encoders.flags import encoder_from_flags, named
from eval.run import read, run
from gve_jax import distributed
from gve_jax import main as command

_CONFIG = config_flags.DEFINE_config_file("config", None, "Experiment file.")
_OUTPUT = flags.DEFINE_string("output", None, "Folder of results and report.")
_DATASETS = flags.DEFINE_list("datasets", None, "Names; default: eval.datasets.")


def main(_: list[str]) -> None:
    config = _CONFIG.value
    distributed.initialize()
    sets = read(
        config,
        loaders.names(_DATASETS.value or config.eval.datasets, config.eval.root),
    )
    encoder = encoder_from_flags(config)
    asked = shlex.join(["python", "-m", "eval", *sys.argv[1:]])
    results = run(config, sets, encoder, _OUTPUT.value, named(), asked)
    if results is None:
        return
    for name, row in results["datasets"].items():
        print(
            f"{name:<12} {row['metric']:<12} {row['score']:.3f}  "
            f"[{row['low']:.3f}, {row['high']:.3f}]  chance {row['chance']:.3f}"
        )
    for name in ("dataset_average", "ability_average"):
        if results[name] is not None:
            print(f"{name.replace('_', ' '):<25} {results[name]:.3f}")
    print(f"report: {pathlib.Path(_OUTPUT.value) / 'report.html'}")


if __name__ == "__main__":
    command.run(main, required=("config", "output"))
