"""Makes failed records anew: a failure is no completion, and causes pass."""

import collections
import sys
from collections.abc import Sequence

import pyarrow.parquet as pq

from data_synthesis.record import Record, read_table
from data_synthesis.run import Run


def forget(run: Run, codes: Sequence[str]) -> dict[str, int]:
    """Forgets the shards in which a record ended in an error of one of the codes.

    They are made again by the run that follows, whole: what was paid for by request is
    remembered by its cache. Returns the number of such records by stage.

    Args:
      codes: of `Decision.reasons`; ["all"] for any.
    """
    found: collections.Counter[str] = collections.Counter()
    stages = sorted(p.parent.name for p in run.layout.root.glob("*/00000.json"))
    for stage in stages:
        for shard in range(run.layout.shards):
            table = run.layout.table(stage, shard)
            if not table.exists() or not _of_records(table):
                continue
            failed = [
                record
                for record in read_table(table, Record)
                if record.decision.outcome == "error"
                and record.decision.stage == stage
                and (
                    list(codes) == ["all"] or set(record.decision.reasons) & set(codes)
                )
            ]
            if failed:
                found[stage] += len(failed)
                run.layout.manifest(stage, shard).unlink(missing_ok=True)
    total = ", ".join(f"{stage} {n}" for stage, n in found.items()) or "none"
    print(f"failed records that are tried again: {total}", file=sys.stderr)
    return dict(found)


def _of_records(table) -> bool:
    return {"decision", "source"} <= set(pq.read_schema(table).names)
