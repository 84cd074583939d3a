"""What negatives are drawn from: distinct candidates, and which of them are one."""

import contextlib
import itertools
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from gve_jax import media
from gve_jax.progress import ProgressLine
from gve_jax.types import Item, Pair


class Corpus(NamedTuple):
    """Items beside a task's own targets, embedded once for all tasks."""

    items: Sequence[Item]
    vectors: np.ndarray  # float32 [n, d], unit rows; NaN where unreadable


class Pool(NamedTuple):
    """The candidates of a task: its distinct targets, then those of the corpus."""

    items: list[Item]  # m
    vectors: np.ndarray  # float32 [m, d]
    sources: list[set[str]]  # m: of the pairs whose target it is
    place: dict[tuple, int]  # identity -> candidate
    merged: Counter  # contents that are an earlier candidate: "media", "text" alone
    other_modality: int  # corpus items of a modality that no target has


def make_identity(twins: Mapping[str, str]) -> Callable[[Item], tuple]:
    """The function to what makes two items one, whatever their vectors.

    Texts are equal but for case and white space, media by path or, where `twins` maps
    paths to one of them, by bytes. The instruction does not count.
    """

    def identity(item: Item) -> tuple:
        paths = (p and twins.get(p, p) for p in (item.image, item.video))
        text = " ".join((item.text or "").casefold().split())
        return text, *paths, item.start, item.end

    return identity


def media_paths(*tasks: Iterable[Pair], corpus: Iterable[Item] = ()) -> set[str]:
    """All files that the pairs of tasks, or a corpus, show."""
    items = (
        item
        for pairs in tasks
        for pair in pairs
        for item in (pair.query, pair.target, *pair.negatives)
    )
    return {
        path
        for item in itertools.chain(items, corpus)
        for path in (item.image, item.video)
        if path
    }


def equal_files(paths: Iterable[str]) -> dict[str, str]:
    """Maps each path whose bytes another file has, too, to the first such path.

    Files that share their size are read. What cannot be read equals nothing.
    """
    by_size: dict[int, list[str]] = defaultdict(list)
    for path in dict.fromkeys(paths):
        with contextlib.suppress(OSError):
            by_size[os.path.getsize(path)].append(path)
    alike = [path for group in by_size.values() if len(group) > 1 for path in group]
    first: dict[str, str] = {}
    twins: dict[str, str] = {}
    with ProgressLine("compare files", len(alike), "files") as line:
        for path in alike:
            with contextlib.suppress(media.MediaError):
                twins[path] = first.setdefault(media.content_key(path), path)
            line.advance()
    shared = Counter(twins.values())
    return {path: same for path, same in twins.items() if shared[same] > 1}


def make_pool(
    pairs: Sequence[Pair],
    vector: Callable[[Item], np.ndarray],
    corpus: Corpus | None,
    identity: Callable[[Item], tuple],
) -> Pool:
    """Candidates in order of first appearance: of each identity, its first item."""
    items: list[Item] = []
    vectors: list[np.ndarray] = []
    sources: list[set[str]] = []
    place: dict[tuple, int] = {}
    merged: Counter = Counter()
    seen: set[tuple] = set()

    def add(item: Item, row: np.ndarray) -> int:
        found = place.setdefault(identity(item), len(items))
        if found == len(items):
            items.append(item)
            vectors.append(row)
            sources.append(set())
        elif item.content not in seen:
            merged["media" if item.image or item.video else "text"] += 1
        seen.add(item.content)
        return found

    for pair in pairs:
        found = add(pair.target, vector(pair.target))
        if pair.source_id:
            sources[found].add(pair.source_id)
    kinds = {item.kind for item in items}
    other = 0
    for item, row in zip(*corpus, strict=True) if corpus else ():
        if item.kind in kinds:
            add(item, row)
        else:
            other += 1
    return Pool(items, np.stack(vectors), sources, place, merged, other)
