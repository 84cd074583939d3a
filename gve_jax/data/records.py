"""The items and pairs files: one JSON object a line.

Item: {"id", "text"?, "image"?, "video"?, "start"?, "end"?, "instruction"?}; paths are
relative to the file. Pair: {"id", "query": ITEM, "target": ITEM, "negatives"?: [ITEM],
"task"?, "source_id"?, "cluster"?, "scores"?: [number]}; short form {"video" or "image":
path, "text": str}; the items inside a pair need no id. Scores are a teacher's, of the
target and of each negative.
"""

import functools
import json
import os
import pathlib
from collections.abc import Callable, Iterator

from gve_jax.types import Item, Pair, UserError

# All but that of probes: a file names what there is, not how it is shown.
_ITEM_FIELDS = [name for name in Item._fields if name != "frame_order"]
_PAIR_FIELDS = set(Pair._fields)


def read_items(path: str | os.PathLike) -> list[Item]:
    """Reads an items file, in order.

    Raises:
      UserError: the file is missing or empty, a row is malformed, an id repeats, or a
        media file does not exist; names the line.
    """
    items = [
        _item(
            row, pathlib.Path(path).parent, f"{path}:{line}", need_id=True, check=True
        )
        for line, row in _rows(path)
    ]
    _refuse_repeats(path, [item.id for item in items])
    return items


def read_pairs(path: str | os.PathLike, task: str | None = None) -> list[Pair]:
    """Reads a pairs file, in order; `task` (default: the file's stem) fills rows
    without one.

    Raises:
      UserError: as `read_items`, and for a side without content.
    """
    task = task or pathlib.Path(path).stem
    pairs = [
        parse_pair(row, pathlib.Path(path).parent, f"{path}:{line}", line, task, True)
        for line, row in _rows(path)
    ]
    _refuse_repeats(path, [pair.id for pair in pairs])
    return pairs


def _rows(path: str | os.PathLike) -> Iterator[tuple[int, dict]]:
    try:
        with open(path, encoding="utf-8") as f:
            lines = f.read().split("\n")  # not splitlines: U+2028 is text
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except (IsADirectoryError, UnicodeDecodeError) as e:
        raise UserError(f"{path}: not a UTF-8 JSON-lines file ({e})") from None
    empty = True
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as e:
            raise UserError(f"{path}:{number}: not JSON ({e})") from None
        if not isinstance(row, dict):
            raise UserError(f"{path}:{number}: expected a JSON object, got {line[:40]}")
        empty = False
        yield number, row
    if empty:
        raise UserError(f"{path}: holds no rows")


def _refuse_repeats(path: str | os.PathLike, ids: list[str]) -> None:
    if len(set(ids)) != len(ids):
        seen: set[str] = set()
        repeat = next(i for i in ids if i in seen or seen.add(i))
        raise UserError(f"{path}: id {repeat!r} occurs twice; ids must be unique")


def _item(
    row: dict, folder: pathlib.Path, where: str, need_id: bool, check: bool
) -> Item:
    if not isinstance(row, dict):
        raise UserError(f"{where}: expected an item object, got {row!r}")
    unknown = row.keys() - set(_ITEM_FIELDS)
    if unknown:
        raise UserError(
            f"{where}: unknown field {sorted(unknown)[0]!r}; "
            f"an item has {', '.join(_ITEM_FIELDS)}"
        )
    values: dict = {}
    for name in ("id", "text", "image", "video", "instruction"):
        value = row.get(name)
        if value is not None and not isinstance(value, str):
            raise UserError(f"{where}: {name} must be a string, got {value!r}")
        values[name] = value or None
    for name in ("start", "end"):
        value = row.get(name)
        if value is not None and (
            isinstance(value, bool) or not isinstance(value, int | float) or value < 0
        ):
            raise UserError(f"{where}: {name} must be seconds >= 0, got {value!r}")
        values[name] = None if value is None else float(value)
    if need_id and not values["id"]:
        raise UserError(f"{where}: no id")
    if not (values["text"] or values["image"] or values["video"]):
        raise UserError(f"{where}: no content: give text, image or video")
    start, end = values["start"], values["end"]
    if (start is not None or end is not None) and not values["video"]:
        raise UserError(f"{where}: start and end need a video")
    if start is not None and end is not None and end <= start:
        raise UserError(f"{where}: end {end} is not after start {start}")
    for name in ("image", "video"):
        if values[name]:
            media = folder / values[name]
            if check and not media.is_file():
                raise UserError(f"{where}: {name} {media} does not exist")
            values[name] = os.path.abspath(media)
    values["id"] = values["id"] or ""
    return Item(**values)


