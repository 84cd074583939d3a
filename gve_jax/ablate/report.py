"""The page of a study: OUTPUT/report.html, one file that fetches nothing."""

import json
import pathlib
import shlex
from collections.abc import Sequence

from gve_jax import page
from gve_jax.ablate import figures
from gve_jax.ablate.results import AVERAGES
from gve_jax.disk import read_rows, replace

# Left out of the dots: they are parts of another ability.
_PARTS = ("S", "T", "PR")


def write_report(
    output: pathlib.Path, results: dict, commands: Sequence[Sequence[str]]
) -> None:
    """Writes the page from results.json's values and the logs of the runs.

    Args:
      results: of `results.collect`.
      commands: module and flags of all that was run.
    """
    arms, seeds = results["arms"], results["seeds"]

    def logs(name: str, arm: str) -> list[list[dict]]:
        return [
            read_rows(output / arm / str(seed) / "train" / f"{name}.jsonl")
            for seed in seeds
        ]

    configs = {
        arm: _flat(json.loads((output / arm / "config.json").read_text()))
        for arm in arms
    }
    epochs = {arm: logs("curriculum", arm) for arm in arms}
    scheduled = {
        arm: rows
        for arm, rows in epochs.items()
        if configs[arm]["curriculum.name"] != "static"
    }
    compared = {name: arm for name, arm in arms.items() if arm["comparison"]}
    columns = next(iter(arms.values()))["scores"]
    labels = {column: column.replace("_", " ") for column in columns}
    environment = page.environment(pathlib.Path(__file__).parent)
    environment.filters["points"] = lambda v: f"{100 * v:.1f}"
    environment.filters["signed"] = lambda v: f"{100 * v:+.1f}"
    text = environment.get_template("report.html").render(
        results=results,
        arms=arms,
        compared=compared,
        labels=labels,
        verdicts=[arm["verdict"] for arm in arms.values() if arm["verdict"]],
        differing=_differing(configs),
        commands=[f"python -m {shlex.join(command)}" for command in commands],
        study_text=json.dumps(results["study"], indent=1),
        config_texts={arm: json.dumps(c, indent=1) for arm, c in configs.items()},
        figures={
            "dots": figures.dots(
                {name: arm["scores"] for name, arm in arms.items()},
                {
                    column: label
                    for column, label in labels.items()
                    if column not in (*_PARTS, AVERAGES[1])
                },
            ),
            "forest": figures.forest(
                {
                    f"{name} − {arm['baseline']}": _rows(arm["comparison"])
                    for name, arm in compared.items()
                }
            ),
            "alignment": figures.curriculum(scheduled, "alignment"),
            "probability": figures.curriculum(scheduled, "probability"),
            "losses": figures.losses({arm: logs("metrics", arm) for arm in arms}),
        },
    )
    replace(output / "report.html", text)


def _rows(comparison: dict) -> dict[str, dict]:
    """Averages and abilities of a comparison, in the order of the chart."""
    averages = {key.replace("_", " "): comparison[key] for key in AVERAGES}
    return averages | comparison["abilities"]


def _differing(configs: dict[str, dict]) -> dict[str, list]:
    """Keys that the arms' training configs differ in -> values, in the arms' order."""
    keys = dict.fromkeys(key for config in configs.values() for key in config)
    values = {
        key: [config.get(key, "–") for config in configs.values()] for key in keys
    }
    return {key: row for key, row in values.items() if any(v != row[0] for v in row)}


def _flat(values: dict, prefix: str = "") -> dict:
    flat = {}
    for key, value in values.items():
        inner = isinstance(value, dict)
        flat |= _flat(value, f"{prefix}{key}.") if inner else {prefix + key: value}
    return flat
