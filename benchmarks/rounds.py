"""Searches that take turns, and NumPy's beside them; for the benchmarks of search."""

import time
from collections.abc import Callable

import numpy as np


def rounds(
    searches: dict[str, Callable[[], object]], seconds: float
) -> dict[str, list[float]]:
    """Seconds of each search in each round: three rounds at least."""
    times = {name: [] for name in searches}
    start, done = time.perf_counter(), 0
    while done < 3 or time.perf_counter() - start < seconds:
        done += 1
        for name, search in searches.items():
            began = time.perf_counter()
            search()
            times[name].append(time.perf_counter() - began)
    return times


def by_numpy(queries: np.ndarray, corpus: np.ndarray, k: int):
    """Scores and rows [n, k] of the best, by product and argpartition."""
    scores = queries @ corpus.T
    best = np.argpartition(scores, -k, axis=1)[:, -k:]
    found = np.take_along_axis(scores, best, axis=1)
    order = np.argsort(-found, axis=1)
    return tuple(np.take_along_axis(x, order, axis=1) for x in (found, best))
