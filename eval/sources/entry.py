"""The declaration of a dataset: what its queries and corpus are made of."""

import dataclasses
import itertools
import re
from collections.abc import Callable, Iterator
from typing import NamedTuple

from eval import uvrb
from eval.sources.release import Release

_FIELD = re.compile(r"\{([^{}]+)\}")
Rows = Iterator[tuple[str, dict]]  # where a row is, for messages, and its columns


@dataclasses.dataclass(frozen=True)
class Side:
    """Templates over the columns of a row, one for each part of an item.

    "{a}" is column a, "{a.b}" column b of the object a, "{a|b}" the first of the two
    that is not empty. A list gives an item for each of its elements. Where a column is
    empty, a row gives no item of this side.

    Attributes:
      text: the words.
      image: an image, by the end of its path in the release.
      video: a video, likewise.
      frame: a video of which one frame, drawn at random, is the image.
    """

    text: str = ""
    image: str = ""
    video: str = ""
    frame: str = ""

    def parts(self) -> dict[str, str]:
        """The templates that are given."""
        return {k: v for k, v in dataclasses.asdict(self).items() if v}

    def items(self, row: dict) -> list[dict[str, str]]:
        """The items of a row: {part: its value}."""
        parts = self.parts()
        filled = itertools.product(*(_fill(v, row) for v in parts.values()))
        return [dict(zip(parts, values, strict=True)) for values in filled]

    @property
    def modality(self) -> str:
        """As `uvrb.Dataset.query_modality`."""
        kinds = ["image" if part == "frame" else part for part in self.parts()]
        return "+".join(kinds)


@dataclasses.dataclass(frozen=True)
class Entry:
    """One dataset of a source. A variant is `dataclasses.replace(entry, ...)`.

    Attributes:
      facts: name, metric, instruction, licence and the counts that are expected.
      rows: reads the release.
      query: the query side. A query's positives are the corpus items of its rows.
      corpus: the corpus side; equal items are one.
      negatives: corpus items against which alone a row's query competes, beside its
        positives; None: the whole corpus.
      merge: queries that are equal are one, which several rows answer.
      note: why counts may differ from those expected.
    """

    facts: uvrb.Dataset
    rows: Callable[[Release], Rows]
    query: Side
    corpus: Side = Side(video="{video}")
    negatives: Side | None = None
    merge: bool = False
    note: str = ""

    @property
    def name(self) -> str:
        return self.facts.name


class Source(NamedTuple):
    """What one release holds."""

    title: str  # begins the ids
    get: str  # where it is to be had, in words
    entries: tuple[Entry, ...]
    lacks: tuple[tuple[str, str], ...] = ()  # datasets it cannot give, and why


def _fill(template: str, row: dict) -> list[str]:
    # Literals and, between them, names of columns.
    parts = _FIELD.split(template)
    choices = [
        _column(row, part.split("|")) if i % 2 else [part]
        for i, part in enumerate(parts)
    ]
    return ["".join(values) for values in itertools.product(*choices)]


def _column(row: dict, names: list[str]) -> list[str]:
    for name in names:
        value = row
        for key in name.split("."):
            value = value.get(key) if isinstance(value, dict) else None
        values = value if isinstance(value, list) else [value]
        texts = [
            str(v)
            for v in values
            # NaN, of tables that pandas wrote, is not equal to itself.
            if v is not None and v == v and not isinstance(v, dict | list)
        ]
        if texts := [t for t in texts if t.strip()]:
            return texts
    return []
