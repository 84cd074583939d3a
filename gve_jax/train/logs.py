"""What a run writes down of itself: metrics.jsonl, curriculum.jsonl, evaluations.jsonl.

One JSON object a line; numbers that are not finite become null. Of several processes
the first writes, for all.
"""

import json
import math
import pathlib
import time
from collections import Counter
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from ml_collections import ConfigDict

from gve_jax.data.loader import Batch
from gve_jax.disk import replace, whole_lines
from gve_jax.losses import LossCurves
from gve_jax.train.state import UpdateMetrics
from gve_jax.types import UserError

_COUNTS = ("tokens_used", "tokens_padded", "failed")  # of the rows of a process


class MetricsLog:
    """metrics.jsonl: a line per `train.log_every` updates, means over their batches.

    Values stay on the devices until a line is written: no step waits for the host.
    """

    def __init__(self, workdir: pathlib.Path):
        self._path = workdir / "metrics.jsonl"
        self._batches: list[tuple[Batch, LossCurves]] = []  # on the devices, ...
        self._updates: list[UpdateMetrics] = []
        self._rows: list[dict] = []  # ... and fetched
        self._update_rows: list[dict] = []
        self._start = time.monotonic()
        self._totals = np.zeros(3)  # of _COUNTS, in all lines
        self._pairs = 0
        # Task -> [sum of its losses, number of its batches], in the running epoch.
        self._losses: dict[str, list[float]] = {}

    def add(self, batch: Batch, curves: LossCurves) -> None:
        self._batches.append((batch, curves))

    def add_update(self, metrics: UpdateMetrics) -> None:
        self._updates.append(metrics)

    def get_state(self) -> dict:
        """What no line tells yet, as JSON values."""
        self._fetch()
        return {
            "rows": self._rows,
            "updates": self._update_rows,
            "losses": self._losses,
        }

    def set_state(self, state: dict) -> None:
        self._rows, self._update_rows = list(state["rows"]), list(state["updates"])
        self._losses = {task: list(v) for task, v in state["losses"].items()}

    def end_epoch(self) -> dict[str, float]:
        """Task -> mean loss of its batches since the last call."""
        self._fetch()
        losses, self._losses = self._losses, {}
        return {task: total / n for task, (total, n) in losses.items() if n}

    def write(self, step: int) -> dict[str, Any]:
        """Writes the line of the updates since the last one, and returns it."""
        self._fetch()
        rows, updates = self._rows, self._update_rows
        self._rows, self._update_rows = [], []
        now = time.monotonic()
        seconds, self._start = now - self._start, now
        counts = _over_processes([sum(row[name] for row in rows) for name in _COUNTS])
        self._totals += counts
        pairs = sum(row["num_pairs"] for row in rows)
        self._pairs += pairs
        tasks: dict[str, list[float]] = {}
        for row in rows:
            tasks.setdefault(row["task"], []).append(row["curves"]["loss"])
        line = {
            "step": step,
            **{
                name: _mean([row["curves"][name] for row in rows])
                for name in LossCurves._fields
            },
            "grad_norm": _mean([u["grad_norm"] for u in updates]),
            "learning_rate": updates[-1]["learning_rate"],
            "pairs_per_s": pairs / seconds,
            "padding": 1 - float(counts[0] / counts[1]),
            "failed_pairs": int(counts[2]),
            "skipped": int(updates[-1]["skipped"]),
            "skipped_in_row": int(updates[-1]["skipped_in_row"]),
            "tasks": {
                task: {"batches": len(losses), "loss": _mean(losses)}
                for task, losses in sorted(tasks.items())
            },
            "groups": dict(Counter(row["group"] for row in rows)),
        }
        append(self._path, line)
        self._last = line
        return line

    def check(self, config: ConfigDict) -> None:
        """Raises UserError if the lines until now say that the run is lost."""
        step, in_row = self._last["step"], self._last["skipped_in_row"]
        if in_row >= config.train.max_skipped:
            raise UserError(
                f"step {step}: the last {in_row} updates were skipped, their gradients "
                "not being finite (train.max_skipped): start again from an older "
                "checkpoint, with a lower optim.peak_lr or in float32"
            )
        share = self._totals[2] / self._pairs
        if share > config.data.max_failed:
            raise UserError(
                f"step {step}: {share:.1%} of the pairs cannot be read "
                f"(data.max_failed): see {self._path.with_name('failures.jsonl')}"
            )

    @property
    def padding(self) -> float:
        """Share of the token slots of all lines."""
        return 1 - self._totals[0] / self._totals[1] if self._totals[1] else 0.0

    def _fetch(self) -> None:
        """Brings what waits on the devices to the host."""
        batches, updates = self._batches, self._updates
        self._batches, self._updates = [], []
        curves = jax.device_get([curves for _, curves in batches])
        for (batch, _), values in zip(batches, curves, strict=True):
            row = batch._replace(inputs=None)._asdict()
            row["curves"] = {k: float(v) for k, v in values._asdict().items()}
            self._rows.append(row)
            entry = self._losses.setdefault(batch.task, [0.0, 0])
            if math.isfinite(values.loss):
                entry[0] += float(values.loss)
                entry[1] += 1
        for values in jax.device_get(updates):
            self._update_rows.append({k: v.item() for k, v in values._asdict().items()})


def append(path: pathlib.Path, line: dict[str, Any]) -> None:
    """Adds a line to a JSON-lines file; a process that is not the first does not."""
    if jax.process_index() == 0:
        with open(path, "a", encoding="utf-8") as f:
            f.write(json.dumps(_finite(line)) + "\n")


def cut_after(path: pathlib.Path, step: int | None) -> None:
    """Drops the lines of later steps, which are done, and logged, again; and the half
    line of a run that was killed while it wrote.

    None: all is done again, what comes before the first step too.
    """
    if path.exists() and jax.process_index() == 0:
        last = -1 if step is None else step
        kept = [x for x in whole_lines(path) if json.loads(x)["step"] <= last]
        replace(path, (f"{line}\n" for line in kept))


def _over_processes(values: list[int]) -> np.ndarray:
    mine = np.array(values)
    if jax.process_count() > 1:
        # As int32, all that JAX would pass on: numbers of a few steps.
        mine = np.asarray(multihost_utils.process_allgather(mine.astype(np.int32)))
        mine = mine.astype(np.int64).sum(0)
    return mine


def _mean(values: list[float]) -> float:
    """Of the finite ones."""
    finite = [v for v in values if math.isfinite(v)]
    return sum(finite) / len(finite) if finite else math.nan


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _finite(v) for k, v in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value
