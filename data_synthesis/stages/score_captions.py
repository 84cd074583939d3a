"""`score_captions`: how well each caption matches what it is of, under the embedder.

`Caption.score` is its cosine with the video or still. That with another record's goes
to a table of its own, `caption_scores`, which `select` settles thresholds from.
"""

import dataclasses
import functools
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from data_synthesis import pipelines, shards
from data_synthesis.embedding import Client, fingerprint
from data_synthesis.record import CaptionSet, Record, batched, read_table
from data_synthesis.run import Run, Stage, key
from data_synthesis.searching import cosine
from data_synthesis.shards import Key, Layout
from data_synthesis.stages.embed import Vector
from gve_jax.types import Item

STAGE = Stage(
    "score_captions",
    ("caption", "vectors"),
    ("consistency.embedder", "caption.consistency"),
)


@dataclasses.dataclass(frozen=True)
class CaptionScore:
    """`kind`: "video" or "frame", and the style, as "video.2"; `own` is the cosine with
    what the caption is of, `other` that with another record's."""

    id: str
    media: str
    kind: str
    own: float
    other: float


class Shown(NamedTuple):
    """A video or still that has captions, and its vector (NaN if unreadable)."""

    id: str  # of the record
    media: str
    vector: np.ndarray


def work(run: Run) -> pipelines.Work:
    model = {"embedder": fingerprint(run.config.consistency.embedder)}
    keys = tuple(
        key(run, STAGE, shards.input_hashes(run.layout, shard, STAGE.inputs) | model)
        for shard in range(run.layout.shards)
    )
    work = functools.partial(_shard, run)
    return pipelines.Work(run.layout, keys, work, beside=("caption_scores",))


def _shard(run: Run, layout: Layout, key: Key, shard: int) -> None:
    config, rows = run.config, []
    embed = None
    if config.consistency.embedder and config.caption.consistency:
        client = Client.shared(f"--checkpoint={config.consistency.embedder}")
        embed = client.embed
    videos = {
        vector.id: vector.array
        for vector in read_table(layout.table("vectors", shard), Vector)
        if vector.role == "video"
    }

    def process(records: Iterator[Record]) -> Iterator[Record]:
        if embed is None:
            yield from records
        else:
            size = config.consistency.batch
            scored, found = score(list(records), videos, run, embed, size)
            rows.extend(found)
            yield from scored
        # Before the records' manifest, which says that the shard is whole.
        beside = key._replace(stage="caption_scores")
        shards.write_shard(layout, beside, shard, rows, CaptionScore)

    shards.map_shard(layout, key, shard, "caption", process)


def score(
    records: list[Record], videos: dict[str, np.ndarray], run: Run, embed, size: int
) -> tuple[list[Record], list[CaptionScore]]:
    """Records with the scores of all their captions, and the table's rows.

    A caption that cannot be embedded, whose medium cannot be, or that has none beside
    it to compare with, keeps None, which no threshold is applied to.

    Args:
      records: of one shard, in the order of their ids.
      videos: id -> unit vector of the whole video.
      embed: items -> `embedding.Embedded`.
      size: items that are embedded at once.
    """
    shown = {"video": [], "frame": []}
    for record in records:
        if record.id in videos and record.caption_sets:
            shown["video"].append(Shown(record.id, "", videos[record.id]))
    stills = [
        (record.id, medium.sha256, str(run.layout.root / medium.path))
        for record in records
        for medium in record.media
        if medium.role == "frame"
        and any(s.media == medium.sha256 for s in record.caption_sets)
    ]
    for batch in batched(stills, size):
        vectors = embed([Item("", image=path) for _, _, path in batch]).vectors
        shown["frame"] += map(
            Shown, *zip(*(b[:2] for b in batch), strict=True), vectors
        )
    pairs = {}
    for kind, media in shown.items():
        for place, own in enumerate(media):
            other = _other(media, place)
            if other is not None and not np.isnan(own.vector[0] + other.vector[0]):
                pairs[own.id, own.media] = (kind, own.vector, other.vector)

    scored, rows = [], []
    for batch in batched(records, max(1, size // 8)):
        texts = [
            (record.id, found.media, caption.style, caption.text)
            for record in batch
            for found in record.caption_sets
            if (record.id, found.media) in pairs
            for caption in found.captions
        ]
        items = [Item("", text=text) for *_, text in texts]
        vectors = embed(items).vectors if items else ()
        values = {}
        for (name, media, style, _), vector in zip(texts, vectors, strict=True):
            if np.isnan(vector[0]):
                continue
            kind, own, other = pairs[name, media]
            value = values[name, media, style] = cosine(vector, own)
            beside = cosine(vector, other)
            rows.append(CaptionScore(name, media, f"{kind}.{style}", value, beside))
        scored += [
            dataclasses.replace(
                record,
                caption_sets=tuple(
                    _filled(record.id, s, values) for s in record.caption_sets
                ),
            )
            for record in batch
        ]
    return scored, sorted(rows, key=lambda row: (row.id, row.media, row.kind))


def _other(media: list[Shown], place: int) -> Shown | None:
    """The next of another record, in a circle."""
    for step in range(1, len(media)):
        found = media[(place + step) % len(media)]
        if found.id != media[place].id:
            return found
    return None


def _filled(name: str, found: CaptionSet, values: dict) -> CaptionSet:
    captions = tuple(
        dataclasses.replace(c, score=values.get((name, found.media, c.style)))
        for c in found.captions
    )
    return dataclasses.replace(found, captions=captions)
