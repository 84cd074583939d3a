"""Latency of a search in an index, and of the search page under many clients.

python -m benchmarks.index_search --rows=10000,100000,1000000
python -m benchmarks.index_search --rows=10000,100000 --checkpoint=runs/quickstart/train

The first compares whole searches of ours (ranking, grouping by video, further windows,
a look at the files; all but the embedding of the query) with the mere top k of FAISS's
flat index and of NumPy's product and argpartition: in one run, taking turns, on the
same vectors in memory. `mapped` is ours holding nothing: it reads the index each time.
FAISS need not be installed with the project (extra `faiss`). Times are medians of the
rounds; the best scores found are checked to be equal.

The second serves the page of an index of as many vectors, of the checkpoint's size, on
loopback to --clients at once: a process of their own, in which each asks for another
text as soon as it has its answer.
"""

import http.client
import importlib.util
import json
import multiprocessing
import pathlib
import socket
import statistics
import tempfile
import threading
import time
import urllib.parse

import numpy as np
from absl import flags

from benchmarks.rounds import by_numpy, rounds
from gve_jax.contract import Contract
from gve_jax.embed import Embedder, EmbedResult, EmbedStats
from gve_jax.embed.flags import embedder_from_flags
from gve_jax.index.filters import EVERYTHING
from gve_jax.index.searching import Searcher, make_query
from gve_jax.index.store import Entry, File, writer
from gve_jax.main import run

_ROWS = flags.DEFINE_list("rows", ["10000", "100000"], "Numbers of vectors.")
_DIM = flags.DEFINE_integer("dim", 2048, "Of the vectors, without a checkpoint.")
_QUERIES = flags.DEFINE_list("queries", ["1", "32"], "Queries of a call.")
_SECONDS = flags.DEFINE_float("seconds", 10, "Of rounds of each case, three at least.")
_CLIENTS = flags.DEFINE_integer("clients", 32, "At once.")
_K = 10
_WINDOWS = 10  # of each made-up video
_CHUNK = 10_000


class Given:
    """An embedder whose vectors are made up."""

    def __init__(self, dim: int):
        self.contract, self.dim = Contract(dim=dim), dim

    def embed(self, items, progress=True) -> EmbedResult:
        vectors = unit(np.random.default_rng(1), len(items), self.dim)
        return EmbedResult(vectors, {}, EmbedStats(len(items), 0.0, 0, 0, 0))


def unit(rng: np.random.Generator, rows: int, dim: int) -> np.ndarray:
    vectors = rng.standard_normal((rows, dim), np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def make_index(path: pathlib.Path, contract: Contract, rows: int) -> None:
    """Windows of videos that do not exist."""
    rng = np.random.default_rng(0)
    with writer(path, contract, contract.dim) as out:
        for first in range(0, rows, _CHUNK):
            entries = []
            for row in range(first, min(first + _CHUNK, rows)):
                video, at = divmod(row, _WINDOWS)
                file = File(f"/no/{video}.mp4", "/no", 0, 0, f"{video:064x}")
                entries.append(Entry(file, "window", 5.0 * at, 5.0 * at + 10, 55.0))
            out.append(unit(rng, len(entries), contract.dim), entries)
        out.commit()


def compare(path: pathlib.Path, rows: int, dim: int) -> None:
    embedder = Given(dim)
    make_index(path, embedder.contract, rows)
    searcher, mapped = (Searcher(path, embedder, size) for size in (1 << 40, 0))
    # On a CPU this is the memory that ours searches.
    corpus = np.asarray(searcher.opened.corpus(EVERYTHING).vectors)[:rows]
    others = {"numpy": lambda queries: by_numpy(queries, corpus, _K)[0]}
    if importlib.util.find_spec("faiss"):
        import faiss

        # What IndexFlatIP does, without a copy of the vectors.
        others["faiss"] = lambda queries: faiss.knn(
            queries, corpus, _K, faiss.METRIC_INNER_PRODUCT
        )[0]
    for n in map(int, _QUERIES.value):
        queries = [make_query(text=f"query {i}") for i in range(n)]
        vectors = embedder.embed(queries).vectors
        searches = {
            "ours": lambda q=queries: searcher.search(q, _K),
            "mapped": lambda q=queries: mapped.search(q, _K),
        }
        for name, search in others.items():
            searches[name] = lambda v=vectors, search=search: search(v)
            best = [hits[0].score for hits in searches["ours"]()]
            np.testing.assert_allclose(best, search(vectors)[:, 0], atol=1e-5)
        times = rounds(searches, _SECONDS.value)
        cells = ", ".join(
            f"{name} {1e3 * statistics.median(t):.1f}" for name, t in times.items()
        )
        print(f"{rows:>9} x {dim}, {n:>2} queries, ms: {cells}", flush=True)


def clients(port: int, count: int, seconds: float, answer) -> None:
    """Seconds of each request, of as many clients at once; the first is not counted."""
    times, lock = [], threading.Lock()
    started = threading.Barrier(count)

    def ask(number: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port)
        own = []
        while not own or sum(own) < seconds:
            text = f"a red star number {number} moves {len(own)} times to the left"
            query = urllib.parse.urlencode({"text": text, "k": _K})
            began = time.perf_counter()
            connection.request("GET", f"/api/search?{query}")
            response = connection.getresponse()
            found = json.loads(response.read())
            own.append(time.perf_counter() - began)
            assert len(found["results"]) == _K, found
            if len(own) == 1:
                started.wait()
        with lock:
            times.extend(own[1:])

    threads = [threading.Thread(target=ask, args=(i,)) for i in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    answer.put(times)


def page(path: pathlib.Path, embedder: Embedder, rows: int) -> None:
    import uvicorn

    from gve_jax.index import serve, web

    make_index(path, embedder.contract, rows)
    searcher = Searcher(path, embedder)
    serve.warm(searcher)
    listening = socket.create_server(("127.0.0.1", 0), backlog=1024)
    config = uvicorn.Config(web.make_app(searcher, 1 << 20), log_level="error")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    context = multiprocessing.get_context("spawn")
    for count in (1, _CLIENTS.value):
        answer = context.Queue()
        arguments = (listening.getsockname()[1], count, _SECONDS.value, answer)
        process = context.Process(target=clients, args=arguments)
        process.start()
        times = answer.get()
        process.join()
        p50, p95 = np.percentile(times, [50, 95]) * 1e3
        rate = count / np.mean(times)
        print(
            f"{rows:>9} x {embedder.dim}, page, {count:>2} clients: "
            f"p50 {p50:.1f} ms, p95 {p95:.1f} ms, {rate:.0f} requests/s",
            flush=True,
        )
    server.should_exit = True
    thread.join()


def main(_: list[str]) -> None:
    embedder = embedder_from_flags() if flags.FLAGS.checkpoint else None
    if embedder is None and not importlib.util.find_spec("faiss"):
        print("faiss is not installed: without it")
    for rows in map(int, _ROWS.value):
        with tempfile.TemporaryDirectory(prefix="index-search-") as folder:
            path = pathlib.Path(folder) / "index"
            if embedder is None:
                compare(path, rows, _DIM.value)
            else:
                page(path, embedder, rows)


if __name__ == "__main__":
    run(main)
