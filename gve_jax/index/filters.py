"""Which files and windows may answer: a small language.

Terms stand between blanks and must all hold; quotes hold blanks together:

  path~holiday    the path contains it, in any case of letters
  path~day/*.mov  with * or ?: the path ends so, from a folder's name on
  path!~backup    it does not
  duration>30     seconds of the file; also 90s, 5m, 1.5h; = != < <= > >=
  date>=2024-03   last change of the file, UTC: a year, month, day or minute
                  (2024-03-31T18:30), which means all of it
  kind=window     window, video (a whole one), image; several with commas
"""

import datetime
import re
import shlex
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from gve_jax.types import UserError

KINDS = ("video", "window", "image")
_COMPARE = {
    "=": pc.equal,
    "!=": pc.not_equal,
    "<": pc.less,
    "<=": pc.less_equal,
    ">": pc.greater,
    ">=": pc.greater_equal,
}
_TERM = re.compile(r"([^~=!<>]*)(!~|!=|<=|>=|[~=<>])(.+)", re.DOTALL)
_DURATION = re.compile(r"(\d+(?:\.\d*)?)([smh]?)")
_SECONDS = {"": 1, "s": 1, "m": 60, "h": 3600}
_DATE = re.compile(r"(\d{4})(?:-(\d\d)(?:-(\d\d)(?:T(\d\d):(\d\d))?)?)?")

_Holds = Callable[[pa.Table], pa.ChunkedArray]


class Filter(NamedTuple):
    """A parsed expression; without terms everything passes."""

    text: str = ""
    terms: tuple[_Holds, ...] = ()

    def mask(self, items: pa.Table) -> np.ndarray:
        """bool [n]: which rows of an index's items table pass."""
        passed = np.ones(len(items), bool)
        for term in self.terms:
            passed &= term(items).fill_null(False).to_numpy()
        return passed


EVERYTHING = Filter()


def parse_filter(text: str) -> Filter:
    """Raises UserError naming the term at fault and what it may be."""
    try:
        terms = shlex.split(text)
    except ValueError:
        raise UserError(f"filter {text!r}: a quote is not closed") from None
    return Filter(text.strip(), tuple(map(_term, terms)))


def _term(text: str) -> _Holds:
    found = _TERM.fullmatch(text)
    if found is None or found[1] not in _FIELDS:
        raise UserError(
            f"filter {text!r}: no term like path~holiday, duration>30, "
            "date>=2024-01-31 or kind=window"
        )
    field, op, value = found.groups()
    make, operators = _FIELDS[field]
    if op not in operators:
        raise UserError(f"filter {text!r}: {field} takes {' '.join(operators)}")
    return make(op, value, text)


def _path(op: str, value: str, _: str) -> _Holds:
    if not set(value) & set("*?"):
        match, pattern = pc.match_substring, value
    else:
        wild = {"*": ".*", "?": "."}
        body = "".join(wild.get(c) or re.escape(c) for c in value)
        border = "" if value.startswith("/") else "(?:^|/)"
        match, pattern = pc.match_substring_regex, f"(?s){border}{body}$"

    def holds(items: pa.Table) -> pa.ChunkedArray:
        found = match(items["file"], pattern, ignore_case=True)
        return found if op == "~" else pc.invert(found)

    return holds


def _duration(op: str, value: str, term: str) -> _Holds:
    found = _DURATION.fullmatch(value)
    if found is None:
        raise UserError(f"filter {term!r}: no duration like 30, 90s, 5m or 1.5h")
    seconds = float(found[1]) * _SECONDS[found[2]]
    return lambda items: _COMPARE[op](items["duration"], seconds)


def _date(op: str, value: str, term: str) -> _Holds:
    found = _DATE.fullmatch(value)
    try:
        start, end = _span(*(int(x) if x else None for x in found.groups()))
    except (AttributeError, ValueError, OverflowError):
        raise UserError(
            f"filter {term!r}: no date like 2024, 2024-03, 2024-03-31 or "
            "2024-03-31T18:30"
        ) from None
    start, end = (pa.scalar(t, pa.timestamp("us", "UTC")) for t in (start, end))

    def holds(items: pa.Table) -> pa.ChunkedArray:
        time = items["modified"]
        if op in ("=", "!="):
            within = pc.and_(pc.greater_equal(time, start), pc.less(time, end))
            return within if op == "=" else pc.invert(within)
        # A date is a span of time: after it is from its end on.
        compare = pc.less if "<" in op else pc.greater_equal
        return compare(time, end if op in ("<=", ">") else start)

    return holds


def _span(year, month, day, hour, minute) -> tuple[datetime.datetime, ...]:
    """Start and end of the year, month, day or minute."""
    utc = datetime.UTC
    start = datetime.datetime(
        year, month or 1, day or 1, hour or 0, minute or 0, 0, 0, utc
    )
    if month is None:
        return start, start.replace(year=year + 1)
    if day is None:
        return start, start.replace(year=year + month // 12, month=month % 12 + 1)
    step = {"days": 1} if hour is None else {"minutes": 1}
    return start, start + datetime.timedelta(**step)


def _kind(op: str, value: str, term: str) -> _Holds:
    wanted = value.split(",")
    if not set(wanted) <= set(KINDS):
        raise UserError(f"filter {term!r}: kinds are {', '.join(KINDS)}")

    def holds(items: pa.Table) -> pa.ChunkedArray:
        found = pc.is_in(items["kind"], pa.array(wanted))
        return found if op == "=" else pc.invert(found)

    return holds


_FIELDS: dict[str, tuple[Callable[[str, str, str], _Holds], tuple[str, ...]]] = {
    "path": (_path, ("~", "!~")),
    "duration": (_duration, tuple(_COMPARE)),
    "date": (_date, tuple(_COMPARE)),
    "kind": (_kind, ("=", "!=")),
}
