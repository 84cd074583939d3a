"""The datasets of UVRB as MTEB tasks, read from a local folder."""

import hashlib
import json
import os
import pathlib

from datasets import Dataset, Features, Image, Value, Video
from mteb.abstasks.retrieval import AbsTaskRetrieval
from mteb.abstasks.retrieval_dataset_loaders import RetrievalSplitData
from mteb.abstasks.task_metadata import TaskMetadata
from mteb.types import PromptType

from eval import uvrb
from eval.datasets import RetrievalSet
from gve_jax.types import Item, UserError

REFERENCE = "https://arxiv.org/abs/2510.27571"
CITATION = """@misc{guo2025universal,
  title = {Towards Universal Video Retrieval: Generalizing Video Embedding via
           Synthesized Multimodal Pyramid Curriculum},
  author = {Zhuoning Guo and Mingxin Li and Yanzhao Zhang and Dingkun Long and
            Pengjun Xie and Xiaowen Chu},
  year = {2025},
  eprint = {2510.27571},
  archivePrefix = {arXiv},
}"""

_CATEGORIES = {
    "text": "t2v",
    "image": "i2v",
    "video": "v2v",
    "text+image": "it2v",
    "text+video": "vt2v",
}
# MTEB's recall is the share of the positives that is found; UVRB's recall is 1 where
# any of them is, which MTEB calls hit rate.
_SCORES = {
    "recall@1": "hit_rate_at_1",
    "recall@10": "hit_rate_at_10",
    "precision@1": "precision_at_1",
}
_FEATURES = {"text": Value("string"), "image": Image(), "video": Video()}


class UVRBTask(AbsTaskRetrieval):
    """One dataset; `make_task` derives a class of it for each, as MTEB expects."""

    data: RetrievalSet

    def load_data(self, num_proc: int | None = None, **kwargs) -> None:
        """Fills `dataset`, for MTEB; media stay paths until a model reads them."""
        data = self.data
        ids = [item.id for item in data.corpus]

        def listed(lists) -> dict[str, list[str]]:
            return {
                query.id: [ids[row] for row in rows]
                for query, rows in zip(data.queries, lists, strict=True)
            }

        positives = listed(data.positives)
        split = RetrievalSplitData(
            corpus=_table(
                data.corpus, self.metadata.get_modalities(PromptType.document)
            ),
            queries=_table(
                data.queries, self.metadata.get_modalities(PromptType.query)
            ),
            relevant_docs={qid: dict.fromkeys(p, 1) for qid, p in positives.items()},
            top_ranked=listed(data.candidates) if data.candidates else None,
        )
        self.dataset = {"default": {"test": split}}
        self.data_loaded = True


def make_task(data: RetrievalSet) -> UVRBTask:
    """The MTEB task of a dataset that `eval.loaders` has read.

    Raises:
      UserError: it is none of the sixteen, whose facts are known; or MTEB could not
        score it as UVRB does, as media are missing or items hold other modalities than
        the facts say, which MTEB would drop.
    """
    if data.name not in uvrb.DATASETS:
        raise UserError(
            f"{data.name}: not a dataset of UVRB: evaluate it with python -m eval"
        )
    if data.missing:
        where, path = data.missing[0]
        raise UserError(
            f"{where}: no file {path} ({len(data.missing)} missing in {data.name}): "
            "MTEB cannot leave media out, so fetch it"
        )
    metadata = _metadata(data)
    for items, side in (
        (data.queries, PromptType.query),
        (data.corpus, PromptType.document),
    ):
        expected = metadata.get_modalities(side)
        for item in items:
            found = [name for name in _FEATURES if getattr(item, name)]
            if set(found) != set(expected):
                raise UserError(
                    f"{data.name}: {item.id!r} holds {' and '.join(found)}, and MTEB "
                    f"wants {' and '.join(expected)} in every {side} of this task: "
                    "evaluate the dataset with python -m eval"
                )
    return type(metadata.name, (UVRBTask,), {"metadata": metadata, "data": data})()


def _metadata(data: RetrievalSet) -> TaskMetadata:
    facts = data.facts
    return TaskMetadata(
        name=f"UVRB-{data.name}",
        description=f"{data.name} of UVRB, the universal video retrieval benchmark: "
        f"finds videos ({facts.group.replace('_', ' ')}) by {facts.query_modality}.",
        reference=REFERENCE,
        dataset={"path": "Alibaba-NLP/UVRB", "revision": _revision(data)},
        type="Any2AnyRetrieval",
        category=_CATEGORIES[facts.query_modality],
        modalities=sorted({"video", *facts.query_modality.split("+")}),
        eval_splits=["test"],
        eval_langs=["eng-Latn"],
        main_score=_SCORES[facts.metric],
        # From the oldest source, MSR-VTT, to the benchmark.
        date=("2016-01-01", "2025-10-31"),
        domains=["Web"],
        task_subtypes=["Cross-Modal Retrieval"],
        license="not specified"
        if facts.licence.startswith("unknown")
        else facts.licence.lower(),
        annotations_creators="derived",
        dialect=[],
        sample_creation="multiple",
        bibtex_citation=CITATION,
        # No "document": the corpus side has no instruction.
        prompt={"query": facts.instruction},
    )


def _revision(data: RetrievalSet) -> str:
    """40 hex digits of all that is scored: rows, relevance, names and sizes of media.

    MTEB writes it into the results, so that they say which data they are of.
    """

    def stated(item: Item) -> list:
        media = [path for path in (item.image, item.video) if path]
        sizes = [[pathlib.Path(p).name, os.path.getsize(p)] for p in media]
        return [item.id, item.text, item.instruction, sizes]

    rows = [
        [stated(item) for item in data.corpus],
        [stated(item) for item in data.queries],
        [rows.tolist() for rows in data.positives],
        data.candidates and [rows.tolist() for rows in data.candidates],
    ]
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()[:40]


def _table(items: tuple[Item, ...], modalities: list[str]) -> Dataset:
    return Dataset.from_dict(
        {"id": [item.id for item in items]}
        | {m: [getattr(item, m) for item in items] for m in modalities},
        Features({"id": Value("string")} | {m: _FEATURES[m] for m in modalities}),
    )
