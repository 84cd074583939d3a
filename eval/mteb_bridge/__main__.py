"""Evaluate a checkpoint on UVRB through MTEB; results in MTEB's format.

python -m eval.mteb_bridge --config=configs/uvrb_mini.py \
    --checkpoint=runs/quickstart/train --output=runs/quickstart/mteb
"""

import pathlib
import re

from absl import flags
from ml_collections import config_flags

from eval import abilities, loaders
from eval.encoders.flags import encoder_from_flags, named
from eval.encoders.precomputed import Precomputed
from eval.run import read
from gve_jax import main as command
from gve_jax.types import UserError

_CONFIG = config_flags.DEFINE_config_file("config", None, "Experiment file.")
_OUTPUT = flags.DEFINE_string("output", None, "Folder of results, an MTEB cache.")
_DATASETS = flags.DEFINE_list("datasets", None, "Names; default: eval.datasets.")
_NAME = flags.DEFINE_string(
    "name", None, "Model in the results, ORGANISATION/NAME; default: from its flag."
)


def main(_: list[str]) -> None:
    try:
        from eval.mteb_bridge import benchmark, model
    except ModuleNotFoundError as e:
        raise UserError(
            f"eval.mteb_bridge: {e.name} is not installed: pip install -e '.[mteb]'"
        ) from None
    config = _CONFIG.value
    names = _DATASETS.value or config.eval.datasets
    sets = read(config, loaders.names(names, config.eval.root))
    uvrb = benchmark.benchmark(sets)
    own = re.sub(r"[^\w.-]+", "_", pathlib.Path(named().split()[0]).name)
    name = _NAME.value or f"gve_jax/{own}"
    if name.count("/") != 1:
        raise UserError(f"--name: {name!r}, expected ORGANISATION/NAME")
    encoder = encoder_from_flags(config)
    if isinstance(encoder, Precomputed):
        raise UserError("--vectors: MTEB asks a model, give --checkpoint or --encoder")
    scores = benchmark.evaluate(uvrb, model.EmbedderModel(encoder, name), _OUTPUT.value)
    for task in uvrb:
        score = scores[task.data.name]
        print(f"{task.data.name:<12} {task.metadata.main_score:<15} {score:.3f}")
    average = abilities.ability_average(abilities.abilities(scores))
    if average is not None:
        print(f"dataset average           {sum(scores.values()) / len(scores):.3f}")
        print(f"ability average           {average:.3f}")
    print(f"results: {pathlib.Path(_OUTPUT.value) / 'results'}")


if __name__ == "__main__":
    command.run(main, required=("config", "output"))
