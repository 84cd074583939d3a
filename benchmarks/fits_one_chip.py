"""Does a model fit one TPU chip, for embedding? Compiled ahead, without the chip.

pip install -e '.[tpu]'
JAX_PLATFORMS=cpu TPU_SKIP_MDS_QUERY=1 python benchmarks/fits_one_chip.py \
    --size=7b --weights=int8 --tokens=4096

Compiles the real embedding program of a GVE size for one chip of the topology, on a
full batch of 8-frame videos of 200 tokens a frame pair, and prints what the compiler
says of its memory. A program that does not fit is an error of the compiler.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags
from flax import nnx
from jax.experimental import topologies
from jax.sharding import SingleDeviceSharding

from gve_jax.model import abstract
from gve_jax.model.families import from_hf
from gve_jax.preprocess import Geometry, Packer, collate_packed
from gve_jax.preprocess.patches import layout
from gve_jax.preprocess.positions import Placed, mrope_positions
from gve_jax.types import Encoded

_SIZE = flags.DEFINE_enum("size", "7b", ["3b", "7b"], "Of GVE.")
_WEIGHTS = flags.DEFINE_enum("weights", "int8", ["bfloat16", "int8"], "Of the model.")
_TOKENS = flags.DEFINE_integer("tokens", 4096, "Of a batch (config.embed.tokens).")
_TOPOLOGY = flags.DEFINE_string("topology", "v5e:2x2", "Any that has the chip.")

SIZES = {
    "3b": dict(
        vocab_size=151936,
        hidden_size=2048,
        intermediate_size=11008,
        num_hidden_layers=36,
        num_attention_heads=16,
        num_key_value_heads=2,
    ),
    "7b": dict(
        vocab_size=152064,
        hidden_size=3584,
        intermediate_size=18944,
        num_hidden_layers=28,
        num_attention_heads=28,
        num_key_value_heads=4,
    ),
}


def video() -> Encoded:
    """8 frames of 196 tokens a pair, between 40 tokens of text."""
    grid, geometry = (4, 28, 28), Geometry()
    x = layout(grid, geometry)
    n = len(x.place)
    visual = np.concatenate([np.full(14, -1), x.place, np.full(26, -1)])
    return Encoded(
        np.zeros(n + 40, np.int32),
        mrope_positions(n + 40, [Placed(14, grid, 1.0)], geometry),
        visual.astype(np.int32),
        np.zeros((4 * n, geometry.patch_dim), np.uint8),
        x.coords,
        x.window_lengths,
        x.frame_lengths,
    )


def main(_) -> None:
    text = SIZES[_SIZE.value]
    cfg = from_hf(
        dict(
            model_type="qwen2_5_vl",
            text_config=text,
            vision_config=dict(hidden_size=1280, out_hidden_size=text["hidden_size"]),
            tie_word_embeddings=_SIZE.value == "3b",
        )
    )
    cfg = dataclasses.replace(cfg, dtype="bfloat16", attention="splash")
    cfg = cfg.with_weights(_WEIGHTS.value)
    graph, params = abstract(cfg)
    packer = Packer(Geometry(), _TOKENS.value, 800)
    rows = []
    while not rows:
        rows = packer.add(0, video())
    inputs = collate_packed(rows, 1)

    device = topologies.get_topology_desc(_TOPOLOGY.value, "tpu").devices[0]
    place = SingleDeviceSharding(device)
    shape = lambda x: jax.ShapeDtypeStruct(  # noqa: E731
        x.shape, x.dtype, sharding=place
    )
    params, inputs = jax.tree.map(shape, (params, inputs))
    run = jax.jit(lambda p, x: nnx.merge(graph, p)(x), out_shardings=place)
    memory = run.lower(params, inputs).compile().memory_analysis()
    weights = sum(
        np.prod(x.shape) * jnp.dtype(x.dtype).itemsize for x in jax.tree.leaves(params)
    )
    total = memory.argument_size_in_bytes + memory.temp_size_in_bytes
    print(
        f"{_SIZE.value} {_WEIGHTS.value} on one chip of {_TOPOLOGY.value}, batches of "
        f"{_TOKENS.value} tokens ({len(rows[0].names)} videos): weights "
        f"{weights / 2**30:.2f} GiB, temporary {memory.temp_size_in_bytes / 2**30:.2f} "
        f"GiB, in all {total / 2**30:.2f} GiB: fits"
    )


if __name__ == "__main__":
    app.run(main)
