"""Checks a folder of datasets: every file read, hashed, decoded, and remembered.

ROOT/checked.jsonl remembers each file by its size and time of change, so that a check
that was interrupted goes on and a second one reads new files only. ROOT/manifest.json
is the result.
"""

import collections
import json
import os
import pathlib
from collections.abc import Iterable, Iterator
from contextlib import closing
from typing import NamedTuple

import numpy as np

from eval import loaders
from eval.datasets import RetrievalSet
from eval.sources.build import RECORD
from gve_jax import disk, media
from gve_jax.preprocess.workers import Lost, Reader
from gve_jax.progress import ProgressLine
from gve_jax.types import Item, UserError

NUM_FRAMES = 8  # as the benchmark samples
_TABLES = ("corpus", "queries", "instances")
_TOLERANCE = 0.05  # of means that are as published


class File(NamedTuple):
    """A file to check; two names of one file are one."""

    path: str  # its real one
    kind: str  # "video", "image" or "table"
    size: int
    mtime_ns: int


class State(NamedTuple):
    """What a file is."""

    sha256: str  # "" where it cannot be read
    seconds: float | None  # of a video that can be decoded
    fault: str  # "" if there is none


class Checked(NamedTuple):
    """The outcome of a check.

    `datasets`: {name: summary}, as in the manifest. A summary holds counts, "files"
    {path below the root: {"bytes", "sha256", "seconds"?, "fault"?}} and "faults" [{
    "where", "path", "fault"}]; of a dataset that cannot be read only the latter.
    """

    datasets: dict[str, dict]
    changed: list[str]  # files that the manifest before had otherwise
    vanished: list[str]  # files that it had


def check(root: str | os.PathLike, names: list[str], workers: int) -> Checked:
    """Checks datasets and writes the manifest.

    What it says of datasets that are not among `names` stays. Raises UserError if the
    folder cannot be written.
    """
    base = pathlib.Path(root).absolute()
    target = base / "manifest.json"
    old = _read(target)
    sets, summaries = {}, {}
    for name in names:
        try:
            sets[name] = loaders.load(str(base), name)
        except UserError as e:
            fault = {"where": name, "path": "", "fault": str(e)}
            summaries[name] = {"files": {}, "faults": [fault]}
    files = {name: _files(base, data) for name, data in sets.items()}
    distinct = dict.fromkeys(f for of in files.values() for f in of.values() if f)
    states = _states(base, distinct, workers)
    for name, data in sets.items():
        found = {path: f and (f, states[f]) for path, f in files[name].items()}
        summaries[name] = _summary(base, data, found)
    changed, vanished = [], []
    for name in names:
        before = old.get(name, {}).get("files", {})
        for path, row in before.items():
            now = summaries[name]["files"].get(path, {}).get("sha256")
            if row.get("sha256") != now:
                (changed if now else vanished).append(path)
    disk.write_json(
        target,
        {
            "decoder": media.DECODER,
            "datasets": old | {name: summaries[name] for name in names},
        },
    )
    return Checked({name: summaries[name] for name in names}, changed, vanished)


