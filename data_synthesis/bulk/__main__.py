"""Embed an items file on a cluster, or on the cores of one machine.

python -m data_synthesis.bulk --checkpoint=runs/quickstart/train \
    --input=runs/quickstart/world/items.jsonl --output=runs/bulk --processes=2

Writes what `python -m gve_jax.embed --exact` writes, to the last bit, whatever the
number of processes, the runner and the interruptions. All other arguments are Beam's:
`--runner=DaskRunner --dask_client_address=HOST:PORT`, and so on.
"""

import os
import pathlib

from absl import flags

from data_synthesis import pipelines
from data_synthesis.bulk import work
from gve_jax import embeddings
from gve_jax.main import run
from gve_jax.types import UserError

_INPUT = flags.DEFINE_string("input", None, "Items file (JSON lines).")
_OUTPUT = flags.DEFINE_string("output", None, "Folder for embeddings.npy and ids.json.")
_SHARD = flags.DEFINE_integer(
    "shard_items", 1024, "Items of a shard: what a worker loses at most.", lower_bound=1
)
_PROCESSES = flags.DEFINE_integer(
    "processes", 1, "Of this machine, with Beam's own runner; no byte depends on it."
)
# Those of `python -m gve_jax.embed`, which checks them.
_EMBEDDER = [
    flags.DEFINE_string("checkpoint", None, "Workdir, Hugging Face folder or hub id."),
    flags.DEFINE_string("dtype", None, "Of activations: float32 or bfloat16."),
    flags.DEFINE_string("weights", None, "float32, bfloat16 or int8."),
    flags.DEFINE_string("preset", None, "How a Hugging Face checkpoint is asked."),
]


def main(argv: list[str]) -> None:
    options = pipelines.beam_options(argv[1:], _PROCESSES.value)
    embedder = tuple(f"--{f.name}={_anywhere(f)}" for f in _EMBEDDER if f.value)
    output = pathlib.Path(os.path.abspath(_OUTPUT.value))
    try:
        found = work.embed(_INPUT.value, output, embedder, _SHARD.value, options)
    except OSError as e:  # a full disk, a folder that may not be written, ...
        raise UserError(
            f"--output: {e.filename or output}: {e.strerror or e}; mend it, and the "
            "same command goes on"
        ) from e
    embeddings.tell(_INPUT.value, _OUTPUT.value, found.items, found.dim, found.failures)


def _anywhere(flag: flags.FlagHolder) -> str:
    """Its value, which also names a checkpoint for workers in other folders."""
    here = flag.name == "checkpoint" and os.path.exists(flag.value.partition("@")[0])
    return os.path.abspath(flag.value) if here else flag.value


if __name__ == "__main__":
    run(main, required=("checkpoint", "input", "output"), others=True)
