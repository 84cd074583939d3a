"""Exact top-k against FAISS and NumPy: one run, taking turns.

python -m benchmarks.top_k --corpus=10000,100000 --dims=256,2048 --queries=1,32,1000

FAISS is `IndexFlatIP` of faiss-cpu (extra `faiss`), which need not be there. NumPy is a
product and argpartition. Each holds the corpus before the clock starts; a time is the
least of its rounds, in which all take turns. A ratio above 1 says that ours is faster.
Answers are checked to be of equal scores.
"""

import importlib.util

import numpy as np
from absl import app, flags

from benchmarks.rounds import by_numpy, rounds
from gve_jax import retrieval

_CORPUS = flags.DEFINE_list("corpus", ["10000", "100000"], "Numbers of rows.")
_DIMS = flags.DEFINE_list("dims", ["256", "2048"], "Numbers of dimensions.")
_QUERIES = flags.DEFINE_list("queries", ["1", "32", "1000"], "Numbers of queries.")
_K = flags.DEFINE_integer("k", 10, "Answers of a query.")
_SECONDS = flags.DEFINE_float("seconds", 10, "Of rounds of each case, at least three.")


def main(_) -> None:
    faiss = None
    if importlib.util.find_spec("faiss"):
        import faiss
    else:
        print("faiss is not installed (see the script's docstring): without it")
    rng = np.random.default_rng(0)
    k = _K.value
    print(f"{'rows':>9}{'dim':>6}{'queries':>9}  milliseconds, and ratios to ours")
    for m, d in ((int(m), int(d)) for m in _CORPUS.value for d in _DIMS.value):
        corpus = rng.standard_normal((m, d), np.float32)
        corpus /= np.linalg.norm(corpus, axis=1, keepdims=True)
        placed = retrieval.place(corpus)
        if faiss:
            index = faiss.IndexFlatIP(d)
            index.add(corpus)
        for n in map(int, _QUERIES.value):
            queries = rng.standard_normal((n, d), np.float32)
            queries /= np.linalg.norm(queries, axis=1, keepdims=True)
            searches = {
                "ours": lambda q=queries, c=placed: retrieval.top_k(q, c, k),
                "numpy": lambda q=queries, c=corpus: by_numpy(q, c, k),
            }
            if faiss:
                searches["faiss"] = lambda q=queries, i=index: i.search(q, k)
            found = [search()[0] for search in searches.values()]
            for scores in found:  # compiled and warm from here on
                np.testing.assert_allclose(scores, found[0], atol=1e-5)
            times = rounds(searches, _SECONDS.value)
            times = {name: min(seconds) for name, seconds in times.items()}
            cells = [f"{name} {1e3 * t:.2f}" for name, t in times.items()]
            cells += [
                f"{name}/ours {t / times['ours']:.2f}"
                for name, t in times.items()
                if name != "ours"
            ]
            print(f"{m:>9}{d:>6}{n:>9}  {', '.join(cells)}", flush=True)


if __name__ == "__main__":
    app.run(main)
