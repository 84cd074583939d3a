"""`benchmark`: hashes of the videos that models are evaluated on.

`links` looks for them among the raw ones. Each distinct file is decoded once; what
cannot be decoded is an error, and is only known by its bytes. Stills of the benchmark
are not looked for: they are of its videos, or never of a raw file's bytes.
"""

import dataclasses
import functools
import os
import pathlib
from contextlib import closing

from data_synthesis import draws, pipelines, shards, video
from data_synthesis.run import Run, Stage, key
from data_synthesis.shards import Counts, Key, Layout
from eval import loaders
from gve_jax.preprocess.workers import Lost
from gve_jax.types import Item, UserError

STAGE = Stage("benchmark", (), ())
# Its videos may be long, and are nobody's attack.
_SECONDS = 3600.0


@dataclasses.dataclass(frozen=True)
class Evaluated:
    """A video of the benchmark, by its path below the folder; see `video.Inspection`.

    `fault`: why it has no hashes.
    """

    id: str
    path: str
    sha256: str
    frames_sha256: str = ""
    hashes: tuple[str, ...] = ()
    fault: str = ""


def work(run: Run) -> pipelines.Work:
    """Raises UserError if the folder is no benchmark, or lacks files that it names."""
    files, number = media(run), run.layout.shards
    mine = [files[shard::number] for shard in range(number)]
    root = pathlib.Path(run.config.duplicates.benchmark)
    sizes = [[(f, (root / f).stat().st_size) for f in part] for part in mine]
    keys = tuple(
        key(run, STAGE, {"files": shards.config_sha256({"files": part})})
        for part in sizes
    )
    return pipelines.Work(run.layout, keys, functools.partial(_shard, run, mine))


def media(run: Run) -> list[str]:
    """Paths of all distinct videos, below the folder, sorted; none without a folder."""
    root = run.config.duplicates.benchmark
    if not root:
        return []
    names, found = loaders.present(root), set()
    if not names:
        raise UserError(
            f"config.duplicates.benchmark: no dataset in {root!r} (expected "
            "NAME/jsonl/corpus.jsonl, as UVRB has)"
        )
    for name in names:
        dataset = loaders.load(root, name)
        if dataset.missing:
            where, path = dataset.missing[0]
            raise UserError(
                f"{where}: {path} is not there, nor are {len(dataset.missing) - 1} "
                "more: what is not there cannot be looked for; fetch them"
            )
        found |= {i.video for i in (*dataset.queries, *dataset.corpus) if i.video}
    return sorted(os.path.relpath(path, root) for path in found)


def _shard(run: Run, files: list[list[str]], layout: Layout, key: Key, shard: int):
    root = pathlib.Path(run.config.duplicates.benchmark)
    limits = run.config.media
    identify = functools.partial(video.identify, _SECONDS)
    reader = video.reader(identify, 2 * _SECONDS, limits.max_memory_mb)
    rows = []
    items = [Item(path, video=str(root / path)) for path in files[shard]]
    with closing(reader.ahead(items)) as found:
        for item, result in zip(items, found, strict=True):
            digest = shards.file_sha256(pathlib.Path(item.video))
            row = Evaluated(draws.identity(item.id), item.id, digest)
            if isinstance(result, str):
                code = "lost" if isinstance(result, Lost) else result.split(":")[0]
                rows.append(dataclasses.replace(row, fault=code))
            else:
                frames, hashes = result
                rows.append(
                    dataclasses.replace(row, frames_sha256=frames, hashes=hashes)
                )
    rows.sort(key=lambda row: row.id)
    faults = [row.fault for row in rows if row.fault]
    counts = Counts(
        len(rows), len(rows) - len(faults), 0, len(faults),
        {code: faults.count(code) for code in sorted(set(faults))},
    )  # fmt: skip
    shards.write_shard(layout, key, shard, rows, Evaluated, counts=lambda: counts)
