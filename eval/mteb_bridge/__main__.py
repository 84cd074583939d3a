"""Evaluate a checkpoint on UVRB through MTEB; results in MTEB's format.

python -m eval.mteb_bridge --config=configs/uvrb_mini.py \
    --checkpoint=runs/quickstart/train --output=runs/quickstart/mteb
"""

import pathlib

from absl import flags
from ml_collections import config_flags

from eval import abilities, loaders
from eval.run import read
from gve_jax import main as command
from gve_jax.embed import Embedder
from gve_jax.types import UserError

_CONFIG = config_flags.DEFINE_config_file("config", None, "Experiment file.")
_CHECKPOINT = flags.DEFINE_string("checkpoint", None, "Workdir, folder or hub id.")
_OUTPUT = flags.DEFINE_string("output", None, "Folder of results, an MTEB cache.")
_DATASETS = flags.DEFINE_list("datasets", None, "Names; default: eval.datasets.")
_NAME = flags.DEFINE_string(
    "name", None, "Model in the results, ORGANISATION/NAME; default: from --checkpoint."
)


def main(_: list[str]) -> None:
    try:
        from eval.mteb_bridge import benchmark, model
    except ModuleNotFoundError as e:
        raise UserError(
            f"eval.mteb_bridge: {e.name} is not installed: pip install -e '.[mteb]'"
        ) from None
    config = _CONFIG.value
    sets = read(config, loaders.names(_DATASETS.value or config.eval.datasets))
    uvrb = benchmark.benchmark(sets)
    name = _NAME.value or f"gve_jax/{pathlib.Path(_CHECKPOINT.value).name}"
    if name.count("/") != 1:
        raise UserError(f"--name: {name!r}, expected ORGANISATION/NAME")
    embedder = Embedder.from_checkpoint(
        _CHECKPOINT.value, weights=config.model.param_dtype or None, config=config
    )
    scores = benchmark.evaluate(
        uvrb, model.EmbedderModel(embedder, name), _OUTPUT.value
    )
    for task in uvrb:
        score = scores[task.data.name]
        print(f"{task.data.name:<12} {task.metadata.main_score:<15} {score:.3f}")
    average = abilities.ability_average(abilities.abilities(scores))
    if average is not None:
        print(f"dataset average           {sum(scores.values()) / len(scores):.3f}")
        print(f"ability average           {average:.3f}")
    print(f"results: {pathlib.Path(_OUTPUT.value) / 'results'}")


if __name__ == "__main__":
    command.run(main, required=("config", "checkpoint", "output"))
