"""The facts of UVRB: datasets, metrics, instructions, published scores.

Source: arXiv 2510.27571v1, tables 1, 4 and 5, kept in `uvrb.json` beside this file;
licences are those of the source datasets' own cards, where known.
"""

import json
import pathlib
from typing import NamedTuple


class Dataset(NamedTuple):
    """What is known of a dataset beside its rows; None where it is not known.

    Counts and durations of the benchmark's own are the published ones.
    """

    name: str
    query_modality: str  # "text", "text+image", "text+video", "image", "video"
    metric: str  # "recall@K" or "precision@1"
    instruction: str  # of the query; the corpus side has none
    group: str = "own"
    num_queries: int | None = None
    num_corpus: int | None = None  # of candidate sets: candidates of a query
    mean_duration_s: float | None = None
    mean_query_words: float | None = None
    licence: str = "unknown: see the source's card"


_FACTS = json.loads(
    pathlib.Path(__file__).with_name("uvrb.json").read_text(encoding="utf-8")
)
DATASETS: dict[str, Dataset] = {d["name"]: Dataset(**d) for d in _FACTS["datasets"]}
# {model: {"dataset_average": float, "datasets": {name: score}}}, scores in 0..1.
PUBLISHED: dict[str, dict] = _FACTS["published"]
PUBLISHED_ABILITIES: dict[str, dict[str, float]] = _FACTS["published_abilities"]
