"""Abilities and datasets of runs and published models, as Markdown and as LaTeX."""

from collections.abc import Iterable, Sequence

from eval import abilities
from eval.report.runs import COLUMNS, Row

_SPECIAL = {c: f"\\{c}" for c in "&%$#_{}"} | {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
}
_MARK = "†"


def markdown(rows: Sequence[Row], own: Sequence[str], comparable: bool) -> str:
    """Two tables, or three where there are own datasets.

    Args:
      rows: of `runs.rows`.
      own: datasets that are not the benchmark's.
      comparable: whether own runs are on the published data; the best is then that of
        all rows, and else of the own and of the published ones by themselves.
    """
    out = []
    for title, columns in _tables(own):
        shown = _shown(rows, columns)
        best = _best(shown, columns, comparable)
        out += [f"## {title}", "", _bars(["Model", *columns.values()])]
        out.append(_bars(["---", *["--:"] * len(columns)]))
        for i, row in enumerate(shown):
            name = row.name.replace("|", r"\|").replace("<", "&lt;")
            cells = []
            for key in columns:
                text, ends = _score(row.scores.get(key)), row.intervals.get(key)
                text = f"**{text}**" if (i, key) in best else text
                cells.append(f"{text} {_interval(ends)}" if ends else text)
            out.append(_bars([f"{name} {_MARK}" if row.published else name, *cells]))
        out.append("")
    return "\n".join([*out, f"{_MARK} {_note(comparable)}", ""])


def latex(rows: Sequence[Row], own: Sequence[str], comparable: bool) -> str:
    """The same for the packages booktabs and graphicx; intervals in a line below."""
    out = [r"% \usepackage{booktabs,graphicx}"]
    for title, columns in _tables(own):
        shown = _shown(rows, columns)
        best = _best(shown, columns, comparable)
        out += [
            r"\begin{table}",
            rf"\caption{{{title}. $^\dagger$ {_escaped(_note(comparable))}}}",
            r"\resizebox{\textwidth}{!}{%",
            rf"\begin{{tabular}}{{l{'r' * len(columns)}}}",
            r"\toprule",
            _ampersands(["Model", *map(_escaped, columns.values())]),
            r"\midrule",
        ]
        for i, row in enumerate(shown):
            if i and row.published and not shown[i - 1].published:
                out.append(r"\midrule")
            cells = [
                rf"\textbf{{{text}}}" if (i, key) in best else text
                for key in columns
                for text in [_score(row.scores.get(key)).replace("–", "--")]
            ]
            mark = r"$^\dagger$" if row.published else ""
            out.append(_ampersands([_escaped(row.name) + mark, *cells]))
            if row.intervals:
                ends = [row.intervals.get(key) for key in columns]
                small = [rf"\scriptsize {_interval(e)}" if e else "" for e in ends]
                out.append(_ampersands(["", *small]))
        out += [r"\bottomrule", r"\end{tabular}}", r"\end{table}"]
    return "\n".join([*out, ""])


def _tables(own: Sequence[str]) -> Iterable[tuple[str, dict[str, str]]]:
    """Titles, and the columns: key of `Row.scores` -> head."""
    tables = {
        "Abilities": COLUMNS,
        "Datasets": {name: name for name in abilities.DATASETS},
    }
    if own:
        tables["Datasets outside the averages"] = {name: name for name in own}
    return tables.items()


def _shown(rows: Sequence[Row], columns: dict[str, str]) -> list[Row]:
    return [r for r in rows if any(r.scores.get(k) is not None for k in columns)]


def _score(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _interval(ends: Sequence[float]) -> str:
    return f"[{ends[0]:.3f}, {ends[1]:.3f}]"


def _best(
    rows: Sequence[Row], columns: dict[str, str], comparable: bool
) -> set[tuple[int, str]]:
    """(row, column) of the best as printed; of one row alone there is none."""
    parts = [
        [i for i, row in enumerate(rows) if comparable or row.published is kind]
        for kind in (False, True)
    ]
    found = set()
    for part in parts:
        for key in columns:
            printed = {i: _score(rows[i].scores.get(key)) for i in part}
            known = [text for text in printed.values() if text != "–"]
            if len(known) > 1:
                found |= {(i, key) for i in part if printed[i] == max(known)}
    return found


def _note(comparable: bool) -> str:
    if comparable:
        return "As published (arXiv 2510.27571); 95 % intervals are over queries."
    return (
        "As published (arXiv 2510.27571), on the real UVRB data: not comparable with "
        "the other rows, whose data differ; 95 % intervals are over queries."
    )


def _bars(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _ampersands(cells: Sequence[str]) -> str:
    return rf"{' & '.join(cells)} \\"


def _escaped(text: str) -> str:
    return "".join(_SPECIAL.get(c, c) for c in text)
