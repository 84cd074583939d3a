"""A changed benchmark against the unmodified one, query by query."""

import zlib

import numpy as np

from eval import abilities
from eval.datasets import RetrievalSet
from eval.probes.records import Subject, Variant
from eval.protocol import Outcome
from gve_jax import retrieval

_EXAMPLES = 3


def compare(subject: Subject, variant: Variant, outcomes: dict[str, Outcome]) -> dict:
    """Scores of a variant beside those of the subject, with paired differences.

    Both are resampled with the same draws of queries, so that the 95 % intervals are
    of the difference itself. "survives" is the share of the score above chance that is
    left, [share, low, high]; None where too little was above chance for an interval.

    Args:
      outcomes: of the sets of the variant.

    Returns:
      {"what", "datasets": {name: ROW}, "abilities": {name: ROW}}; ROW is {"baseline",
      "score", "difference", "low", "high", "chance", "survives"}, and for datasets
      also {"metric", "num_queries", "missing", "examples"}. Datasets and abilities that
      the variant leaves as they are, or that are not complete, are left out.
    """
    before = {
        data.name: _resampled(subject, data, subject.outcomes[data.name])
        for data in subject.sets
    }
    after = before | {
        data.name: _resampled(subject, data, outcomes[data.name])
        for data in variant.sets
    }
    chance = {
        data.name: subject.outcomes[data.name].row["chance"] for data in subject.sets
    }
    rows = {}
    for data in variant.sets:
        name = data.name
        row = outcomes[name].row
        rows[name] = _row(before[name], after[name], chance[name]) | {
            "metric": row["metric"],
            "num_queries": row["num_queries"],
            "missing": row["missing"],
            "examples": _examples(data, subject.outcomes[name], outcomes[name]),
        }
    levels = [abilities.abilities(x) for x in (before, after, chance)]
    for level in levels:
        level["AVG"] = abilities.ability_average(level)
    touched = {
        name: _row(*(level[name] for level in levels))
        for name in levels[0]
        if levels[0][name] is not None
        and (name == "AVG" or rows.keys() & set(abilities.datasets_of(name)))
    }
    return {"what": variant.what, "datasets": rows, "abilities": touched}


def _right(data: RetrievalSet, outcome: Outcome) -> np.ndarray:
    """float64 [n]: what each query adds to the dataset's metric, 0 or 1."""
    cutoff = int(data.facts.metric.rpartition("@")[2])
    return retrieval.recall(outcome.ranking.ranks, cutoff)


def _resampled(subject: Subject, data: RetrievalSet, outcome: Outcome) -> np.ndarray:
    """float64 [1 + resamples]: the score, then those of resampled queries."""
    right = _right(data, outcome)
    seed = [subject.seed, zlib.crc32(data.name.encode())]
    samples = retrieval.bootstrap(right, subject.resamples, seed)
    return np.concatenate([[right.mean()], samples])


def _row(before: np.ndarray, after: np.ndarray, chance: float) -> dict:
    """Of scores, each followed by those of the same resamples."""
    low, high = retrieval.interval(after[1:] - before[1:])
    survives = None
    if (before > chance).all():
        shares = (after - chance) / (before - chance)
        survives = [float(shares[0]), *retrieval.interval(shares[1:])]
    return {
        "baseline": float(before[0]),
        "score": float(after[0]),
        "difference": float(after[0] - before[0]),
        "low": low,
        "high": high,
        "chance": float(chance),
        "survives": survives,
    }


def _examples(data: RetrievalSet, before: Outcome, after: Outcome) -> list[dict]:
    """Queries that were answered and no longer are, the furthest fallen first."""
    lost = _right(data, before) > _right(data, after)
    ranks = [np.minimum(o.ranking.ranks, len(data.corpus)) for o in (before, after)]
    fall = np.where(lost, ranks[1] - ranks[0], -np.inf)
    worst = np.argsort(-fall, kind="stable")[: min(_EXAMPLES, int(lost.sum()))]
    first = after.ranking.indices[:, 0]
    return [
        {
            "query": data.queries[i].id,
            "text": data.queries[i].text or "",
            "rank_before": int(ranks[0][i]),
            "rank_after": int(ranks[1][i]),
            "answer_after": data.corpus[first[i]].id if first[i] >= 0 else "",
        }
        for i in worst
    ]
