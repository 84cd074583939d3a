"""Embeds items to a folder: resumed, by one process or several."""

import os
import pathlib
import shutil
from collections.abc import Iterator, Sequence

import jax
import numpy as np
from jax.experimental import multihost_utils

from gve_jax import embeddings
from gve_jax.embed.embedder import Embedder, EmbedResult, EmbedStats
from gve_jax.embed.log import PIECE, VectorLog
from gve_jax.types import Item


def embed_to_folder(
    embedder: Embedder,
    items: Sequence[Item],
    folder: str | os.PathLike,
    desc: str = "embed",
) -> EmbedResult | None:
    """Embeds `items` into `folder`, going on from what an interrupted call left.

    A finished folder of the same items and contract is read back. Items are compared
    by id and content, media by path, size and time of change. If no item can be read,
    nothing but failures.jsonl is left.

    Several processes that run together share the work, each with an embedder of its
    own, in a folder that all must see; then the first writes it.

    Returns:
      The vectors, read-only and on disk if none failed, and the work of this process;
      None in all processes but the first.

    Raises:
      UserError: the folder holds vectors of another contract or of other items, or
        something else, or cannot be written.
    """
    folder, known = pathlib.Path(folder), embeddings.know(items)
    stats = EmbedStats(0, 0.0, 0, 0, 0)
    if not embeddings.finished(folder, embedder.contract, known):
        log = VectorLog(folder / "pieces", embedder.contract.to_json(), embedder.dim)
        first_of: dict[bytes, Item] = {}
        for key, item in zip(known.keys, items, strict=True):
            first_of.setdefault(key, item)
        stats = log.fill(embedder, first_of, desc)
        _meet("vectors read")  # the first removes what the others have to read
        if jax.process_index() == 0:
            _write(folder, embedder, known, log)
        _meet("embedded")  # nobody leaves before the vectors are there
    if jax.process_index() != 0:
        return None
    return _read(folder, items, embedder.dim, stats)


def _meet(name: str) -> None:
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


def _write(
    folder: pathlib.Path, embedder: Embedder, known: embeddings.Known, log: VectorLog
) -> None:
    failures = {
        i: log.failures[key].reason
        for i, key in enumerate(known.keys)
        if key not in log
    }

    def blocks() -> Iterator[np.ndarray]:
        good = [key for key in known.keys if key in log]
        for start in range(0, len(good), PIECE):
            yield np.stack([log.get(key) for key in good[start : start + PIECE]])

    embeddings.write(folder, embedder.contract, known, failures, blocks())
    shutil.rmtree(folder / "pieces")


def _read(
    folder: pathlib.Path, items: Sequence[Item], dim: int, stats: EmbedStats
) -> EmbedResult:
    failures = embeddings.failures(folder, items)
    if not failures:
        vectors = np.load(folder / "embeddings.npy", mmap_mode="r")
        return EmbedResult(vectors, failures, stats)
    vectors = np.full((len(items), dim), np.nan, np.float32)
    if len(failures) < len(items):
        good = [i for i in range(len(items)) if i not in failures]
        vectors[good] = np.load(folder / "embeddings.npy")
    return EmbedResult(vectors, failures, stats)
