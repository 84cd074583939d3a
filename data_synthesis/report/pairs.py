"""What the tables of pairs and negatives tell."""

import collections
import json
from collections.abc import Collection, Iterator

import numpy as np
import pyarrow.parquet as pq

from data_synthesis import shards
from data_synthesis.run import Run
from data_synthesis.tables import COMPOSED, TASKS, Mined

_STAGES = ("candidates", "compose", "extend")
_WORST = 20
_COLUMNS = [
    "id", "name", "task", "split", "outcome", "stage", "reasons", "record", "source",
    "cluster", "reference_source", "reference_cluster", "ranks", "failure", "query",
]  # fmt: skip


def rows(run: Run, done: Collection[str]) -> Iterator[dict]:
    """All pairs of the last stage of them that is done; none if there is none.

    Plain columns: checking each row against its schema would take far longer.
    """
    stage = next((s for s in reversed(_STAGES) if s in done), None)
    if stage is None:
        return
    for shard in range(run.layout.shards):
        file = pq.ParquetFile(run.layout.table(stage, shard))
        names = [n for n in _COLUMNS if n in file.schema_arrow.names]
        for batch in file.iter_batches(columns=names):
            yield from batch.to_pylist()


def report(run: Run, done: Collection[str]) -> tuple[dict, list[dict]]:
    """What the pairs tell, {} without any; and dead letters.

    Args:
      done: the stages that are.
    """
    splits = collections.defaultdict(collections.Counter)
    tested = {task: collections.Counter() for task in COMPOSED}
    seen = {"source": {}, "cluster": {}}
    leaks, dead = {"source": set(), "cluster": set()}, []
    worst, negatives, unread = _negatives(run) if "mine" in done else ([], {}, [])
    dead += unread
    asked = collections.defaultdict(list)
    for shown in worst:
        asked[shown["pair"]].append(shown)
    tasks = {task: collections.Counter() for task in TASKS}
    reasons = collections.defaultdict(collections.Counter)
    for row in rows(run, done):
        task = row["task"]
        tasks[task][row["outcome"]] += 1
        reasons[task].update(row["reasons"])
        if row["ranks"] is not None:
            tested[task][_needed(row["ranks"])] += 1
        if row["outcome"] == "error":
            dead.append(_letter(row))
        for shown in asked.get(row["id"], ()):
            shown["query"] = row["query"]["text"]
        if row["outcome"] != "keep":
            continue
        splits[row["split"]][task] += 1
        for kind, found in seen.items():
            for name in {row[kind], row[f"reference_{kind}"]} - {""}:
                if found.setdefault(name, row["split"]) != row["split"]:
                    leaks[kind].add(name)
    if not any(tasks[task] for task in TASKS):
        return {}, dead
    quotas = run.layout.root / "compose" / "quotas.json"
    found = {
        "tasks": {
            task: {
                "candidates": n.total(), "kept": n["keep"], "dropped": n["drop"],
                "errors": n["error"], "reasons": dict(reasons[task].most_common()),
            }
            for task, n in tasks.items()
        },
        "table": dict(run.config.extend.quotas),
        "quotas": json.loads(quotas.read_text()) if quotas.exists() else {},
        "splits": _plain(splits),
        "leaks": {kind: len(names) for kind, names in leaks.items()},
        "needed": {task: dict(n) for task, n in tested.items() if n},
        "negatives": negatives,
    }  # fmt: skip
    return found, dead


def _needed(ranks: dict) -> str:
    """Of a composed query: whether it takes both halves, or which one alone does."""
    text, medium = (ranks[half] <= ranks["both"] for half in ("text", "media"))
    if text and medium:
        return "either"
    return "text" if text else "medium" if medium else "both"


def _letter(row: dict) -> dict:
    failure = row["failure"] or {}
    return {
        "id": row["id"],
        "name": row["record"],
        "stage": row["stage"],
        "codes": list(failure.get("codes") or row["reasons"]),
        "message": failure.get("message", ""),
        "media": "",
        "attempts": failure.get("attempts", 1),
        "raw": failure.get("raw", ""),
        "request": failure.get("request", ""),
    }


def _negatives(run: Run) -> tuple[list[dict], dict, list[dict]]:
    """Those with the smallest margins; what all tell; dead letters."""
    outcomes = collections.defaultdict(collections.Counter)
    margins, ranks, used, found = [], [], collections.Counter(), []
    dead = []
    for row in shards.read_stage(run.layout, "mine", Mined):
        outcomes[row.task][row.outcome] += 1
        if row.outcome == "unreadable":
            dead.append(
                _letter(
                    {"id": row.id, "record": "", "stage": "mine",
                     "reasons": [row.outcome], "failure": None}
                )
            )  # fmt: skip
        for negative in row.negatives:
            margins.append(negative.margin)
            ranks.append(negative.rank)
            used[negative.record] += 1
            found.append((negative.margin, row.id, row, negative))
        if len(found) > 50 * _WORST:
            found = sorted(found, key=lambda f: f[:2])[:_WORST]
    found = sorted(found, key=lambda f: f[:2])[:_WORST]
    worst = [
        {
            "pair": row.id, "task": row.task, "query": "",
            "positive": row.positive_score, "negative": negative.score,
            "margin": margin, "rank": negative.rank, "record": negative.record,
        }
        for margin, _, row, negative in found
    ]  # fmt: skip
    if not margins:
        return [], {"outcomes": _plain(outcomes)}, dead
    counts, edges = np.histogram(margins, 30)
    reuse = collections.Counter(used.values())
    return (
        worst,
        {
            "outcomes": _plain(outcomes),
            "number": len(margins),
            "distinct": len(used),
            "most_used": max(used.values()),
            "reuse": {str(k): n for k, n in sorted(reuse.items())[:10]},
            "margin_quantiles": np.percentile(margins, (0, 25, 50, 75, 100)).tolist(),
            "rank_quantiles": np.percentile(ranks, (0, 25, 50, 75, 100)).tolist(),
            "margins": {"edges": edges.tolist(), "counts": counts.tolist()},
            "worst": worst,
        },
        dead,
    )


def _plain(counters: dict[str, collections.Counter]) -> dict[str, dict[str, int]]:
    return {name: dict(found) for name, found in sorted(counters.items())}
