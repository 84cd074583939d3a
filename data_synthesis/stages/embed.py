"""`embed`: vectors of texts and videos, and how well they match.

Only records that the filters of text and video would keep are embedded. Scores:
"match.video", the cosine of the text and the whole video, and "match.frames", the
largest with one of a few single frames. Vectors go to a table of their own, `vectors`.
"""

import dataclasses
import functools
import heapq
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import pyarrow.parquet as pq

from data_synthesis import draws, pipelines, shards
from data_synthesis.calibration import calibrated
from data_synthesis.embedding import Client, fingerprint
from data_synthesis.record import Record, Score, batched, read_table
from data_synthesis.run import Run, Stage, key
from data_synthesis.searching import cosine
from data_synthesis.shards import Key, Layout
from data_synthesis.stages.ingest import video_path
from data_synthesis.thresholds import unfit
from gve_jax.disk import write_json
from gve_jax.types import Item

STAGE = Stage(
    "embed",
    ("groups",),
    # The thresholds, because they say what is embedded.
    ("text", "media", "motion", "consistency.embedder", "consistency.frames"),
    version=2,
)
_SCORES = ("match.video", "match.frames")


@dataclasses.dataclass(frozen=True)
class Vector:
    """`role`: "text" (rectified), "video" ...; `data`: float32, of length one."""

    id: str
    role: str
    data: bytes

    @property
    def array(self) -> np.ndarray:
        return np.frombuffer(self.data, np.float32)


class Match(NamedTuple):
    """Of a record: unit vectors, float32 [d], and their cosines by `_SCORES`."""

    text: np.ndarray
    video: np.ndarray
    scores: dict[str, Score]


def work(run: Run) -> pipelines.Work:
    model = {"embedder": fingerprint(run.config.consistency.embedder)}
    keys = tuple(
        key(run, STAGE, shards.input_hashes(run.layout, shard, STAGE.inputs) | model)
        for shard in range(run.layout.shards)
    )
    work = functools.partial(_shard, run)
    return pipelines.Work(run.layout, keys, work, beside=("vectors",))


def _shard(run: Run, layout: Layout, key: Key, shard: int) -> None:
    config = run.config.consistency
    made = {"embedder": key.inputs["embedder"], "frames": config.frames}
    # Before anything is written over it.
    known = _known(layout, shard, made)

    def process(rows: Iterator[Record]) -> Iterator[Record]:
        records = list(rows)  # one shard, without its media
        fit = [r for r in records if config.embedder and not unfit(r, run.config)]
        found = {r.id: known[_content(r)] for r in fit if _content(r) in known}
        if new := [r for r in fit if r.id not in found]:
            client = Client.shared(f"--checkpoint={config.embedder}")
            model = client.contract["weights_hash"]
            found |= match(run, new, client.embed, model)
        vectors = []
        for record in records:
            matched = found.get(record.id)
            if isinstance(matched, str):
                record = record.leave("error", STAGE.name, "embedding", detail=matched)
            elif matched is not None:
                vectors.append(Vector(record.id, "text", matched.text.tobytes()))
                vectors.append(Vector(record.id, "video", matched.video.tobytes()))
                scores = record.scores | matched.scores
                record = dataclasses.replace(record, scores=scores)
            yield record
        # Before the records' manifest, which says that the shard is whole.
        beside = key._replace(stage="vectors")
        shards.write_shard(layout, beside, shard, vectors, Vector, extra=lambda: made)

    shards.map_shard(layout, key, shard, "groups", process, extra=lambda: made)


def _known(layout: Layout, shard: int, made: dict) -> dict[tuple, Match]:
    """What the shard held before it is made anew, by content.

    So another threshold only embeds what it lets in. Both tables must be of this model,
    as one may have been renewed without the other.
    """
    there = [shards.whole(layout, stage, shard) for stage in ("embed", "vectors")]
    if any(found.get("extra") != made for found in there):
        return {}
    vectors = {name: rest for name, *rest in read_vectors(layout, shard)}
    return {
        _content(record): Match(*vectors[record.id], scores)
        for record in read_table(layout.table("embed", shard), Record)
        if record.id in vectors
        and (scores := {n: s for n, s in record.scores.items() if n in _SCORES})
    }


