"""The page of a training run: WORKDIR/report.html, one file that fetches nothing."""

import json
import math
import os
import pathlib
from typing import Any

import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from gve_jax import page
from gve_jax.disk import read_rows, replace
from gve_jax.types import UserError

_POINTS = 200  # of a curve; longer ones are averaged down to it
_Row = dict[str, Any]
# The panels of the training curves: title -> key of metrics.jsonl -> label.
_PANELS = {
    "Loss": {"loss": ""},
    "Scores (cosine)": {"positive_score": "positives", "mean_score": "all pairs"},
    "Accuracy in the batch": {"accuracy": ""},
    "Positive − hardest negative": {"hard_gap": ""},
    "Negatives left out of a query": {
        "masked_identity": "same identity",
        "masked_score": "by score",
    },
    "Gradient norm": {"grad_norm": ""},
    "Learning rate": {"learning_rate": ""},
    "Pairs per second": {"pairs_per_s": ""},
    "Share of padding": {"padding": ""},
    "Updates skipped so far": {"skipped": ""},
    "Unreadable pairs so far": {"failed_pairs": ""},
}
# Drawn only where there are some.
_IF_ANY = ("Updates skipped so far", "Unreadable pairs so far")


def write_report(workdir: str | os.PathLike) -> pathlib.Path:
    """Writes the page from the files that training leaves; any of them may be absent.

    Reads config.json, contract.json and the lines of metrics.jsonl (means over the
    updates since the line before; `skipped` counts from the start, `failed_pairs` from
    the line before), curriculum.jsonl (an epoch each, at its start) and
    evaluations.jsonl. Values may be null or absent.

    Raises:
      UserError: a file is not JSON.
    """
    workdir = pathlib.Path(workdir)
    metrics = read_rows(workdir / "metrics.jsonl")
    epochs = read_rows(workdir / "curriculum.jsonl")
    evaluations = read_rows(workdir / "evaluations.jsonl")
    config = _json(workdir / "config.json")
    tasks = list(dict.fromkeys(t for r in epochs + metrics for t in r.get("tasks", ())))
    borders = [row["step"] for row in epochs[1:]]
    scored = [row for row in evaluations if row["score"] is not None]
    environment = page.environment(pathlib.Path(__file__).parent)
    environment.filters["number"] = _number
    text = environment.get_template("report.html").render(
        name="/".join(workdir.absolute().parts[-2:]),
        config=config,
        config_text=json.dumps(config, indent=1),
        contract=_json(workdir / "contract.json"),
        steps=config.get("train", {}).get("steps"),
        last=metrics[-1] if metrics else {},
        unreadable=sum(row.get("failed_pairs") or 0 for row in metrics),
        tasks=tasks,
        epochs=epochs,
        evaluations=scored,
        unscored=len(evaluations) - len(scored),
        best=max(scored, key=lambda row: row["score"], default=None),
        figures={
            "curves": _curves(metrics, borders),
            "losses": _task_losses(metrics, tasks, borders),
            "alignment": _alignment(epochs, tasks),
            "shares": _shares(epochs, tasks),
            "evaluations": _evaluations(scored, borders),
        },
    )
    path = workdir / "report.html"
    replace(path, text)
    return path


def _json(path: pathlib.Path) -> _Row:
    if not path.exists():
        return {}
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as e:
        raise UserError(f"{path} is not JSON: {e}") from e


def _number(value: float | None) -> str:
    if value is None:
        return "–"
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.3f}" if 0.001 <= abs(value) < 1e4 or not value else f"{value:.2e}"


# ---- figures ----------------------------------------------------------------------


def _curves(metrics: list[_Row], borders: list[int]) -> Markup | None:
    steps = _column(metrics, "step")
    columns = {key: _column(metrics, key) for keys in _PANELS.values() for key in keys}
    columns["failed_pairs"] = np.nancumsum(columns["failed_pairs"])
    shown = [
        title
        for title, keys in _PANELS.items()
        if any(np.isfinite(columns[k]).any() for k in keys)
        and (title not in _IF_ANY or any(np.nansum(columns[k]) for k in keys))
    ]

    def draw(axes: Axes, title: str) -> None:
        _over_updates(axes, borders)
        labels = _PANELS[title]
        for (key, label), colour in zip(
            labels.items(), (page.OWN, page.OTHER), strict=False
        ):
            _plot(axes, *_averaged(steps, columns[key]), colour, label)
        if len(labels) > 1:
            axes.legend(frameon=False, fontsize=8)

    return page.grid("curves", shown, draw, columns=3, xlabel="updates")


