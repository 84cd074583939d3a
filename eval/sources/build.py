"""From a release to a dataset in UVRB's layout: jsonl files and links to media."""

import hashlib
import io
import pathlib
from typing import NamedTuple

from PIL import Image

from eval import loaders, uvrb
from eval.datasets import RetrievalSet
from eval.sources.entry import Entry, Side
from eval.sources.release import Release, inside
from gve_jax import disk, media
from gve_jax.progress import ProgressLine
from gve_jax.types import UserError

_FOLDERS = {"video": "videos", "image": "images", "frame": "images"}
RECORD = "built.json"  # the mark of a folder that may be written again
_SEED = 42  # of the frames that are drawn


class Built(NamedTuple):
    """What was made of an entry."""

    data: RetrievalSet
    missing: list[str]  # media that were not found or not readable, and why
    merged: int  # queries that became part of an equal one
    without_query: int  # rows that give a corpus item only


class Tables(NamedTuple):
    """The rows to write; media are still the annotation's values."""

    corpus: dict[tuple, str]  # item -> id
    queries: list[tuple[str, tuple]]  # (id, item)
    instances: list[dict]
    merged: int
    without_query: int


def build(
    entry: Entry, title: str, release: Release, root: pathlib.Path, copy: bool = False
) -> Built:
    """Writes ROOT/NAME; done again it changes nothing.

    Media that the release lacks stay named, so that evaluation accounts for them.

    Raises UserError if the release cannot be read, if no row makes a query, or if the
    folder holds files of another origin.
    """
    folder = root / entry.name
    if (folder / "jsonl").exists() and not (folder / RECORD).exists():
        raise UserError(
            f"{folder}: holds a dataset that this command did not write; choose "
            "another --output"
        )
    tables = tabulate(entry, title, release)
    items = [*tables.corpus, *(item for _, item in tables.queries)]
    names, missing = _place(items, release, folder, copy)
    (folder / "jsonl").mkdir(parents=True, exist_ok=True)
    record = {
        "input": str(release.folder),
        "merged": tables.merged,
        "without_query": tables.without_query,
        "missing": missing,
    }
    disk.write_json(folder / RECORD, record)
    sides = {
        "corpus": [(id, item) for item, id in tables.corpus.items()],
        "queries": tables.queries,
    }
    for side, listed in sides.items():
        rows = ({"id": id} | _row(item, names) for id, item in listed)
        disk.write_rows(folder / "jsonl" / f"{side}.jsonl", rows)
    disk.write_rows(folder / "jsonl" / "instances.jsonl", tables.instances)
    if entry.name not in uvrb.DATASETS:
        disk.write_json(folder / "dataset.json", loaders.own_fields(entry.facts))
    data = loaders.load(root, entry.name)
    return Built(data, missing, tables.merged, tables.without_query)


def tabulate(entry: Entry, title: str, release: Release) -> Tables:
    """Reads the release into rows. Raises as `build`."""
    corpus: dict[tuple, str] = {}
    queries: dict[tuple, str] = {}
    listed: list[tuple[str, tuple]] = []
    instances: list[dict] = []
    columns: set[str] = set()
    merged = without_query = 0

    def numbers(side: Side | None, where: str, row: dict) -> list[str]:
        items = [_item(values, where) for values in (side.items(row) if side else ())]
        return [corpus.setdefault(i, f"{title}_corpus_{len(corpus)}") for i in items]

    for where, row in entry.rows(release):
        columns |= row.keys()
        positives = numbers(entry.corpus, where, row)
        if not positives:
            raise UserError(
                f"{where}: no {' '.join(entry.corpus.parts().values())} in this row; "
                f"it has {', '.join(row)}"
            )
        negatives = numbers(entry.negatives, where, row)
        found = entry.query.items(row)
        without_query += not found
        for item in (_item(values, where) for values in found):
            if entry.merge and item in queries:
                merged += 1
            else:
                queries[item] = f"{title}_query_{len(listed)}"
                listed.append((queries[item], item))
            instance = {"qid": queries[item], "pos": positives}
            if negatives:
                instance["candidates"] = list(dict.fromkeys(positives + negatives))
            instances.append(instance)
    if not listed:
        raise UserError(
            f"{entry.name}: no row of {release.folder} has "
            f"{' and '.join(entry.query.parts().values())}; its columns are "
            f"{', '.join(sorted(columns)) or 'none'}; name the right one with --text"
        )
    return Tables(corpus, listed, instances, merged, without_query)


def _item(values: dict[str, str], where: str) -> tuple:
    """Parts and values, hashable; media without the folder that they will lie in."""
    for part, folder in _FOLDERS.items():
        if part in values:
            path = str(inside(values[part], where)).removeprefix(f"{folder}/")
            values = values | {part: path}
    return tuple(values.items())


def _row(item: tuple, names: dict) -> dict[str, str]:
    """The fields of a line of jsonl."""
    return {
        ("image" if part == "frame" else part): names.get((part, value), value)
        for part, value in item
    }


def _place(
    items: list[tuple], release: Release, folder: pathlib.Path, copy: bool
) -> tuple[dict, list[str]]:
    """Links media: {(part, value): path below the folder}, and what is missing."""
    wanted = dict.fromkeys(p for item in items for p in item if p[0] in _FOLDERS)
    names, missing = {}, []
    with ProgressLine(f"place {folder.name}", len(wanted), "files") as line:
        for part, value in wanted:
            line.advance()
            path = pathlib.PurePosixPath(_FOLDERS[part], value)
            stored = release.find(value, "image" if part == "image" else "video")
            if part == "frame":
                path = path.with_name(f"{path.name}.png")
            elif stored:
                # The annotation's ending may be another than the file's.
                path = path.with_name(pathlib.PurePosixPath(stored.name).name)
            names[part, value] = str(path)
            if stored is None:
                missing.append(f"{path}: the release has no {value}")
                continue
            target = folder / path
            target.parent.mkdir(parents=True, exist_ok=True)
            if part != "frame":
                stored.place(target, copy)
            elif not target.exists():
                try:
                    disk.replace(target, _draw(release.file(stored), value))
                except media.MediaError as e:
                    missing.append(f"{path}: {e}")
    return names, missing


def _draw(video: str, value: str) -> bytes:
    """One frame as PNG, at a time that is uniform over the video and fixed by name."""
    digest = hashlib.sha256(f"{_SEED} {value}".encode()).digest()
    share = int.from_bytes(digest[:6]) / 2**48
    start = share * media.probe(video).duration
    file = io.BytesIO()
    pixels = media.read_video(video, 1, start=start).pixels[0]
    Image.fromarray(pixels).save(file, "png")
    return file.getvalue()
