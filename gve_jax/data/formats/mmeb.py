"""MMEB-train: Parquet files of qry, qry_image_path, pos_text, pos_image_path and, in
some, neg_text and neg_image_path.

Images are relative to the folder. The placeholder of an image is taken out of the
texts, as the contract says where images stand; the task's sentence stays in the text.
"""

import pathlib
from collections.abc import Iterator

import pyarrow
import pyarrow.parquet as pq

from gve_jax.data.formats import rows
from gve_jax.data.formats.rows import Corpus, Drop, Dropped, Row
from gve_jax.types import Item, Pair

FILES = {"subset": "*/original-*.parquet"}
_PLACEHOLDER = "<|image_1|>"
_COLUMNS = ("qry", "qry_image_path", "pos_text", "pos_image_path")
_NEGATIVE = ("neg_text", "neg_image_path")


def read(corpus: Corpus, subset: list[pathlib.Path]) -> Iterator[Pair | Dropped]:
    """Whatever a row's sides are made of."""

    def item(row: dict, text: str, image: str) -> Item:
        words = (row.get(text) or "").replace(_PLACEHOLDER, "").strip()
        path = row.get(image) or ""
        return Item("", text=words or None, image=corpus.path(path) if path else None)

    def make(where: str, row: dict) -> Pair:
        target = item(row, *_COLUMNS[2:])
        negative = item(row, *_NEGATIVE)
        path, number = where.rsplit(":", 1)
        return Pair(
            id=f"mmeb:{pathlib.Path(path).parent.name}:{rows.stem(path)}:{number}",
            query=item(row, *_COLUMNS[:2]),
            target=target,
            negatives=(negative,) if negative.text or negative.image else (),
            # Labels and answers are targets of many rows: what the query shows counts.
            source_id=row.get("qry_image_path") or row.get("pos_image_path") or None,
        )

    return rows.pairs(_rows(corpus, subset), make)


def _rows(corpus: Corpus, paths: list[pathlib.Path]) -> Iterator[Row]:
    for path in paths:
        try:
            with corpus.open(path) as f, pq.ParquetFile(f) as file:
                columns = set(file.schema_arrow.names)
                missing = [c for c in _COLUMNS if c not in columns]
                if missing:
                    yield f"{path}:0", Drop(f"no column {missing[0]} in the file")
                    continue
                chosen = [c for c in _COLUMNS + _NEGATIVE if c in columns]
                number = 0
                for batch in file.iter_batches(4096, columns=chosen):
                    for row in batch.to_pylist():
                        number += 1
                        yield f"{path}:{number}", row
        except pyarrow.ArrowException:
            yield f"{path}:0", Drop("no Parquet file")
