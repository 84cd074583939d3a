"""Galleries: contact sheets of records, and what was changed in their texts."""

import base64
import contextlib
import difflib
import functools
from typing import NamedTuple

from markupsafe import Markup, escape

from data_synthesis import video
from data_synthesis.record import Record
from data_synthesis.report import sheet
from data_synthesis.run import Run
from data_synthesis.stages.ingest import video_path
from gve_jax.progress import ProgressLine
from gve_jax.types import Item, UserError

# Characters of a text that are shown.
_MOST = 400


class Shown(NamedTuple):
    """A record of a gallery; `picture` is a data URI, or empty and `why` says why."""

    record: Record
    picture: str
    why: str
    text: Markup


def gallery(run: Run, samples: dict[str, list[Record]]) -> dict[str, list[Shown]]:
    """What is shown of the records of each name. Each video is decoded once, in a
    process that is killed for time or memory."""
    records = {r.id: r for found in samples.values() for r in found}
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
        name: [
            Shown(r, pictures.get(r.id, ""), faults[r.id], difference(r)) for r in found
        ]
        for name, found in samples.items()
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
