"""Memory and seconds of a training step, with and without GradCache, as batches grow.

python -m benchmarks.gradcache --cores=1

The gradient of `gve_jax.train` on the model and the batches of
`benchmarks.train_throughput`: of the whole batch at once, and in chunks of
`--chunk_videos` videos (`train.chunk`). Memory is what XLA says that the program needs
beside its arguments. The two are run in turns, and the ratio of their seconds stands
beside that of the FLOPs by formula. `--cores` is as in that benchmark.
"""

import statistics
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import numpy as np
from absl import flags
from ml_collections import ConfigDict

from benchmarks import train_throughput as throughput
from gve_jax import build
from gve_jax.main import run
from gve_jax.model import ModelConfig
from gve_jax.model.flops import train_flops
from gve_jax.progress import ProgressLine
from gve_jax.train import setup
from gve_jax.train.gradcache import count_chunks
from gve_jax.train.state import make_gradient
from gve_jax.types import PairBatch

_SIZES = flags.DEFINE_list("batch_sizes", ["2", "4", "8"], "Pairs of a batch.")
_CHUNK = flags.DEFINE_integer("chunk_videos", 2, "Of a chunk.", lower_bound=1)
_REPEATS = flags.DEFINE_integer("repeats", 3, "Runs of each program.", lower_bound=1)


class Measured(NamedTuple):
    """Of a batch; pairs of values are of the whole at once and in chunks."""

    pairs: int
    temporaries: tuple[int, int]  # bytes
    seconds: list[tuple[float, float]]
    executed: tuple[int, int]  # FLOP, by formula


def measure(
    config: ConfigDict,
    shape: tuple[int, int],
    sizes: Sequence[int],
    repeats: int,
    clock: Callable[[], float],
) -> list[Measured]:
    """Compiles and runs the gradient for batches of these sizes.

    Args:
      config: of the benchmark; `train.chunk` is that of the chunks.
      shape: of the videos, width and height.
      sizes: pairs of a batch.
      repeats: runs of each program that are timed.
      clock: in seconds.
    """
    rng = np.random.default_rng(config.seed)
    texts = throughput.make_texts(max(sizes), rng)
    tokenizer = build.make_tokenizer(config, texts)
    model = setup.make_model(config, tokenizer, jax.devices()[:1])
    ours = throughput.Ours(config, model)
    pairs = throughput.make_pairs(model.processor, texts, [shape], max(sizes), rng)[0]
    whole = config.copy_and_resolve_references()
    whole.train.chunk = 0
    found = []
    with ProgressLine("gradcache", len(sizes), "batch sizes") as line:
        for size in sizes:
            own = throughput.Pairs(*(side[:size] for side in pairs))
            batch = ours.put(own)
            arguments = ours.arguments(batch)
            programs = [
                jax.jit(make_gradient(model.graphdef, variant, model.mesh))
                .lower(*arguments)
                .compile()
                for variant in (whole, config)
            ]

            def timed(program, arguments=arguments) -> float:
                start = clock()
                jax.block_until_ready(program(*arguments))
                return clock() - start

            for program in programs:
                timed(program)  # pages are touched for the first time
            found.append(
                Measured(
                    size,
                    tuple(p.memory_analysis().temp_size_in_bytes for p in programs),
                    [tuple(map(timed, programs)) for _ in range(repeats)],
                    tuple(
                        executed(ours.cfg, own, batch, chunk)
                        for chunk in (0, config.train.chunk)
                    ),
                )
            )
            line.advance()
    return found


def executed(
    cfg: ModelConfig, pairs: throughput.Pairs, batch: PairBatch, chunk: int
) -> int:
    """FLOP of a step by formula, where chunks have at most that many tokens."""
    total = 0
    for items, inputs in zip(pairs, (batch.query, batch.target), strict=True):
        chunked = count_chunks(*inputs.tokens.shape, chunk) > 1
        total += sum(train_flops(cfg, item, chunked).executed for item in items)
    return total


def show(found: Sequence[Measured]) -> str:
    """A table."""
    lines = ["pairs  MiB whole  MiB chunks  seconds whole  chunks / whole  by formula"]
    for x in found:
        ratios = [b / a for a, b in x.seconds]
        whole = statistics.median(a for a, _ in x.seconds)
        lines.append(
            f"{x.pairs:5}{x.temporaries[0] / 2**20:11.0f}"
            f"{x.temporaries[1] / 2**20:12.0f}{whole:15.2f}"
            f"{statistics.median(ratios):6.2f} ({min(ratios):.2f}-{max(ratios):.2f})"
            f"{x.executed[1] / x.executed[0]:8.2f}"
        )
    return "\n".join(lines)


def main(_: list[str]) -> None:
    sizes = [int(size) for size in _SIZES.value]
    config = throughput.make_config(max(sizes), mixed=False)
    config.model.scan = True  # a loop's programs compile sooner
    config.train.chunk = _CHUNK.value * config.preprocess.token_buckets[-1]
    clock = throughput.take_cores()
    shape = throughput.SHAPES[0]
    print(show(measure(config, shape, sizes, _REPEATS.value, clock)))


if __name__ == "__main__":
    run(main)
