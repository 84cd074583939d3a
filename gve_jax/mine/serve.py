"""Exact search through pipes, for programs that must not import jax.

python -m gve_jax.mine.serve

Reads {"corpus": FILE.npy, "k": int, "queries": n}, a line of JSON, and the queries,
float32 [n, d] little-endian; writes their k best rows of the corpus: scores float32
[n, k] and row indices int32 [n, k], -inf and -1 where there are no more; and so on
until the input ends. The corpus, float32 [m, d], is read in blocks.
"""

import json
import sys

import numpy as np

from gve_jax.main import run
from gve_jax.retrieval import top_k


def main(_: list[str]) -> None:
    source, sink = sys.stdin.buffer, sys.stdout.buffer
    sys.stdout = sys.stderr  # what libraries print is not an answer
    for line in source:
        request = json.loads(line)
        corpus = np.load(request["corpus"], mmap_mode="r")
        shape = request["queries"], corpus.shape[1]
        queries = np.frombuffer(source.read(4 * shape[0] * shape[1]), "<f4")
        scores, rows = top_k(queries.reshape(shape), corpus, request["k"])
        sink.write(np.ascontiguousarray(scores, "<f4").tobytes())
        sink.write(np.ascontiguousarray(rows, "<i4").tobytes())
        sink.flush()


if __name__ == "__main__":
    run(main)