def _content(record: Record) -> tuple:
    """All of a record that is embedded; its id follows from the source file."""
    mended = [medium.sha256 for medium in record.media if medium.role == "video"]
    return record.id, record.text.rectified, *mended


def match(run: Run, records: list[Record], embed, model: str) -> dict[str, Match | str]:
    """Id -> how text and video of each record match, or why they cannot be embedded.

    Args:
      embed: items -> `embedding.Embedded`.
      model: its id, for the scores.
    """
    config, result = run.config.consistency, {}
    for batch in batched(records, config.batch):
        items = [item for r in batch for item in _items(run, r, config.frames)]
        embedded = embed(items)
        size = len(items) // len(batch)
        for place, record in enumerate(batch):
            rows = range(size * place, size * (place + 1))
            failed = [embedded.failures[r] for r in rows if r in embedded.failures]
            if failed:
                result[record.id] = failed[0]
                continue
            text, video, *frames = embedded.vectors[rows]
            cosines = [cosine(text, video)]
            if frames:
                cosines.append(max(cosine(text, frame) for frame in frames))
            scores = {
                name: Score(value, model)
                for name, value in zip(_SCORES, cosines, strict=False)
            }
            result[record.id] = Match(text, video, scores)
    return result


def _items(run: Run, record: Record, frames: int) -> Iterator[Item]:
    path = video_path(run, record)
    yield Item("text", text=record.text.rectified)
    yield Item("video", video=path)
    duration = record.source.duration
    for number in range(frames):
        # A cut in which no frame begins holds the one on show.
        start = duration * (number + 0.5) / frames
        yield Item("frame", video=path, start=start, end=start + 1e-3)


def read_vectors(
    layout: Layout, shard: int
) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """(id, text, video) of the embedded records of a shard, in the order of their ids.

    Vectors are float32 [d]. Plain columns: checking each row takes far longer.
    """
    shards.manifest(layout, "vectors", shard)  # or it is not finished
    table = pq.read_table(layout.table("vectors", shard), columns=["id", "data"])
    data = [np.frombuffer(d, np.float32) for d in table["data"].to_pylist()]
    # By id, then by role: text, video.
    return zip(table["id"].to_pylist()[::2], data[::2], data[1::2], strict=True)


def calibrate(run: Run) -> dict:
    """Writes and returns OUT/embed/calibration.json.

    Of up to `consistency.pairs` seeded records: the AUROC of their own texts' cosines
    against those with the next record's video, and as threshold a percentile of the
    latter. With an AUROC under `min_auroc`, or under 50 pairs, `filter` is false: such
    an embedder says nothing, and drops nothing.
    """
    config, seed = run.config.consistency, run.config.seed
    result = {"filter": False, "why": "no embedder (config.consistency.embedder)"}
    if config.embedder:
        rows = (
            (draws.uniform(seed, name, "calibration"), name, text, video)
            for shard in range(run.layout.shards)
            for name, text, video in read_vectors(run.layout, shard)
        )
        chosen = heapq.nsmallest(config.pairs, rows, key=lambda row: row[:2])
        texts, videos = (np.array([row[i] for row in chosen]) for i in (2, 3))
        result = calibration(texts, videos, config)
    write_json(run.layout.root / "embed" / "calibration.json", result)
    return result


def calibration(texts: np.ndarray, videos: np.ndarray, config) -> dict:
    """`calibrated` with the video of each row, float32 [n, d], and the one before."""
    pairs = zip(texts, videos, np.roll(videos, 1, 0), strict=True)
    cosines = [(cosine(text, own), cosine(text, other)) for text, own, other in pairs]
    table = np.array(cosines).reshape(-1, 2)
    return calibrated(table[:, 0], table[:, 1], config)
