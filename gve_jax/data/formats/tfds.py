"""A data set that TFDS built with `file_format="array_record"`.

Its text features hold texts and the paths of images and videos, relative to the
folder; options say which feature is what. (TFDS's own features of images and videos
need TensorFlow.)
"""

import pathlib
from collections.abc import Iterator

from gve_jax.data.formats import rows
from gve_jax.data.formats.rows import Corpus, Drop, Dropped, Row
from gve_jax.types import Item, Pair, UserError

FILES = {"records": "*.array_record*"}


def read(
    corpus: Corpus,
    records: list[pathlib.Path],
    split: str = "train",
    query_text: str = "",
    query_image: str = "",
    query_video: str = "",
    target_text: str = "",
    target_image: str = "",
    target_video: str = "",
    source_id: str = "",
) -> Iterator[Pair | Dropped]:
    """Pairs of the features that are named."""
    query = {"text": query_text, "image": query_image, "video": query_video}
    target = {"text": target_text, "image": target_image, "video": target_video}
    if not any(query.values()) or not any(target.values()):
        raise UserError(
            f"{corpus.folder}: a tfds corpus needs names of features: give it "
            "query_text, target_video and so on"
        )

    def item(row: dict, features: dict[str, str]) -> Item:
        values = {kind: _text(row, name) for kind, name in features.items() if name}
        for kind in ("image", "video"):
            if values.get(kind):
                values[kind] = corpus.path(values[kind])
        return Item("", **values)

    def make(where: str, row: dict) -> Pair:
        return Pair(
            id=f"tfds:{corpus.folder.name}:{where.rsplit(':', 1)[1]}",
            query=item(row, query),
            target=item(row, target),
            source_id=_text(row, source_id) if source_id else None,
        )

    return rows.pairs(_rows(corpus, records, split), make)


def _rows(corpus: Corpus, records: list[pathlib.Path], split: str) -> Iterator[Row]:
    import tensorflow_datasets as tfds  # takes seconds

    folder = records[0].parent
    try:
        source = tfds.builder_from_directory(folder).as_data_source(split=split)
    except Exception as e:  # of many kinds, where the folder is none of TFDS's
        reason = str(e).strip().splitlines()[0]
        raise UserError(f"{folder}: no split {split!r} of TFDS here ({reason})") from e
    size = sum(path.stat().st_size for path in records) // max(1, len(source))
    for i in range(len(source)):
        corpus.on_read(size)
        yield f"{folder}:{i}", source[i]


def _text(row: dict, feature: str) -> str | None:
    value = row.get(feature)
    if not isinstance(value, bytes | str):
        raise Drop(f"no text feature {feature}")
    return (value.decode() if isinstance(value, bytes) else value) or None
