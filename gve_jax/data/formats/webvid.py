"""WebVid: CSV files of videoid, contentUrl, duration, page_dir and name, the caption.

Videos lie at videos/PAGE_DIR/VIDEOID.mp4. A caption that several videos share, such as
a photographer's title of a series, tells none of them from the others: all of its rows
are dropped, as the paper does.
"""

import pathlib
from collections.abc import Iterator

import numpy as np

from gve_jax.data.formats import rows
from gve_jax.data.formats.rows import Corpus, Drop, Dropped
from gve_jax.data.sources import hash_text
from gve_jax.types import Item, Pair

FILES = {"captions": "data/train/partitions/*.csv"}
PASSES = 2  # the first one counts captions


def read(
    corpus: Corpus,
    captions: list[pathlib.Path],
    video: str = "videos/{page_dir}/{videoid}.mp4",
) -> Iterator[Pair | Dropped]:
    """Text to video. `video` names a row's file by its fields."""
    shared = _shared(corpus, captions)

    def make(where: str, row: dict) -> Pair:
        caption, id = rows.text(row, "name"), rows.name(row, "videoid")
        rows.text(row, "page_dir")
        if _caption(caption) in shared:
            raise Drop("a caption shared by several videos")
        path = corpus.path(rows.fill(video, row))
        return Pair(
            id=f"webvid:{id}",
            query=Item("", text=caption),
            target=Item("", video=path),
            source_id=f"webvid:{id}",
        )

    yield from rows.pairs(rows.csv_rows(corpus, captions, "videoid"), make)


def _caption(text: str) -> int:
    """Its hash, whatever its case and spaces."""
    return hash_text(" ".join(text.lower().split()))


def _shared(corpus: Corpus, captions: list[pathlib.Path]) -> set[int]:
    """Hashes of the captions that more than one video has."""

    def make(where: str, row: dict) -> tuple[int, int]:
        return _caption(rows.text(row, "name")), hash_text(rows.name(row, "videoid"))

    found = rows.pairs(rows.csv_rows(corpus, captions, "videoid"), make)
    known = np.fromiter(
        (pair for pair in found if not isinstance(pair, Dropped)),
        np.dtype((np.uint64, 2)),
    )
    caption, video = known[np.lexsort((known[:, 1], known[:, 0]))].T
    # The files may list one video several times.
    other = (caption[1:] == caption[:-1]) & (video[1:] != video[:-1])
    return set(caption[1:][other].tolist())
