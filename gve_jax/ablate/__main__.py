"""Train, evaluate and compare all arms of a study; started again, it goes on.

python -m gve_jax.ablate --config=configs/ablation_world.py --output=runs/ablation \
    --config.seeds=0,1 --config.steps=600 --arms=collected,synthesised,pyramid
"""

import pathlib
import signal

from absl import flags
from ml_collections import config_flags

from gve_jax.ablate.results import table
from gve_jax.ablate.study import run_study
from gve_jax.main import run

_CONFIG = config_flags.DEFINE_config_file("config", None, "File of the study.")
_OUTPUT = flags.DEFINE_string("output", None, "Folder of runs, results and report.")
_ARMS = flags.DEFINE_list("arms", None, "Names; default: all arms of the study.")


def main(_: list[str]) -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    results = run_study(_CONFIG.value, _OUTPUT.value, _ARMS.value)
    print(table(results))
    for arm in results["arms"].values():
        if arm["verdict"]:
            print(arm["verdict"]["sentence"])
    print(f"report: {pathlib.Path(_OUTPUT.value) / 'report.html'}")


if __name__ == "__main__":
    run(main, required=("config", "output"))
