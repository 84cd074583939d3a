"""Files that are there whole or not at all, and JSON lines whose last may be cut."""

import json
import pathlib
from collections.abc import Iterable

from gve_jax.types import UserError


def replace(path: pathlib.Path, content: bytes | str | Iterable[str]) -> None:
    """Writes all of it, text as UTF-8, or leaves what is there."""
    part = path.with_name(path.name + ".part")
    if isinstance(content, bytes):
        part.write_bytes(content)
    else:
        with open(part, "w", encoding="utf-8") as f:
            f.writelines([content] if isinstance(content, str) else content)
    part.replace(path)


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
