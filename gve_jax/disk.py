"""Files that are there whole or not at all, and JSON lines whose last may be cut."""

import json
import os
import pathlib
from collections.abc import Iterable
from typing import IO

from gve_jax.types import UserError


def replace(
    path: pathlib.Path, content: bytes | str | Iterable[str], durable: bool = False
) -> None:
    """Writes all of it, text as UTF-8, or leaves what is there.

    `durable`: it is on the disk when this returns, whatever becomes of the power.
    """
    part = path.with_name(path.name + ".part")
    mode = dict(mode="wb") if isinstance(content, bytes) else dict(encoding="utf-8")
    with open(part, **dict(mode="w") | mode) as f:
        f.writelines([content] if isinstance(content, bytes | str) else content)
        if durable:
            sync(f)
    part.replace(path)
    if durable:
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def sync(f: IO) -> None:
    """Has the disk keep what was written to a file."""
    f.flush()
    os.fsync(f.fileno())


def write_json(path: pathlib.Path, values: dict | list) -> None:
    """Writes all of it or nothing."""
    replace(path, json.dumps(values, indent=2) + "\n")


def write_rows(path: pathlib.Path, rows: Iterable[dict]) -> None:
    """Writes JSON lines, all of them or none."""
    replace(path, (json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def whole_lines(path: pathlib.Path) -> list[str]:
    """Without their ends; what was cut off while it was written is left out.

    None if there is no such file.
    """
    return path.read_text(encoding="utf-8").split("\n")[:-1] if path.exists() else []


def read_rows(path: pathlib.Path) -> list[dict]:
    """JSON of `whole_lines`. Raises UserError if one is not JSON."""
    try:
        return [json.loads(line) for line in whole_lines(path)]
    except ValueError as e:
        raise UserError(f"{path}: a line is not JSON: {e}; mend or remove it") from e
