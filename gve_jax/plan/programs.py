"""The real step of a config as XLA programs, compiled for a topology.

Nothing is computed and no array exists: parameters, state and batches are shapes with
shardings. The programs are those of `gve_jax.train.loop` and `gve_jax.embed`.
"""

import math
import re
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh, NamedSharding
from ml_collections import ConfigDict

from gve_jax import sharding
from gve_jax.model import abstract, partition
from gve_jax.plan.architecture import Architecture
from gve_jax.plan.collectives import Collectives, count_collectives
from gve_jax.plan.topology import Topology
from gve_jax.preprocess import collate_packed
from gve_jax.preprocess.buckets import Buckets, collate
from gve_jax.preprocess.geometry import Geometry
from gve_jax.preprocess.packing import Packer
from gve_jax.preprocess.patches import layout
from gve_jax.preprocess.positions import Placed, mrope_positions
from gve_jax.train.state import (
    TrainState,
    learning_rate,
    make_gradient,
    make_optimizer,
    make_update,
)
from gve_jax.types import Encoded, PairBatch, UserError

# Of the prompt, behind which a medium begins: any other place costs the same.
_HEAD = 14


class Shapes(NamedTuple):
    """All that a step holds and is given, as ShapeDtypeStructs with shardings."""

    mesh: Mesh
    graphdef: nnx.GraphDef
    state: TrainState | None  # None: embedding
    frozen: nnx.State
    batch: Any  # PairBatch or EncoderInputs


class Program(NamedTuple):
    """What a compiler says of one program, in bytes on each chip."""

    arguments: int  # as they are laid out
    temporaries: int
    code: int
    collectives: Collectives | None  # None: refused, as it needs too much memory


def text_item(tokens: int, geometry: Geometry) -> Encoded:
    """An item of that many tokens of text."""
    return Encoded(
        np.zeros(tokens, np.int32),
        mrope_positions(tokens, [], geometry),
        np.full(tokens, -1, np.int32),
        np.zeros((0, geometry.patch_dim), np.uint8),
        *(np.zeros(shape, np.int32) for shape in ((0, 2), 0, 0)),
        np.zeros((0, 2), np.int32) if geometry.extents else None,
    )


