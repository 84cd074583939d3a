"""Abilities, averages and correlations from any scores; printed tables checked.

python -m eval.table SCORES.json --output=table.json
python -m eval.table runs/a/eval/results.json runs/b/eval/results.json --published \
    --output=table.json --verify

A file of scores is

    {MODEL: {"datasets": {NAME: SCORE}, "family"?: NAME, "printed"?: {COLUMN: VALUE}}}

with scores in 0..1. A results.json of `python -m eval` is read as well, its model
called by its folder, and files in the form of `eval/uvrb.json`, which `--published`
adds.

"printed" is what a paper prints beside its scores: abilities, "dataset_average",
"ability_average" ("AVG"), "ability_average_flat". `--verify` fails if one of them
cannot be the mean of its own row. A number in print stands for all that round to it: to
three decimals, or to more where its row shows more. The weights of a mean sum to 1, so
it may differ by half a unit of the scores and half a unit of its own.
"""

import decimal
import json
import pathlib
import sys
from typing import NamedTuple

import numpy as np
from absl import flags

from eval import abilities
from gve_jax import main as command
from gve_jax.disk import write_json
from gve_jax.types import UserError

AVERAGES = ("dataset_average", "ability_average", "ability_average_flat")
COLUMNS = (*AVERAGES, *abilities.ABILITIES)
_HEADS = dict(zip(AVERAGES, ("D-AVG", "A-AVG", "A-FLAT"), strict=True))
_ALIASES = {head: name for name, head in _HEADS.items()} | {"AVG": "ability_average"}
# Of the published models; the others are multimodal LLMs.
_CLIP = (
    *("CLIP4Clip", "ViCLIP", "VideoCLIP-XL", "LanguageBind"),
    *("InternVideo2-1B", "InternVideo2-6B"),
)
_PUBLISHED_ROWS = pathlib.Path(__file__).with_name("uvrb.json")
_METHODS = ("pearson", "spearman")
_MODELS = 3  # the fewest that a correlation is of


class Scores(NamedTuple):
    """What is known of one model; all values in 0..1."""

    datasets: dict[str, float]
    family: str | None
    printed: dict[str, float]


def read(path: str | pathlib.Path) -> dict[str, Scores]:
    """Model -> scores, from any of the files that the module's docstring lists.

    Raises:
      UserError: the file, or a field of it, is not as it should be.
    """
    path = pathlib.Path(path)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as e:
        raise UserError(f"{path}: cannot be read ({e.strerror})") from None
    except ValueError as e:
        raise UserError(f"{path}: not JSON ({e})") from None
    if not isinstance(content, dict) or not content:
        raise UserError(f"{path}: expected an object of models, found none")
    if "published" in content:
        rows = _published(path, content)
    elif "abilities" in content and "datasets" in content:
        rows = {str(path.parent): _results(path, content)}
    else:
        rows = content
    return {model: _scores(f"{path}: {model}", row) for model, row in rows.items()}


def _published(path: pathlib.Path, content: dict) -> dict[str, dict]:
    """Rows in the form of eval/uvrb.json as those of a scores file."""
    try:
        abilities_of = content.get("published_abilities", {})
        return {
            model: {
                "family": "CLIP" if model in _CLIP else "MLLM",
                "datasets": row["datasets"],
                "printed": {k: v for k, v in row.items() if k != "datasets"}
                | abilities_of.get(model, {}),
            }
            for model, row in content["published"].items()
        }
    except (AttributeError, KeyError, TypeError) as e:
        raise UserError(
            f'{path}: "published" is not as in eval/uvrb.json ({e!r})'
        ) from None


def _results(path: pathlib.Path, content: dict) -> dict:
    """A results.json as a row; its own means are what it prints."""
    try:
        return {
            "datasets": {k: row["score"] for k, row in content["datasets"].items()},
            "printed": content["abilities"] | {k: content.get(k) for k in AVERAGES},
        }
    except (AttributeError, KeyError, TypeError) as e:
        raise UserError(
            f"{path}: not results of python -m eval ({e!r}): evaluate again"
        ) from None


