"""The facts of UVRB: datasets, metrics, instructions, published scores.

Source: arXiv 2510.27571v1, tables 1, 4 and 5, kept in `uvrb.json` beside this file.
"""

import json
import pathlib
from typing import NamedTuple


class Dataset(NamedTuple):
    """One dataset of the benchmark; counts and durations are the published ones."""

    name: str
    query_modality: str  # "text", "text+image", "text+video", "image", "video"
    group: str
    num_queries: int
    num_corpus: int
    mean_duration_s: float
    mean_query_words: float | None
    metric: str  # "recall@1", "recall@10" or "precision@1"
    instruction: str  # of the query; the corpus side has none


_FACTS = json.loads(
    pathlib.Path(__file__).with_name("uvrb.json").read_text(encoding="utf-8")
)
DATASETS: dict[str, Dataset] = {d["name"]: Dataset(**d) for d in _FACTS["datasets"]}
# {model: {"dataset_average": float, "datasets": {name: score}}}, scores in 0..1.
PUBLISHED: dict[str, dict] = _FACTS["published"]
PUBLISHED_ABILITIES: dict[str, dict[str, float]] = _FACTS["published_abilities"]
