"""`nearest`: of each record that is still kept, the most similar video before it.

Before it, by id: `decide` drops a record whose cosine with one of a smaller id is
`duplicates.min_cosine` or more, so that of all that is alike one stays, and no two that
stay are so near (SemDeDup, arXiv 2303.09540). What the filters of text, video, motion,
copies and consistency drop stands for nothing: it is not compared. Where calibration
finds that the embedder tells nothing, nothing is compared.

The search is exact, whatever the machine and the number of processes.
"""

import dataclasses
import functools
import pathlib
from collections.abc import Iterable, Iterator

import numpy as np

from data_synthesis import pipelines, shards
from data_synthesis.run import Run, Stage, key, whole_stage_hash
from data_synthesis.searching import cosine, nearest_before
from data_synthesis.shards import Key, Layout
from data_synthesis.stages import embed

STAGE = Stage("nearest", ("vectors",), ())


@dataclasses.dataclass(frozen=True)
class Nearest:
    """Of record `id` the video of record `other` is the most similar before it."""

    id: str
    other: str
    cosine: float


def work(run: Run) -> pipelines.Work:
    """All shards follow from all vectors."""
    calibration = embed.calibrate(run)
    inputs = {
        "vectors": whole_stage_hash(run, "vectors"),
        "calibration": shards.config_sha256(calibration),
    }
    if calibration["filter"]:
        _write_corpus(run.layout, calibration["tau"], inputs)
    return pipelines.Work(
        run.layout,
        (key(run, STAGE, inputs),) * run.layout.shards,
        functools.partial(_shard, calibration["filter"]),
    )


def _paths(layout: Layout) -> tuple[pathlib.Path, pathlib.Path]:
    folder = layout.root / STAGE.name
    return folder / "ids.npy", folder / "vectors.npy"


def _write_corpus(layout: Layout, tau: float, inputs: dict[str, str]) -> None:
    """Writes ids and vectors of what is compared, by id, if they are not there.

    Shard by shard: only the ids are held.
    """
    paths, made = _paths(layout), shards.config_sha256(inputs)
    state = paths[0].with_name("corpus.txt")
    if state.exists() and state.read_text() == made:
        return
    state.parent.mkdir(exist_ok=True)
    state.unlink(missing_ok=True)
    names = np.sort(_bytes(name for name, _ in _compared(layout, tau)))
    dim = next((len(video) for _, video in _compared(layout, tau)), 1)
    np.save(paths[0], names)
    vectors = np.lib.format.open_memmap(
        paths[1], "w+", np.float32, (max(len(names), 1), dim)
    )
    for name, video in _compared(layout, tau):
        vectors[np.searchsorted(names, name.encode())] = video
    vectors.flush()
    state.write_text(made)  # last: it says that the others are whole


def _compared(layout: Layout, tau: float) -> Iterator[tuple[str, np.ndarray]]:
    for shard in range(layout.shards):
        for name, text, video in embed.read_vectors(layout, shard):
            if cosine(text, video) >= tau:
                yield name, video


def _bytes(names: Iterable[str]) -> np.ndarray:
    """Ids, of which text would take four times the memory."""
    return np.array([name.encode() for name in names], "S32")


def _shard(searched: bool, layout: Layout, key: Key, shard: int) -> None:
    rows = _nearest(layout, shard) if searched else []
    shards.write_shard(layout, key, shard, rows, Nearest)


def _nearest(layout: Layout, shard: int) -> list[Nearest]:
    names, vectors = (np.load(path, mmap_mode="r") for path in _paths(layout))
    own = _bytes(name for name, *_ in embed.read_vectors(layout, shard))
    places = np.flatnonzero(np.isin(names, own))
    found, others = nearest_before(places, vectors)
    return [
        Nearest(names[place].decode(), names[other].decode(), float(value))
        for place, other, value in zip(places, others, found, strict=True)
        if other >= 0
    ]