def parse_pair(
    row: dict, folder: pathlib.Path, where: str, line: int, task: str, check: bool
) -> Pair:
    """A pair from its row; `where` and `line` name it, `folder` is its paths'.

    Raises:
      UserError: the row is malformed or, if `check`, a media file does not exist.
    """
    if "query" not in row and "target" not in row:
        # The short form: a caption beside its video or image.
        media = {k: row[k] for k in ("image", "video", "start", "end") if k in row}
        text = {k: row[k] for k in ("text", "instruction") if k in row}
        unknown = row.keys() - media.keys() - text.keys() - _PAIR_FIELDS
        if unknown:
            raise UserError(f"{where}: unknown field {sorted(unknown)[0]!r}")
        if not text.get("text"):
            raise UserError(f"{where}: no text: a video alone is not a pair")
        if not media:
            raise UserError(f"{where}: no video or image beside the text")
        rest = {k: v for k, v in row.items() if k in _PAIR_FIELDS}
        row = {**rest, "query": text, "target": media}
    unknown = row.keys() - _PAIR_FIELDS
    if unknown:
        raise UserError(f"{where}: unknown field {sorted(unknown)[0]!r}")
    for side in ("query", "target"):
        if side not in row:
            raise UserError(f"{where}: no {side}")
    negatives = row.get("negatives") or []
    if not isinstance(negatives, list):
        raise UserError(f"{where}: negatives must be a list of items")
    for name in ("id", "task", "source_id", "cluster"):
        if not isinstance(row.get(name, ""), str):
            raise UserError(f"{where}: {name} must be a string, got {row[name]!r}")
    item = functools.partial(_item, folder=folder, need_id=False, check=check)
    return Pair(
        id=row.get("id") or f"{task}:{line}",
        query=item(row["query"], where=f"{where} (query)"),
        target=item(row["target"], where=f"{where} (target)"),
        negatives=tuple(
            item(n, where=f"{where} (negative {i})") for i, n in enumerate(negatives)
        ),
        task=row.get("task") or task,
        source_id=row.get("source_id"),
        cluster=row.get("cluster"),
        scores=_scores(row, where, 1 + len(negatives)),
    )


def _scores(row: dict, where: str, due: int) -> tuple[float, ...]:
    values = row.get("scores") or []
    numbers = isinstance(values, list) and all(
        isinstance(x, int | float) and not isinstance(x, bool) for x in values
    )
    if not numbers or len(values) not in (0, due):
        raise UserError(
            f"{where}: scores must be {due} numbers, of the target and of each "
            f"negative, got {values!r}"
        )
    return tuple(map(float, values))


def pair_row(pair: Pair, relative: Callable[[str], str]) -> dict:
    """The row that `parse_pair` reads back; `relative` rewrites the media's paths."""

    def item(x: Item) -> dict:
        row = {k: v for k, v in x._asdict().items() if v not in (None, "")}
        return row | {k: relative(row[k]) for k in ("image", "video") if k in row}

    row = {k: v for k, v in pair._asdict().items() if v}
    row |= {"query": item(pair.query), "target": item(pair.target)}
    if pair.negatives:
        row["negatives"] = [item(n) for n in pair.negatives]
    return row


def row_pair(row: dict, absolute: Callable[[str], str]) -> Pair:
    """The pair that `pair_row` wrote, taken at its word: for rows of our own."""

    def item(x: dict) -> Item:
        media = {k: absolute(x[k]) for k in ("image", "video") if k in x}
        return Item(**{"id": "", **x, **media})

    return Pair(
        **row
        | {
            "query": item(row["query"]),
            "target": item(row["target"]),
            "negatives": tuple(map(item, row.get("negatives", ()))),
            "scores": tuple(row.get("scores", ())),
        }
    )
