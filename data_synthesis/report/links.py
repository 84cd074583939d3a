"""What `links`, `texts` and `nearest` found: copies, repeated texts, what was cut."""

import collections
from collections.abc import Collection

from data_synthesis.record import read_table
from data_synthesis.run import Run
from data_synthesis.stages.links import Link
from data_synthesis.stages.nearest import Nearest

# Kind of link -> what the page calls it.
NAMES = {
    "bytes": "equal files", "frames": "equal frames", "near": "near pictures",
    "mirrored": "mirrored pictures", "benchmark": "videos of the benchmark",
    "text": "texts of several videos",
    "within": "nearly the text of another record of the file",
    "across": "nearly the text of another video",
}  # fmt: skip


def report(run: Run, done: Collection[str]) -> dict:
    """Kind of link -> records that have such a link; and groups that were cut.

    {} before any of the stages is done.
    """
    # The links of a record are in its shard.
    kinds, cuts = collections.Counter(), []
    stages = [stage for stage in ("links", "texts") if stage in done]
    for stage in stages:
        for shard in range(run.layout.shards):
            rows = list(read_table(run.layout.table(stage, shard), Link))
            kinds.update(kind for _, kind in {(row.id, row.kind) for row in rows})
            cuts += [row.number for row in rows if row.kind == "cut"]
    del kinds["cut"]
    found = {
        "records": dict(sorted(kinds.items())),
        "cut": len(cuts),
        "not_compared": sum(cuts),
    }
    return found if stages else {}


def likenesses(run: Run, ids: Collection[str]) -> dict[str, tuple[str, str]]:
    """Id -> (id of a record that it repeats, how), of those that repeat one.

    `links` and `nearest` must be there, as they are once `decide` is.
    """
    found: dict[str, tuple[str, str]] = {}
    for shard in sorted({run.layout.shard_of(name) for name in ids}):
        for row in read_table(run.layout.table("nearest", shard), Nearest):
            if row.id in ids:
                found[row.id] = row.other, f"cosine {row.cosine:.4f}"
        for row in read_table(run.layout.table("links", shard), Link):
            if row.id in ids and row.kind in ("bytes", "frames"):
                found[row.id] = row.other, f"equal {row.kind}"
            elif row.id in ids and row.kind in ("near", "mirrored"):
                how = f"{row.kind}, distance {row.distance:.1f}"
                found.setdefault(row.id, (row.other, how))
    return found
