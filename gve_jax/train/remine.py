"""Hard negatives mined anew with the run's own weights, epoch by epoch.

WORKDIR/mined/EPOCH/TASK.jsonl holds the pairs of an epoch, numbered from 1, and
audit.json what was taken and what was left out.
"""

import functools
import pathlib
import urllib.parse
from collections.abc import Mapping, Sequence

import jax
from ml_collections import ConfigDict

from gve_jax.data.records import read_pairs
from gve_jax.disk import write_json
from gve_jax.embed import Embedder
from gve_jax.mine import MineOptions, equal_files, media_paths, mine, write_pairs
from gve_jax.types import Pair, UserError

Tasks = Mapping[str, Sequence[Pair]]


class Remining:
    """Mines for those tasks that use hard negatives; the others stay as they are.

    Args:
      config: of the run.
      tasks: what it trains on.
      workdir: of the run.

    Raises:
      UserError: no task uses any.
    """

    def __init__(self, config: ConfigDict, tasks: Tasks, workdir: pathlib.Path):
        data = config.data
        numbers = {
            task: data.nums_negatives.get(task, data.num_negatives) for task in tasks
        }
        if not any(numbers.values()):
            raise UserError(
                "mine.each_epoch: no task uses hard negatives: set data.num_negatives, "
                "or data.nums_negatives of some tasks"
            )
        self._tasks = tasks
        self._mined = [task for task, n in numbers.items() if n]
        self._folder = workdir / "mined"
        self._options = MineOptions(
            negatives=max(numbers.values()),
            ceiling=config.mine.ceiling,
            first_rank=config.mine.first_rank,
            last_rank=config.mine.last_rank,
        )

    def mine(self, epoch: int, embedder: Embedder) -> Tasks:
        """The tasks with new negatives, for an epoch numbered from 0."""
        folder = self._folder / str(epoch + 1)
        tasks, audits = dict(self._tasks), {}
        for task in self._mined:
            mined = mine(
                self._tasks[task],
                lambda items: embedder.embed(items, desc="mine").vectors,
                self._options,
                twins=self._twins,
            )
            tasks[task], audits[task] = mined.pairs, mined.audit._asdict()
        if jax.process_index() == 0:
            folder.mkdir(parents=True, exist_ok=True)
            for task in self._mined:
                write_pairs(_file(folder, task), tasks[task])
            write_json(folder / "audit.json", audits)
        return tasks

    def read(self, epoch: int) -> Tasks:
        """What `mine` returned for this epoch."""
        folder = self._folder / str(epoch + 1)
        read = {task: read_pairs(_file(folder, task)) for task in self._mined}
        return {**self._tasks, **read}

    @functools.cached_property
    def _twins(self) -> dict[str, str]:
        tasks = (self._tasks[task] for task in self._mined)
        return equal_files(sorted(media_paths(*tasks)))


def _file(folder: pathlib.Path, task: str) -> pathlib.Path:
    return folder / f"{urllib.parse.quote(task, safe='')}.jsonl"
