"""From dataset scores to abilities: nested means, intervals, correlations."""

import numpy as np
from scipy import stats

# Ability -> its parts, datasets or abilities above it. The nesting is the benchmark's:
# each part weighs the same, however many datasets it holds.
PARTS: dict[str, tuple[str, ...]] = {
    "CG": ("MSRVTT", "DiDeMo", "CRB-G"),
    "S": ("CRB-S", "VDC-O"),
    "T": ("CRB-T", "CMRB"),
    "PR": ("DREAM-E", "LoVR-TH", "PEV-K"),
    "FG": ("S", "T", "PR"),
    "LC": ("LoVR-V", "VDC-D"),
    "TXT": ("CG", "FG", "LC"),
    "CMP": ("MS-TI", "MS-TV"),
    "VIS": ("MSRVTT-I2V", "LoVR-C2V"),
}
ABILITIES = ("TXT", "CMP", "VIS", "CG", "FG", "LC", "S", "T", "PR")
AVERAGED = ABILITIES[:6]  # what the ability average is the mean of


def abilities(scores: dict) -> dict:
    """Each ability's score; None where one of its datasets is not there.

    Args:
      scores: dataset -> score, a float or an array (of resamples); all of one shape.
    """
    known = dict(scores)
    for name, parts in PARTS.items():
        known[name] = _mean_of(known, parts)
    return {name: known[name] for name in ABILITIES}


def flat_abilities(scores: dict) -> dict:
    """The same, but each ability is the mean of all datasets under it.

    They differ where an ability holds others: FG and TXT.
    """
    return {name: _mean_of(scores, datasets_of(name)) for name in ABILITIES}


def ability_average(of: dict):
    """The mean of the six abilities that the benchmark averages, or None."""
    return _mean_of(of, AVERAGED)


def condense(scores: dict) -> dict:
    """All that the benchmark makes of the scores of datasets, as results.json has it.

    Args:
      scores: as of `abilities`; datasets that are not the benchmark's do not count.

    Returns:
      "abilities", "abilities_flat", "dataset_average", "ability_average" and
      "ability_average_flat"; None where a dataset is not there.
    """
    nested, flat = abilities(scores), flat_abilities(scores)
    return {
        "abilities": nested,
        "abilities_flat": flat,
        "dataset_average": _mean_of(scores, DATASETS),
        "ability_average": ability_average(nested),
        "ability_average_flat": ability_average(flat),
    }


def datasets_of(ability: str) -> tuple[str, ...]:
    """The datasets under an ability, in order."""
    return tuple(
        name
        for part in PARTS[ability]
        for name in (datasets_of(part) if part in PARTS else (part,))
    )


def correlations(table: dict[str, dict], method: str) -> np.ndarray:
    """How abilities go together over models: float64 [a, a], a = columns of the rows.

    NaN where one of two columns is the same for all models.

    Args:
      table: model -> {column: score}, at least three models, equal columns.
      method: "pearson" (linear) or "spearman" (of the order of models only).
    """
    values = np.array([list(row.values()) for row in table.values()])
    # What is constant but for rounding must not correlate by it.
    values = np.round(values, 12)
    if method == "spearman":
        values = stats.rankdata(values, axis=0)
    elif method != "pearson":
        raise ValueError(f"method {method!r}: expected 'pearson' or 'spearman'")
    with np.errstate(invalid="ignore"):  # 0 / 0 where a column is constant
        return np.corrcoef(values, rowvar=False)


def _mean_of(values: dict, names: tuple[str, ...]):
    found = [values.get(name) for name in names]
    return None if any(v is None for v in found) else sum(found) / len(found)


# The sixteen.
DATASETS = tuple(d for part in ("TXT", "CMP", "VIS") for d in datasets_of(part))