def video_item(architecture: Architecture, tokens: int) -> Encoded:
    """A video as large as the contract allows, of square frames, with text.

    It has `tokens` tokens beside those that the pixel budget allows for; the square
    takes a little less, and text the rest.
    """
    c, geometry = architecture.contract, architecture.geometry
    groups = -(-c.num_frames // geometry.temporal_patch_size)
    pixels = min(c.max_pixels, (c.total_pixels or math.inf) // groups)
    most = int(pixels) // geometry.factor**2  # units of a group
    side = math.isqrt(most) * geometry.merge_size
    x = layout((groups, side, side), geometry)
    units, length = len(x.place), groups * most + tokens
    item = text_item(length, geometry)
    item.visual_index[_HEAD : _HEAD + units] = x.place
    grid = (groups, side, side)
    placed = [Placed(_HEAD, grid, 1.0 if geometry.tokens_per_second else None)]
    return item._replace(
        positions=mrope_positions(length, placed, geometry),
        patches=np.zeros((units * geometry.unit, geometry.patch_dim), np.uint8),
        coords=x.coords,
        window_lengths=x.window_lengths,
        frame_lengths=x.frame_lengths,
        extents=np.full((units * geometry.unit, 2), side, np.int32)
        if geometry.extents
        else None,
    )


def padded_tokens(config: ConfigDict, architecture: Architecture, item: Encoded) -> int:
    """Of the bucket that the item is padded to in training."""
    return _buckets(config, architecture).of(item).tokens


def train_shapes(
    config: ConfigDict,
    architecture: Architecture,
    mesh: Mesh,
    query: Encoded,
    target: Encoded,
) -> Shapes:
    """Of a training step on `data.batch_size` equal pairs, each with
    `data.num_negatives` negatives like its target."""
    graphdef, params = _params(architecture, mesh)
    trainable, frozen = partition(params, config.model.trainable)
    optimizer = make_optimizer(config.optim, learning_rate(config.optim, 1))
    whole = sharding.replicated(mesh)
    scalar = jax.ShapeDtypeStruct((), jnp.int32, sharding=whole)
    opt_state = jax.eval_shape(optimizer.init, trainable)
    state = TrainState(scalar, scalar, scalar, trainable, _placed(opt_state, mesh))
    b, k = config.data.batch_size, config.data.num_negatives
    ways = sharding.batch_ways(mesh)
    if b % ways:
        raise UserError(
            f"data.batch_size={b} does not divide over {ways} devices (mesh.data x "
            "mesh.fsdp)"
        )
    buckets = _buckets(config, architecture)
    rows = sharding.batch_sharding(mesh)

    def side(item: Encoded, count: int) -> Any:
        return _repeated(collate([item], buckets.of(item), 1), count, rows)

    def ids(count: int, dtype=np.int32) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((count,), dtype, sharding=rows)

    kinds = config.loss.modality_mask
    scores = jax.ShapeDtypeStruct((b, 1 + k), np.float32, sharding=rows)
    batch = PairBatch(
        query=side(query, b),
        target=side(target, b),
        negatives=side(target, b * k) if k else None,
        source_ids=ids(b),
        query_ids=ids(b),
        target_ids=ids(b),
        negative_ids=ids(b * k) if k else None,
        target_kinds=ids(b) if kinds else None,
        negative_kinds=ids(b * k) if kinds and k else None,
        scores=scores if config.loss.distillation else None,
    )
    return Shapes(mesh, graphdef, state, frozen, batch)


def embed_shapes(
    config: ConfigDict, architecture: Architecture, mesh: Mesh, item: Encoded
) -> tuple[Shapes, int]:
    """Of embedding full batches of equal items: a row of `embed.tokens` a device.

    Returns:
      The shapes, and how many items a row holds.
    """
    graphdef, params = _params(architecture, mesh)
    geometry = architecture.geometry
    group = architecture.contract.max_pixels // geometry.patch_size**2
    exact = _buckets(config, architecture).exact
    packer = Packer(geometry, config.embed.tokens, group, exact)
    full = []
    while not full:
        full = packer.add(0, item)
    ways, rows = sharding.batch_ways(mesh), sharding.batch_sharding(mesh)
    batch = _repeated(collate_packed(full, 1), ways, rows)
    return Shapes(mesh, graphdef, None, params, batch), len(full[0].names)


def compile_gradient(config: ConfigDict, topology: Topology, shapes: Shapes) -> Program:
    """The half of a training step that depends on the batch."""
    whole = sharding.replicated(shapes.mesh)
    trainable = shapes.state.trainable
    gradient = jax.jit(
        make_gradient(shapes.graphdef, config, shapes.mesh),
        out_shardings=(_shardings(trainable), whole),
        keep_unused=True,  # they are on the chip all the same
    )
    number = shapes.state.step
    arguments = trainable, shapes.frozen, shapes.batch, number, number
    return _compile(gradient, arguments, topology, shapes.mesh)


def compile_update(config: ConfigDict, topology: Topology, shapes: Shapes) -> Program:
    """The other half: optimiser and new weights."""
    whole = sharding.replicated(shapes.mesh)
    schedule = learning_rate(config.optim, max(config.train.steps, 1))
    update = jax.jit(
        make_update(
            make_optimizer(config.optim, schedule), schedule, config.train.accumulate
        ),
        donate_argnums=0,
        out_shardings=(_shardings(shapes.state), whole),
    )
    arguments = shapes.state, shapes.state.trainable
    return _compile(update, arguments, topology, shapes.mesh)


def compile_embed(topology: Topology, shapes: Shapes) -> Program:
    """The forward pass of `gve_jax.embed`."""
    embed = jax.jit(lambda p, x: nnx.merge(shapes.graphdef, p)(x), keep_unused=True)
    return _compile(embed, (shapes.frozen, shapes.batch), topology, shapes.mesh)


def chip_bytes(tree: Any) -> int:
    """Of a tree of ShapeDtypeStructs with shardings, on each device."""
    return sum(
        math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize
        for x in jax.tree.leaves(tree)
    )


def _buckets(config: ConfigDict, architecture: Architecture) -> Buckets:
    p = config.preprocess
    return Buckets(
        p.token_buckets, p.patch_buckets, p.exact_grids, architecture.geometry
    )


def _params(architecture: Architecture, mesh: Mesh) -> tuple[nnx.GraphDef, nnx.State]:
    graphdef, params = abstract(architecture.model)
    return graphdef, _placed(params, mesh)


def _placed(tree: Any, mesh: Mesh) -> Any:
    def place(x, where: NamedSharding) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where)

    return jax.tree.map(place, tree, sharding.shardings(tree, mesh))


def _shardings(tree: Any) -> Any:
    return jax.tree.map(lambda x: x.sharding, tree)


def _repeated(inputs: Any, count: int, where: NamedSharding) -> Any:
    """A batch of one row as the shapes of `count` rows."""
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct((count, *x.shape[1:]), x.dtype, sharding=where),
        inputs,
    )


def _compile(
    function: Any, arguments: tuple, topology: Topology, mesh: Mesh
) -> Program:
    # As training does: kernels are split by the mesh that surrounds them.
    with jax.set_mesh(mesh):
        lowered = function.lower(*arguments)
    try:
        compiled = lowered.compile(compiler_options=topology.compiler_options or None)
    except jax.errors.JaxRuntimeError as e:
        if "RESOURCE_EXHAUSTED" not in str(e):
            raise
        given = chip_bytes(arguments)
        return Program(given, _refused(str(e), given), 0, None)
    m = compiled.memory_analysis()
    return Program(
        m.argument_size_in_bytes,
        m.temp_size_in_bytes,
        m.generated_code_size_in_bytes,
        count_collectives(compiled.as_text(), mesh.size),
    )


def _refused(message: str, arguments: int) -> int:
    """Bytes of temporaries by the figure in a TPU compiler's refusal; 0: there is none.

    It is "Used 17.1G of 15.75G hbm" or "required for HLO temporaries (20.3G)"; in both
    the arguments are in the figure.
    """
    found = re.search(r"(?:Used |temporaries \()([\d.]+)([KMG])", message)
    if not found:
        return 0
    figure = int(float(found[1]) * 1024.0 ** ("KMG".index(found[2]) + 1))
    return max(figure - arguments, 0)
