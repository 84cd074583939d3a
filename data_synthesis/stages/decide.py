"""`decide`: applies the thresholds to stored scores; cheap, nothing is decoded.

All reasons that hold are given, not the first alone. What `nearest` found is written
into the records, as the score "match.nearest".
"""

import dataclasses
import functools
import hashlib
import json
from collections.abc import Iterator

from data_synthesis import pipelines
from data_synthesis.record import Record, Score, read_table
from data_synthesis.run import Context, Run, Stage, mapped
from data_synthesis.shards import config_sha256
from data_synthesis.stages import embed
from data_synthesis.stages.nearest import Nearest
from data_synthesis.thresholds import inconsistent, repeats, unfit

STAGE = Stage(
    "decide",
    ("embed", "nearest"),
    ("text", "media", "motion", "duplicates", "consistency"),
    version=2,
)


def work(run: Run) -> pipelines.Work:
    calibration = embed.calibrate(run)
    return mapped(
        run,
        STAGE,
        functools.partial(_process, calibration),
        calibration=config_sha256(calibration),
    )


def _process(
    calibration: dict, rows: Iterator[Record], context: Context
) -> Iterator[Record]:
    config = context.run.config
    plain = json.loads(config.to_json())
    thresholds = [{name: plain[name] for name in STAGE.config}, calibration]
    identity = hashlib.sha256(json.dumps(thresholds).encode()).hexdigest()[:16]
    table = context.run.layout.table("nearest", context.shard)
    nearest = {row.id: row.cosine for row in read_table(table, Nearest)}
    for record in rows:
        if record.id in nearest:
            model = record.scores["match.video"].model_id
            found = {"match.nearest": Score(nearest[record.id], model)}
            record = dataclasses.replace(record, scores=record.scores | found)
        reasons = unfit(record, config)
        if inconsistent(record, calibration):
            reasons.append("inconsistent")
        if repeats(record, calibration, config):
            reasons.append("duplicate_semantic")
        if reasons:
            record = record.leave("drop", STAGE.name, *reasons)
        decision = dataclasses.replace(record.decision, thresholds_id=identity)
        yield dataclasses.replace(record, decision=decision)
