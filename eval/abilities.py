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
        values = [known.get(part) for part in parts]
        known[name] = None if any(v is None for v in values) else _mean(values)
    return {name: known[name] for name in ABILITIES}


def ability_average(of: dict):
    """The mean of the six abilities that the benchmark averages, or None."""
    values = [of[name] for name in AVERAGED]
    return None if any(v is None for v in values) else _mean(values)


def datasets_of(ability: str) -> tuple[str, ...]:
    """The datasets under an ability, in order."""
    return tuple(
        name
        for part in PARTS[ability]
        for name in (datasets_of(part) if part in PARTS else (part,))
    )


def correlations(table: dict[str, dict], method: str) -> np.ndarray:
    """How abilities go together over models: float64 [a, a], a = columns of the rows.

    Args:
      table: model -> {column: score}, at least three models, equal columns.
      method: "pearson" (linear) or "spearman" (of the order of models only).
    """
    values = np.array([list(row.values()) for row in table.values()])
    if method == "spearman":
        values = stats.rankdata(values, axis=0)
    elif method != "pearson":
        raise ValueError(f"method {method!r}: expected 'pearson' or 'spearman'")
    return np.corrcoef(values, rowvar=False)


def _mean(values):
    return sum(values) / len(values)
