"""Searches an index: from what was asked to hits, one for each video or image.

Exact throughout: a filter is applied before the best rows are sought, a video is ranked
by the best of its vectors, and copies of a file are one hit.
"""

import collections
import math
import os
import threading
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from gve_jax.embed import Embedder
from gve_jax.index.corpus import Corpus, Opened, device_bytes, item_id
from gve_jax.index.filters import EVERYTHING, Filter
from gve_jax.index.store import open_index, shorten
from gve_jax.retrieval import top_k
from gve_jax.types import Item, UserError

# Sum of 1 (text), 2 (image) and 4 (video), as `Item.kind`, -> what a query is told to
# look for. Those of UVRB's datasets with such queries; of the last two there are none.
INSTRUCTIONS = {
    1: "Find the video according to the text description.",
    2: "Find the video according to the image.",
    4: "Find the original long video according to the short video clip.",
    3: "Find the video clip that corresponds to the given text and the given image.",
    5: "Find the video clip that corresponds to the given text and the given video.",
    6: "Find the video clip that corresponds to the given image and the given video.",
    7: "Find the video clip that corresponds to the given text, the given image and "
    "the given video.",
}
# Sought for each file that is wanted, at first; and at least, so that any usual number
# of files is of one compiled shape.
_ROWS_A_FILE, _ROWS = 8, 256
# Of vectors that pass through the device: what malloc does not ask the kernel for anew
# each time, which takes longer than all else.
_CHUNK_BYTES = 16 << 20


class Request(NamedTuple):
    """One search: by `query`, or by the vector of the indexed span `like`.

    What `like` is of is left out, also where there is a query.
    """

    query: Item | None = None
    like: str | None = None  # the id of a hit or span
    k: int = 10
    spans: int = 3  # further windows of a video that are listed, at most
    filter: Filter = EVERYTHING


class Span(NamedTuple):
    """A window of a video beside its best."""

    id: str
    score: float
    start: float  # seconds
    end: float


class Hit(NamedTuple):
    """A video or image and its best span: a window, or all of it."""

    rank: int  # from 1
    score: float  # cosine with the query
    file: str  # as `store.path_text` writes it
    start: float | None  # seconds; None of an image
    end: float | None
    kind: str  # "window", "video" or "image"
    missing: bool  # deleted, or changed since it was indexed
    id: str  # names the span as long as it is indexed
    duration: float  # seconds of the video, 0 of an image
    also: tuple[str, ...]  # copies of the file
    spans: tuple[Span, ...]  # further windows, best first; none overlap

    def to_json(self) -> dict:
        return self._asdict() | {"spans": [span._asdict() for span in self.spans]}


def make_query(
    text: str | None = None,
    image: str | None = None,
    video: str | None = None,
    start: float | None = None,
    end: float | None = None,
    instruction: str | None = None,
) -> Item:
    """What to search by; without `instruction` it has that of its modalities.

    Raises UserError if there is nothing to search by.
    """
    query = Item("query", text or None, image, video, start, end)
    if not query.kind:
        raise UserError("nothing to search by: give a text, an image or a video")
    return query._replace(instruction=instruction or INSTRUCTIONS[query.kind])


class Searcher:
    """Searches an index, following what is committed to it. Thread-safe."""

    def __init__(
        self,
        path: str | os.PathLike,
        embedder: Embedder,
        kept_bytes: int | None = None,
    ):
        """Opens the index at `path`; vectors are placed when they are first sought.

        Args:
          path: the index folder.
          embedder: of the queries.
          kept_bytes: of vectors (float32) that stay on the devices for later searches;
            others pass through them in chunks each time. None: half of what is free.

        Raises:
          UserError: no index there, or made under another contract.
        """
        self._path, self._embedder = path, embedder
        self._kept_bytes = device_bytes() // 2 if kept_bytes is None else kept_bytes
        self._lock = threading.Lock()
        self._opened = self._open()

    @property
    def opened(self) -> Opened:
        """The index as last committed. Raises UserError if there is none any more."""
        with self._lock:
            if self._opened.index.stale():
                self._opened = self._open()
            return self._opened

    def search(
        self,
        queries: Sequence[Item],
        k: int = 10,
        filter: Filter = EVERYTHING,
        spans: int = 3,
    ) -> list[list[Hit]]:
        """The k best files of each query, or as many as pass the filter.

        Raises UserError if a query cannot be read or the index not be opened.
        """
        found = self.answer(
            [Request(q, k=k, spans=spans, filter=filter) for q in queries]
        )
        for hits in found:
            if isinstance(hits, UserError):
                raise hits
        return found

    def answer(self, requests: Sequence[Request]) -> list[list[Hit] | UserError]:
        """Searches for all of them together; the fault of one is its own answer.

        Raises UserError if the index cannot be opened.
        """
        opened = self.opened
        answers, vectors, sources = self._ask(opened, requests)
        together = collections.defaultdict(list)
        for i, request in enumerate(requests):
            if answers[i] is None:
                together[request.filter.text].append(i)
        for numbers in together.values():
            corpus = opened.corpus(requests[numbers[0]].filter)
            best = _best_rows(
                opened,
                corpus,
                vectors[numbers],
                [requests[i].k for i in numbers],
                sources[numbers],
            )
            for i, rows in zip(numbers, best, strict=True):
                answers[i] = [
                    _hit(opened, corpus, vectors[i], rank, *row, requests[i].spans)
                    for rank, row in enumerate(rows, 1)
                ]
        return answers

    def _open(self) -> Opened:
        index = open_index(self._path)
        index.contract.require_equal(
            self._embedder.contract, f"the index {self._path}", "this checkpoint"
        )
        return Opened(index, self._kept_bytes)

    def _ask(
        self, opened: Opened, requests: Sequence[Request]
    ) -> tuple[list, np.ndarray, np.ndarray]:
        """What each request comes to.

        Returns:
          Its UserError or None; its vector, float32 [n, dim]; the group to leave out,
          int64 [n], or -1.
        """
        faults: list[UserError | None] = [None] * len(requests)
        vectors = np.zeros((len(requests), opened.index.dim), np.float32)
        sources = np.full(len(requests), -1)
        for i, request in enumerate(requests):
            if request.like is not None:
                try:
                    row = opened.rows[opened.find(request.like)[:1]]
                except UserError as e:
                    faults[i] = e
                else:
                    sources[i] = opened.group_of[row[0]]
                    vectors[i] = opened.index.vectors(row)[0]
        asked = [i for i, r in enumerate(requests) if r.query and not faults[i]]
        if asked:
            queries = [requests[i].query for i in asked]
            result = self._embedder.embed(queries, progress=False)
            vectors[asked] = shorten(result.vectors, opened.index.dim)
            for j, reason in result.failures.items():
                faults[asked[j]] = UserError(f"the query cannot be read: {reason}")
        return faults, vectors, sources


