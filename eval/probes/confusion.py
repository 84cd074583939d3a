"""Which attribute the wrong answers got wrong, against answers drawn at random."""

from collections.abc import Sequence

import numpy as np

from data_synthesis.world.scene import Scene
from eval.datasets import RetrievalSet
from eval.probes import world
from eval.probes.records import NotRun, Subject
from gve_jax import retrieval

_EXAMPLES = 3
_ABSENT, _NONE = -2, -1  # there is no such scene; the scene has no such attribute


def encode(videos: Sequence[Sequence[Scene]]) -> np.ndarray:
    """Attributes as numbers: int [m, s, a], equal where the values are.

    Args:
      videos: the scenes of m videos, at most s each.
    """
    most = max(map(len, videos))
    codes = np.full((len(videos), most, len(world.ATTRIBUTES)), _ABSENT)
    numbers: dict = {}
    for i, scenes in enumerate(videos):
        for j, scene in enumerate(scenes):
            for a, value in enumerate(world.attributes(scene).values()):
                if value is None:
                    codes[i, j, a] = _NONE
                else:
                    codes[i, j, a] = numbers.setdefault((a, value), len(numbers))
    return codes


def differ(codes: np.ndarray, right: np.ndarray) -> np.ndarray:
    """How much of each attribute each video has wrong, as an answer to one query.

    Scenes are compared in their order; the share of the true video's scenes with
    another value counts, of several true videos the nearest. The order of motions is
    compared only between scenes of the same motions.

    Args:
      codes: int [m, s, a], of `encode`.
      right: int [p]: the true videos.

    Returns:
      float64 [m, a]; NaN where there is nothing to compare.
    """
    nearest = np.full((len(codes), codes.shape[2]), np.nan)
    order, motion = (world.ATTRIBUTES.index(a) for a in ("order", "motion"))
    for truth in codes[right]:
        there = np.broadcast_to(truth >= 0, codes.shape).copy()
        there[:, :, order] &= codes[:, :, motion] == truth[:, motion]
        wrong = ((codes != truth) & there).sum(1)
        count = there.sum(1)
        share = np.where(count, wrong / np.maximum(count, 1), np.nan)
        nearest = np.fmin(nearest, share)
    return nearest


def confusion(
    data: RetrievalSet, answers: np.ndarray, codes: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The first answers that are wrong, and what they have wrong.

    Args:
      answers: int [n], corpus row of each query's first answer, -1 for none.
      codes: int [m, s, a], of the corpus.

    Returns:
      The queries, int [w]; what their answers have wrong, float64 [w, a]; and the mean
      of the same over all wrong answers that the query could have had, float64 [w, a].
    """
    rows, seen, random = [], [], []
    for i, (answer, right) in enumerate(zip(answers, data.positives, strict=True)):
        if answer < 0 or answer in right:
            continue
        wrong = differ(codes, right)
        others = (
            np.arange(len(codes)) if data.candidates is None else data.candidates[i]
        )
        others = np.setdiff1d(others, right)
        rows.append(i)
        seen.append(wrong[answer])
        known = ~np.isnan(wrong[others])
        total = np.where(known, wrong[others], 0).sum(0)
        random.append(total / np.where(known.any(0), known.sum(0), np.nan))
    shape = (-1, codes.shape[2])
    return np.array(rows, int), np.reshape(seen, shape), np.reshape(random, shape)


def compare(seen: np.ndarray, random: np.ndarray, resamples: int, seed: int) -> dict:
    """Attribute -> how often it is wrong, at random, and the ratio of the two.

    A ratio of 1: wrong answers are as wrong as random ones; 0: never wrong. The 95 %
    interval resamples queries. Attributes that no answer could be compared in have
    "cases" 0 and nothing else.
    """
    found = {}
    for a, name in enumerate(world.ATTRIBUTES):
        valid = ~np.isnan(seen[:, a])
        row = found[name] = {"cases": int(valid.sum())}
        # Another order of the same motions is rare: nothing may be left to compare.
        if not row["cases"] or not random[valid, a].sum():
            continue
        means = [
            retrieval.bootstrap(x[valid, a], resamples, [seed, a])
            for x in (seen, random)
        ]
        row["wrong"] = float(seen[valid, a].mean())
        row["at_random"] = float(random[valid, a].mean())
        row["ratio"] = row["wrong"] / row["at_random"]
        ratios = means[0] / np.where(means[1] > 0, means[1], np.nan)
        row["low"], row["high"] = retrieval.interval(ratios[~np.isnan(ratios)])
    return found


def measure(subject: Subject) -> dict:
    if subject.world is None:
        raise NotRun(
            "what the videos show is not known: config.eval.root is not the uvrb_mini "
            "of a world, with its truth.jsonl beside it"
        )
    truth = world.read(subject.world)
    rows, every = {}, []
    for data in subject.sets:
        codes = encode(world.scenes_of(data.corpus, truth))
        answers = subject.outcomes[data.name].ranking.indices[:, 0]
        queries, seen, random = confusion(data, answers, codes)
        every.append((seen, random))
        rows[data.name] = {
            "num_wrong": len(queries),
            "attributes": compare(seen, random, subject.resamples, subject.seed),
            "examples": [
                {
                    "query": data.queries[i].id,
                    "text": data.queries[i].text or "",
                    "answer": data.corpus[answers[i]].id,
                    "right": data.corpus[data.positives[i][0]].id,
                    "wrong": [
                        a
                        for a, share in zip(world.ATTRIBUTES, shares, strict=True)
                        if share > 0
                    ],
                }
                for i, shares in zip(queries[:_EXAMPLES], seen, strict=False)
            ],
        }
    seen, random = (np.concatenate(x) for x in zip(*every, strict=True))
    overall = compare(seen, random, subject.resamples, subject.seed)
    return {"datasets": rows, "overall": overall}