def _task_losses(
    metrics: list[_Row], tasks: list[str], borders: list[int]
) -> Markup | None:
    steps = _column(metrics, "step")
    everything = _averaged(steps, _column(metrics, "loss"))
    losses = {task: _of_task(metrics, task, "loss") for task in tasks}
    shown = [task for task in tasks if np.isfinite(losses[task]).any()]

    def draw(axes: Axes, task: str) -> None:
        _over_updates(axes, borders)
        _plot(axes, *everything, page.SOFT, "all batches", width=0.8)
        _plot(axes, *_averaged(steps, losses[task]), page.OWN, "batches of the task")

    return page.grid("losses", shown, draw, xlabel="updates", share=True)


def _alignment(epochs: list[_Row], tasks: list[str]) -> Markup | None:
    numbers = _column(epochs, "epoch")
    alignment = {task: _of_task(epochs, task, "alignment") for task in tasks}
    shown = [task for task in tasks if np.isfinite(alignment[task]).any()]

    def draw(axes: Axes, task: str) -> None:
        _over_epochs(axes, numbers)
        shuffled = _of_task(epochs, task, "shuffled")
        _plot(axes, numbers, shuffled, page.SOFT, "shuffled pairs", "o--")
        _plot(axes, numbers, alignment[task], page.OWN, "pairs (R)", "o-")

    return page.grid("alignment", shown, draw, xlabel="epoch", share=True)


def _shares(epochs: list[_Row], tasks: list[str]) -> Markup | None:
    numbers = _column(epochs, "epoch")
    draws = np.nan_to_num([_of_task(epochs, task, "draws") for task in tasks])
    drawn = dict(zip(tasks, draws / np.maximum(draws.sum(0), 1), strict=True))

    def draw(axes: Axes, task: str) -> None:
        _over_epochs(axes, numbers)
        axes.bar(numbers, drawn[task], 0.6, color="#c3d5ea", label="drawn")
        base = _of_task(epochs, task, "base")[-1]
        axes.axhline(base, color=page.SOFT, ls="--", lw=1, label="without a curriculum")
        planned = _of_task(epochs, task, "probability")
        _plot(axes, numbers, planned, page.OWN, "planned (P)", "o-")

    return page.grid(
        "shares", tasks if epochs else [], draw, xlabel="epoch", share=True
    )


def _evaluations(scored: list[_Row], borders: list[int]) -> Markup | None:
    def draw(axes: Axes, title: str) -> None:
        _over_updates(axes, borders)
        steps, scores = _column(scored, "step"), _column(scored, "score")
        _plot(axes, steps, scores, page.OWN, kind="o-")
        best = int(np.argmax(scores))
        axes.plot(steps[best], scores[best], "*", color=page.OTHER, ms=15)
        axes.margins(y=0.25)

    names = [scored[-1]["metric"]] if scored else []
    return page.grid("evaluations", names, draw, columns=1, xlabel="updates")


def _plot(
    axes: Axes,
    x: np.ndarray,
    y: np.ndarray,
    colour: str,
    label: str = "",
    kind: str = "-",
    width: float = 1.4,
) -> None:
    axes.plot(x, y, kind, color=colour, lw=width, ms=4, label=label)


def _over_updates(axes: Axes, borders: list[int]) -> None:
    axes.xaxis.set_major_locator(MaxNLocator(nbins=4))
    axes.xaxis.set_major_formatter("{x:,.0f}")
    for step in borders:  # of epochs
        axes.axvline(step, color="#9aa3ad", lw=0.9, ls=":")


def _over_epochs(axes: Axes, numbers: np.ndarray) -> None:
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True, min_n_ticks=1))
    axes.set_xlim(0.5, numbers[-1] + 0.5)


def _column(rows: list[_Row], key: str) -> np.ndarray:
    """float64 [rows]: NaN where a row lacks the key or has null."""
    values = [row.get(key) for row in rows]
    return np.array([math.nan if v is None else v for v in values], np.float64)


def _of_task(rows: list[_Row], task: str, key: str) -> np.ndarray:
    return _column([row.get("tasks", {}).get(task, {}) for row in rows], key)


def _averaged(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Means of neighbours, so that at most `_POINTS` known points are left."""
    known = np.isfinite(y)
    x, y = x[known], y[known]
    starts = np.arange(0, len(x), -(-len(x) // _POINTS) or 1)
    sizes = np.diff(starts, append=len(x))
    return np.add.reduceat(x, starts) / sizes, np.add.reduceat(y, starts) / sizes