def _scores(where: str, row: dict) -> Scores:
    if not isinstance(row, dict) or not isinstance(row.get("datasets"), dict):
        raise UserError(f'{where}: expected {{"datasets": {{NAME: SCORE}}}}')
    if unknown := row.keys() - {"family", "datasets", "printed"}:
        raise UserError(
            f"{where}: unknown field {min(unknown)!r}; there are family, datasets and "
            "printed"
        )
    family, printed = row.get("family"), row.get("printed", {})
    if family == "all" or not isinstance(family, str | None):
        raise UserError(f'{where}: family is {family!r}, expected a name, not "all"')
    if not isinstance(printed, dict):
        raise UserError(f"{where}: printed is {printed!r}, expected {{COLUMN: VALUE}}")
    if unknown := printed.keys() - {*COLUMNS, *_ALIASES}:
        raise UserError(
            f"{where}: printed has a column {min(unknown)!r}; there are "
            f"{', '.join((*COLUMNS, *_ALIASES))}"
        )
    return Scores(_numbers(where, row["datasets"]), family, _numbers(where, printed))


def _numbers(where: str, values: dict) -> dict[str, float]:
    """Without those that are null."""
    for name, value in values.items():
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if value is not None and not (number and 0 <= value <= 1):
            raise UserError(
                f"{where}: {name} is {value!r}, expected a share in 0..1; divide "
                "percents by 100"
            )
    return {name: value for name, value in values.items() if value is not None}


def tabulate(models: dict[str, Scores]) -> dict:
    """All that the command writes.

    Returns:
      "models": model -> family and what `abilities.condense` returns.
      "correlations": family or "all" -> "pearson" and "spearman" -> row -> column ->
        value; None where fewer than three models have both or one does not vary. Rows
        and columns are abilities and averages; rows of datasets have averages only.
        Families of fewer than three models have none.
      "disagreements": printed values that cannot be means of their row, as {"model",
        "column", "printed", "recomputed"}.
      "unchecked": those whose datasets are not all there, as {"model", "column"}.
      "not_averaged": model -> its datasets that are not the benchmark's.
    """
    rows = {model: abilities.condense(s.datasets) for model, s in models.items()}
    lines = {
        model: scores.datasets | _columns(rows[model])
        for model, scores in models.items()
    }
    families: dict[str, list[dict]] = {"all": list(lines.values())}
    for model, scores in models.items():
        if scores.family is not None:
            families.setdefault(scores.family, []).append(lines[model])
    table = {
        "models": {m: {"family": s.family} | rows[m] for m, s in models.items()},
        "correlations": {
            name: {method: _correlations(of, method) for method in _METHODS}
            for name, of in families.items()
            if name == "all" or len(of) >= _MODELS
        },
        "disagreements": [],
        "unchecked": [],
        "not_averaged": {
            model: others
            for model, scores in models.items()
            if (others := sorted(scores.datasets.keys() - {*abilities.DATASETS}))
        },
    }
    for model, scores in models.items():
        # Trailing zeros are not seen: the value with most decimals tells.
        half = min(map(_half_unit, scores.datasets.values()), default=0)
        for column, value in scores.printed.items():
            found = lines[model][_ALIASES.get(column, column)]
            entry = {"model": model, "column": column}
            if found is None:
                table["unchecked"].append(entry)
            elif abs(value - found) > half + _half_unit(value) + 1e-9:
                entry |= {"printed": value, "recomputed": found}
                table["disagreements"].append(entry)
    return table


def _columns(row: dict) -> dict[str, float | None]:
    """Averages and abilities of one of the table's models."""
    return {name: row[name] for name in AVERAGES} | row["abilities"]


def _half_unit(value: float) -> float:
    """How far a number in print may be from the one that it stands for."""
    decimals = -decimal.Decimal(repr(value)).as_tuple().exponent
    return 10.0 ** -max(3, decimals) / 2


