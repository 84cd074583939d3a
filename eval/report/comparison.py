"""The page of several evaluations of the same datasets."""

import os
import pathlib
from collections.abc import Sequence

from eval import abilities
from eval import compare as paired
from eval.report import figures, pages
from eval.report.runs import COLUMNS, Run, rows
from gve_jax.disk import replace
from gve_jax.types import UserError


def compare(runs: Sequence[Run], output: pathlib.Path) -> None:
    """Writes report.html, report.md and report.tex; the first run is the baseline.

    Raises:
      UserError: the runs are not of the same data (see `eval.compare`), or the page
        would take the place of a run's own.
    """
    if output.resolve() in [run.folder.resolve() for run in runs]:
        raise UserError(f"--output: {output} is one of the runs: give another folder")
    output.mkdir(parents=True, exist_ok=True)
    board = rows(runs)
    first = runs[0]
    found = {
        run.label: paired.compare([run.folder], [first.folder]).to_json()
        for run in runs[1:]
    }
    pages.write_tables(board, runs, output)
    text = (
        pages.environment()
        .get_template("comparison.html")
        .render(
            runs=runs,
            first=first,
            board=board,
            columns=COLUMNS,
            dataset_columns={name: name for name in abilities.DATASETS},
            own_columns={name: name for name in pages.own_names(runs)},
            real=all(run.published_size for run in runs),
            radar=pages.radar(runs),
            comparisons={label: _summary(result) for label, result in found.items()},
            left_out={label: list(r["left_out"]) for label, r in found.items()},
            forests={
                label: figures.intervals(
                    f"forest-{i}", _forest(result), 0, f"{label} minus {first.label}"
                )
                for i, (label, result) in enumerate(found.items())
            },
            differing=_differing(runs),
            links=[
                os.path.relpath(run.folder / "report.html", output).replace(os.sep, "/")
                for run in runs
            ],
        )
    )
    replace(output / "report.html", text)


def _summary(result: dict) -> dict[str, dict | None]:
    """Averages, abilities and datasets in one table; None: lacks a dataset."""
    averages = ("ability_average", "dataset_average")
    heads = {COLUMNS[key]: result[key] for key in averages}
    return heads | result["abilities"] | result["datasets"]


def _forest(result: dict) -> dict[str, tuple[float, float, float]]:
    return {
        name: (row["difference"], row["low"], row["high"])
        for name, row in _summary(result).items()
        if row
    }


def _differing(runs: Sequence[Run]) -> dict[str, list[str]]:
    """What of contract and provenance is not the same in all runs."""
    flat = [
        {f"contract.{k}": v for k, v in run.results["contract"].items()}
        | run.results["provenance"]
        for run in runs
    ]
    keys = dict.fromkeys(key for values in flat for key in values)
    table = {key: [str(values.get(key, "–")) for values in flat] for key in keys}
    return {key: row for key, row in table.items() if len(set(row)) > 1}
