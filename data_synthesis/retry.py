"""Makes what failed anew: a failure is no completion, and causes pass."""

import collections
import pathlib
import sys
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import pyarrow.parquet as pq

from data_synthesis.captioners import cache
from data_synthesis.record import Record, read_table
from data_synthesis.run import Run
from data_synthesis.tables import Mined, Pair


class Failed(NamedTuple):
    """`request`: whose answer is at fault, and must not be remembered."""

    codes: tuple[str, ...]
    request: str = ""


def forget(run: Run, codes: Sequence[str]) -> dict[str, int]:
    """Forgets the shards in which something ended in an error of one of the codes.

    They are made again by the run that follows, whole: what was paid for by request is
    remembered, but for the answers that were at fault. Returns the number of failures
    by stage.

    Args:
      codes: of records, pairs and caption sets; ["all"] for any.
    """
    found: collections.Counter[str] = collections.Counter()
    wanted = set(codes)
    for stage in sorted(p.parent.name for p in run.layout.root.glob("*/00000.json")):
        for shard in range(run.layout.shards):
            table = run.layout.table(stage, shard)
            failed = [
                failure
                for failure in _failures(table, stage)
                if "all" in wanted or wanted & set(failure.codes)
            ]
            if not failed:
                continue
            found[stage] += len(failed)
            requests = {failure.request for failure in failed} - {""}
            answers = run.layout.root / "requests" / stage / f"{shard:05d}.jsonl"
            if requests and answers.exists():
                cache.forget(answers, requests)
            run.layout.manifest(stage, shard).unlink(missing_ok=True)
            if stage == "mine":  # it could not be read there
                run.layout.manifest("probes", shard).unlink(missing_ok=True)
    total = ", ".join(f"{stage} {n}" for stage, n in found.items()) or "none"
    print(f"failures that are tried again: {total}", file=sys.stderr)
    return dict(found)


def _failures(table: pathlib.Path, stage: str) -> Iterator[Failed]:
    """What failed at this stage, of its table; none of a table of something else."""
    names = set(pq.read_schema(table).names) if table.exists() else set()
    if {"decision", "source"} <= names:
        for record in read_table(table, Record):
            if record.decision.stage not in ("", stage):
                continue
            sets = [s.failure for s in record.caption_sets if s.failure]
            for failure in sets if stage == "caption" else ():
                yield Failed(failure.codes, failure.request)
            if record.decision.outcome == "error" and not (sets and stage == "caption"):
                yield Failed(record.decision.reasons)
    elif {"outcome", "ranks"} <= names:
        for pair in read_table(table, Pair):
            if pair.outcome == "error" and pair.stage == stage:
                failure = pair.failure
                codes = failure.codes if failure else pair.reasons
                yield Failed(codes, failure.request if failure else "")
    elif {"outcome", "positive_score"} <= names:
        for row in read_table(table, Mined):
            if row.outcome == "unreadable":
                yield Failed((row.outcome,))