def _best_rows(
    opened: Opened,
    corpus: Corpus,
    vectors: np.ndarray,
    ks: Sequence[int],
    sources: np.ndarray,
) -> list[list[tuple[float, int]]]:
    """(score, row) of the best row of each of a query's k best groups, best first.

    So many rows are sought that there are k groups among them: another group's best row
    comes after all of these.

    Args:
      vectors: float32 [n, dim], of the queries.
      ks: how many groups each wants.
      sources: int [n], a group that each leaves out, or -1.
    """
    chunk = max(128, _CHUNK_BYTES // (4 * vectors.shape[1]))
    size = max(_ROWS, 1 << (_ROWS_A_FILE * max(ks)).bit_length())
    while True:
        size = min(size, len(corpus.vectors))
        found = top_k(vectors, corpus.vectors, size, chunk)
        out, enough = [], True
        for scores, places, k, source in zip(*found, ks, sources, strict=True):
            rows = corpus.rows[places[places >= 0]]
            groups, first = np.unique(opened.group_of[rows], return_index=True)
            chosen = np.sort(first[groups != source])[:k]
            out.append(
                list(zip(scores[chosen].tolist(), rows[chosen].tolist(), strict=True))
            )
            enough &= len(chosen) == k or len(groups) == corpus.groups
        if enough or size == len(corpus.vectors):
            return out
        size *= 8


def _hit(
    opened: Opened,
    corpus: Corpus,
    vector: np.ndarray,
    rank: int,
    score: float,
    row: int,
    spans: int,
) -> Hit:
    items = opened.items_of(opened.group_of[row])
    items = items[corpus.passes[items]]
    copies = opened.copies(items)
    file, digest, duration = (copies.item[k] for k in ("file", "hash", "duration"))
    number = items[opened.rows[items] == row][0]
    start, end = opened.starts[number].item(), opened.ends[number].item()
    kind = "window"
    if copies.item["kind"] == "image":
        kind, start, end = "image", None, None
    elif math.isnan(start):
        kind, start, end = "video", 0.0, duration
    taken = [(start, end)] if kind == "window" else []
    return Hit(
        rank=rank,
        score=score,
        file=file,
        start=start,
        end=end,
        kind=kind,
        missing=copies.missing,
        id=item_id(row, digest),
        duration=duration,
        also=copies.also,
        spans=tuple(
            Span(item_id(row, digest), *rest)
            for row, *rest in _further(opened, vector, items, taken, spans)
        ),
    )


def _further(
    opened: Opened, vector: np.ndarray, items: np.ndarray, taken: list, count: int
) -> list[tuple[int, float, float, float]]:
    """(row, score, start, end) of a file's best windows among these items.

    They overlap neither each other nor the (start, end) of `taken`.
    """
    if not count:
        return []
    rows, first = np.unique(opened.rows[items], return_index=True)
    starts, ends = opened.starts[items[first]], opened.ends[items[first]]
    is_window = ~np.isnan(starts)
    scores = np.full(len(rows), -np.inf)
    scores[is_window] = opened.index.vectors(rows[is_window]) @ vector
    out, taken = [], list(taken)
    for i in np.argsort(-scores, kind="stable")[: is_window.sum()].tolist():
        if len(out) == count:
            break
        start, end = starts[i].item(), ends[i].item()
        if all(end <= a or b <= start for a, b in taken):
            taken.append((start, end))
            out.append((rows[i].item(), scores[i].item(), start, end))
    return out
