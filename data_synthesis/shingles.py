"""Texts in nearly the same words: their character 5-grams, compared by MinHash.

Two texts share a place of their signatures as often as they share n-grams (Broder
1997). Texts meet where a band of places is equal, which at a Jaccard index of 0.8
nineteen of twenty do; whether they are the same is then settled by the index itself.
"""

import functools
import hashlib
from collections.abc import Iterator

import numpy as np

SAME = 0.8  # Jaccard index from which on texts are nearly equal
_GRAM = 5
_PLACES, _BAND = 128, 8


def grams(text: str) -> set[str]:
    """Five characters each; all of a shorter text."""
    return {text[i : i + _GRAM] for i in range(max(1, len(text) - _GRAM + 1))}


def jaccard(one: set[str], two: set[str]) -> float:
    """Shared n-grams of all n-grams of two texts."""
    return len(one & two) / len(one | two)


def bands(text: str) -> Iterator[str]:
    """16 keys, of which texts in nearly the same words share one, almost always."""
    found = signature(text)
    for start in range(0, _PLACES, _BAND):
        digest = hashlib.blake2b(found[start : start + _BAND].tobytes(), digest_size=8)
        yield f"{start}.{digest.hexdigest()}"


def signature(text: str) -> np.ndarray:
    """uint64 [128]: of each hash function the smallest value over the n-grams."""
    digests = (hashlib.blake2b(g.encode(), digest_size=8) for g in grams(text))
    values = np.array([int.from_bytes(d.digest()) for d in digests], np.uint64)
    factors, summands = _functions()
    return (values[:, None] * factors + summands).min(0)


@functools.cache
def _functions() -> tuple[np.ndarray, np.ndarray]:
    """Permutations of the 64-bit numbers: an odd factor, and a summand."""
    drawn = np.random.default_rng(0).integers(0, 1 << 64, (2, _PLACES), np.uint64)
    return drawn[0] | np.uint64(1), drawn[1]
