"""VAST: JSON objects with clip_id (or id) and vision_cap, a list of captions.

As lines or as one list; videos at videos/CLIP_ID.mp4. One caption of each clip is
taken at random, as the paper does.
"""

import pathlib
import random
from collections.abc import Iterator

from gve_jax.data.formats import rows
from gve_jax.data.formats.rows import Corpus, Drop, Dropped
from gve_jax.types import Item, Pair

FILES = {"annotations": "*.json*"}


def read(
    corpus: Corpus,
    annotations: list[pathlib.Path],
    video: str = "videos/{clip_id}.mp4",
    seed: int = 42,
) -> Iterator[Pair | Dropped]:
    """Text to video. `video` names a row's file by its fields; `seed` draws."""

    def make(where: str, row: dict) -> Pair:
        id = rows.name(row, "clip_id", "id")
        captions = row.get("vision_cap")
        captions = captions if isinstance(captions, list) else [captions]
        captions = [c.strip() for c in captions if isinstance(c, str) and c.strip()]
        if not captions:
            raise Drop("no vision_cap")
        path = corpus.path(rows.fill(video, {**row, "clip_id": id}))
        return Pair(
            id=f"vast:{id}",
            query=Item("", text=random.Random(f"{seed} {id}").choice(captions)),
            target=Item("", video=path),
            source_id=f"vast:{id}",
        )

    return rows.pairs(rows.json_rows(corpus, annotations), make)
