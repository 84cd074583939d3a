"""The pages of one evaluation."""

import pathlib
from collections.abc import Iterable, Sequence

import jinja2
from markupsafe import Markup

from eval import abilities, uvrb
from eval.report import explain, figures, tables
from eval.report.runs import COLUMNS, Row, Run, rows
from gve_jax import page
from gve_jax.disk import replace

_BESIDE = ("GVE-3B", "GVE-7B")  # published rows in the table of datasets
_RADAR = "GVE-7B"
# Datasets whose first right answer shows a newcomer what is asked: one per kind.
_SHOWCASE = ("MSRVTT", "CRB-T", "MS-TI", "MSRVTT-I2V")
_ABILITY_OF = {
    dataset: ability
    for ability in ("CG", "S", "T", "PR", "LC", "CMP", "VIS")
    for dataset in abilities.datasets_of(ability)
}


def write(run: Run, output: pathlib.Path) -> None:
    """Writes report.html, report/NAME.html, report.md and report.tex to `output`.

    Equal files of the run give equal bytes.
    """
    templates = environment()
    (output / "report").mkdir(parents=True, exist_ok=True)
    board = rows([run])
    write_tables(board, [run], output)
    names = list(run.results["datasets"])
    for name, record in run.records.items():
        text = templates.get_template("dataset.html").render(
            name=name,
            row=run.results["datasets"][name],
            record=record,
            what=explain.DATASETS.get(name, ""),
            ability=_ABILITY_OF.get(name),
            real=run.published_size,
            published=_published(board, name),
            ranks=figures.ranks(name, record["ranks"]),
            missing=[m for m in run.missing if m["dataset"] == name],
            before=_beside(names, name, -1),
            after=_beside(names, name, 1),
        )
        replace(output / "report" / f"{name}.html", text)
    text = templates.get_template("report.html").render(
        run=run,
        results=run.results,
        explain=explain,
        real=run.published_size,
        all_names=abilities.DATASETS,
        own_names=own_names([run]),
        ability_of=_ABILITY_OF,
        parts_of=abilities.PARTS,
        beside={row.name: row.scores for row in board if row.name in _BESIDE},
        board=board,
        columns=COLUMNS,
        dataset_columns={name: name for name in abilities.DATASETS},
        radar=radar([run]),
        bars=figures.bars(run.results["datasets"]),
        above=list(_above_chance(run.results)),
        matrices=_correlations(board),
        showcase={
            name: run.records[name]["right"][0]
            for name in _SHOWCASE
            if name in run.records and run.records[name]["right"]
        },
        probes=_probes(run),
        stale=_stale(run),
        scaling=run.scaling,
        sweeps=_scaling_charts(run),
        manifests=sorted({r["manifest"] for r in run.records.values()} - {""}),
    )
    replace(output / "report.html", text)


def environment() -> jinja2.Environment:
    """The templates of the report."""
    found = page.environment(pathlib.Path(__file__).with_name("templates"))
    found.filters["score"] = lambda v: "–" if v is None else f"{v:.3f}"
    found.filters["signed"] = lambda v: f"{v:+.3f}".replace("-", "−")
    found.filters["bare"] = lambda v: f"{v:.3f}".removeprefix("0")
    found.filters["shade"] = _shade
    found.globals["metric"] = explain.metric
    found.globals["modality"] = explain.modality
    return found


def write_tables(
    board: Sequence[Row], runs: Sequence[Run], output: pathlib.Path
) -> None:
    """Writes report.md and report.tex."""
    comparable = all(run.published_size for run in runs)
    for suffix, make in (("md", tables.markdown), ("tex", tables.latex)):
        text = make(board, own_names(runs), comparable)
        replace(output / f"report.{suffix}", text)


def own_names(runs: Iterable[Run]) -> list[str]:
    """Datasets of the runs that are not the benchmark's."""
    names = dict.fromkeys(name for run in runs for name in run.records)
    return [name for name in names if name not in uvrb.DATASETS]


def radar(runs: Sequence[Run]) -> Markup | None:
    """The abilities that all runs have; None if they are fewer than three."""
    scores = [run.results["abilities"] for run in runs]
    names = [n for n in abilities.ABILITIES if all(s[n] is not None for s in scores)]
    if len(names) < 3:
        return None
    real = all(run.published_size for run in runs)
    return figures.radar(
        {r.label: {n: s[n] for n in names} for r, s in zip(runs, scores, strict=True)},
        runs[0].results["ability_chance"],
        abilities.abilities(uvrb.PUBLISHED[_RADAR]["datasets"]),
        f"{_RADAR}, published" + ("" if real else ", other data"),
    )


def _scaling_charts(run: Run) -> dict[str, Markup]:
    """Sweep -> chart, of those there are."""
    variants = run.scaling["variants"] if run.scaling else []
    charts = {s: figures.scaling(variants, s) for s in ("frames", "tokens")}
    return {sweep: chart for sweep, chart in charts.items() if chart}


def _above_chance(results: dict) -> Iterable[tuple[str, bool]]:
    """Abilities that are there, and whether their whole interval is above chance."""
    for name, value in results["abilities"].items():
        if value is not None:
            low = results["ability_intervals"][name][0]
            yield name, low > results["ability_chance"][name]


def _published(board: Sequence[Row], name: str) -> list[tuple[str, float]]:
    """Published models and their scores of a dataset, the best first."""
    found = [
        (r.name, r.scores[name]) for r in board if r.published and name in r.scores
    ]
    return sorted(found, key=lambda pair: -pair[1])


def _beside(names: list[str], name: str, step: int) -> str:
    place = names.index(name) + step
    return names[place] if 0 <= place < len(names) else ""


def _correlations(board: Sequence[Row]) -> dict[str, list[list[float]]]:
    """Method -> matrix over the published models; abilities, then their average."""
    names = (*abilities.ABILITIES, "ability_average")
    table = {r.name: {n: r.scores[n] for n in names} for r in board if r.published}
    return {
        method: abilities.correlations(table, method).tolist()
        for method in ("pearson", "spearman")
    }


def _shade(value: float | None) -> str:
    """Blue above zero, orange below, the paler the weaker; dark text stays legible."""
    red, green, blue = (29, 95, 167) if (value or 0) >= 0 else (181, 97, 27)
    return f"rgba({red}, {green}, {blue}, {0.5 * min(1, abs(value or 0)) ** 1.5:.2f})"


def _stale(run: Run) -> bool:
    """Whether probes.json is of another contract than the results."""
    return bool(run.probes) and run.probes["contract"] != run.results["contract"]


def _probes(run: Run) -> dict[str, dict]:
    """Probe -> its result with a chart beside it; {} if there is none that counts."""
    if not run.probes or _stale(run):
        return {}
    return {
        name: result | {"chart": _ratios(result.get("overall", {}))}
        for name, result in run.probes["probes"].items()
    }


def _ratios(attributes: dict[str, dict]) -> Markup | None:
    known = {
        attribute: (row["ratio"], row["low"], row["high"])
        for attribute, row in attributes.items()
        if "ratio" in row
    }
    label = "how often it is wrong, as a multiple of random answers"
    return figures.intervals("confusion", known, 1, label)
