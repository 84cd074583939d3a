"""Probes: what an embedder makes of held-out pairs."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from gve_jax import retrieval
from gve_jax.embed import Embedder
from gve_jax.types import Pair, UserError


class TaskProbe(NamedTuple):
    """Of the held-out pairs of one task."""

    alignment: float  # R_k (METHOD section 4): mean cosine of query and target
    shuffled: float  # mean cosine of a query and the targets of other pairs
    loss: float  # symmetric InfoNCE, with equally many negatives for all tasks
    recall: float  # share of the queries whose target is first among all targets


class Evaluation(NamedTuple):
    """A score of the weights as they are; higher is better."""

    metric: str  # what the score is
    score: float
    details: dict[str, float]


def probe(
    embedder: Embedder, held: Mapping[str, Sequence[Pair]], temperature: float
) -> dict[str, TaskProbe]:
    """Probes every task.

    Args:
      embedder: the prober.
      held: task -> pairs that nothing trains on, at least two.
      temperature: of the loss.

    Raises:
      UserError: fewer than two pairs of a task can be read.
    """
    items = [
        item
        for pairs in held.values()
        for pair in pairs
        for item in (pair.query, pair.target)
    ]
    result = embedder.embed(items, desc="probe")
    whole = result.vectors.reshape(len(items) // 2, 2, -1)
    vectors, start = {}, 0
    for task, pairs in held.items():
        rows = whole[start : start + len(pairs)]
        start += len(pairs)
        good = ~np.isnan(rows).any((1, 2))
        if good.sum() < 2:
            reason = next(iter(result.failures.values()), "there are no more")
            raise UserError(
                f"task {task}: {good.sum()} of its {len(pairs)} held-out pairs can be "
                f"read, and a probe needs two ({reason}): raise data.held_out"
            )
        contents = [p.target.content for p, ok in zip(pairs, good, strict=True) if ok]
        vectors[task] = rows[good], contents
    # A loss grows with the number of negatives: the smallest task sets it.
    size = min(len(rows) for rows, _ in vectors.values())
    return {
        task: _probe(rows, contents, size, temperature)
        for task, (rows, contents) in vectors.items()
    }


def held_out_evaluation(probes: Mapping[str, TaskProbe]) -> Evaluation:
    recalls = {task: p.recall for task, p in probes.items()}
    mean = float(np.mean(list(recalls.values())))
    return Evaluation("recall@1 of held-out pairs, mean over tasks", mean, recalls)


def _probe(
    rows: np.ndarray, contents: list[tuple], size: int, temperature: float
) -> TaskProbe:
    """rows: float32 [n, 2, d], of query and target."""
    rows = rows.astype(np.float64)
    query, target = rows[:, 0], rows[:, 1]
    first: dict[tuple, int] = {}
    distinct = np.array([first.setdefault(c, i) for i, c in enumerate(contents)])
    scores = query @ target.T
    other = distinct[:, None] != distinct[None, :]
    positive = np.diagonal(scores)
    kept = np.unique(distinct)
    found = retrieval.rank(
        query, target[kept], [np.searchsorted(kept, d)[None] for d in distinct], 1
    )
    return TaskProbe(
        alignment=float(positive.mean()),
        shuffled=float(scores[other].mean()) if other.any() else float("nan"),
        loss=_info_nce(scores, other, size, temperature),
        recall=float((found.ranks == 1).mean()),
    )


def _info_nce(
    scores: np.ndarray, other: np.ndarray, size: int, temperature: float
) -> float:
    """Mean over blocks of `size` pairs; equal targets are no negatives."""
    losses = []
    for start in range(0, len(scores) - size + 1, size):
        part = slice(start, start + size)
        logits = scores[part, part] / temperature
        positive = np.diagonal(logits)
        seen = other[part, part] | np.eye(size, dtype=bool)
        logits = np.where(seen, logits, -np.inf)
        for way in (logits, logits.T):
            most = way.max(1)
            total = np.exp(way - most[:, None]).sum(1)
            losses.append(np.mean(np.log(total) + most - positive))
    return float(np.mean(losses))
