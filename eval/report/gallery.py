"""Right and wrong answers with frame strips: what the scores look like."""

import base64
import io
from typing import NamedTuple

import numpy as np
from PIL import Image

from eval.datasets import RetrievalSet
from eval.protocol import Outcome
from gve_jax import media
from gve_jax.types import Item, UserError

# Of a strip, in pixels: 8 frames of 16:9 then fill the page's width.
_FRAME_HEIGHT = 64
_FRAME_WIDTH = 114
_FRAMES = 8
_ANSWERS = 3
_TEXT = 420  # characters of a query shown


class Answer(NamedTuple):
    """A corpus item shown under a query; `score` is None below the answers kept."""

    id: str
    rank: int | None
    score: float | None
    correct: bool
    strip: str  # data URI, empty if there are no media or they cannot be shown
    text: str


class Example(NamedTuple):
    """A query with its best answers, and the true one where it is not among them."""

    id: str
    text: str
    kind: str  # "image", "clip" or empty: what the strip of the query is
    strip: str
    rank: int | None
    num_items: int
    answers: list[Answer]

    def to_json(self) -> dict:
        """Values for JSON, with the names of the fields."""
        return self._asdict() | {"answers": [a._asdict() for a in self.answers]}


class Strips:
    """Frame strips as JPEG data URIs; each file is decoded once."""

    def __init__(self):
        self._made: dict[tuple, str] = {}

    def __call__(self, item: Item) -> str:
        key = (item.image, item.video, item.start, item.end)
        if key not in self._made:
            self._made[key] = self._make(item)
        return self._made[key]

    def _make(self, item: Item) -> str:
        try:
            if item.image:
                frames = [media.read_image(item.image)]
            elif item.video:
                frames = media.read_video(
                    item.video, _FRAMES, item.start, item.end
                ).pixels
            else:
                return ""
        except (UserError, OSError):
            return ""  # it is counted and listed among the missing
        h, w = frames[0].shape[:2]
        scale = min(_FRAME_HEIGHT / h, _FRAME_WIDTH / w)
        size = (max(1, round(w * scale)), max(1, round(h * scale)))
        strip = Image.new("RGB", ((size[0] + 2) * len(frames) - 2, size[1]), "white")
        for i, frame in enumerate(frames):
            small = Image.fromarray(frame).resize(size, Image.Resampling.BOX)
            strip.paste(small, (i * (size[0] + 2), 0))
        out = io.BytesIO()
        strip.save(out, "JPEG", quality=60)
        return f"data:image/jpeg;base64,{base64.b64encode(out.getvalue()).decode()}"


def examples(
    data: RetrievalSet, outcome: Outcome, count: int, strips: Strips
) -> tuple[list[Example], list[Example]]:
    """Up to `count` right and `count` wrong queries, evenly spread over the dataset.

    Right is what the dataset's metric counts: the true video first, or among ten.
    """
    cutoff = int(data.facts.metric.rpartition("@")[2])
    right = outcome.ranking.ranks <= cutoff
    return tuple(
        [_example(data, outcome, int(i), strips) for i in _spread(rows, count)]
        for rows in (np.flatnonzero(right), np.flatnonzero(~right))
    )


def _spread(rows: np.ndarray, count: int) -> np.ndarray:
    if not len(rows) or count < 1:
        return rows[:0]
    return rows[np.unique(np.linspace(0, len(rows) - 1, count).astype(int))]


def _example(data, outcome, i: int, strips: Strips) -> Example:
    query, found = data.queries[i], outcome.ranking
    relevant = set(data.positives[i].tolist())
    rank = int(found.ranks[i]) if np.isfinite(found.ranks[i]) else None
    answers = [
        Answer(
            data.corpus[row].id,
            place + 1,
            float(found.scores[i, place]),
            row in relevant,
            strips(data.corpus[row]),
            shortened(data.corpus[row].text or ""),
        )
        for place, row in enumerate(found.indices[i, :_ANSWERS].tolist())
        if row >= 0
    ]
    if not any(a.correct for a in answers):
        kept = [r for r in found.indices[i].tolist() if r in relevant]
        row = kept[0] if kept else min(relevant)
        score = float(found.scores[i, rank - 1]) if kept else None
        truth = data.corpus[row]
        # Of several true videos the nearest is ranked; only if it is shown, say so.
        shown = rank if kept or len(relevant) == 1 else None
        text = shortened(truth.text or "")
        answers.append(Answer(truth.id, shown, score, True, strips(truth), text))
    kind = "image" if query.image else "clip" if query.video else ""
    return Example(
        query.id,
        shortened(query.text or ""),
        kind,
        strips(query) if kind else "",
        rank,
        len(data.corpus if data.candidates is None else data.candidates[i]),
        answers,
    )


def shortened(text: str) -> str:
    """What of a query is shown."""
    return text if len(text) <= _TEXT else f"{text[:_TEXT].rstrip()} …"
