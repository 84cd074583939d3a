"""`decide`: applies the thresholds to stored scores; cheap, nothing is decoded.

All reasons that hold are given, not the first alone.
"""

import dataclasses
import functools
import hashlib
import json
from collections.abc import Iterator

from data_synthesis import pipelines
from data_synthesis.record import Record
from data_synthesis.run import Context, Run, Stage, mapped
from data_synthesis.shards import config_sha256
from data_synthesis.stages import embed
from data_synthesis.thresholds import inconsistent, unfit

STAGE = Stage(
    "decide",
    ("embed",),
    ("text", "media", "motion", "duplicates", "consistency"),
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
    for record in rows:
        reasons = unfit(record, config)
        if inconsistent(record, calibration):
            reasons.append("inconsistent")
        if reasons:
            record = record.leave("drop", STAGE.name, *reasons)
        decision = dataclasses.replace(record.decision, thresholds_id=identity)
        yield dataclasses.replace(record, decision=decision)
