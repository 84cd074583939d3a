"""Galleries: contact sheets of records, and what was changed in their texts."""

import base64
import contextlib
import difflib
import functools
from typing import NamedTuple

from markupsafe import Markup, escape

from data_synthesis import video
from data_synthesis.record import Record, read_table
from data_synthesis.report import sheet
from data_synthesis.report.links import likenesses
from data_synthesis.run import Run
from data_synthesis.stages.ingest import video_path
from gve_jax.progress import ProgressLine
from gve_jax.types import Item, UserError

# Characters of a text that are shown.
_MOST = 400


class Picture(NamedTuple):
    """Of a record; `uri` holds the data, or is empty and `why` says why."""

    name: str
    uri: str
    why: str


class Shown(NamedTuple):
    """A record of a gallery. `like` is a record that it repeats, and `how`."""

    record: Record
    picture: Picture
    text: Markup
    like: Picture | None
    how: str


def gallery(
    run: Run, stage: str, samples: dict[str, list[Record]]
) -> dict[str, list[Shown]]:
    """What is shown of the records of each name. Each video is decoded once, in a
    process that is killed for time or memory.

    Args:
      stage: whose table has the records that these repeat.
    """
    records = {r.id: r for found in samples.values() for r in found}
    copies = {
        record.id
        for name, found in samples.items()
        if "/duplicate_" in name
        for record in found
    }
    like = likenesses(run, copies)
    others = {other for other, _ in like.values()} - records.keys()
    records |= _records(run, stage, others)
    pictures = _pictures(run, records)

    def shown(record: Record) -> Shown:
        other, how = like.get(record.id, ("", ""))
        text = difference(record)
        return Shown(record, pictures[record.id], text, pictures.get(other), how)

    return {name: [shown(r) for r in found] for name, found in samples.items()}


def _records(run: Run, stage: str, ids: set[str]) -> dict[str, Record]:
    return {
        record.id: record
        for shard in sorted({run.layout.shard_of(name) for name in ids})
        for record in read_table(run.layout.table(stage, shard), Record)
        if record.id in ids
    }


def _pictures(run: Run, records: dict[str, Record]) -> dict[str, Picture]:
    items: list[Item] = []
    for name, record in records.items():
        with contextlib.suppress(UserError):  # the file is gone
            items.append(Item(name, video=video_path(run, record)))
    limits = run.config.media
    draw = functools.partial(sheet.contact_sheet, limits)
    reader = video.reader(draw, 2 * limits.max_seconds, limits.max_memory_mb)
    pictures, faults = {}, {name: "the file is gone" for name in records}
    with (
        ProgressLine("report", len(items), "videos") as line,
        contextlib.closing(reader.ahead(items)) as found,
    ):
        for item, result in zip(items, found, strict=True):
            if isinstance(result, str):
                faults[item.id] = result
            else:
                data = base64.b64encode(result[0]).decode()
                pictures[item.id] = f"data:image/jpeg;base64,{data}"
            line.advance()
    return {
        name: Picture(record.name, pictures.get(name, ""), faults[name])
        for name, record in records.items()
    }


def difference(record: Record) -> Markup:
    """The rectified text, with the words that went and came marked; escaped."""
    old, new = (t[:_MOST].split() for t in (record.text.raw, record.text.rectified))
    parts = []
    for kind, a, b, c, d in difflib.SequenceMatcher(
        None, old, new, False
    ).get_opcodes():
        if kind == "equal":
            parts.append(escape(" ".join(old[a:b])))
            continue
        for tag, words in (("del", old[a:b]), ("ins", new[c:d])):
            if words:
                parts.append(
                    Markup("<{0}>{1}</{0}>").format(Markup(tag), " ".join(words))
                )
    return Markup(" ").join(parts)
