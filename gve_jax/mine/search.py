"""Ranked candidates of queries, and why each may be a negative or not."""

import enum
import itertools
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from gve_jax.mine.pool import Pool
from gve_jax.retrieval import top_k
from gve_jax.types import Item, Pair, UserError

# Queries searched for at once, and the most places of all their lists.
_QUERIES, _PLACES = 1024, 1 << 24


class MineOptions(NamedTuple):
    """How negatives are chosen; `ceiling` and the ranks as in config.mine."""

    negatives: int = 1  # of each pair, as far as there are so many
    # Only candidates that score below this share of the positive's score.
    ceiling: float = 0.95
    first_rank: int = 1  # of a query's list without what cannot be a negative
    last_rank: int = 100
    # Cosine to a positive from which on a candidate counts as the same; 2: never.
    near_duplicate: float = 0.99
    keep: bool = False  # the negatives that pairs have come first, and count
    samples: int = 10  # pairs of a task shown in the audit

    def check(self) -> None:
        """Raises UserError naming the option."""
        for name in ("negatives", "ceiling", "first_rank", "near_duplicate"):
            if not getattr(self, name) > 0:
                raise UserError(f"{name}={getattr(self, name)}: must be above 0")
        if self.last_rank < self.first_rank:
            raise UserError(
                f"last_rank={self.last_rank}: must be at least "
                f"first_rank={self.first_rank}"
            )


class Verdict(enum.IntEnum):
    """What becomes of a candidate; of several reasons the first holds."""

    TAKEN = 0
    OWN_TARGET = 1
    OTHER_POSITIVE = 2  # of another pair that asks the same
    QUERY_ITSELF = 3
    SAME_SOURCE = 4
    BEFORE_FIRST_RANK = 5
    ABOVE_CEILING = 6
    NEAR_DUPLICATE = 7
    KEPT_BEFORE = 8  # among the negatives that the pair has


class Asked(NamedTuple):
    """What is known of all pairs that ask the same."""

    positives: set[int]  # candidates
    sources: set[str]
    itself: int | None  # the candidate that is the query


class Found(NamedTuple):
    """A query's k candidates, the best first, down to the last rank that counts."""

    candidates: np.ndarray  # int32 [k]
    scores: np.ndarray  # float32 [k]
    verdicts: np.ndarray  # int8 [k], as far as they do not depend on the pair
    ranks: np.ndarray  # int64 [k], among what can be a negative; 0: cannot
    near: np.ndarray  # bool [k]: beside a positive

    def judge(self, target: int, ceiling: float, kept: Collection[int]) -> np.ndarray:
        """Verdicts, int8 [k], for a pair with that target, no score from `ceiling` on
        and the candidates `kept` already; any number of those TAKEN may be."""
        out = self.verdicts.copy()
        out[self.candidates == target] = Verdict.OWN_TARGET
        for reason, holds in (
            (Verdict.ABOVE_CEILING, self.scores.astype(np.float64) >= ceiling),
            (Verdict.NEAR_DUPLICATE, self.near),
            (Verdict.KEPT_BEFORE, np.isin(self.candidates, list(kept))),
        ):
            out[(out == Verdict.TAKEN) & holds] = reason
        return out


def group_queries(
    pairs: Sequence[Pair], pool: Pool, identity: Callable[[Item], tuple]
) -> dict[tuple, Asked]:
    """Identity of a query -> what is known of it."""
    groups: dict[tuple, Asked] = {}
    for pair in pairs:
        key = identity(pair.query)
        if key not in groups:
            groups[key] = Asked(set(), set(), pool.place.get(key))
        groups[key].positives.add(pool.place[identity(pair.target)])
        if pair.source_id:
            groups[key].sources.add(pair.source_id)
    return groups


def search(
    vectors: np.ndarray,
    asked: Sequence[Asked],
    pool: Pool,
    options: MineOptions,
) -> Iterator[tuple[int, Found]]:
    """Yields the number of each query and its candidates, short lists first.

    Args:
      vectors: float32 [n, d], of the queries.
      asked: what is known of each.
      pool: of m candidates.
      options: the ranks and `near_duplicate` of them.
    """
    of_source = Counter(source for sources in pool.sources for source in sources)

    def depth(query: int) -> int:
        # So many places hold `last_rank` candidates that can be negatives, whatever is
        # among the others. Powers of two: few programs are compiled.
        group = asked[query]
        others = len(group.positives) + 1 + sum(of_source[s] for s in group.sources)
        places = 1 << (options.last_rank + others - 1).bit_length()
        return min(places, len(pool.items))

    for k, group in itertools.groupby(sorted(range(len(asked)), key=depth), depth):
        queries, step = list(group), max(1, min(_QUERIES, _PLACES // k))
        for start in range(0, len(queries), step):
            block = queries[start : start + step]
            scores, candidates = top_k(vectors[block], pool.vectors, k)
            for query, *row in zip(block, candidates, scores, strict=True):
                yield query, _find(*row, asked[query], pool, options)


def _find(
    candidates: np.ndarray,
    scores: np.ndarray,
    asked: Asked,
    pool: Pool,
    options: MineOptions,
) -> Found:
    def barred(candidate: int) -> Verdict:
        if candidate in asked.positives:
            return Verdict.OTHER_POSITIVE
        if candidate == asked.itself:
            return Verdict.QUERY_ITSELF
        if not asked.sources.isdisjoint(pool.sources[candidate]):
            return Verdict.SAME_SOURCE
        return Verdict.TAKEN

    candidates = candidates[candidates >= 0]
    verdicts = np.array([barred(c) for c in candidates.tolist()], np.int8)
    free = verdicts == Verdict.TAKEN
    counted = np.cumsum(free)
    end = np.searchsorted(counted, options.last_rank, side="right")
    verdicts[free & (counted < options.first_rank)] = Verdict.BEFORE_FIRST_RANK
    candidates = candidates[:end]
    positives = pool.vectors[sorted(asked.positives)]
    with np.errstate(invalid="ignore"):  # those that are unreadable are NaN
        cosines = pool.vectors[candidates] @ positives.T
    return Found(
        candidates,
        scores[:end],
        verdicts[:end],
        np.where(free, counted, 0)[:end],
        (cosines >= options.near_duplicate).any(axis=1),
    )
