"""What a run leaves for training, from its finished stages.

OUT/pairs/TASK.jsonl           pairs of the split "train", for `gve_jax.train`
OUT/pairs/SPLIT/TASK.jsonl     of the other splits
OUT/corpus, queries, relevance tables, sharded; see `tables`
OUT/array_record/              all splits, a data set of TFDS; see `array_records`
"""

import collections
import json
import os
import pathlib
from collections.abc import Callable, Iterator

from data_synthesis import array_records
from data_synthesis.record import read_table
from data_synthesis.run import Run
from data_synthesis.stages.candidates import FORMS
from data_synthesis.tables import TASKS, ExampleFile, Mined, kept_pairs
from data_synthesis.tables import Pair as PairRow
from data_synthesis.world.tasks import RESEMBLES
from gve_jax.data.records import pair_row
from gve_jax.types import Pair, UserError

TRAIN = "train"


def final_pairs(run: Run, shard: int) -> Iterator[tuple[str, Pair]]:
    """(split, pair) of a shard, in the order of their ids, with hard negatives."""
    found = read_table(run.layout.table("mine", shard), Mined)
    mined = {row.id: row for row in found if row.negatives}
    for pair in kept_pairs(run.layout, shard):
        yield pair.split, _pair(run, pair, mined.get(pair.id))


def _pair(run: Run, pair: PairRow, mined: Mined | None) -> Pair:
    negatives = mined.negatives if mined else ()
    scores = (mined.positive_score, *(n.score for n in negatives)) if mined else ()
    return Pair(
        id=f"{pair.task}/{pair.id}",
        query=pair.query.item(run),
        target=pair.target.item(run),
        negatives=tuple(n.side.item(run) for n in negatives),
        task=pair.task,
        source_id=pair.cluster,
        # Captions of a kind compete with their like.
        cluster=RESEMBLES[FORMS[pair.style]] if pair.task == "T2V" else None,
        scores=scores,
    )


def relative_to(folder: pathlib.Path) -> Callable[[str], str]:
    """Absolute paths as files in the folder name them."""
    if os.path.realpath(folder) != os.path.abspath(folder):
        return os.path.abspath  # behind a symbolic link ".." would not lead back
    return lambda path: os.path.relpath(path, folder)


def pairs_folder(run: Run, split: str = TRAIN) -> pathlib.Path:
    folder = run.layout.root / "pairs"
    return folder if split == TRAIN else folder / split


def examples_folder(run: Run) -> pathlib.Path:
    return run.layout.root / "array_record"


def finish(run: Run) -> dict[str, dict[str, int]]:
    """Writes the pairs files, and what makes the ArrayRecord files a data set.

    A file that a run before this one wrote, and this one does not, is removed.

    Returns:
      split -> task -> pairs.

    Raises:
      UserError: an ArrayRecord file is not as it was written.
    """
    counts = _write_pairs(run)
    _write_metadata(run)
    return counts


def _write_pairs(run: Run) -> dict[str, dict[str, int]]:
    counts: dict[str, collections.Counter] = {
        split: collections.Counter() for split in sorted(run.config.extend.splits)
    }
    parts, relative = {}, {}
    for split in counts:
        folder = pairs_folder(run, split)
        folder.mkdir(parents=True, exist_ok=True)
        relative[split] = relative_to(folder)
        for task in TASKS:
            part = folder / f"{task}.jsonl.part"
            parts[split, task] = open(part, "w", encoding="utf-8")  # noqa: SIM115
    for shard in range(run.layout.shards):
        for split, pair in final_pairs(run, shard):
            row = pair_row(pair, relative[split])
            line = json.dumps(row, ensure_ascii=False)
            parts[split, pair.task].write(line + "\n")
            counts[split][pair.task] += 1
    for (split, task), file in parts.items():
        file.close()
        part = pathlib.Path(file.name)
        path = part.with_suffix("")
        if counts[split][task]:
            part.replace(path)
        else:  # a pairs file without rows is refused by its readers
            part.unlink()
            path.unlink(missing_ok=True)
    return {split: dict(found) for split, found in counts.items()}


def _write_metadata(run: Run) -> None:
    folder, splits = examples_folder(run), collections.defaultdict(list)
    for shard in range(run.layout.shards):
        for row in read_table(run.layout.table("examples", shard), ExampleFile):
            path = folder / row.id
            if not path.exists() or path.stat().st_size != row.bytes:
                raise UserError(
                    f"{path}: not as stage examples wrote it; remove the folder "
                    f"{run.layout.root / 'examples'} and run the same command again"
                )
            splits[row.split].append((row.examples, row.bytes))
    array_records.write_metadata(
        folder,
        {s: files for s, files in splits.items() if any(n for n, _ in files)},
    )
