"""CC3M and its like: lines of CAPTION<TAB>URL, a header or none, and image files.

Row r, from 0, lies at images/SHARD/ROW.jpg, where SHARD is r // 10000 in five digits
and ROW is r in nine: so img2dataset names what it downloads from such a list.
"""

import pathlib
from collections.abc import Iterator

from gve_jax.data.formats import rows
from gve_jax.data.formats.rows import Corpus, Drop, Dropped, Row
from gve_jax.types import Item, Pair

FILES = {"captions": "*.tsv"}


def read(
    corpus: Corpus,
    captions: list[pathlib.Path],
    image: str = "images/{shard:05d}/{row:09d}.jpg",
) -> Iterator[Pair | Dropped]:
    """Text to image. `image` names a row's file; {file} is its list's name."""

    def make(where: str, row: dict) -> Pair:
        path = corpus.path(rows.fill(image, row))
        name = f"{corpus.folder.name}:{row['file']}:{row['row']}"
        return Pair(
            id=name,
            query=Item("", text=rows.text(row, "caption")),
            target=Item("", image=path),
            source_id=name,
        )

    return rows.pairs(_rows(corpus, captions), make)


def _rows(corpus: Corpus, paths: list[pathlib.Path]) -> Iterator[Row]:
    for path in paths:
        with corpus.open(path) as f:
            row = 0
            for line, data in enumerate(f, 1):
                fields = data.decode("utf-8", "replace").rstrip("\r\n").split("\t")
                if line == 1 and fields[1:2] == ["url"]:
                    continue
                if len(fields) == 2:
                    yield (
                        f"{path}:{line}",
                        {
                            "caption": fields[0],
                            "file": rows.stem(path.name),
                            "row": row,
                            "shard": row // 10000,
                        },
                    )
                else:
                    yield f"{path}:{line}", Drop("not two fields, a tab between them")
                row += 1
