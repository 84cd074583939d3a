"""`decide`: applies the thresholds to stored scores; cheap, nothing is decoded.

All reasons that hold are given, not the first alone.
"""

import dataclasses
import hashlib
import json
from collections.abc import Iterator

from data_synthesis import pipelines, rectify
from data_synthesis.record import Record
from data_synthesis.run import Context, Run, Stage, mapped

STAGE = Stage(
    "decide",
    ("groups",),
    ("text", "media", "motion", "duplicates", "consistency"),
)


def work(run: Run) -> pipelines.Work:
    return mapped(run, STAGE, process)


def process(rows: Iterator[Record], context: Context) -> Iterator[Record]:
    config = context.run.config
    plain = json.loads(config.to_json())
    thresholds = json.dumps({name: plain[name] for name in STAGE.config})
    identity = hashlib.sha256(thresholds.encode()).hexdigest()[:16]
    for record in rows:
        reasons = unfit(record, config)
        if reasons:
            record = record.leave("drop", STAGE.name, *reasons)
        decision = dataclasses.replace(record.decision, thresholds_id=identity)
        yield dataclasses.replace(record, decision=decision)


def unfit(record: Record, config) -> list[str]:
    """Codes of what text, video and repetition say against a record of `groups`."""
    text = rectify.rectify(record.text.raw, config.text)
    source, limits = record.source, config.media
    scores = {name: score.value for name, score in record.scores.items()}
    noise_free = config.motion.preset == "noise_free"
    share = scores["motion.share_noise_free" if noise_free else "motion.share"]
    holds = {
        "few_frames": source.num_frames < limits.min_frames,
        "small": min(source.width, source.height) < limits.min_side,
        "large": max(source.width, source.height) > limits.max_side,
        "long": source.duration > limits.max_duration,
        # A file may decode without an error and still lack frames that it declares.
        "frames_lost": source.num_frames
        < (1 - limits.max_damage) * scores["video.declared"],
        "static": share < config.motion.min_share,
        "frozen": scores["motion.freeze"] > config.motion.max_freeze,
        "shared_text": record.group.text_videos > config.text.max_videos,
        f"duplicate_{record.group.duplicate}": bool(record.group.duplicate),
        "benchmark": bool(record.group.benchmark),
    }
    return [*text.reasons, *(code for code, yes in holds.items() if yes)]
