"""`select`: which caption asks for its video or still, of those that match it.

A caption whose score is below the threshold of its style stays in the record, with the
fault "inconsistent", and is not chosen.
"""

import dataclasses
import functools
from collections.abc import Iterator

import numpy as np
import pyarrow.parquet as pq

from data_synthesis import draws, pipelines
from data_synthesis.calibration import calibrated
from data_synthesis.record import Caption, CaptionSet, Record
from data_synthesis.run import Context, Run, Stage, mapped
from data_synthesis.shards import config_sha256, manifest
from data_synthesis.stages import caption
from data_synthesis.validation import STYLES
from gve_jax.disk import write_json

STAGE = Stage("select", ("score_captions",), ("seed", "consistency"))
INCONSISTENT = "inconsistent"


def work(run: Run) -> pipelines.Work:
    thresholds = calibrate(run)
    return mapped(
        run,
        STAGE,
        functools.partial(process, thresholds),
        calibration=config_sha256(thresholds),
    )


def usable(captions: tuple[Caption, ...]) -> list[Caption]:
    """Those that may go into pairs."""
    return [c for c in captions if c.valid and INCONSISTENT not in c.faults]


def process(
    thresholds: dict, rows: Iterator[Record], context: Context
) -> Iterator[Record]:
    seed = context.run.config.seed
    for record in rows:
        sets = tuple(
            _selected(seed, record.id, found, thresholds)
            for found in record.caption_sets
        )
        yield dataclasses.replace(record, caption_sets=sets)


def _selected(seed: int, name: str, found: CaptionSet, thresholds: dict) -> CaptionSet:
    kind = "frame" if found.media else "video"
    captions = tuple(
        _judged(c, thresholds.get(f"{kind}.{c.style}")) for c in found.captions
    )
    if found.failure is not None:
        return dataclasses.replace(found, captions=captions)
    # The key of the set that it was first chosen with: the choice only changes where
    # it fell on one that is out now.
    place = f"{name}/{found.media[:16]}" if found.media else name
    selected = caption.select(seed, place, usable(captions))
    return dataclasses.replace(found, captions=captions, selected=selected)


def _judged(found: Caption, threshold: dict | None) -> Caption:
    low = (
        threshold is not None
        and threshold["filter"]
        and found.score is not None
        and found.score < threshold["tau"]
    )
    faults = {*found.faults, INCONSISTENT} if low else found.faults
    return dataclasses.replace(found, faults=tuple(sorted(faults)))


def calibrate(run: Run) -> dict[str, dict]:
    """Writes and returns OUT/score_captions/calibration.json.

    Of each kind and style, from up to `consistency.pairs` seeded captions; see
    `calibration.calibrated`.
    """
    config, seed = run.config.consistency, run.config.seed
    drawn: dict[str, list] = {
        f"{k}.{s}": [] for k in ("video", "frame") for s in STYLES
    }
    for shard in range(run.layout.shards):
        manifest(run.layout, "score_captions", shard)  # or it is not finished
        table = pq.read_table(run.layout.table("caption_scores", shard))
        for row in table.to_pylist():
            place = draws.uniform(seed, f"{row['id']}/{row['media']}", "calibration")
            drawn[row["kind"]].append((place, row["own"], row["other"]))
        for kind, rows in drawn.items():  # what is held does not grow with the input
            drawn[kind] = sorted(rows)[: config.pairs]
    result = {}
    for kind, rows in drawn.items():
        table = np.array(rows, np.float64).reshape(-1, 3)
        result[kind] = calibrated(table[:, 1], table[:, 2], config)
    write_json(run.layout.root / "score_captions" / "calibration.json", result)
    return result
