"""From vectors to the numbers of results.json."""

import numpy as np

from eval import abilities, protocol, vectors
from eval.datasets import RetrievalSet
from gve_jax import retrieval


def score(
    sets: list[RetrievalSet], sides: vectors.Sides, resamples: int, seed: int
) -> dict[str, protocol.Outcome]:
    """Scores each dataset by its vectors."""
    return {
        data.name: protocol.evaluate(
            data,
            sides.queries[data.name],
            sides.corpus[data.name],
            resamples=resamples,
            seed=seed,
        )
        for data in sets
    }


def summarise(outcomes: dict[str, protocol.Outcome]) -> dict:
    """Datasets to abilities and averages, with 95 % intervals and chance levels.

    The interval of a mean comes from resampling the queries of all its datasets at
    once. What lacks a dataset is None, and `complete` is then false.
    """
    rows = {name: o.row for name, o in outcomes.items()}
    scores = abilities.abilities({name: row["score"] for name, row in rows.items()})
    samples = abilities.abilities({name: o.samples for name, o in outcomes.items()})
    complete = None not in scores.values()
    average = abilities.ability_average
    averages = {
        "dataset_average": (
            np.mean([o.samples for o in outcomes.values()], axis=0)
            if complete
            else None
        ),
        "ability_average": average(samples),
    }
    return {
        "datasets": rows,
        "abilities": scores,
        "dataset_average": (
            float(np.mean([r["score"] for r in rows.values()])) if complete else None
        ),
        "ability_average": average(scores),
        "complete": complete,
        "ability_intervals": {
            name: None if values is None else list(retrieval.interval(values))
            for name, values in (samples | averages).items()
        },
        "ability_chance": abilities.abilities(
            {name: row["chance"] for name, row in rows.items()}
        ),
    }
