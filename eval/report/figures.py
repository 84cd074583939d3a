"""The charts of the report, as inline SVG that is the same for the same numbers."""

import itertools
import math
from collections.abc import Sequence

import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from eval.report import explain
from gve_jax import page
from gve_jax.page import COLOURS, INK, OTHER, OWN, SOFT

_CHANCE = "#d1242f"


def radar(
    own: dict[str, dict[str, float]],
    chance: dict[str, float],
    published: dict[str, float],
    published_label: str,
) -> Markup:
    """A polygon over abilities for each own run, for chance and a published model.

    Args:
      own: label -> ability -> score in 0..1; at least three abilities, equal ones.
      chance: ability -> score, as `published`.
    """
    names = list(next(iter(own.values())))
    lines = [
        (values, colour, "-", label)
        for (label, values), colour in zip(
            own.items(), itertools.cycle(COLOURS), strict=False
        )
    ]
    lines.append((chance, SOFT, ":", "chance"))
    lines.append((published, OTHER if len(own) == 1 else INK, "--", published_label))
    with page.style("radar"):
        figure = Figure(figsize=(5.6, 5.0))
        axes = figure.add_axes((0.12, 0.17, 0.76, 0.74), projection="polar")
        angles = [2 * math.pi * i / len(names) for i in range(len(names))]
        axes.set_theta_offset(math.pi / 2)
        axes.set_theta_direction(-1)
        for values, colour, line, label in lines:
            radii = [values[name] for name in names]
            axes.plot(
                [*angles, 0],
                [*radii, radii[0]],
                line,
                color=colour,
                lw=1.8,
                label=_plain(label),
            )
            if len(own) == 1 and line == "-":
                axes.fill(angles, radii, color=colour, alpha=0.15, lw=0)
        axes.set_xticks(angles, names, fontsize=11, color=INK)
        axes.set_ylim(0, 1)
        axes.set_yticks([0.2, 0.4, 0.6, 0.8, 1.0])
        axes.tick_params(axis="y", labelsize=8, colors="#57606a")
        axes.set_rlabel_position(180 / len(names))
        axes.grid(color="#d5d9de", lw=0.7)
        axes.spines["polar"].set_color("#d5d9de")
        figure.legend(loc="lower center", ncols=3, frameon=False, fontsize=9)
        return page.svg(figure)


def bars(rows: dict[str, dict]) -> Markup:
    """Score, interval, bounds and chance level of each dataset.

    Args:
      rows: of results.json; bounds are drawn where they leave the score.
    """
    with page.style("bars"):
        axes, figure = _lines(
            [f"{n}  {explain.metric(r['metric'])}" for n, r in rows.items()]
        )
        axes.set_xlim(0, 1)
        for place, row in enumerate(rows.values()):
            axes.barh(place, row["score"], color=OWN, height=0.66, alpha=0.85)
            axes.plot([row["low"], row["high"]], [place] * 2, color=INK, lw=1.2)
            if row["bounds"][0] < row["bounds"][1]:
                axes.plot(row["bounds"], [place + 0.24] * 2, color=OTHER, lw=2.5)
            axes.plot(row["chance"], place, "|", color=_CHANCE, ms=11, mew=2)
        return page.svg(figure)


def intervals(
    salt: str,
    rows: dict[str, tuple[float, float, float]],
    reference: float,
    xlabel: str,
) -> Markup | None:
    """Values with their intervals against a reference, blue where it is outside.

    Args:
      rows: label -> (value, low, high).
    """
    if not rows:
        return None
    with page.style(salt):
        axes, figure = _lines(list(rows), xlabel)
        axes.axvline(reference, color=INK, lw=1)
        for place, (value, low, high) in enumerate(rows.values()):
            colour = OWN if low > reference or high < reference else SOFT
            axes.plot([low, high], [place] * 2, color=colour, lw=1.8)
            axes.plot(value, place, "o", color=colour, ms=5)
        return page.svg(figure)


