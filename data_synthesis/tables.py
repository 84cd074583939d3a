"""Rows of the tables that are made from the records: pairs, and what comes of them."""

import collections
import dataclasses
import os
from collections.abc import Callable, Iterable, Iterator

from data_synthesis import draws, shards
from data_synthesis.record import Failure, Generation, read_table
from data_synthesis.run import Run
from data_synthesis.shards import Counts, Key, Layout
from gve_jax.types import Item

TASKS = ("T2V", "I2V", "V2V", "T2I", "T2T", "TI2V", "TV2V")
COMPOSED = ("TI2V", "TV2V")


@dataclasses.dataclass(frozen=True)
class File:
    """`path` is below the output folder; of a raw video, below the input file's."""

    path: str
    sha256: str
    raw: bool = False

    def absolute(self, run: Run) -> str:
        root = run.input.parent if self.raw else run.layout.root
        return os.path.abspath(root / self.path)


@dataclasses.dataclass(frozen=True)
class Side:
    """A query, a target or a negative; `start` and `end` are seconds in the video."""

    text: str = ""
    image: File | None = None
    video: File | None = None
    start: float | None = None
    end: float | None = None
    instruction: str = ""

    @property
    def id(self) -> str:
        """Equal for equal contents, wherever the files are."""
        media = (file.sha256 if file else "" for file in (self.image, self.video))
        return draws.identity(self.text, *media, self.start, self.end, self.instruction)

    def item(self, run: Run) -> Item:
        image, video = (
            file.absolute(run) if file else None for file in (self.image, self.video)
        )
        text, instruction = self.text or None, self.instruction or None
        return Item("", text, image, video, self.start, self.end, instruction)


@dataclasses.dataclass(frozen=True)
class Ranks:
    """Of the target among distractors, 1 is best: by the query, and by each half."""

    both: int
    text: int
    media: int
    pool: int  # distractors


@dataclasses.dataclass(frozen=True)
class Pair:
    """A query and its target; it lies in the shard of the target's record.

    `order`: its place, 0 to 1, when quotas are filled. `source`: hash of the target's
    raw file. `cluster`: of its record's duplicates. As of a record, `outcome` is
    "keep", "drop" or "error", at `stage`, for `reasons`.
    """

    id: str
    task: str
    split: str
    query: Side
    target: Side
    record: str
    source: str
    cluster: str
    order: float
    style: str = ""  # of the caption that asks
    reference: str = ""  # a composed query's: the record that the medium is of,
    reference_source: str = ""
    reference_cluster: str = ""
    relation: str = ""  # how it stands to the target,
    time: float = 0.0  # and where in its video the still, or the clip's middle, is
    ranks: Ranks | None = None  # None: not tested
    generation: Generation | None = None
    failure: Failure | None = None
    outcome: str = "keep"
    stage: str = ""
    reasons: tuple[str, ...] = ()

    @property
    def alive(self) -> bool:
        return self.outcome == "keep"

    def leave(self, outcome: str, stage: str, *reasons: str, **changes) -> "Pair":
        reasons = tuple(sorted(set(reasons)))
        return dataclasses.replace(
            self, outcome=outcome, stage=stage, reasons=reasons, **changes
        )


@dataclasses.dataclass(frozen=True)
class Target:
    """A video that negatives are drawn from. `texts` are what asks for it, or describes
    it: folded, as hashes. `vector`: float32, of length one."""

    id: str
    split: str
    record: str
    source: str
    cluster: str
    texts: tuple[str, ...]
    side: Side
    vector: bytes


@dataclasses.dataclass(frozen=True)
class Negative:
    """`rank`: among what may be a negative of the query; `margin`: to the positive."""

    side: Side
    record: str
    rank: int
    score: float
    margin: float


@dataclasses.dataclass(frozen=True)
class Mined:
    """What was found for a pair, by its id.

    `outcome`: "mined", "short" (of fewer negatives than wanted), "weak_positive" (the
    target itself is not found), "unreadable" or "no_prober".
    """

    id: str
    task: str
    split: str
    outcome: str
    positive_score: float = 0.0
    positive_rank: int = 0  # among what may be a negative; 0: below those looked at
    prober: str = ""  # hash of its weights
    corpus_sha256: str = ""
    negatives: tuple[Negative, ...] = ()


@dataclasses.dataclass(frozen=True)
class ExampleFile:
    """An ArrayRecord file; `id` is its name."""

    id: str
    split: str
    examples: int
    bytes: int
    sha256: str


@dataclasses.dataclass(frozen=True)
class CorpusRow:
    """A target of one task or more."""

    id: str
    target: Side
    splits: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class QueryRow:
    """A query, with its instruction."""

    id: str
    task: str
    query: Side
    splits: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Relevance:
    """That a query's row has this one of the corpus as a positive."""

    query_id: str
    corpus_id: str
    task: str
    split: str
    pair_id: str


def map_pairs(
    layout: Layout,
    key: Key,
    shard: int,
    source: str,
    process: Callable[[list[Pair]], Iterable[Pair]],
) -> None:
    """As `shards.map_shard`, for pairs; `process` gets and gives them in any order."""
    rows = list(read_table(layout.table(source, shard), Pair))
    alive = [pair for pair in rows if pair.alive]
    gone = [pair for pair in rows if not pair.alive]
    new = list(process(alive))
    if sorted(p.id for p in new) != [p.id for p in alive]:
        raise RuntimeError(f"{key.stage}: other pairs out than in")
    write_pairs(layout, key, shard, new, gone)


def write_pairs(
    layout: Layout, key: Key, shard: int, pairs: list[Pair], passed: Iterable[Pair] = ()
) -> None:
    """Writes pairs in the order of their ids; those that `passed` are not counted.

    The manifest's "extra" has the counts of each task.
    """
    tasks = {task: count([p for p in pairs if p.task == task]) for task in TASKS}
    extra = {
        task: found._asdict() | {"reasons": dict(found.reasons)}
        for task, found in tasks.items()
    }
    for task, found in tasks.items():
        found.check(f"{key.stage}, {task}, shard {shard}")
    shards.write_shard(
        layout,
        key,
        shard,
        sorted([*pairs, *passed], key=lambda pair: pair.id),
        Pair,
        counts=lambda: count(pairs),
        extra=lambda: {"tasks": extra},
    )


def count(pairs: Iterable[Pair]) -> Counts:
    outcomes = collections.Counter(pair.outcome for pair in pairs)
    reasons = collections.Counter(r for pair in pairs for r in pair.reasons)
    return Counts(
        outcomes.total(), outcomes["keep"], outcomes["drop"], outcomes["error"],
        dict(sorted(reasons.items())),
    )  # fmt: skip


def task_counts(layout: Layout, stage: str) -> dict[str, Counts]:
    """Of each task over all shards of a finished stage of pairs."""
    total = dict.fromkeys(TASKS, Counts())
    for shard in range(layout.shards):
        found = shards.manifest(layout, stage, shard)["extra"]["tasks"]
        for task in TASKS:
            total[task] += Counts(**found[task])
    return total


def kept_pairs(layout: Layout, shard: int) -> Iterator[Pair]:
    """Those that go into the outputs, of one shard, in the order of their ids."""
    for pair in read_table(layout.table("extend", shard), Pair):
        if pair.alive:
            yield pair
