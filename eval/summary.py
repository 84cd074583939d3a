"""From vectors to the numbers of results.json."""

from eval import abilities, protocol, vectors
from eval.datasets import RetrievalSet
from gve_jax import retrieval

_AVERAGES = ("dataset_average", "ability_average", "ability_average_flat")


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
    """Datasets to abilities and averages, with 95 % intervals, bounds and chance.

    The interval of a mean comes from resampling the queries of all its datasets at
    once. Its bounds are means of bounds: each query's best and worst do not depend on
    another's. What lacks a dataset is None. `complete` is false where a dataset of the
    benchmark is absent or anything has no vector, and "incomplete" says why, by
    dataset. Datasets that are not the benchmark's have rows, and no part in any mean.
    """
    rows = {name: o.row for name, o in outcomes.items()}
    incomplete = {
        name: "not evaluated" for name in abilities.DATASETS if name not in rows
    }
    for name, row in rows.items():
        if row["missing"]:
            lost = {k: row[f"num_{k}"] - row["effective"][k] for k in row["effective"]}
            incomplete[name] = (
                f"no vector for {lost['queries']} of {row['num_queries']} queries and "
                f"{lost['corpus']} of {row['num_corpus']} corpus items"
            )

    def column(key: str) -> dict:
        return {name: row[key] for name, row in rows.items()}

    samples = _line({name: o.samples for name, o in outcomes.items()})
    ends = [_line({n: b[end] for n, b in column("bounds").items()}) for end in (0, 1)]
    return {
        "datasets": rows,
        **abilities.condense(column("score")),
        "complete": not incomplete,
        "incomplete": incomplete,
        "ability_intervals": {
            name: None if values is None else list(retrieval.interval(values))
            for name, values in samples.items()
        },
        "ability_bounds": {
            name: None if low is None else [low, ends[1][name]]
            for name, low in ends[0].items()
        },
        "ability_chance": abilities.abilities(column("chance")),
    }


def _line(scores: dict) -> dict:
    """Abilities and averages in one dict."""
    found = abilities.condense(scores)
    return found["abilities"] | {name: found[name] for name in _AVERAGES}
