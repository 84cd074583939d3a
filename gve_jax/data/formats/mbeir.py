"""M-BEIR: queries that name their candidates in a pool, both JSON lines.

A query has qid, query_txt, query_img_path, pos_cand_list, neg_cand_list and mostly
task_id; a candidate did, txt, img_path. Images are relative to the M-BEIR folder. The
first positive is the target; the negatives stay in their order.
"""

import pathlib
from collections.abc import Iterator

from gve_jax.data.formats import rows
from gve_jax.data.formats.rows import Corpus, Drop, Dropped
from gve_jax.types import Item, Pair

FILES = {
    "queries": "query/train/*.jsonl",
    "candidates": "cand_pool/global/mbeir_union_train_cand_pool.jsonl",
}


def read(
    corpus: Corpus,
    queries: list[pathlib.Path],
    candidates: list[pathlib.Path],
    task_id: int = -1,
) -> Iterator[Pair | Dropped]:
    """Whatever a query and its positive are made of, of one `task_id`; -1: of all."""

    def negatives(row: dict) -> list[str]:
        return _ids(row, "neg_cand_list")[: corpus.negatives]

    named = set()  # of the millions in the pool
    for _, row in rows.json_rows(corpus, queries):
        if isinstance(row, dict) and task_id in (-1, row.get("task_id", task_id)):
            named.update(_ids(row, "pos_cand_list")[:1], negatives(row))
    pool = {
        row["did"]: row
        for _, row in rows.json_rows(corpus, candidates)
        if isinstance(row, dict) and row.get("did") in named
    }

    def item(did: str) -> Item:
        if did not in pool:
            raise Drop("a candidate that is not in the pool")
        return _item(corpus, pool[did].get("txt"), pool[did].get("img_path"))

    def make(where: str, row: dict) -> Pair:
        if task_id not in (-1, row.get("task_id", task_id)):
            raise Drop("another task_id")
        positive = _ids(row, "pos_cand_list")
        if not positive:
            raise Drop("no pos_cand_list")
        return Pair(
            id=f"mbeir:{rows.name(row, 'qid')}",
            query=_item(corpus, row.get("query_txt"), row.get("query_img_path")),
            target=item(positive[0]),
            negatives=tuple(map(item, negatives(row))),
            source_id=f"mbeir:{positive[0]}",
        )

    yield from rows.pairs(rows.json_rows(corpus, queries), make)


def _ids(row: dict, name: str) -> list[str]:
    found = row.get(name)
    found = found if isinstance(found, list) else []
    return [x for x in found if isinstance(x, str)]


def _item(corpus: Corpus, text: str | None, image: str | None) -> Item:
    return Item("", text=text or None, image=corpus.path(image) if image else None)