def ranks(name: str, record: dict) -> Markup:
    """Queries by the rank of their best true item, and as many as guessing gives.

    Args:
      record: "ranks" of a record.
    """
    ends = record["ends"]
    starts = [1, *(end + 1 for end in ends[:-1])]
    labels = [
        f"{a}" if a == b else f"{a}–{b}" for a, b in zip(starts, ends, strict=True)
    ]
    places = range(len(ends))
    with page.style(f"ranks-{name}"):
        figure = Figure(figsize=(7.2, 2.6))
        axes = figure.add_axes((0.08, 0.2, 0.9, 0.68))
        axes.bar(places, record["found"], 0.8, color=OWN, alpha=0.85, label="found")
        axes.plot(
            places, record["chance"], "_", color=_CHANCE, ms=22, mew=2, label="chance"
        )
        if record["not_found"]:
            axes.bar(len(ends), record["not_found"], 0.8, color=SOFT, label="not found")
            labels.append("no vector")
        axes.set_xticks(range(len(labels)), labels, fontsize=8)
        if len(labels) > 12:
            axes.tick_params(axis="x", rotation=40)
        axes.set_xlabel("rank of the best true item")
        axes.set_ylabel("queries")
        axes.grid(visible=False, axis="x")
        figure.legend(loc="upper right", ncols=3, frameon=False)
        return page.svg(figure)


def scaling(variants: Sequence[dict], sweep: str) -> Markup | None:
    """Abilities, and datasets where no ability is whole, over frames or tokens.

    Args:
      variants: of scaling.json.
      sweep: "frames" or "tokens".
    """
    rows = sorted((v for v in variants if sweep in v["sweeps"]), key=lambda v: v[sweep])
    if len(rows) < 2:
        return None
    lines = {
        name: [v["abilities"][name] for v in rows] for name in rows[0]["abilities"]
    }
    lines = {"AVG": [v["ability_average"] for v in rows]} | lines
    lines = {name: of for name, of in lines.items() if None not in of} or {
        name: [v["datasets"][name] for v in rows] for name in rows[0]["datasets"]
    }
    sizes = [v[sweep] for v in rows]

    def draw(axes: Axes, name: str) -> None:
        key = "ability_average" if name == "AVG" else name
        ends = [v["ability_intervals"].get(key) for v in rows]
        if all(ends):
            axes.fill_between(sizes, *np.transpose(ends), color=OWN, alpha=0.15, lw=0)
        axes.plot(sizes, lines[name], "o-", color=OWN, lw=1.4, ms=4)
        own = [
            (v[sweep], y) for v, y in zip(rows, lines[name], strict=True) if v["own"]
        ]
        axes.plot(*zip(*own, strict=True), "o", color=OTHER, ms=6)
        axes.set_xscale("log", base=2)
        axes.set_xticks(sizes, list(map(str, sizes)))
        axes.minorticks_off()

    return page.grid(f"scaling-{sweep}", list(lines), draw, xlabel=sweep)


def _lines(labels: list[str], xlabel: str = "") -> tuple[Axes, Figure]:
    """An empty chart with a line for each label, from above."""
    inches = 0.27 * len(labels) + 0.7
    figure = Figure(figsize=(6.6, inches))
    left = min(0.5, 0.03 + 0.011 * max(map(len, labels)))
    axes = figure.add_axes((left, 0.52 / inches, 0.97 - left, 1 - 0.6 / inches))
    axes.set_yticks(range(len(labels)), [_plain(text) for text in labels], fontsize=9)
    axes.set_ylim(len(labels) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0)
    axes.grid(visible=False, axis="y")
    axes.spines["left"].set_visible(False)
    axes.set_xlabel(xlabel)
    return axes, figure


def _plain(text: str) -> str:
    """Dollars would begin a formula."""
    return text.replace("$", r"\$")
