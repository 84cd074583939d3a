"""UVRB as the score of a run that goes on; see `gve_jax.train`."""

import pathlib
import tempfile
from collections.abc import Callable

import ml_collections
import numpy as np

from eval import loaders, run, summary, vectors
from gve_jax.embed import Embedder
from gve_jax.train.probe import Evaluation


def evaluator(config: ml_collections.ConfigDict) -> Callable[[Embedder], Evaluation]:
    """Reads the datasets of config.eval once, and returns what scores weights on them.

    The score is the average over abilities, or over datasets where those that were
    chosen make up no ability average.

    Raises:
      UserError: the datasets or their media are not as they should be.
    """
    sets = run.read(config, loaders.names(config.eval.datasets, config.eval.root))

    def evaluate(embedder: Embedder) -> Evaluation:
        with tempfile.TemporaryDirectory() as folder:
            sides = vectors.embed(
                sets, embedder, pathlib.Path(folder), config.eval.allow_missing
            )
        # Of one resample: nobody reads the intervals.
        found = summary.summarise(summary.score(sets, sides, 1, config.seed))
        scores = {name: row["score"] for name, row in found["datasets"].items()}
        average = found["ability_average"]
        if average is not None:
            return Evaluation("UVRB ability average", average, scores)
        mean = float(np.mean(list(scores.values())))
        return Evaluation("UVRB mean over datasets", mean, scores)

    return evaluate
