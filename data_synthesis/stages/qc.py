"""`qc`: looks at every text and video once, and stores what it finds as scores.

It drops nothing: `decide` does, so that thresholds change without decoding again. Only
what can neither be read nor repaired ends here, as an error. Scores are named "text.X",
"video.X" and "motion.X"; "repair.X" is the number of frames that decoded before.
"""

import dataclasses
import functools
from collections.abc import Iterator
from contextlib import closing

from data_synthesis import assets, pipelines, rectify, video
from data_synthesis.record import Record, Score, Text
from data_synthesis.run import Context, Run, Stage, mapped
from data_synthesis.stages.ingest import source_path
from gve_jax.preprocess.workers import Lost
from gve_jax.types import Item

_LIMITS = ("max_seconds", "max_memory_mb", "max_side", "max_damage", "repair")
STAGE = Stage(
    "qc",
    ("ingest",),
    (*(f"media.{name}" for name in _LIMITS), "clips.min_shot"),
    version=3,
)


def work(run: Run) -> pipelines.Work:
    return mapped(run, STAGE, process)


def process(rows: Iterator[Record], context: Context) -> Iterator[Record]:
    """Videos are decoded in a process that is killed for time or memory."""
    run = context.run
    records = list(rows)  # one shard of texts
    items = [Item(r.id, video=source_path(run, r)) for r in records]
    limits = run.config.media
    look = functools.partial(
        assets.look, run.layout.root, limits, run.config.clips.min_shot
    )
    reader = video.reader(look, 3 * limits.max_seconds, limits.max_memory_mb)
    with closing(reader.ahead(items)) as found:
        for record, result in zip(records, found, strict=True):
            yield _described(record, result, run.config)


def _described(record: Record, result: tuple | str, config) -> Record:
    judged = rectify.rectify(record.text.raw, config.text)
    text = Text(
        record.text.raw, judged.text, judged.edits, judged.lang, judged.lang_conf
    )
    scores = {f"text.{name}": Score(value) for name, value in judged.scores.items()}
    record = dataclasses.replace(record, text=text)
    if isinstance(result, str):
        code, _, reason = result.partition(": ")
        if isinstance(result, Lost):
            code, reason = "lost", result
        scored = dataclasses.replace(record, scores=scores)
        return scored.leave("error", STAGE.name, code, detail=reason)
    found, mended = result
    motion = found.motion
    values = {
        "video.frames": found.num_frames,
        "video.declared": found.declared,
        "motion.share": motion.share_above("default"),
        "motion.share_noise_free": motion.share_above("noise_free"),
        "motion.mean": motion.mean,
        "motion.p95": motion.p95,
        "motion.freeze": motion.freeze,
        "motion.flow": motion.flow,
    }
    scores |= {name: Score(float(value)) for name, value in values.items()}
    if mended:
        scores[f"repair.{mended.how}"] = Score(float(mended.frames))
    return dataclasses.replace(
        record,
        source=dataclasses.replace(
            record.source,
            container=found.container,
            codec=found.codec,
            width=found.width,
            height=found.height,
            fps=found.fps,
            num_frames=found.num_frames,
            duration=found.duration,
        ),
        media=(mended.media,) if mended else (),
        scores=scores,
        hashes=found.hashes,
        mirrored=found.mirrored,
        frames_sha256=found.frames_sha256,
        cuts=found.cuts,
    )
