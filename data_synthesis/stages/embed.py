"""`embed`: vectors of texts and videos, and how well they match.

Only records that the filters of text and video would keep are embedded. Scores:
"match.video", the cosine of the text and the whole video, and "match.frames", the
largest with one of a few single frames. Vectors go to a table of their own, `vectors`.
"""

import dataclasses
import functools
from collections.abc import Iterator

import numpy as np

from data_synthesis import draws, pipelines, shards
from data_synthesis.calibration import calibrated
from data_synthesis.embedding import Client
from data_synthesis.record import Record, Score, batched
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
    ("text", "media", "motion", "duplicates", "consistency.embedder",
     "consistency.frames"),
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Vector:
    """`role`: "text" (rectified), "video" ...; `data`: float32, of length one."""

    id: str
    role: str
    data: bytes

    @property
    def array(self) -> np.ndarray:
        return np.frombuffer(self.data, np.float32)


def work(run: Run) -> pipelines.Work:
    keys = tuple(
        key(run, STAGE, shards.input_hashes(run.layout, shard, STAGE.inputs))
        for shard in range(run.layout.shards)
    )
    return pipelines.Work(run.layout, keys, functools.partial(_shard, run))


def _shard(run: Run, layout: Layout, key: Key, shard: int) -> None:
    def process(rows: Iterator[Record]) -> Iterator[Record]:
        vectors: list[Vector] = []
        yield from _process(run, vectors, rows)
        # Before the records' manifest, which says that the shard is whole.
        beside = key._replace(stage="vectors")
        shards.write_shard(layout, beside, shard, sorted(vectors, key=_by), Vector)

    shards.map_shard(layout, key, shard, "groups", process)


def _by(vector: Vector) -> tuple[str, str]:
    return vector.id, vector.role


def _process(run: Run, vectors: list[Vector], rows: Iterator[Record]):
    config = run.config.consistency
    if not config.embedder:
        yield from rows
        return
    client = Client.shared(f"--checkpoint={config.embedder}")
    model = client.contract["weights_hash"]
    for batch in batched(rows, config.batch):
        items, places = [], []
        for place, record in enumerate(batch):
            if unfit(record, run.config):
                continue
            found = list(_items(run, record, config.frames))
            items += found
            places += [place] * len(found)
        embedded = client.embed(items)
        parts: dict[int, list[int]] = {}
        for row, place in enumerate(places):
            parts.setdefault(place, []).append(row)
        for place, record in enumerate(batch):
            if place not in parts:
                yield record
                continue
            failed = [
                embedded.failures[r] for r in parts[place] if r in embedded.failures
            ]
            if failed:
                yield record.leave("error", STAGE.name, "embedding", detail=failed[0])
                continue
            text, video, *frames = embedded.vectors[parts[place]]
            vectors += [
                Vector(record.id, "text", text.tobytes()),
                Vector(record.id, "video", video.tobytes()),
            ]
            scores = {"match.video": cosine(text, video)}
            if frames:
                scores["match.frames"] = max(cosine(text, f) for f in frames)
            new = {name: Score(value, model) for name, value in scores.items()}
            yield dataclasses.replace(record, scores=record.scores | new)


def _items(run: Run, record: Record, frames: int) -> Iterator[Item]:
    path = video_path(run, record)
    yield Item("text", text=record.text.rectified)
    yield Item("video", video=path)
    duration = record.source.duration
    for number in range(frames):
        # A cut in which no frame begins holds the one on show.
        start = duration * (number + 0.5) / frames
        yield Item("frame", video=path, start=start, end=start + 1e-3)


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
        chosen = sorted(
            (draws.uniform(seed, v.id, "calibration"), v.id, v.role, v.data)
            for v in shards.read_stage(run.layout, "vectors", Vector)
        )[: 2 * config.pairs]
        # Both of a record have the same draw: text, then video.
        table = np.array([np.frombuffer(c[3], np.float32) for c in chosen], np.float64)
        result = calibration(table[::2], table[1::2], config)
    write_json(run.layout.root / "embed" / "calibration.json", result)
    return result


def calibration(texts: np.ndarray, videos: np.ndarray, config) -> dict:
    """`calibrated` with the video of each row, float [n, d], and of the one before."""
    pairs = zip(texts, videos, np.roll(videos, 1, 0), strict=True)
    cosines = [(cosine(text, own), cosine(text, other)) for text, own, other in pairs]
    table = np.array(cosines).reshape(-1, 2)
    return calibrated(table[:, 0], table[:, 1], config)
