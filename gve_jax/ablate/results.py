"""What a study found, from the files of its runs: OUTPUT/results.json."""

import importlib.metadata
import json
import pathlib
import platform
from collections.abc import Sequence
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from gve_jax.types import UserError

AVERAGES = ("ability_average", "dataset_average")
_PACKAGES = ("gve_jax", "jax", "jaxlib", "flax", "optax", "grain", "numpy", "av")


def collect(
    study: ConfigDict,
    output: pathlib.Path,
    names: Sequence[str],
    seeds: Sequence[int],
) -> dict[str, Any]:
    """Scores, differences, verdicts and where they come from, as JSON values.

    Reads the evaluations of all arms `names` and `seeds`, and the comparison of each
    arm whose baseline is among them. Scores are in 0..1.

    Raises:
      UserError: an evaluation does not have all datasets.
    """
    arms = {}
    for name in names:
        arm, folders = study.arms[name], [output / name / str(seed) for seed in seeds]
        scores = _scores([folder / "eval" / "results.json" for folder in folders])
        against = None
        if arm.baseline in names:
            against = json.loads((output / name / "comparison.json").read_text())
        arms[name] = {
            "baseline": arm.baseline or None,
            "scores": scores,
            "means": {key: float(np.mean(values)) for key, values in scores.items()},
            "comparison": against,
            "verdict": verdict(arm, against, len(seeds)) if arm.claim else None,
        }
    packages = {name: importlib.metadata.version(name) for name in _PACKAGES}
    return {
        "seeds": list(seeds),
        "planned_seeds": list(study.seeds),
        "arms": arms,
        "study": json.loads(study.to_json()),
        "versions": {"python": platform.python_version()} | packages,
        "machine": f"{platform.system()}, {platform.machine()}",
    }


def table(results: dict[str, Any]) -> str:
    """Markdown, in points of 100: means over seeds, and differences of the average."""
    arms = results["arms"]
    columns = [c for c in next(iter(arms.values()))["means"] if c not in AVERAGES]
    heads = ["arm", *columns, "average", "against its baseline"]
    lines = [heads, ["---", *["--:"] * (len(columns) + 1), "---"]]
    for name, arm in arms.items():
        values = [arm["means"][c] for c in (*columns, "ability_average")]
        row, difference = [f"{100 * value:.1f}" for value in values], ""
        if arm["comparison"]:
            found = arm["comparison"]["ability_average"]
            numbers = [f"{100 * found[k]:+.1f}" for k in ("difference", "low", "high")]
            difference = "{} [{}, {}] against {}".format(*numbers, arm["baseline"])
        lines.append([name, *row, difference])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def verdict(arm: ConfigDict, comparison: dict | None, seeds: int) -> dict[str, str]:
    """What the study says on an arm's claim: a word, and a sentence of it.

    "shows" only if the interval of the ability average lies above 0, "does not show" if
    it lies below, else "undecided"; and always that of one seed, whose interval knows
    nothing of other seeds.
    """
    paper = ""
    if arm.points:
        paper = f" The paper: {arm.points} points (3B, 7B), on other data."
    if comparison is None:
        return {
            "word": "undecided",
            "sentence": f"{arm.claim}: undecided, its baseline {arm.baseline} is not "
            f"in this study.{paper}",
        }
    found = comparison["ability_average"]
    low, high = 100 * found["low"], 100 * found["high"]
    if seeds == 1:
        word = "undecided"
        said = "undecided: one seed does not tell it from chance in training."
    elif low > 0:
        word, said = "shows", "this study shows it."
    elif high < 0:
        word, said = "does not show", "this study does not show it, but the reverse."
    else:
        word = "undecided"
        said = (
            "undecided here. A study of this size tells differences of about "
            f"{(high - low) / 2:.1f} points or more from chance."
        )
    noun = "seed" if seeds == 1 else "seeds"
    return {
        "word": word,
        "sentence": f"{arm.claim}: {said} Ability average against {arm.baseline}: "
        f"{100 * found['difference']:+.1f} points, 95 % interval [{low:+.1f}, "
        f"{high:+.1f}], over {seeds} {noun}.{paper}",
    }


def _scores(paths: Sequence[pathlib.Path]) -> dict[str, list[float]]:
    """Ability or average -> its score in each of the evaluations."""
    scores: dict[str, list[float]] = {}
    for path in paths:
        found = json.loads(path.read_text(encoding="utf-8"))
        if not found["complete"]:
            raise UserError(
                f"{path}: not all datasets of the benchmark were evaluated: leave "
                "eval.datasets of the evaluation's config empty"
            )
        averages = {key: found[key] for key in AVERAGES}
        for key, value in (found["abilities"] | averages).items():
            scores.setdefault(key, []).append(value)
    return scores
