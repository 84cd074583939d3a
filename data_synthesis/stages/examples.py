"""`examples`: the kept pairs, with their negatives, as ArrayRecord files.

The table has a row for each file; the files are in OUT/array_record, beside which
`outputs.finish` writes what makes them a data set.
"""

import functools
import pathlib

from data_synthesis import array_records, outputs, pipelines, shards
from data_synthesis.run import Run, Stage, key
from data_synthesis.shards import Key, Layout
from data_synthesis.tables import ExampleFile

STAGE = Stage("examples", ("extend", "mine"), ("extend.splits",))


def work(run: Run) -> pipelines.Work:
    # Paths from the folder to the media are in the files.
    more = {"input": str(pathlib.Path(run.input).resolve())}
    keys = tuple(
        key(run, STAGE, shards.input_hashes(run.layout, shard, STAGE.inputs) | more)
        for shard in range(run.layout.shards)
    )
    return pipelines.Work(run.layout, keys, functools.partial(_shard, run))


def _shard(run: Run, layout: Layout, key: Key, shard: int) -> None:
    folder, rows = outputs.examples_folder(run), []
    relative = outputs.relative_to(folder)
    pairs = list(outputs.final_pairs(run, shard))
    for split in sorted(run.config.extend.splits):
        path = folder / array_records.file_name(split, shard, layout.shards)
        number = array_records.write(
            path,
            (array_records.row(p, relative) for s, p in pairs if s == split),
        )
        rows.append(
            ExampleFile(
                path.name,
                split,
                number,
                path.stat().st_size,
                shards.file_sha256(path),
            )
        )
    shards.write_shard(layout, key, shard, rows, ExampleFile)
