"""How well the filters of V-SynFlow find the faults that a rendered world has.

python -m data_synthesis.world --output=runs/noisy/world --seed=1 --videos=20000
python -m data_synthesis --config=configs/synthesis_world.py:runs/noisy/world \
    --input=runs/noisy/world/raw/raw.jsonl --output=runs/noisy/synthesis \
    --config.consistency.embedder=runs/quickstart/train
python -m benchmarks.synthesis_filters --world=runs/noisy/world \
    --synthesis=runs/noisy/synthesis

Prints Markdown: precision and recall of each filter with Wilson's 95 % intervals, what
each kind of record came to, the funnel, and time by stage. A filter is judged on the
records that it saw; precision counts all that it holds against, also where another
filter does so too.
"""

import collections
import json
import pathlib
from collections.abc import Callable, Iterator
from typing import NamedTuple

from absl import app, flags
from scipy import stats

from data_synthesis import shards
from data_synthesis.record import Record
from data_synthesis.report.filters import filter_of

_WORLD = flags.DEFINE_string("world", None, "Rendered world.", required=True)
_SYNTHESIS = flags.DEFINE_string("synthesis", None, "Finished run.", required=True)


class Judged(NamedTuple):
    """A raw record, its true fault and what `decide` says of it."""

    id: str
    noise: str
    original: str  # the record that this one repeats
    repeated: bool  # it, or one that repeats it, is not alone
    decoded: bool
    holds: frozenset[str]  # filters that are against it
    compared: bool  # has a cosine of text and video
    outcome: str


class Filter(NamedTuple):
    """`faults` are those it is for; `sees` and `holds` say of a record what it did."""

    name: str
    faults: tuple[str, ...]
    sees: Callable[[Judged], bool]
    holds: Callable[[Judged], bool]


FILTERS = (
    Filter("decoding", ("truncated", "empty"), lambda r: True, lambda r: not r.decoded),
    *(
        Filter(name, faults, lambda r: r.decoded, lambda r, name=name: name in r.holds)
        for name, faults in (
            ("text", ("title", "tags")),
            ("motion", ("static",)),
            ("duplicates", ("duplicate", "reencoded")),
        )
    ),
    Filter(
        "consistency",
        ("wrong_text",),
        lambda r: r.compared,
        lambda r: "consistency" in r.holds,
    ),
)


def read(world: pathlib.Path, synthesis: pathlib.Path) -> list[Judged]:
    """All raw records, in the order of truth.jsonl."""
    with open(world / "truth.jsonl", encoding="utf-8") as f:
        truth = [json.loads(line) for line in f if '"file": "raw/' in line]
    originals = {row["original"] for row in truth if row["original"]}
    run = json.loads((synthesis / "run.json").read_text(encoding="utf-8"))
    layout = shards.Layout(synthesis, run["shards"])
    decided = {r.name: r for r in shards.read_stage(layout, "decide")}
    ends = {r.name: r for r in shards.read_stage(layout, "select")}
    return [
        _judged(row, decided[row["id"]], ends[row["id"]], row["id"] in originals)
        for row in truth
    ]


def _judged(row: dict, record: Record, end: Record, repeated: bool) -> Judged:
    decision = record.decision
    reasons = decision.reasons if decision.stage == "decide" else ()
    return Judged(
        row["id"],
        row["noise"],
        row["original"],
        repeated or bool(row["original"]),
        decision.outcome != "error",
        frozenset(filter_of(code) for code in reasons),
        "match.video" in record.scores,
        end.decision.outcome,
    )


def precision_and_recall(records: list[Judged], one: Filter) -> tuple[tuple, tuple]:
    """((right, held), (found, faulty)). Of copies either may be held against, as long
    as one is; and a held record is right if it has a copy."""
    seen = [r for r in records if one.sees(r)]
    held = [r for r in seen if one.holds(r)]
    faulty = [r for r in seen if r.noise in one.faults]
    if one.name == "duplicates":
        names = {r.id for r in held}
        right = sum(r.repeated for r in held)
        found = sum(r.id in names or r.original in names for r in faulty)
    else:
        right = sum(r.noise in one.faults for r in held)
        found = sum(one.holds(r) for r in faulty)
    return (right, len(held)), (found, len(faulty))


def tables(records: list[Judged], report: dict) -> Iterator[str]:
    """Lines of Markdown."""
    yield "| filter | for | precision | recall | clean records that it alone drops |"
    yield "|---|---|--:|--:|--:|"
    clean = [r for r in records if r.noise == "none"]
    for one in FILTERS:
        parts = [_share(*pair) for pair in precision_and_recall(records, one)]
        alone = sum(one.holds(r) and len(r.holds) == 1 for r in clean)
        cells = [one.name, ", ".join(one.faults), *parts, f"{alone} of {len(clean)}"]
        yield f"| {' | '.join(cells)} |"
    yield ""
    yield "| fault | records | kept | dropped | errors |"
    yield "|---|--:|--:|--:|--:|"
    for noise in ("none", *(fault for one in FILTERS for fault in one.faults)):
        ends = collections.Counter(r.outcome for r in records if r.noise == noise)
        cells = [ends.total(), ends["keep"], ends["drop"], ends["error"]]
        yield f"| {noise} | {' | '.join(map(str, cells))} |"
    yield ""
    yield "| stage | in | kept | dropped | errors | seconds | rows/s |"
    yield "|---|--:|--:|--:|--:|--:|--:|"
    for stage, row in report["stages"].items():
        cost = report["costs"]["stages"].get(stage)
        cells = [str(row[name]) for name in ("in", "kept", "dropped", "errors")]
        if cost:
            rate = cost["rows"] / cost["seconds"] if cost["seconds"] else 0.0
            cells += [f"{cost['seconds']:.1f}", f"{rate:.1f}"]
        else:
            cells += ["", ""]
        yield f"| {stage} | {' | '.join(cells)} |"


def _share(part: int, whole: int) -> str:
    if not whole:
        return "none"
    low, high = stats.binomtest(part, whole).proportion_ci(method="wilson")
    return f"{part}/{whole} = {part / whole:.3f} [{low:.3f}, {high:.3f}]"


def main(_: list[str]) -> None:
    synthesis = pathlib.Path(_SYNTHESIS.value)
    records = read(pathlib.Path(_WORLD.value), synthesis)
    report = json.loads((synthesis / "report.json").read_text(encoding="utf-8"))
    print("\n".join(tables(records, report)))


if __name__ == "__main__":
    app.run(main)
