"""What a probe is given, and what it may answer."""

import pathlib
from collections.abc import Callable
from typing import NamedTuple

from eval.datasets import RetrievalSet
from eval.protocol import Outcome
from eval.vectors import Sides


class NotRun(Exception):
    """A probe cannot run on this encoder or these data; the message says why."""


class Subject(NamedTuple):
    """A finished evaluation that is probed. Nothing in it is changed by probes."""

    sets: tuple[RetrievalSet, ...]
    sides: Sides
    outcomes: dict[str, Outcome]
    resamples: int = 1000  # of the bootstrap
    seed: int = 0
    # None, or why the encoder cannot show frames in another order.
    fixed_frames: str | None = None
    # Dataset -> query id -> the same query in other words; None: not given.
    paraphrases: dict[str, dict[str, str]] | None = None
    # The procedural world that UVRB-mini comes from; None: other data.
    world: pathlib.Path | None = None


class Variant(NamedTuple):
    """The benchmark with one thing changed."""

    what: str
    sets: tuple[RetrievalSet, ...]  # those that differ, under their own names


class Probe(NamedTuple):
    """A row of the table of probes. Exactly one of the two functions is there.

    `variants` changes items, which are then embedded and scored like the unmodified
    benchmark; `measure` computes on the vectors and rankings that there are, and
    returns {"datasets": {name: {...}}, ...} for probes.json. Both are pure, and raise
    NotRun.
    """

    what: str
    variants: Callable[[Subject], dict[str, Variant]] | None = None
    measure: Callable[[Subject], dict] | None = None
