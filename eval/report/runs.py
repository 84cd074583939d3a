"""Finished evaluations as the report reads them, and the rows they have in tables."""

import json
import pathlib
from collections.abc import Sequence
from typing import NamedTuple

from eval import abilities, uvrb
from gve_jax.disk import read_rows
from gve_jax.types import UserError

# Of tables of abilities: key of `Row.scores` -> head.
COLUMNS = {"ability_average": "AVG", "dataset_average": "D-AVG"} | {
    name: name for name in abilities.ABILITIES
}


class Run(NamedTuple):
    """The files of one evaluation."""

    label: str  # what tables call it
    folder: pathlib.Path
    results: dict  # results.json
    records: dict[str, dict]  # dataset -> see `eval.report.record`
    missing: list[dict]  # missing.jsonl
    probes: dict | None  # probes.json, see `eval.diagnose`
    scaling: dict | None  # scaling/scaling.json, see `eval.scaling`

    @property
    def published_size(self) -> bool:
        """Whether the benchmark's datasets are of the published sizes."""
        known = [r for name, r in self.records.items() if name in uvrb.DATASETS]
        return bool(known) and not any(r["differences"] for r in known)


class Row(NamedTuple):
    """A model's line in tables; scores in 0..1, None where there is none."""

    name: str
    published: bool
    scores: dict[str, float | None]  # of datasets, abilities and averages
    intervals: dict[str, Sequence[float] | None]  # the 95 % ones of an own run


def read(folder: pathlib.Path, label: str, results: dict | None = None) -> Run:
    """Reads a folder of `python -m eval`.

    Args:
      results: what results.json will hold, if it is not written yet.

    Raises:
      UserError: the folder holds no finished evaluation, or a file is damaged.
    """
    results = results or _json(folder / "results.json")
    if results is None or "datasets" not in results:
        raise UserError(
            f"{folder}: no finished evaluation (results.json): name folders of "
            "`python -m eval`"
        )
    records = {}
    for name in results["datasets"]:
        path = folder / "report" / f"{name}.json"
        records[name] = _json(path)
        if records[name] is None:
            raise UserError(
                f"{path}: no such file: run `python -m eval` again, its vectors are "
                "kept"
            )
    probes = _json(folder / "probes.json")
    scaling = _json(folder / "scaling" / "scaling.json")
    missing = read_rows(folder / "missing.jsonl")
    return Run(label, folder, results, records, missing, probes, scaling)


def _json(path: pathlib.Path) -> dict | None:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as e:
        raise UserError(f"{path}: cannot be read as JSON ({e}): make it anew") from None


def labels(folders: Sequence[pathlib.Path]) -> list[str]:
    """Names for folders: their paths without the parts that all begin or end with.

    Raises UserError if a folder is named twice.
    """
    paths = [list(folder.absolute().parts) for folder in folders]
    if len(folders) == 1:
        return ["this run"]
    for i, path in enumerate(paths):
        if path in paths[:i]:
            raise UserError(f"--runs: {folders[i]} is named twice")
    for end in (0, -1):
        while len({path[end] for path in paths}) == 1 and min(map(len, paths)) > 1:
            for path in paths:
                del path[end]
    return ["/".join(path) for path in paths]


def rows(runs: Sequence[Run]) -> list[Row]:
    """Own runs, then the published models."""
    own = [
        Row(
            run.label,
            False,
            _scores({n: row["score"] for n, row in run.results["datasets"].items()}),
            {n: (r["low"], r["high"]) for n, r in run.results["datasets"].items()}
            | run.results["ability_intervals"],
        )
        for run in runs
    ]
    # Averages follow from the rows: some printed ones do not (see `eval.table`).
    return own + [
        Row(model, True, _scores(uvrb.PUBLISHED[model]["datasets"]), {})
        for model in uvrb.PUBLISHED
    ]


def _scores(datasets: dict[str, float]) -> dict[str, float | None]:
    found = abilities.condense(datasets)
    averages = {key: found[key] for key in COLUMNS if key in found}
    return datasets | found["abilities"] | averages
