"""MS MARCO as Tevatron packs it: JSON lines of query_id, query, positive_passages and
negative_passages, each a list of {docid, title, text}.

The first positive is the target; the negatives stay in their order.
"""

import pathlib
from collections.abc import Iterator

from gve_jax.data.formats import rows
from gve_jax.data.formats.rows import Corpus, Drop, Dropped
from gve_jax.types import Item, Pair

FILES = {"queries": "*.jsonl*"}


def read(corpus: Corpus, queries: list[pathlib.Path]) -> Iterator[Pair | Dropped]:
    """Text to text."""

    def make(where: str, row: dict) -> Pair:
        positive = _passages(row, "positive_passages")
        if not positive:
            raise Drop("no positive_passages")
        id = rows.name(row, "query_id")
        return Pair(
            id=f"msmarco:{id}",
            query=Item("", text=rows.text(row, "query")),
            target=_item(positive[0]),
            negatives=tuple(map(_item, _passages(row, "negative_passages"))),
            source_id=f"passage:{rows.name(positive[0], 'docid')}",
        )

    return rows.pairs(rows.json_rows(corpus, queries), make)


def _passages(row: dict, name: str) -> list[dict]:
    found = row.get(name) or []
    if not isinstance(found, list) or not all(isinstance(p, dict) for p in found):
        raise Drop(f"{name} is no list of passages")
    return found


def _item(passage: dict) -> Item:
    title = passage.get("title")
    text = rows.text(passage, "text")
    return Item("", text=f"{title.strip()} {text}" if title else text)
