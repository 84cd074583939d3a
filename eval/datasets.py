"""The record of one retrieval dataset, whatever files it was read from."""

import dataclasses
import pathlib

import numpy as np

from eval import uvrb
from gve_jax.types import Item


@dataclasses.dataclass(frozen=True)
class RetrievalSet:
    """Queries, corpus and which corpus rows answer which query.

    Relevance and candidates hold row numbers of `corpus`, sorted and distinct. With
    `candidates` a query competes only among its own list. `missing` holds media files
    that are named but not there: (where they are named, path).
    """

    facts: uvrb.Dataset
    queries: tuple[Item, ...]
    corpus: tuple[Item, ...]
    positives: tuple[np.ndarray, ...]  # int [p] per query, p >= 1
    candidates: tuple[np.ndarray, ...] | None = None
    missing: tuple[tuple[str, str], ...] = ()
    folder: pathlib.Path | None = None  # that it was read from

    @property
    def name(self) -> str:
        return self.facts.name

    @property
    def sizes(self) -> tuple[int, int]:
        """Numbers of queries and of what a query is ranked among (on average)."""
        ranked = self.candidates and round(np.mean([len(c) for c in self.candidates]))
        return len(self.queries), ranked or len(self.corpus)

    def differences(self) -> str:
        """The counts that are not as expected, "" if all are."""
        expected = (self.facts.num_queries, self.facts.num_corpus)
        ranked = "corpus items" if self.candidates is None else "candidates a query"
        return ", ".join(
            f"{have} {what}, expected {want}"
            for have, want, what in zip(
                self.sizes, expected, ("queries", ranked), strict=True
            )
            if want not in (None, have)
        )

    @property
    def published_size(self) -> bool:
        """Whether the counts are the published ones, where there are such."""
        return not self.differences()
