"""Reads UVRB folders: NAME/jsonl/{corpus,queries,instances}.jsonl beside the media.

Tolerant of what varies between releases (absent, empty and null fields; `videos/` in
the path or not; the archive's inner folders), strict about what would falsify a score
(unknown ids, duplicates, queries without an answer). The form of candidate lists in
the real MS-TI and MS-TV files is not known: every spelling below is accepted, and
this path is unverified against them.

A folder of the same form that is none of UVRB's names its metric and instruction in
NAME/dataset.json, and is a dataset like the others.
"""

import collections
import json
import logging
import pathlib
import re

import numpy as np

from eval import uvrb
from eval.datasets import RetrievalSet
from gve_jax.types import Item, UserError

_CANDIDATES = ("candidates", "candidate_list")
_NEGATIVES = ("neg", "negatives")
_MEDIA = {"video": "videos", "image": "images"}
_FACTS = {
    "metric": str,
    "instruction": str,
    "group": str,
    "num_queries": int,
    "num_corpus": int,
    "licence": str,
}
_METRIC = re.compile(r"recall@[1-9][0-9]*|precision@1")
_KEYS = {
    "corpus": {"id", "text", "image", "video"},
    "queries": {"id", "text", "image", "video"},
    "instances": {"qid", "pos", *_CANDIDATES, *_NEGATIVES},
}


def names(selected: tuple[str, ...] | list[str], root: str | None = None) -> list[str]:
    """The datasets to run: the benchmark's in its order, then others; () is UVRB.

    Others are those that have a dataset.json below `root`. Raises UserError if a name
    is unknown.
    """
    others = [n for n in dict.fromkeys(selected) if n not in uvrb.DATASETS]
    for name in others:
        if root is None or not is_own(pathlib.Path(root), name):
            raise UserError(
                f"--datasets: no dataset {name!r} in UVRB and no {name}/dataset.json "
                f"in {root or 'its folder'}; UVRB has {', '.join(uvrb.DATASETS)}"
            )
    return [n for n in uvrb.DATASETS if not selected or n in selected] + others


def is_own(root: pathlib.Path, name: str) -> bool:
    """Whether this is a folder of a dataset that is none of UVRB's."""
    plain = name not in ("", ".", "..") and "/" not in name
    return (
        plain and name not in uvrb.DATASETS and (root / name / "dataset.json").is_file()
    )


def own_fields(facts: uvrb.Dataset) -> dict:
    """What a dataset.json says of these facts."""
    fields = {key: getattr(facts, key) for key in _FACTS}
    return {key: value for key, value in fields.items() if value is not None}


def _facts_of_own(path: pathlib.Path, queries: list[Item]) -> uvrb.Dataset:
    """Reads a dataset.json; the modality is that of the queries.

    Raises UserError naming the field at fault.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as e:
        raise UserError(f"{path}: cannot be read as JSON ({e}); mend it") from None
    if not isinstance(values, dict):
        raise UserError(f"{path}: expected a JSON object with {', '.join(_FACTS)}")
    for key, value in values.items():
        kind = _FACTS.get(key)
        if kind is None:
            raise UserError(
                f"{path}: unknown field {key!r}; known: {', '.join(_FACTS)}"
            )
        if not isinstance(value, kind) or isinstance(value, bool):
            raise UserError(f"{path}: {key} is {value!r}, expected {kind.__name__}")
    metric = values.get("metric")
    if not metric or not _METRIC.fullmatch(metric):
        raise UserError(f"{path}: metric is {metric!r}, expected recall@K, precision@1")
    parts = ("text", "image", "video")
    used = [part for part in parts if any(getattr(q, part) for q in queries)]
    fields = {"instruction": ""} | values | {"query_modality": "+".join(used)}
    return uvrb.Dataset(name=path.parent.name, **fields)


def load(root: str, name: str) -> RetrievalSet:
    """Reads one dataset.

    Raises UserError, naming file and line, for whatever cannot be scored. Media files
    that are not there are listed in the result, for the caller to judge.
    """
    folder = _folder(root, name)
    missing: list[tuple[str, str]] = []
    corpus = _items(folder, "corpus", missing)
    queries = _items(folder, "queries", missing)
    facts = uvrb.DATASETS.get(name) or _facts_of_own(folder / "dataset.json", queries)
    queries = [q._replace(instruction=facts.instruction or None) for q in queries]
    path = folder / "jsonl" / "instances.jsonl"
    row_of = {item.id: i for i, item in enumerate(corpus)}
    known = {item.id for item in queries}
    positives = collections.defaultdict(set)
    candidates = collections.defaultdict(set)
    with_negatives = set()
    for where, row in _rows(path, "instances"):
        qid = _id(row, "qid", where)
        if qid not in known:
            raise UserError(f"{where}: qid {qid!r} is not in queries.jsonl")
        relevant = _list(row, "pos", where)
        positives[qid] |= _numbers(relevant, row_of, f"{where}: pos")
        for key in _CANDIDATES + _NEGATIVES:
            listed = _list(row, key, where)
            candidates[qid] |= _numbers(listed, row_of, f"{where}: {key}")
            if key in _NEGATIVES and listed:
                with_negatives.add(qid)
    for qid in with_negatives:
        candidates[qid] |= positives[qid]
    limited = any(candidates.values())
    for item in queries:
        if not positives[item.id]:
            raise UserError(
                f"{path}: no positive for query {item.id!r}: it cannot be scored; "
                "add a row or remove the query"
            )
        if limited and not positives[item.id] <= candidates[item.id]:
            raise UserError(
                f"{path}: the candidates of query {item.id!r} lack its positive; in a "
                "dataset with candidate lists every query needs a full one"
            )
    lists = [
        tuple(np.array(sorted(of[item.id]), np.int64) for item in queries)
        for of in (positives, candidates)
    ]
    return RetrievalSet(
        facts=facts,
        queries=tuple(queries),
        corpus=tuple(corpus),
        positives=lists[0],
        candidates=lists[1] if limited else None,
        missing=tuple(missing),
        folder=folder,
    )


def present(root: str) -> list[str]:
    """The datasets whose folders are below `root`: the benchmark's, then others."""
    base = pathlib.Path(root)
    own = sorted(path.parent.name for path in base.glob("*/dataset.json"))
    return [n for n in uvrb.DATASETS if _find(base, n)] + [
        name for name in own if is_own(base, name)
    ]


