"""A user's own pairs, by low-rank updates of GVE-3B or of any model we read.

python -m gve_jax.train --config=configs/finetune.py:PAIRS.jsonl --workdir=runs/mine

Any key may follow, such as --config.model.init_from=FOLDER, --config.train.steps=200 or
--config.data.batch_size=16. What follows from the number of pairs is set here: batch,
steps, and how many pairs are held out to measure recall on.
"""

import collections
import json
import pathlib

import ml_collections

from gve_jax.config import default_config

EPOCHS = 3
MOST = 64  # pairs of a batch: what a GPU of 80 GB holds in chunks, and enough negatives


def get_config(pairs: str = "") -> ml_collections.ConfigDict:
    if not pairs:
        raise OSError("name a pairs file, --config=configs/finetune.py:PAIRS.jsonl")
    tasks, negatives = _count(pairs)
    c = default_config()
    c.model.init_from = "Alibaba-NLP/GVE-3B"
    c.model.dtype = "bfloat16"
    c.model.remat = "full"
    c.data.pairs = pairs
    # Eight batches an epoch, where there are pairs enough.
    c.data.batch_size = _batch(max(tasks.values()))
    for task, count in tasks.items():
        if _batch(count) < c.data.batch_size:
            c.data.batch_sizes[task] = _batch(count)
    c.data.num_negatives = min(negatives, 4)
    total = sum(tasks.values())
    c.data.held_out = min(max(1, total // 10), 500)

    steps = sum(EPOCHS * count / _batch(count) for count in tasks.values())
    c.optim.update(peak_lr=1e-4, warmup_steps=round(steps / 10))
    c.train.steps = max(1, round(steps))
    c.train.chunk = 8192
    an_epoch = max(1, c.train.steps // EPOCHS)
    c.train.update(log_every=1, eval_every=an_epoch, checkpoint_every=an_epoch)
    return c


def _batch(pairs: int) -> int:
    """A power of two, that it may divide over the devices."""
    return 1 << min(MOST, max(2, pairs // 8)).bit_length() - 1


def _count(path: str) -> tuple[dict[str, int], int]:
    """Pairs of each task, and the most negatives of one.

    Raises:
      OSError: it is no pairs file. Commands say so in one line, with exit code 2; of
        other errors in a config the flag shows a traceback. Rows are checked later.
    """
    tasks: collections.Counter[str] = collections.Counter()
    task = pathlib.Path(path).stem  # of rows that name none
    negatives = 0
    try:
        with open(path, encoding="utf-8") as f:
            for line in filter(str.strip, f):
                row = json.loads(line)
                tasks[row.get("task") or task] += 1
                negatives = max(negatives, len(row.get("negatives") or ()))
    except (ValueError, AttributeError, TypeError) as e:
        raise OSError(
            f"{path}: no pairs file, which has a JSON object a line ({e})"
        ) from e
    if not tasks:
        raise OSError(f"{path}: holds no pairs")
    return dict(tasks), negatives