def _read(path: pathlib.Path) -> dict[str, dict]:
    """The datasets of a manifest, {} where there is none."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))["datasets"]
    except FileNotFoundError:
        return {}
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{path}: not a manifest; remove it") from None


def _media(item: Item) -> Iterator[tuple[str, str]]:
    """(kind, path) of what an item shows."""
    if item.video:
        yield "video", item.video
    if item.image:
        yield "image", item.image


def _files(base: pathlib.Path, data: RetrievalSet) -> dict[str, File | None]:
    """All files of a dataset by their paths below the root; None where one is not."""
    paths = {str(data.folder / "jsonl" / f"{name}.jsonl"): "table" for name in _TABLES}
    paths |= {
        path: kind
        for item in (*data.queries, *data.corpus)
        for kind, path in _media(item)
    }
    return {
        os.path.relpath(path, base): _file(path, kind) for path, kind in paths.items()
    }


def _file(path: str, kind: str) -> File | None:
    try:
        info = os.stat(path)
    except OSError:
        return None
    return File(os.path.realpath(path), kind, info.st_size, info.st_mtime_ns)


def _inspect(file: Item) -> State:
    """Hashes and decodes; runs in a process of its own.

    The item's video is a file of any kind, its id says which.
    """
    sha256 = ""
    try:
        sha256 = media.content_key(file.video)
        if file.id == "image":
            media.read_image(file.video)
        if file.id == "video":
            sample = media.read_video(file.video, NUM_FRAMES)
            return State(sha256, round(sample.duration, 3), "")
    except media.MediaError as e:
        return State(sha256, None, f"{e.code}: {e.message}")
    return State(sha256, None, "")


def _states(
    base: pathlib.Path, files: Iterable[File], workers: int
) -> dict[File, State]:
    """The state of each file, from memory where it was checked as it is now."""
    memory = base / "checked.jsonl"
    known = [r for r in disk.read_rows(memory) if r["decoder"] == media.DECODER]
    try:
        disk.write_rows(memory, known)  # a line that was cut must not be written on
    except OSError as e:
        raise UserError(f"--root: cannot write {memory} ({e.strerror})") from None
    states = {File(*row["file"]): State(*row["state"]) for row in known}
    todo = [file for file in files if file not in states]
    with (
        memory.open("a", encoding="utf-8") as out,
        ProgressLine("check", len(todo), "files") as line,
    ):
        for file, state in _run(todo, workers):
            states[file] = state
            row = {"file": file, "state": state, "decoder": media.DECODER}
            out.write(json.dumps(row, ensure_ascii=False) + "\n")
            out.flush()
            line.advance()
    return states


def _run(files: list[File], workers: int) -> Iterator[tuple[File, State]]:
    """A file on which a decoder hangs, or its process dies, is a fault."""
    reader = Reader(_inspect, processes=workers)
    items = [Item(file.kind, video=file.path) for file in files]
    with closing(reader.ahead(items)) as states:
        for file, state in zip(files, states, strict=True):
            if isinstance(state, Lost):
                state = State("", None, f"lost: {state}")
            yield file, state


def _summary(
    base: pathlib.Path,
    data: RetrievalSet,
    found: dict[str, tuple[File, State] | None],
) -> dict:
    """What the manifest says of a dataset."""
    faults = [
        {"where": where, "path": os.path.relpath(path, base), "fault": "missing"}
        for where, path in data.missing
    ]
    missing = len({fault["path"] for fault in faults})
    faults += [
        {"where": data.name, "path": path, "fault": pair[1].fault}
        for path, pair in found.items()
        if pair and pair[1].fault
    ]

    # What cannot be read is equal to itself only.
    digests = {p: (pair and pair[1].sha256) or p for p, pair in found.items()}

    def content(item: Item) -> tuple:
        """Equal for items that show and say the same."""
        paths = (os.path.relpath(path, base) for _, path in _media(item))
        return item.text, *(digests[path] for path in paths)

    pairs = [pair for pair in found.values() if pair]
    seconds = [
        pair[1].seconds
        for item in data.corpus
        if item.video and (pair := found[os.path.relpath(item.video, base)])
    ]
    means = {
        "mean_query_words": _mean(len(q.text.split()) for q in data.queries if q.text),
        "mean_duration_s": _mean(s for s in seconds if s is not None),
    }
    unlike = [
        f"{key} {mean}, expected {want}"
        for key, mean in means.items()
        if mean and (want := getattr(data.facts, key))
        # The paper does not say how it counts words.
        if abs(mean - want) > _TOLERANCE * want
    ]
    num_queries, num_ranked = data.sizes
    return {
        "num_queries": num_queries,
        "num_corpus": len(data.corpus),
        "num_ranked": num_ranked,
        "differences": ", ".join(filter(None, [data.differences(), *unlike])),
        "built": (data.folder / RECORD).exists(),
        **means,
        "num_media": len(found) - len(_TABLES),
        "missing": missing,
        "broken": len(faults) - len(data.missing),
        "equal_corpus": _equal(data.corpus, content),
        "equal_queries": _equal(data.queries, content),
        "bytes": sum(file.size for file, _ in pairs),
        "licence": data.facts.licence,
        "faults": faults,
        "files": {
            path: {"bytes": file.size}
            | {k: v for k, v in state._asdict().items() if v not in (None, "")}
            for path, (file, state) in ((p, f) for p, f in found.items() if f)
        },
    }


def _mean(values: Iterable[float]) -> float | None:
    values = list(values)
    return round(float(np.mean(values)), 1) if values else None


def _equal(items: Iterable[Item], content) -> list[list[str]]:
    """Groups of ids of items that are the same: answers that cannot be told apart."""
    groups = collections.defaultdict(list)
    for item in items:
        groups[content(item)].append(item.id)
    return [ids for ids in groups.values() if len(ids) > 1]
