"""The record of one retrieval dataset, whatever files it was read from."""

import dataclasses

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

    @property
    def name(self) -> str:
        return self.facts.name

    @property
    def published_size(self) -> bool:
        """Whether the counts are those of the published benchmark."""
        f = self.facts
        # The published corpus size of candidate sets counts the candidates.
        size = (
            len(self.corpus)
            if self.candidates is None
            else round(np.mean([len(c) for c in self.candidates]))
        )
        return (len(self.queries), size) == (f.num_queries, f.num_corpus)
