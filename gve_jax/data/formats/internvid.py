"""InternVid-FLT: JSON lines of YoutubeID, Start_timestamp, End_timestamp, Caption,
UMT_Score and Aesthetic_Score.

No videos come with it. The default names whole videos, of which a clip is cut when it
is read: videos/YOUTUBEID.mp4. Clips that were cut beforehand: `video` may use any field
of a row, and `whole` is False.
"""

import pathlib
from collections.abc import Iterator

from gve_jax.data.formats import rows
from gve_jax.data.formats.rows import Corpus, Drop, Dropped
from gve_jax.types import Item, Pair

FILES = {"clips": "*.jsonl"}


def read(
    corpus: Corpus,
    clips: list[pathlib.Path],
    video: str = "videos/{YoutubeID}.mp4",
    whole: bool = True,
    min_umt: float = 0.0,
    min_aesthetic: float = 0.0,
) -> Iterator[Pair | Dropped]:
    """Text to video, of rows that score enough; 0: any score, or none, will do."""

    def make(where: str, row: dict) -> Pair:
        caption, id = rows.text(row, "Caption"), rows.name(row, "YoutubeID")
        start, end = (
            rows.seconds(row, key) for key in ("Start_timestamp", "End_timestamp")
        )
        if end <= start:
            raise Drop("an end that is not after its start")
        for least, key in ((min_umt, "UMT_Score"), (min_aesthetic, "Aesthetic_Score")):
            if least and rows.number(row, key) < least:
                raise Drop(f"a {key} below the least")
        target = Item("", video=corpus.path(rows.fill(video, row)))
        if whole:
            target = target._replace(start=start, end=end)
        return Pair(
            id=f"internvid:{id}:{start:.3f}-{end:.3f}",
            query=Item("", text=caption),
            target=target,
            source_id=f"youtube:{id}",  # clips of one video never repel each other
        )

    return rows.pairs(rows.json_rows(corpus, clips), make)
