"""An embedder that answers through pipes, for programs that must not import jax.

python -m gve_jax.embed.serve --checkpoint=...

First it writes {"contract"}, a line of JSON. Then it reads lines, each a list of items
(lists of the fields of `gve_jax.types.Item`), and for each writes {"failures": {row:
reason}} and the vectors, float32 [n, d] little-endian, NaN where they failed. A vector
does not depend on what else is embedded, to the last bit.
"""

import json
import sys
from typing import BinaryIO

import numpy as np

from gve_jax.embed.flags import embedder_from_flags
from gve_jax.main import run
from gve_jax.types import Item


def main(_: list[str]) -> None:
    source, sink = sys.stdin.buffer, sys.stdout.buffer
    sys.stdout = sys.stderr  # what libraries print is not an answer
    embedder = embedder_from_flags(exact=True)
    _say(sink, {"contract": embedder.contract.to_json()})
    for line in source:
        items = [Item(*values) for values in json.loads(line)]
        result = embedder.embed(items, progress=False)
        _say(sink, {"failures": result.failures})
        sink.write(np.ascontiguousarray(result.vectors, "<f4").tobytes())
        sink.flush()


def _say(sink: BinaryIO, values: dict) -> None:
    sink.write(json.dumps(values).encode() + b"\n")
    sink.flush()


if __name__ == "__main__":
    run(main, required=("checkpoint",))
