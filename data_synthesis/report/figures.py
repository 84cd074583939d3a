"""Charts of the report, as SVG."""

import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes

from gve_jax import page


def thresholds(rows: list[dict]) -> Markup | None:
    """A histogram for each limit; bars beyond it are orange."""
    by_name = {f"{row['code']}: {row['name']}": row for row in rows}

    def draw(axes: Axes, name: str) -> None:
        row = by_name[name]
        edges = np.array(row["edges"])
        for counts, colour in ((row["counts"], page.OWN), (row["beyond"], page.OTHER)):
            axes.bar(edges[:-1], counts, np.diff(edges), align="edge", color=colour)
        low, high = edges[0], edges[-1]
        if low - 0.2 * (high - low) <= row["limit"] <= high + 0.2 * (high - low):
            axes.axvline(row["limit"], color=page.INK, ls="--", lw=1)
        axes.set_title(name, loc="left", fontsize=8.5, parse_math=False)

    return page.grid("thresholds", list(by_name), draw, columns=3, xlabel="score")


def calibrations(found: dict[str, dict]) -> Markup | None:
    """Own and shuffled pairs, as cumulative curves of their quantiles."""
    drawn = {name: row for name, row in found.items() if "own" in row}

    def draw(axes: Axes, name: str) -> None:
        row = drawn[name]
        shares = np.linspace(0, 1, len(row["own"]))
        axes.plot(row["other"], shares, color=page.SOFT, label="shuffled pairs")
        axes.plot(row["own"], shares, color=page.OWN, label="pairs")
        axes.axvline(row["tau"], color=page.INK, ls="--", lw=1, label="threshold")
        axes.set_ylim(0, 1)

    return page.grid(
        "calibration", list(drawn), draw, columns=4, xlabel="cosine", share=True
    )


def words(rows: list[dict]) -> Markup | None:
    """Words of the captions of each style: range allowed, and quartiles found."""
    kinds = {
        kind: [r for r in rows if r["kind"] == kind] for kind in ("video", "frame")
    }

    def draw(axes: Axes, kind: str) -> None:
        for place, row in enumerate(kinds[kind]):
            low, high = row["range"]
            axes.barh(place, high - low, 0.7, low, color="#dfe7f1")
            least, first, median, third, most = row["quantiles"]
            axes.plot([least, most], [place, place], color=page.OWN, lw=1)
            axes.plot([first, third], [place, place], color=page.OWN, lw=5)
            axes.plot([median], [place], "o", color="white", ms=3)
        axes.set_yticks(range(len(kinds[kind])), [r["style"] for r in kinds[kind]])
        axes.invert_yaxis()

    return page.grid(
        "words", [k for k, found in kinds.items() if found], draw, columns=2,
        xlabel="words",
    )  # fmt: skip


def margins(found: dict) -> Markup | None:
    """Of the negatives: how far below the positive they score."""

    def draw(axes: Axes, _: str) -> None:
        edges = np.array(found["margins"]["edges"])
        axes.bar(edges[:-1], found["margins"]["counts"], np.diff(edges), align="edge",
                 color=page.OWN)  # fmt: skip

    names = ["Negatives by margin"] if "margins" in found else []
    return page.grid("margins", names, draw, columns=1, xlabel="positive − negative")
