"""Quotas: how many pairs of each task there are to be, and which ones.

They are in the proportions of `config.extend.quotas`. A pair has a place in a seeded
order that nothing else decides; those with the lowest places are taken.
"""

import math
from collections.abc import Iterator, Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from data_synthesis.run import Run
from data_synthesis.shards import manifest
from data_synthesis.tables import COMPOSED, TASKS
from gve_jax.disk import write_json
from gve_jax.types import UserError

_ALL = 1.0  # every place is below


def columns(run: Run, stage: str, *names: str) -> Iterator[pa.Table]:
    """These columns of the pairs that a finished stage kept, shard by shard.

    As they are: checking each row against its schema would take far longer.
    """
    for shard in range(run.layout.shards):
        manifest(run.layout, stage, shard)  # or it is not finished
        table = pq.read_table(
            run.layout.table(stage, shard), columns=[*names, "outcome"]
        )
        yield table.filter(pc.equal(table["outcome"], "keep"))


def asked(run: Run) -> dict[str, float]:
    """Of each composed task the last place for which the captioner is asked.

    As not all of what it writes is kept, `extend.spare` times the quota is.
    """
    orders = _orders(run, "candidates")
    wanted = quotas(run, {task: len(found) for task, found in orders.items()})
    spare = run.config.extend.spare
    return {
        task: limit(orders[task], math.ceil(spare * wanted[task])) for task in COMPOSED
    }


def kept(run: Run) -> dict[str, float]:
    """Of each task the last place that is taken.

    Writes OUT/compose/quotas.json: {"tasks": {TASK: {"table": of the configuration,
    "quota", "available", "kept", "short"}}, "scale"}.
    """
    orders = _orders(run, "compose")
    available = {task: len(found) for task, found in orders.items()}
    wanted = quotas(run, available)
    table = run.config.extend.quotas
    tasks = {}
    for task in TASKS:
        number = min(wanted[task], available[task])
        tasks[task] = {
            "table": table.get(task, 0),
            "quota": wanted[task],
            "available": available[task],
            "kept": number,
            "short": wanted[task] - number,
        }
    found = {"tasks": tasks, "scale": scale(run, available)}
    write_json(run.layout.root / "compose" / "quotas.json", found)
    return {task: limit(orders[task], wanted[task]) for task in TASKS}


def quotas(run: Run, available: Mapping[str, int]) -> dict[str, int]:
    """Pairs wanted of each task.

    Raises:
      UserError: a name that is no task, or no quota above zero.
    """
    table, factor = run.config.extend.quotas, scale(run, available)
    return {task: round(table.get(task, 0) * factor) for task in TASKS}


def scale(run: Run, available: Mapping[str, int]) -> float:
    """`config.extend.scale`; if 0, the share that there is of the largest quota.

    The task of that quota takes all of its pairs, and the others follow in proportion;
    none takes more than the table says.
    """
    table = run.config.extend.quotas
    for task in table:
        if task not in TASKS:
            raise UserError(f"config.extend.quotas.{task}: no task; one of {TASKS}")
    largest = max(sorted(table), key=lambda task: table[task], default="")
    if not largest or table[largest] <= 0 or min(table.values()) < 0:
        raise UserError(f"config.extend.quotas={dict(table)}: numbers above 0 are due")
    return run.config.extend.scale or min(1.0, available[largest] / table[largest])


def limit(orders: np.ndarray, number: int) -> float:
    """The last of the `number` lowest places; -1 to take none."""
    if number >= len(orders):
        return _ALL
    return float(np.partition(orders, number - 1)[number - 1]) if number else -1.0


def _orders(run: Run, stage: str) -> dict[str, np.ndarray]:
    parts: dict[str, list] = {task: [np.zeros(0)] for task in TASKS}
    for table in columns(run, stage, "task", "order"):
        tasks, orders = table["task"].to_numpy(), table["order"].to_numpy()
        for task in TASKS:
            parts[task].append(orders[tasks == task])
    return {task: np.concatenate(found) for task, found in parts.items()}
