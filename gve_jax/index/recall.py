"""What vectors of smaller types or of fewer numbers lose, measured on those at hand."""

import numpy as np

from gve_jax.index.store import Writer, kept, shorten
from gve_jax.retrieval import top_k

_MOST = 4096  # vectors of a sample
_K = 10
# Scores of equal vectors differ by so much, in float32.
_EQUAL = 1e-6


class Sample:
    """A sample of what was embedded; empty where the index keeps vectors as they are.

    Attributes:
      report: what was found, one line; empty where nothing was.
    """

    def __init__(self, writer: Writer, dim: int):
        """`dim` is that of the whole vectors."""
        self._writer = writer
        self._needed = writer.dtype != "float32" or writer.dim < dim
        self._vectors: list[np.ndarray] = []
        self._seen = 0
        self._random = np.random.default_rng(0)
        self.report = ""

    def see(self, vector: np.ndarray) -> None:
        """float32 [d]. Any of those seen is as likely to be in the sample."""
        if not self._needed:
            return
        self._seen += 1
        if len(self._vectors) < _MOST:
            self._vectors.append(vector.copy())
        elif (place := self._random.integers(self._seen)) < _MOST:
            self._vectors[place] = vector.copy()

    def measure(self) -> None:
        """Compares, and leaves the result to the writer unless it has a better one."""
        writer, count = self._writer, len(self._vectors)
        before = writer.recall or {"sample": 0}
        if count <= _K + 1 or count < before["sample"]:
            return
        recalls = recall(np.stack(self._vectors), writer.dim, writer.dtype)
        writer.recall = {"sample": count} | {
            f"recall@{k}": round(value, 4) for k, value in recalls.items()
        }
        parts = ", ".join(f"recall@{k} {value:.1%}" for k, value in recalls.items())
        self.report = (
            f"{writer.dim} numbers as {writer.dtype} find what all numbers in float32 "
            f"find, among {count} vectors: {parts}"
        )


def recall(vectors: np.ndarray, dim: int, dtype: str) -> dict[int, float]:
    """Share of the k nearest others that an index of such vectors finds.

    Of vectors that are equally near any will do.

    Args:
      vectors: float32 [n, d], unit, n > 11.
      dim, dtype: of the index; queries are of `dim` numbers and float32.

    Returns:
      k -> share, for 1 and 10.
    """
    own = np.arange(len(vectors))[:, None]
    scores, _ = _others(*top_k(vectors, vectors, _K + 1), own)
    small = kept(vectors, dim, dtype)
    _, found = _others(*top_k(shorten(vectors, dim), small, _K + 1), own)
    reached = np.einsum("nd,nkd->nk", vectors, vectors[found])
    return {
        k: float((reached[:, :k] >= scores[:, k - 1, None] - _EQUAL).mean())
        for k in (1, _K)
    }


def _others(
    scores: np.ndarray, rows: np.ndarray, own: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """[n, k] of [n, k + 1]: without each vector itself, or without the last."""
    order = np.argsort(rows == own, axis=1, kind="stable")[:, :-1]
    return tuple(np.take_along_axis(x, order, axis=1) for x in (scores, rows))