def _correlations(lines: list[dict], method: str) -> dict[str, dict]:
    """Row -> column -> correlation over models, each a dict of scores."""

    def correlation(a: str, b: str) -> float | None:
        both = [(line.get(a), line.get(b)) for line in lines]
        both = [{"a": x, "b": y} for x, y in both if x is not None and y is not None]
        if len(both) < _MODELS:
            return None
        value = abilities.correlations(dict(enumerate(both)), method)[0, 1]
        return None if np.isnan(value) else float(value)

    return {a: {b: correlation(a, b) for b in COLUMNS} for a in COLUMNS} | {
        a: {b: correlation(a, b) for b in AVERAGES} for a in abilities.DATASETS
    }


def render(table: dict) -> str:
    """What `tabulate` returns as aligned text; scores in points of 100."""
    heads = [_HEADS.get(c, c) for c in COLUMNS]
    names = [*table["models"], *abilities.DATASETS]
    width = max(map(len, names)) + 2

    def line(name: str, values: list, factor: float, form: str) -> str:
        cells = ["-" if v is None else format(factor * v, form) for v in values]
        return f"{name:<{width}}" + "".join(f"{cell:>8}" for cell in cells)

    def head(name: str) -> str:
        return f"{name:<{width}}" + "".join(f"{cell:>8}" for cell in heads)

    out = [head("scores")]
    for model, row in table["models"].items():
        out.append(line(model, list(_columns(row).values()), 100, ".1f"))
    for family, methods in table["correlations"].items():
        for method, rows in methods.items():
            out += ["", head(f"{method}, {family}")]
            for name, row in rows.items():
                out.append(line(_HEADS.get(name, name), list(row.values()), 1, ".2f"))
    out.append("")
    for model, names in table["not_averaged"].items():
        out.append(f"not in averages: {', '.join(names)} of {model}")
    for entry in table["unchecked"]:
        out.append(
            "not checked, as datasets are missing: {column} of {model}".format(**entry)
        )
    for entry in table["disagreements"]:
        out.append(
            "disagrees with its own row: {column} of {model}, printed {printed}, "
            "recomputed {recomputed:.4f}".format(**entry)
        )
    return "\n".join(out).rstrip()


def _run(files: list[str], output: str, *, published: bool, verify: bool) -> None:
    paths = [*map(pathlib.Path, files), *([_PUBLISHED_ROWS] if published else [])]
    if not paths:
        raise UserError("no scores: name files of scores, or give --published")
    models: dict[str, Scores] = {}
    for path in paths:
        found = read(path)
        if twice := models.keys() & found.keys():
            raise UserError(
                f"{path}: {min(twice)} is in an earlier file as well: rename one"
            )
        models |= found
    table = tabulate(models)
    write_json(pathlib.Path(output), table)
    print(render(table))
    if verify and (wrong := table["disagreements"]):
        raise UserError(
            f"{output}: printed values that disagree with their own row: {len(wrong)}, "
            f"the first being {wrong[0]['column']} of {wrong[0]['model']}"
        )


if __name__ == "__main__":
    # Here, because others that import this module have flags of their own.
    _OUTPUT = flags.DEFINE_string("output", None, "JSON file of all of it.")
    _VERIFY = flags.DEFINE_bool("verify", False, "Exit 1 if a printed value disagrees.")
    _PUBLISHED = flags.DEFINE_bool("published", False, "Add the published rows.")

    # Files may stand before, between and after flags, which look like --name=value.
    _files = [a for a in sys.argv[1:] if not a.startswith("-")]
    sys.argv = sys.argv[:1] + [a for a in sys.argv[1:] if a.startswith("-")]
    command.run(
        lambda _: _run(
            _files,
            _OUTPUT.value,
            published=_PUBLISHED.value,
            verify=_VERIFY.value,
        ),
        required=("output",),
    )
