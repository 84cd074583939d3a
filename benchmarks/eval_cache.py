"""Embeddings a second with the cache cold, shared and warm.

python benchmarks/eval_cache.py --config=configs/uvrb_mini.py --checkpoint=CHECKPOINT \
    --datasets=MSRVTT,CRB-T,DREAM-E

Cold: nothing is known. Shared: another run has embedded all datasets but the last.
Warm: all is known. The first pass, which compiles, is not counted. Then the cache alone
at the size of the whole benchmark: 66,000 vectors of 2,048 written, opened and read.
"""

import hashlib
import pathlib
import shutil
import tempfile
import time

import numpy as np
from absl import flags
from ml_collections import config_flags

from eval import loaders, run, vectors
from eval.encoders.flags import encoder_from_flags
from gve_jax import main as command
from gve_jax.embed import VectorLog

_CONFIG = config_flags.DEFINE_config_file("config", None, "Experiment file.")
_DATASETS = flags.DEFINE_list("datasets", None, "Names; default: eval.datasets.")

COUNT, DIM, PIECE = 66_000, 2048, 1000


def timed(work):
    start = time.perf_counter()
    found = work()
    return found, time.perf_counter() - start


def main(_: list[str]) -> None:
    config = _CONFIG.value
    names = loaders.names(_DATASETS.value or config.eval.datasets, config.eval.root)
    sets = run.read(config, names)
    encoder = encoder_from_flags(config)
    root = pathlib.Path(tempfile.mkdtemp())

    def embed(folder: str, some=sets):
        return timed(lambda: vectors.embed(some, encoder, root / folder, True))

    embed("first")
    embed("shared", sets[:-1])
    rows = {"cold": embed("cold"), "shared": embed("shared"), "warm": embed("cold")}
    for name, (sides, seconds) in rows.items():
        s = sides.stats
        print(
            f"{name:<7} {s['items']} items, {s['distinct']} distinct, {s['embedded']} "
            f"embedded: {seconds:.2f} s, {s['items'] / seconds:.0f} items/s, "
            f"{rows['cold'][1] / seconds:.1f} times as fast as cold"
        )

    keys = [hashlib.sha256(str(i).encode()).digest() for i in range(COUNT)]
    table = np.random.default_rng(0).normal(size=(PIECE, DIM)).astype(np.float32)

    def write() -> None:
        log = VectorLog(root / "log", {}, DIM)
        for at in range(0, COUNT, PIECE):
            log.append(keys[at : at + PIECE], table)

    _, seconds = timed(write)
    size = sum(f.stat().st_size for f in (root / "log").iterdir())
    print(f"{COUNT} vectors of {DIM}: {size / 1e9:.2f} GB, written in {seconds:.1f} s")
    log, opened = timed(lambda: VectorLog(root / "log", {}, DIM))
    _, read = timed(lambda: np.stack([log.get(key) for key in keys]))
    print(f"opened and checked in {opened:.1f} s, gathered in {read:.1f} s")
    shutil.rmtree(root)


if __name__ == "__main__":
    command.run(main, required=("config",))
