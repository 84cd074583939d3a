"""The charts of the report, as inline SVG that is the same for the same numbers."""

import io
import math

import matplotlib
from matplotlib.figure import Figure

from eval.explain import METRICS

OWN, PUBLISHED, CHANCE, INK = "#1d5fa7", "#b5611b", "#8a8f98", "#24292f"


def radar(
    own: dict[str, float],
    chance: dict[str, float],
    published: dict[str, float],
    published_label: str,
) -> str:
    """A polygon over abilities, of this model, of chance and of a published model.

    Args:
      own: ability -> score in 0..1, at least three; the other two: the same keys.
    """
    with _style("radar"):
        figure = Figure(figsize=(5.6, 5.0))
        axes = figure.add_axes((0.12, 0.14, 0.76, 0.74), projection="polar")
        angles = [2 * math.pi * i / len(own) for i in range(len(own))]
        axes.set_theta_offset(math.pi / 2)
        axes.set_theta_direction(-1)
        for values, colour, line, label in (
            (own, OWN, "-", "this model"),
            (chance, CHANCE, ":", "chance"),
            (published, PUBLISHED, "--", published_label),
        ):
            radii = [values[name] for name in own]
            axes.plot(
                [*angles, 0],
                [*radii, radii[0]],
                line,
                color=colour,
                lw=1.8,
                label=label,
            )
            if values is own:
                axes.fill(angles, radii, color=colour, alpha=0.15, lw=0)
        axes.set_xticks(angles, list(own), fontsize=11, color=INK)
        axes.set_ylim(0, 1)
        axes.set_yticks([0.2, 0.4, 0.6, 0.8, 1.0])
        axes.tick_params(axis="y", labelsize=8, colors=CHANCE)
        axes.set_rlabel_position(180 / len(own))
        axes.grid(color="#d5d9de", lw=0.7)
        axes.spines["polar"].set_color("#d5d9de")
        figure.legend(loc="lower center", ncols=3, frameon=False, fontsize=9)
        return _svg(figure)


def bars(rows: dict[str, dict]) -> str:
    """Score, 95 % interval and chance level of each dataset (rows of results.json)."""
    with _style("bars"):
        inches = 0.29 * len(rows) + 0.9
        figure = Figure(figsize=(6.6, inches))
        axes = figure.add_axes((0.25, 0.62 / inches, 0.71, 1 - 0.7 / inches))
        places = range(len(rows))
        scores = [r["score"] for r in rows.values()]
        errors = [
            [r["score"] - r["low"] for r in rows.values()],
            [r["high"] - r["score"] for r in rows.values()],
        ]
        axes.barh(places, scores, color=OWN, height=0.66, alpha=0.85)
        axes.errorbar(
            scores, places, xerr=errors, fmt="none", ecolor=INK, elinewidth=1, capsize=2
        )
        axes.plot(
            [r["chance"] for r in rows.values()],
            places,
            "|",
            color="#d1242f",
            markersize=11,
            markeredgewidth=2,
            label="chance",
        )
        axes.set_yticks(
            places,
            [f"{n}  {METRICS[r['metric']]}" for n, r in rows.items()],
            fontsize=9,
        )
        axes.tick_params(axis="x", labelsize=9)
        axes.invert_yaxis()
        axes.set_xlim(0, 1)
        axes.grid(axis="x", color="#e3e6ea", lw=0.7)
        axes.set_axisbelow(True)
        for side in ("top", "right", "left"):
            axes.spines[side].set_visible(False)
        axes.tick_params(axis="y", length=0)
        figure.legend(loc="lower right", frameon=False, fontsize=9)
        return _svg(figure)


def _style(salt: str):
    # Text stays text (small, selectable); ids follow the salt, not chance.
    return matplotlib.rc_context(
        {
            "svg.fonttype": "none",
            "svg.hashsalt": salt,
            "font.family": "sans-serif",
            "text.color": INK,
            "axes.edgecolor": "#b8bec6",
            "xtick.color": INK,
            "ytick.color": INK,
        }
    )


def _svg(figure: Figure) -> str:
    out = io.StringIO()
    figure.savefig(out, format="svg", metadata={"Date": None}, transparent=True)
    text = out.getvalue()
    return text[text.index("<svg") :]  # without XML prologue, as HTML wants it
