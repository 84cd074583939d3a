"""What bfloat16 and int8 weights cost: scores of UVRB, and who stays first.

python -m benchmarks.quantised_recall \
    --config=configs/uvrb_mini.py:runs/quickstart/world/uvrb_mini \
    --checkpoint=runs/quickstart/train --output=runs/quickstart/quantised

The evaluation runs three times: in float32 throughout, and with weights in bfloat16 and
in int8, whose activations are `--dtype`. Beside the scores of the abilities it prints
how far the vectors turned, and for how many queries the first answer, and the ten first
in any order, are those of float32. Started again it goes on where it stopped; each
run's report and rankings are in OUTPUT/WEIGHTS.
"""

import json
import pathlib

import jax
import numpy as np
from absl import flags
from ml_collections import config_flags

from eval import loaders, vectors
from eval.run import read, run
from gve_jax import main as command
from gve_jax.embed import Embedder

_CONFIG = config_flags.DEFINE_config_file("config", None, "Experiment file.")
_CHECKPOINT = flags.DEFINE_string("checkpoint", None, "Workdir, folder or hub id.")
_OUTPUT = flags.DEFINE_string("output", None, "Folder of the three evaluations.")
_DATASETS = flags.DEFINE_list("datasets", None, "Names; default: eval.datasets.")
_DTYPE = flags.DEFINE_enum(
    "dtype",
    None,
    ["float32", "bfloat16"],
    "Of activations beside 16-bit and int8 weights; default: bfloat16, float32 on CPU.",
)

WEIGHTS = ("float32", "bfloat16", "int8")


def evaluate(sets, weights: str, dtype: str) -> tuple[dict, np.ndarray, list]:
    """One run: (results, vectors of all items, ids of the ten first by query)."""
    config, folder = _CONFIG.value, pathlib.Path(_OUTPUT.value) / weights
    embedder = Embedder.from_checkpoint(
        _CHECKPOINT.value, dtype=dtype, weights=weights, config=config
    )
    results = run(config, sets, embedder, folder, _CHECKPOINT.value)
    # Kept by the run: nothing is embedded again.
    sides = vectors.embed(
        sets, embedder, folder / "embeddings", config.eval.allow_missing
    )
    table = np.concatenate([*sides.queries.values(), *sides.corpus.values()])
    tops = []
    for data in sets:
        lines = (folder / "rankings" / f"{data.name}.jsonl").read_text("utf-8")
        tops += [[t["id"] for t in json.loads(x)["top"]] for x in lines.splitlines()]
    return results, table, tops


def main(_: list[str]) -> None:
    config = _CONFIG.value
    sets = read(config, loaders.names(_DATASETS.value or config.eval.datasets))
    low = "float32" if jax.default_backend() == "cpu" else "bfloat16"
    low = _DTYPE.value or low
    dtypes = {
        weights: "float32" if weights == "float32" else low for weights in WEIGHTS
    }
    found = {weights: evaluate(sets, weights, dtypes[weights]) for weights in WEIGHTS}

    def show(name: str, cells: list[str]) -> None:
        print(f"{name:<26}" + "".join(f"{cell:>12}" for cell in cells))

    show("weights", list(WEIGHTS))
    show("activations", list(dtypes.values()))
    reports = [results for results, _, _ in found.values()]
    rows = {
        name: [r["abilities"][name] for r in reports]
        for name in reports[0]["abilities"]
    }
    rows |= {
        name.replace("_", " "): [r[name] for r in reports]
        for name in ("dataset_average", "ability_average")
    }
    for name, scores in rows.items():
        show(name, ["-" if score is None else f"{score:.4f}" for score in scores])

    _, table, tops = found["float32"]
    agree: dict[str, list[str]] = {
        "mean cosine": [],
        "least cosine": [],
        "same first answer": [],
        "same ten first": [],
    }
    for _, other, ranked in found.values():
        cosines = (table * other).sum(1)
        first = [a[:1] == b[:1] for a, b in zip(tops, ranked, strict=True)]
        ten = [set(a) == set(b) for a, b in zip(tops, ranked, strict=True)]
        agree["mean cosine"].append(f"{np.nanmean(cosines):.6f}")
        agree["least cosine"].append(f"{np.nanmin(cosines):.6f}")
        agree["same first answer"].append(f"{np.mean(first):.2%}")
        agree["same ten first"].append(f"{np.mean(ten):.2%}")
    print(f"beside float32, of {len(tops)} queries and {len(table)} vectors:")
    for name, cells in agree.items():
        show(name, cells)


if __name__ == "__main__":
    command.run(main, required=("config", "checkpoint", "output"))
