"""The charts of a study's page."""

import math
from collections.abc import Callable, Sequence

import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from gve_jax import page


def dots(scores: dict[str, dict[str, list[float]]], columns: dict[str, str]) -> Markup:
    """Scores of each arm, a panel for each column; a dot is a seed, the bar the mean.

    Args:
      scores: arm -> column -> score of each seed, in 0..1.
      columns: those to draw -> titles, all different.
    """
    keys = {title: column for column, title in columns.items()}

    def draw(axes: Axes, title: str) -> None:
        for place, of in enumerate(scores.values()):
            values = 100 * np.array(of[keys[title]])
            axes.plot(
                values, [place] * len(values), "o", color=page.OWN, ms=4.5, alpha=0.7
            )
            axes.plot(values.mean(), place, "|", color=page.INK, ms=15, mew=2)
        axes.set_yticks(range(len(scores)), list(scores))
        axes.set_ylim(len(scores) - 0.5, -0.5)
        axes.xaxis.set_major_locator(MaxNLocator(nbins=4))

    height = 0.26 * len(scores) + 0.35
    return _grid("dots", list(keys), draw, "points of 100", columns=4, height=height)


def forest(differences: dict[str, dict[str, dict]]) -> Markup | None:
    """Differences with their intervals, a panel for each comparison.

    Args:
      differences: title -> row -> {"difference", "low", "high", "pairs"}, in 0..1.
    """

    def draw(axes: Axes, title: str) -> None:
        rows = differences[title]
        axes.axvline(0, color=page.INK, lw=1)
        for place, row in enumerate(rows.values()):
            low, high = 100 * row["low"], 100 * row["high"]
            clear = low > 0 or high < 0
            colour = page.OWN if clear else page.SOFT
            axes.plot([low, high], [place, place], color=colour, lw=1.6)
            axes.plot(
                100 * np.array(row["pairs"]), [place] * len(row["pairs"]), "|",
                color=page.OTHER, ms=7,
            )  # fmt: skip
            axes.plot(100 * row["difference"], place, "o", color=colour, ms=5)
        axes.set_yticks(range(len(rows)), list(rows))
        axes.set_ylim(len(rows) - 0.5, -0.5)

    if not differences:
        return None
    height = 0.21 * max(map(len, differences.values())) + 0.4
    label = "points of 100, run minus baseline"
    return _grid("forest", list(differences), draw, label, columns=2, height=height)


def curriculum(arms: dict[str, list[list[dict]]], key: str) -> Markup | None:
    """A value of every task over the epochs, a panel for each arm.

    Args:
      arms: arm -> seed -> rows of curriculum.jsonl.
      key: "alignment" or "probability".
    """
    known = {
        arm: values
        for arm, seeds in arms.items()
        if np.isfinite(values := _tasks(seeds, key)).any()
    }

    def draw(axes: Axes, arm: str) -> None:
        epochs = np.arange(1, known[arm].shape[2] + 1)
        for number, task in enumerate(tasks[arm]):
            colour = page.COLOURS[number % len(page.COLOURS)]
            line = "--" if number >= len(page.COLOURS) else "-"
            values = known[arm][:, number]
            axes.plot(epochs, values.T, line, color=colour, lw=0.6, alpha=0.6)
            axes.plot(
                epochs, values.mean(0), line, color=colour, lw=1.8, marker="o", ms=3.5,
                label=task,
            )  # fmt: skip
        axes.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True))

    tasks = {arm: list(arms[arm][0][0]["tasks"]) for arm in known}
    if not known:
        return None
    return _grid(
        key, list(known), draw, "epoch", columns=3, height=2.3, legend=True, share=True
    )


def losses(arms: dict[str, list[list[dict]]]) -> Markup:
    """Training loss over the updates, a panel for each arm.

    Args:
      arms: arm -> seed -> rows of metrics.jsonl.
    """

    def draw(axes: Axes, arm: str) -> None:
        steps = [row["step"] for row in arms[arm][0]]
        values = [[row["loss"] for row in rows] for rows in arms[arm]]
        values = np.array(values, np.float64)  # None becomes NaN
        axes.plot(steps, values.T, color=page.OWN, lw=0.6, alpha=0.5)
        axes.plot(steps, values.mean(0), color=page.OWN, lw=1.6)
        axes.xaxis.set_major_locator(MaxNLocator(nbins=4))

    return _grid(
        "losses", list(arms), draw, "updates", columns=3, height=1.5, share=True
    )


def _tasks(seeds: list[list[dict]], key: str) -> np.ndarray:
    """float64 [seeds, tasks, epochs]; NaN: not known."""
    values = [
        [[row["tasks"][task][key] for row in rows] for task in rows[0]["tasks"]]
        for rows in seeds
    ]
    return np.array(values, np.float64)  # None becomes NaN


def _grid(
    salt: str,
    titles: Sequence[str],
    draw: Callable[[Axes, str], None],
    xlabel: str,
    *,
    columns: int,
    height: float,
    legend: bool = False,
    share: bool = False,
) -> Markup:
    """One panel for each title, `height` inches each; labels of any length have room.

    Args:
      draw: draws the panel of a title.
      legend: one for all panels, above them.
      share: all panels have the same axes.
    """
    columns = min(columns, len(titles))
    rows = math.ceil(len(titles) / columns)
    with page.style(salt):
        above = 0.45 if legend else 0.1
        size = (10.5 if columns > 1 else 7), rows * height + above + 0.3
        figure = Figure(figsize=size, layout="constrained")
        figure.get_layout_engine().set(rect=(0, 0, 1, 1 - above / size[1]))
        panels = figure.subplots(
            rows, columns, squeeze=False, sharex=share, sharey=share
        ).flat
        for axes, title in zip(panels, titles, strict=False):
            axes.set_title(title, loc="left", parse_math=False)
            draw(axes, title)
            axes.tick_params(labelbottom=True)
        for axes in panels[len(titles) :]:
            axes.set_visible(False)
        figure.supxlabel(xlabel, fontsize=9)
        if legend:
            found = {}
            for axes in panels[: len(titles)]:
                handles, labels = axes.get_legend_handles_labels()
                found |= dict(zip(labels, handles, strict=True))
            figure.legend(
                found.values(), found, loc="upper left", ncols=len(found), frameon=False
            )
        return page.svg(figure)
