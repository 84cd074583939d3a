"""Hard negatives by a prober's scores: an exact search, and every exclusion counted.

The candidates of a query are walked from the best down, until a pair has enough.
Passed over are first those that cannot be negatives, being what they are: the pair's
target, other positives of the query (of pairs that ask the same), the query itself,
and targets of the same source. The others have ranks 1, 2, ... of which a window
counts. In it are passed over those that score about as the positive does
(positive-aware mining: TopK-PercPos of NV-Retriever, arXiv 2407.15831, keeps
s < 0.95 s+) and those whose vectors lie beside a positive's: unknown positives, both.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from gve_jax.mine.pool import Corpus, make_identity, make_pool
from gve_jax.mine.search import Found, MineOptions, Verdict, group_queries, search
from gve_jax.progress import ProgressLine
from gve_jax.types import Item, Pair

# Candidates of a sample that are shown besides those taken.
_SHOWN = 10

_Embed = Callable[[Sequence[Item]], np.ndarray]


class Judged(NamedTuple):
    """A candidate of a sample."""

    item: Item
    rank: int  # 0: it cannot be a negative
    score: float
    verdict: Verdict


class Sample(NamedTuple):
    """A pair and its candidates in the order of their scores, as far as walked."""

    pair: Pair
    score: float  # of the positive; NaN where a side is unreadable
    candidates: list[Judged]


class Audit(NamedTuple):
    """What was done for one task, in numbers."""

    pairs: int
    queries: int  # distinct
    candidates: int  # distinct
    equal_media: int  # contents that are another candidate, by their bytes ...
    equal_text: int  # ... or by their text
    other_modality: int  # corpus items left out: no target is of their modality
    unreadable_candidates: int
    unreadable_pairs: int  # query or target: these have no negatives
    nonpositive_pairs: int  # the positive scores 0 or less: no ceiling, none mined
    short_pairs: int  # with fewer negatives than asked for
    kept: int  # earlier negatives
    dropped: int  # earlier negatives: unreadable, or not to be kept
    verdicts: dict[str, int]  # of the candidates that all pairs walked
    positive_scores: dict[str, float]  # quantiles
    negative_scores: dict[str, float]  # of those taken


class Mined(NamedTuple):
    """The pairs in the order given, with their negatives and the scores of all."""

    pairs: list[Pair]
    audit: Audit
    samples: list[Sample]


def mine(
    pairs: Sequence[Pair],
    embed: _Embed,
    options: MineOptions,
    corpus: Corpus | None = None,
    twins: Mapping[str, str] | None = None,
) -> Mined:
    """Mines among the targets of a task, and a corpus of the same modalities.

    In memory are the vectors, those of candidates twice, and no matrix of scores.

    Args:
      pairs: all of one task.
      embed: items of different contents and ids -> float32 [n, d], unit rows, NaN
        where unreadable. Called once.
      options: what is taken.
      corpus: more candidates.
      twins: path -> path of a file with the same bytes, from `equal_files`.

    Raises:
      UserError: an option is out of its range.
    """
    options.check()
    pairs = list(pairs)  # read once, if they are on disk
    embedded = _Embedded(pairs, embed, options.keep)
    identity = make_identity(twins or {})
    pool = make_pool(pairs, embedded, corpus, identity)
    groups = group_queries(pairs, pool, identity)

    positive = np.array([embedded.score(pair.query, pair.target) for pair in pairs])
    readable = ~np.isnan(positive)
    # Of each pair its negatives, with their scores.
    chosen: list[list[tuple[Item, float]]] = [[] for _ in pairs]
    if options.keep:
        for i in np.flatnonzero(readable):
            scored = [
                (n, embedded.score(pairs[i].query, n)) for n in pairs[i].negatives
            ]
            chosen[i] = [(n, score) for n, score in scored if not np.isnan(score)]
    kept = sum(map(len, chosen))

    waiting: dict[tuple, list[int]] = defaultdict(list)
    for i in np.flatnonzero(positive > 0).tolist():
        if len(chosen[i]) < options.negatives:
            waiting[pairs[i].query.content].append(i)
    queries = [pairs[rows[0]].query for rows in waiting.values()]
    shown = np.linspace(0, len(pairs) - 1, min(options.samples, len(pairs)))
    samples = {i: Sample(pairs[i], positive[i], []) for i in shown.astype(int).tolist()}
    counts: Counter[int] = Counter()
    taken_scores: list[float] = []
    with ProgressLine(f"mine {pairs[0].task}", len(queries), "queries") as line:
        for query, found in search(
            embedded.rows(queries),
            [groups[identity(q)] for q in queries],
            pool,
            options,
        ):
            for i in waiting[queries[query].content]:
                verdicts = found.judge(
                    target=pool.place[identity(pairs[i].target)],
                    ceiling=options.ceiling * positive[i],
                    kept=[pool.place.get(identity(item), -1) for item, _ in chosen[i]],
                )
                want = options.negatives - len(chosen[i])
                taken = np.flatnonzero(verdicts == Verdict.TAKEN)[:want]
                walked = taken[-1] + 1 if len(taken) == want else len(verdicts)
                counts.update(verdicts[:walked].tolist())
                taken_scores += found.scores[taken].tolist()
                chosen[i] += [
                    (pool.items[found.candidates[place]], float(found.scores[place]))
                    for place in taken
                ]
                if i in samples:
                    judged = _judged(found, verdicts[:walked], pool.items)
                    samples[i] = samples[i]._replace(candidates=judged)
            line.advance()
    audit = Audit(
        pairs=len(pairs),
        queries=len({pair.query.content for pair in pairs}),
        candidates=len(pool.items),
        equal_media=pool.merged["media"],
        equal_text=pool.merged["text"],
        other_modality=pool.other_modality,
        unreadable_candidates=int(np.isnan(pool.vectors[:, 0]).sum()),
        unreadable_pairs=int((~readable).sum()),
        nonpositive_pairs=int((positive <= 0).sum()),
        short_pairs=sum(len(negatives) < options.negatives for negatives in chosen),
        kept=kept,
        dropped=sum(len(pair.negatives) for pair in pairs) - kept,
        verdicts={v.name.lower(): counts[v] for v in Verdict},
        positive_scores=_quantiles(positive[readable]),
        negative_scores=_quantiles(taken_scores),
    )
    mined = [
        pair._replace(
            negatives=tuple(item for item, _ in negatives),
            scores=(float(score), *(s for _, s in negatives)) if ok else (),
        )
        for pair, negatives, score, ok in zip(
            pairs, chosen, positive, readable, strict=True
        )
    ]
    return Mined(mined, audit, list(samples.values()))


class _Embedded:
    """The vectors of all items of pairs, by content: each is embedded once."""

    def __init__(self, pairs: Sequence[Pair], embed: _Embed, negatives: bool):
        self._row: dict[tuple, int] = {}
        for pair in pairs:
            earlier = pair.negatives if negatives else ()
            for item in (pair.query, pair.target, *earlier):
                self._row.setdefault(item.content, len(self._row))
        self._vectors = embed(
            [Item(str(row), *content) for content, row in self._row.items()]
        )

    def __call__(self, item: Item) -> np.ndarray:
        """float32 [d], NaN if unreadable."""
        return self._vectors[self._row[item.content]]

    def rows(self, items: Sequence[Item]) -> np.ndarray:
        """float32 [n, d]"""
        return self._vectors[[self._row[item.content] for item in items]]

    def score(self, query: Item, item: Item) -> float:
        """Cosine, NaN if either is unreadable."""
        return float(self(query) @ self(item))


def _judged(found: Found, verdicts: np.ndarray, items: list[Item]) -> list[Judged]:
    return [
        Judged(
            items[found.candidates[place]],
            int(found.ranks[place]),
            float(found.scores[place]),
            Verdict(verdict),
        )
        for place, verdict in enumerate(verdicts)
        if place < _SHOWN or verdict == Verdict.TAKEN
    ]


def _quantiles(scores: Sequence[float]) -> dict[str, float]:
    """Six digits; empty if there are no scores."""
    if not len(scores):
        return {}
    points = (0, 5, 25, 50, 75, 95, 100)
    values = np.percentile(scores, points)
    return {f"{p}%": round(v, 6) for p, v in zip(points, values.tolist(), strict=True)}
