"""What the pages show of a dataset beside its scores: FOLDER/NAME.json.

It is written where the data are at hand, and read wherever a page is made:

  "facts": {...}         the fields of `eval.uvrb.Dataset`
  "lists": bool          whether each query has its own candidates
  "differences": str     counts that are not as expected, "" if all are
  "manifest": str        SHA-256 of the manifest.json above the dataset, "" if none
  "ranks": {"ends": [int], "found": [int], "chance": [float], "not_found": int}
                         queries whose best positive stands at ranks up to each end,
                         above the end before; as many as a random order would give
  "by_words", "by_positives": [{"label", "queries", "score", "low", "high"}]
                         the metric over queries alike, 95 % Wilson intervals; [] if
                         they do not differ
  "hardest": [{"id", "text", "rank", "num_items", "answer", "right"}]
  "right", "wrong": [{...}]   `eval.report.gallery.Example`
"""

import hashlib
import pathlib

import numpy as np
from scipy import special, stats

from eval.datasets import RetrievalSet
from eval.protocol import Outcome
from eval.report import gallery
from gve_jax import retrieval
from gve_jax.disk import write_json
from gve_jax.progress import ProgressLine

_HARDEST = 10
_GROUPS = 4  # of queries by length
_FEWEST = 10  # queries of a group


def collect(
    sets: list[RetrievalSet],
    outcomes: dict[str, Outcome],
    folder: pathlib.Path,
    *,
    shown: int,
) -> None:
    """Writes the record of each dataset, and removes what there is of others.

    Args:
      folder: made if needed.
      shown: right and wrong queries shown per dataset.
    """
    folder.mkdir(exist_ok=True)
    for old in [*folder.glob("*.json"), *folder.glob("*.html")]:
        if old.stem not in outcomes:
            old.unlink()
    strips = gallery.Strips()
    with ProgressLine("gallery", len(sets), "datasets") as line:
        for data in sets:
            found = _record(data, outcomes[data.name], shown, strips)
            write_json(folder / f"{data.name}.json", found)
            line.advance()


def _record(data: RetrievalSet, outcome: Outcome, shown: int, strips) -> dict:
    ranks = outcome.ranking.ranks
    positives = np.array([len(p) for p in data.positives])
    words = np.array([len((query.text or "").split()) for query in data.queries])
    hits = retrieval.recall(ranks, int(data.facts.metric.rpartition("@")[2]))
    right, wrong = gallery.examples(data, outcome, shown, strips)
    return {
        "facts": data.facts._asdict(),
        "lists": data.candidates is not None,
        "differences": data.differences(),
        "manifest": _manifest(data.folder),
        "ranks": histogram(ranks, positives, _num_items(data)),
        "by_words": groups(words, hits),
        "by_positives": groups(positives, hits),
        "hardest": _hardest(data, outcome, hits),
        "right": [e.to_json() for e in right],
        "wrong": [e.to_json() for e in wrong],
    }


def _num_items(data: RetrievalSet) -> np.ndarray:
    """int [n]: among how many items each query is ranked."""
    if data.candidates is None:
        return np.full(len(data.queries), len(data.corpus))
    return np.array([len(c) for c in data.candidates])


def histogram(
    ranks: np.ndarray, num_positives: np.ndarray, num_items: np.ndarray
) -> dict:
    """Ranks in bins that end at 1, 2, 5, 10, 20, 50 and so on; see "ranks" above.

    Args:
      ranks: float64 [n], of the best positive; inf: not found.
      num_positives: int [n]; num_items: int [n].
    """
    ends = [1]
    while ends[-1] < num_items.max():
        ends.append(ends[-1] * 5 // 2 if str(ends[-1])[0] == "2" else ends[-1] * 2)
    chance = [(1 - _share_without(num_items, num_positives, k)).sum() for k in ends]
    found = [int((ranks <= k).sum()) for k in ends]
    return {
        "ends": ends,
        "found": np.diff(found, prepend=0).tolist(),
        "chance": np.diff(chance, prepend=0).tolist(),
        "not_found": int(np.isinf(ranks).sum()),
    }


def _share_without(items: np.ndarray, positives: np.ndarray, k: int) -> np.ndarray:
    """Share of the orders of N items that have none of P among the first k.

    C(N - P, k) / C(N, k), as in `retrieval.chance`, whose time grows with k.
    """
    others, k = items - positives, np.minimum(k, items)
    log = special.gammaln(others + 1) - special.gammaln(np.maximum(others - k, 0) + 1)
    log += special.gammaln(items - k + 1) - special.gammaln(items + 1)
    return np.where(others >= k, np.exp(log), 0)


def groups(values: np.ndarray, hits: np.ndarray) -> list[dict]:
    """The metric over up to four groups of queries, by a property of theirs.

    Args:
      values: int [n]; hits: float64 [n] of 0 and 1.

    Returns:
      As "by_words" above; [] where there are not two groups of ten queries.
    """
    quarters = np.arange(_GROUPS) / _GROUPS
    # "lower": each start is a value, so that no group is empty.
    starts = np.unique(np.quantile(values, quarters, method="lower"))
    group = np.searchsorted(starts, values, side="right")
    found = []
    for i in range(1, len(starts) + 1):
        inside = group == i
        n, low, high = int(inside.sum()), values[inside].min(), values[inside].max()
        right = int(hits[inside].sum())
        interval = stats.binomtest(right, n).proportion_ci(method="wilson")
        found.append(
            {
                "label": f"{low}" if low == high else f"{low} – {high}",
                "queries": n,
                "score": right / n,
                "low": float(interval.low),
                "high": float(interval.high),
            }
        )
    telling = [row for row in found if row["queries"] >= _FEWEST]
    return found if len(telling) > 1 else []


def _hardest(data: RetrievalSet, outcome: Outcome, hits: np.ndarray) -> list[dict]:
    """The wrong queries whose best positive stands furthest behind."""
    ranks, first = outcome.ranking.ranks, outcome.ranking.indices[:, 0]
    known = np.where(np.isfinite(ranks) & (hits == 0), ranks, 0)
    worst = np.argsort(-known, kind="stable")[: min(_HARDEST, (known > 0).sum())]
    items = _num_items(data)
    return [
        {
            "id": data.queries[i].id,
            "text": gallery.shortened(data.queries[i].text or ""),
            "rank": int(ranks[i]),
            "num_items": int(items[i]),
            "answer": data.corpus[first[i]].id,
            "right": data.corpus[data.positives[i][0]].id,
        }
        for i in worst
    ]


def _manifest(folder: pathlib.Path | None) -> str:
    for above in [] if folder is None else list(folder.parents)[:3]:
        path = above / "manifest.json"
        if path.is_file():
            return hashlib.sha256(path.read_bytes()).hexdigest()
    return ""
