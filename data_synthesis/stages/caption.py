"""`caption`: five captions of each video and, if wanted, of each of its stills.

A video whose set stays unusable ends here, as an error; a still in that case is only
not captioned, and counted as "caption.failed_frames". Scores of captions are for a
later stage: here they are None.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from data_synthesis import (
    asking,
    draws,
    pipelines,
    profiles,
    prompts,
    requests,
    validation,
)
from data_synthesis.asking import Answered, Session, Task
from data_synthesis.captioners import choice
from data_synthesis.captioners.base import Medium
from data_synthesis.record import Caption, CaptionSet, Record, Score
from data_synthesis.rectify import words_of
from data_synthesis.run import Context, Run, Stage, mapped
from data_synthesis.stages import assets
from gve_jax.types import UserError

_KEYS = (
    "captioner", "profile_mode", "max_tokens", "temperature", "attempts", "repair_json",
    "frames", "flags",
)  # fmt: skip
STAGE = Stage(
    "caption", ("assets",), ("seed", *(f"caption.{key}" for key in _KEYS)), version=2
)
# How often a style is the text that asks for the video. Searches are short more often
# than not; all kinds are in the benchmark.
WEIGHTS = {"1": 3, "2": 3, "3": 2, "4": 1, "5": 1}


def work(run: Run) -> pipelines.Work:
    """Raises UserError for a captioner that cannot be."""
    mode = run.config.caption.profile_mode
    if mode not in profiles.MODES:
        raise UserError(
            f"config.caption.profile_mode={mode!r}: one of {profiles.MODES}"
        )
    return mapped(
        run,
        STAGE,
        process,
        captioner=choice.fingerprint(run.config),
        prompts=prompts.digest("video", "frame", "reask"),
    )


def process(rows: Iterator[Record], context: Context) -> Iterator[Record]:
    run = context.run
    records = list(rows)  # one shard, without its media
    wanted = [list(_tasks(run, record)) for record in records]
    with asking.session(run, STAGE.name, context.shard) as session:
        found = iter(session.ask([w.task for each in wanted for w in each]))
    for record, each in zip(records, wanted, strict=True):
        sets = tuple(_set(run, session, w, next(found)) for w in each)
        yield _captioned(record, sets)


def select(seed: int, key: str, captions: Sequence[Caption]) -> str:
    """The style of the caption that asks for a medium; "" if there is none.

    Args:
      key: of the set.
      captions: those that may be chosen. Leaving one out changes the choice only where
        it was chosen: each has a draw of its own (Efraimidis and Spirakis 2006).
    """
    drawn = {
        c.style: draws.uniform(seed, f"{key}/{c.style}", "select")
        ** (1 / WEIGHTS[c.style])
        for c in captions
    }
    return max(drawn, key=drawn.get, default="")


def _tasks(run: Run, record: Record) -> Iterator["_Wanted"]:
    """Of the video, then of the stills."""
    config, seed = run.config, run.config.seed
    profile = profiles.draw(seed, record.id, config.caption.profile_mode)
    slots = profiles.slots(seed, record.id)
    medium = assets.video_of(run, record)
    line = profiles.line(profile, "video")
    task = requests.video(record, medium, profile, line, slots, config.caption)
    yield _Wanted(task, "", profile, slots)
    for still in record.media:
        if still.role == "frame" and config.caption.frames:
            medium = Medium(str(run.layout.root / still.path), still.sha256)
            slots = profiles.slots(seed, f"{record.id}/{still.sha256}")
            line = profiles.line({}, "frame")
            task = requests.frame(record, still, medium, line, slots, config.caption)
            yield _Wanted(task, still.sha256, {}, slots)


class _Wanted(NamedTuple):
    """A caption set to be: `media` as in `CaptionSet`."""

    task: Task
    media: str
    profile: dict[str, int]
    slots: tuple[str, str]


def _captioned(record: Record, sets: tuple[CaptionSet, ...]) -> Record:
    lost = sum(s.failure is not None for s in sets[1:])
    scores = record.scores | {"caption.failed_frames": Score(float(lost))}
    record = dataclasses.replace(record, caption_sets=sets, scores=scores)
    if failure := sets[0].failure:
        return record.leave("error", STAGE.name, *failure.codes, detail=failure.message)
    return record


def _set(run: Run, session: Session, wanted: _Wanted, found: Answered) -> CaptionSet:
    request = wanted.task.request
    captions = tuple(
        _caption(style, text, found) for style, text in sorted(found.value.items())
    )
    valid = [c for c in captions if c.valid and not found.failure]
    return CaptionSet(
        media=wanted.media,
        captions=captions,
        selected=select(run.config.seed, request.id, valid),
        profile=wanted.profile,
        readability=wanted.slots[0],
        education_level=wanted.slots[1],
        generation=session.made(request, found),
        failure=found.failure,
    )


def _caption(style: str, text: str, found: Answered) -> Caption:
    faults = [fault for fault in found.faults if fault.style == style]
    return Caption(
        style=style,
        text=text,
        words=len(words_of(text)),
        grade=profiles.grade(text),
        valid=not validation.fatal(tuple(faults)),
        faults=tuple(sorted({fault.code for fault in faults})),
        attempt=found.attempts[style],
    )