def _find(base: pathlib.Path, name: str) -> pathlib.Path | None:
    # As released, as its archives unpack, and as unpacked one folder each.
    for inner in (name, f"UVRB/{name}", f"{name}/UVRB/{name}"):
        if (base / inner / "jsonl").is_dir():
            return (base / inner).absolute()
    return None


def _folder(root: str, name: str) -> pathlib.Path:
    base = pathlib.Path(root)
    if not base.is_dir():
        raise UserError(f"config.eval.root: no folder {root!r}; give UVRB's folder")
    folder = _find(base, name)
    if folder is None:
        raise UserError(
            f"{base / name}: no dataset here (expected {name}/jsonl/corpus.jsonl); "
            "fetch it, or name the datasets you have with --datasets"
        )
    return folder


def _rows(path: pathlib.Path, kind: str):
    """Yields ("file:line", row) for each non-blank line."""
    try:
        # Not splitlines(): texts may hold other line separators unescaped.
        lines = path.read_text(encoding="utf-8").split("\n")
    except FileNotFoundError:
        raise UserError(f"{path}: this file is missing from the dataset") from None
    except UnicodeDecodeError as e:
        raise UserError(f"{path}: not UTF-8 text ({e.reason})") from None
    unknown: set[str] = set()
    empty = True
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        where = f"{path}:{number}"
        try:
            row = json.loads(line)
        except json.JSONDecodeError as e:
            raise UserError(f"{where}: not JSON ({e.msg})") from None
        if not isinstance(row, dict):
            raise UserError(f"{where}: expected a JSON object, found {line[:40]!r}")
        unknown |= row.keys() - _KEYS[kind]
        empty = False
        yield where, row
    if empty:
        raise UserError(f"{path}: empty; a dataset needs at least one row here")
    if unknown:
        logging.warning("%s: fields not used: %s", path, ", ".join(sorted(unknown)))


def _items(folder, kind, missing) -> list[Item]:
    items: dict[str, Item] = {}
    first: dict[str, str] = {}
    for where, row in _rows(folder / "jsonl" / f"{kind}.jsonl", kind):
        name = _id(row, "id", where)
        if name in items:
            raise UserError(f"{where}: id {name!r} was already used at {first[name]}")
        fields = {k: _text(row, k, where) for k in ("text", "image", "video")}
        if not any(fields.values()):
            raise UserError(f"{where}: {name!r} has no text, image or video")
        if fields["image"]:
            # As in the runs that are published: a query image stands for its video.
            fields["video"] = None
        for key, sub in _MEDIA.items():
            if fields[key]:
                fields[key] = _media(folder, sub, fields[key], where, missing)
        items[name] = Item(id=name, **fields)
        first[name] = where
    return list(items.values())


def _media(folder, sub, value, where, missing) -> str:
    relative = pathlib.PurePosixPath(value)
    if relative.is_absolute() or ".." in relative.parts:
        raise UserError(f"{where}: {value!r} leaves the dataset's folder")
    places = (folder / relative, folder / sub / relative)
    for place in places:
        if place.is_file():
            return str(place)
    missing.append((where, str(places[1 if relative.parts[0] != sub else 0])))
    return missing[-1][1]


def _text(row: dict, key: str, where: str) -> str | None:
    value = row.get(key)
    if value is not None and not isinstance(value, str):
        raise UserError(f"{where}: {key} is {value!r}, expected a string")
    return value or None


def _id(row: dict, key: str, where: str) -> str:
    value = row.get(key)
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str) or not value:
        raise UserError(f"{where}: {key} is {value!r}, expected an id")
    return value


def _list(row: dict, key: str, where: str) -> list[str]:
    value = row.get(key) or []
    if isinstance(value, str | int):
        value = [value]
    if not isinstance(value, list):
        raise UserError(f"{where}: {key} is {value!r}, expected a list of corpus ids")
    return [_id({key: v}, key, where) for v in value]


def _numbers(ids: list[str], row_of: dict[str, int], what: str) -> set[int]:
    for name in ids:
        if name not in row_of:
            raise UserError(f"{what} id {name!r} is not in corpus.jsonl")
    return {row_of[name] for name in ids}
