"""`assets`: a clip and some stills of each video that is kept.

They are cut in a process that is killed for time or memory. A video without a shot that
is long enough has no clip, one that shows nearly nothing fewer stills.
"""

import dataclasses
import functools
from collections.abc import Iterator
from contextlib import closing

from data_synthesis import assets, pipelines, video
from data_synthesis.captioners.base import Medium
from data_synthesis.record import Record
from data_synthesis.run import Context, Run, Stage, mapped
from data_synthesis.stages.ingest import video_path
from gve_jax.preprocess.workers import Lost
from gve_jax.types import Item

_LIMITS = ("max_seconds", "max_memory_mb", "max_side", "max_damage")
STAGE = Stage(
    "assets",
    ("decide",),
    ("seed", "clips", *(f"media.{name}" for name in _LIMITS)),
    version=3,
)


def work(run: Run) -> pipelines.Work:
    return mapped(run, STAGE, process)


def video_of(run: Run, record: Record) -> Medium:
    """What stands for a record's video: the repaired copy, or the source."""
    hashes = [medium.sha256 for medium in record.media if medium.role == "video"]
    return Medium(video_path(run, record), (*hashes, record.source.sha256)[0])


def process(rows: Iterator[Record], context: Context) -> Iterator[Record]:
    run, config = context.run, context.run.config
    records = list(rows)  # one shard, without its media
    items = [Item(r.id, video=video_of(run, r).path) for r in records]
    known = {r.id: (r.cuts, r.source.duration, r.source.fps) for r in records}
    limits = config.media
    cut = functools.partial(
        assets.cut, run.layout.root, config.seed, config.clips, limits, known
    )
    # The decoder's limit is for the clip and for each still.
    seconds = (2 + config.clips.frames) * limits.max_seconds
    reader = video.reader(cut, seconds, limits.max_memory_mb)
    with closing(reader.ahead(items)) as found:
        for record, result in zip(records, found, strict=True):
            if isinstance(result, str):
                code, _, reason = result.partition(": ")
                if isinstance(result, Lost):
                    code, reason = "lost", result
                yield record.leave("error", STAGE.name, code, detail=reason)
            else:
                media = (*record.media, *result)
                yield dataclasses.replace(record, media=media)
