"""The project's own pairs files, as V-SynFlow and `gve_jax.mine` write them.

Their schema: gve_jax/data/records.py. Rows of all tasks count, whatever they name.
"""

import pathlib
from collections.abc import Iterator

from gve_jax.data.formats import rows
from gve_jax.data.formats.rows import Corpus, Drop, Dropped
from gve_jax.data.records import parse_pair
from gve_jax.types import Pair, UserError

FILES = {"files": "*.jsonl"}


def read(corpus: Corpus, files: list[pathlib.Path]) -> Iterator[Pair | Dropped]:
    """Pairs of any kind."""

    def make(where: str, row: dict) -> Pair:
        path, line = where.rsplit(":", 1)
        path = pathlib.Path(path)
        try:
            return parse_pair(
                row, path.parent, where, int(line), path.stem, check=False
            )
        except UserError as e:
            raise Drop("a malformed row", str(e).removeprefix(where)) from None

    return rows.pairs(rows.json_rows(corpus, files), make)
