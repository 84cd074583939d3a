"""`extend`: of all pairs those that the quotas take. What it keeps is the output."""

import functools

from data_synthesis import pipelines, quotas, shards
from data_synthesis.run import Run, Stage, key
from data_synthesis.shards import Key, Layout
from data_synthesis.tables import Pair, map_pairs

STAGE = Stage("extend", ("compose",), ())


def work(run: Run) -> pipelines.Work:
    limits = quotas.kept(run)
    more = {"limits": shards.config_sha256(limits)}
    keys = tuple(
        key(run, STAGE, shards.input_hashes(run.layout, shard, STAGE.inputs) | more)
        for shard in range(run.layout.shards)
    )
    return pipelines.Work(run.layout, keys, functools.partial(_shard, limits))


def _shard(limits: dict[str, float], layout: Layout, key: Key, shard: int) -> None:
    def process(pairs: list[Pair]) -> list[Pair]:
        return [
            pair
            if pair.order <= limits[pair.task]
            else pair.leave("drop", STAGE.name, "over_quota")
            for pair in pairs
        ]

    map_pairs(layout, key, shard, "compose", process)
