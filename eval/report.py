"""The self-contained HTML report: one file, no scripts, nothing fetched."""

import pathlib
from typing import NamedTuple

import jinja2
from markupsafe import Markup

from eval import abilities, explain, figures, gallery, uvrb
from eval.datasets import RetrievalSet
from eval.protocol import Outcome
from gve_jax.progress import ProgressLine

_BESIDE = ("GVE-3B", "GVE-7B")  # published rows shown next to the results
# Datasets whose first right answer shows a newcomer what is asked: one per kind.
_SHOWCASE = ("MSRVTT", "CRB-T", "MS-TI", "MSRVTT-I2V")


class _Cell(NamedTuple):
    """A correlation and the background that shows it."""

    value: float
    colour: str


def render(
    sets: list[RetrievalSet],
    outcomes: dict[str, Outcome],
    results: dict,
    checkpoint: str,
    failures: list[dict],
    *,
    shown: int,
) -> str:
    """The report as HTML, the same for the same results.

    Args:
      results: what results.json holds.
      failures: {"dataset", "side", "id", "reason"} of the items without a vector.
      shown: right and wrong queries shown per dataset.
    """
    rows = results["datasets"]
    scores = {k: v for k, v in results["abilities"].items() if v is not None}
    published = {
        model: abilities.abilities(uvrb.PUBLISHED[model]["datasets"])
        for model in uvrb.PUBLISHED
    }
    galleries = _galleries(sets, outcomes, shown)
    beyond = {
        name: results["ability_intervals"][name][0] > results["ability_chance"][name]
        for name in scores
    }
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(pathlib.Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["score"] = lambda v: "–" if v is None else f"{v:.3f}"
    return environment.get_template("report.html").render(
        results=results,
        checkpoint=checkpoint,
        failures=failures,
        real=all(data.published_size for data in sets),
        sets={data.name: data for data in sets},
        facts=uvrb.DATASETS,
        explain=explain,
        beside=_BESIDE,
        published=uvrb.PUBLISHED,
        published_abilities=published,
        published_average={
            m: abilities.ability_average(a) for m, a in published.items()
        },
        ability_of={
            dataset: ability
            for ability in ("CG", "S", "T", "PR", "LC", "CMP", "VIS")
            for dataset in abilities.datasets_of(ability)
        },
        parts=abilities.PARTS,
        radar=_radar(scores, results["ability_chance"], published["GVE-7B"]),
        bars=Markup(figures.bars(rows)),
        correlation_columns=(*abilities.ABILITIES, "AVG"),
        correlations={m: _correlations(published, m) for m in ("pearson", "spearman")},
        above=[name for name, yes in beyond.items() if yes],
        not_above=[name for name, yes in beyond.items() if not yes],
        galleries=galleries,
        showcase={
            name: galleries[name]["Right"][0]
            for name in _SHOWCASE
            if name in galleries and galleries[name]["Right"]
        },
    )


def _radar(scores, chance, published) -> Markup | None:
    if len(scores) < 3:
        return None
    label = "GVE-7B, published, other data"
    return Markup(figures.radar(scores, chance, published, label))


def _correlations(published: dict[str, dict], method: str) -> list[list[_Cell]]:
    table = {
        model: of | {"AVG": abilities.ability_average(of)}
        for model, of in published.items()
    }
    return [
        [_Cell(float(v), _shade(float(v))) for v in row]
        for row in abilities.correlations(table, method)
    ]


def _shade(value: float) -> str:
    """Blue above zero, orange below, the paler the weaker; dark text stays legible."""
    red, green, blue = (29, 95, 167) if value >= 0 else (181, 97, 27)
    return f"rgba({red}, {green}, {blue}, {0.55 * abs(value) ** 1.5:.2f})"


def _galleries(sets, outcomes, count: int) -> dict[str, dict]:
    strips = gallery.Strips()
    made = {}
    with ProgressLine("gallery", len(sets), "datasets") as line:
        for data in sets:
            right, wrong = gallery.examples(data, outcomes[data.name], count, strips)
            made[data.name] = {"Right": right, "Wrong": wrong}
            line.advance()
    return made
