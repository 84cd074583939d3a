"""What the project's HTML pages share: template, style, charts as inline SVG.

A page extends `page.html`, which lies beside this module and fetches nothing.
"""

import io
import os
import re
from collections.abc import Callable, Sequence

import jinja2
import matplotlib
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure

OWN, OTHER, SOFT, INK = "#1d5fa7", "#b5611b", "#8a8f98", "#24292f"
# Seven that are told apart without seeing colours well.
COLOURS = (OWN, OTHER, "#2b8a5f", "#a4457f", "#6b6f76", "#c7a008", "#58a9d6")
_STYLE = {
    "svg.fonttype": "none",  # text stays text: small, selectable
    "font.family": "sans-serif",
    "font.size": 9,
    "text.color": INK,
    "axes.edgecolor": "#b8bec6",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.titlesize": 10,
    "grid.color": "#e3e6ea",
    "grid.linewidth": 0.7,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
}


def environment(folder: str | os.PathLike) -> jinja2.Environment:
    """Templates of `folder` and of this one; unknown names are errors."""
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader([folder, os.path.dirname(__file__)]),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def style(salt: str):
    """Context in which a chart is drawn; its ids follow the salt, not chance."""
    return matplotlib.rc_context(_STYLE | {"svg.hashsalt": salt})


def svg(figure: Figure) -> Markup:
    """A figure drawn under `style`, without the prologue of XML, as HTML wants it."""
    out = io.StringIO()
    figure.savefig(out, format="svg", metadata={"Date": None}, transparent=True)
    text = out.getvalue()
    # Every figure calls its parts axes_1 and so on; a page has each id once.
    prefix = rf"\g<0>{matplotlib.rcParams['svg.hashsalt']}-"
    text = re.sub(r'\bid="|\burl\(#|\bhref="#', prefix, text[text.index("<svg") :])
    return Markup(text)


def grid(
    salt: str,
    names: Sequence[str],
    draw: Callable[[Axes, str], None],
    *,
    xlabel: str,
    columns: int = 4,
    share: bool = False,
) -> Markup | None:
    """One small panel for each name, as SVG that is the same for the same numbers.

    Args:
      draw: draws the panel of a name.
      share: all panels have the same axes and labels, which then stand above them.
    """
    if not names:
        return None
    columns = min(columns, len(names))
    rows = -(-len(names) // columns)
    with style(salt):
        # Laid out by hand: matplotlib's layouts draw everything an extra time.
        width, height = (10.5 if columns > 1 else 7), 1.75 * rows + 0.75
        figure = Figure(figsize=(width, height))
        panels = figure.subplots(
            rows,
            columns,
            squeeze=False,
            sharex=share,
            sharey=share,
            gridspec_kw={
                "left": 0.5 / width,
                "right": 1 - 0.15 / width,
                "bottom": 0.45 / height,
                "top": 1 - 0.55 / height,
                "wspace": 0.08 if share else 0.22,
                "hspace": 0.3 if share else 0.45,
            },
        ).flat
        for axes, name in zip(panels, names, strict=False):
            axes.set_title(name, loc="left", parse_math=False)
            draw(axes, name)
        for axes in panels[len(names) :]:
            axes.set_visible(False)
        for axes in panels[len(names) - columns : len(names)]:
            axes.tick_params(labelbottom=True)  # the lowest of each column
        figure.text(0.5, 0.05 / height, xlabel, ha="center")
        if share:
            found = panels[0].get_legend_handles_labels()
            figure.legend(*found, loc="upper left", ncols=len(found[1]), frameon=False)
        return svg(figure)
