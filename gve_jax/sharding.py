"""The mesh, and one table from logical axes to mesh axes.

Parameters name their axes where they are born (`nnx.Param(..., axes=...)`); this table
alone says how a mesh splits them.
"""

import math
from typing import Any

import jax
import numpy as np
from flax import nnx
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from gve_jax.types import UserError

MESH_AXES = ("data", "fsdp", "tensor", "sequence")

# Logical axis -> mesh axis; None: every device holds all of it.
RULES: dict[str, str | tuple[str, ...] | None] = {
    "batch": ("data", "fsdp"),  # items
    "layers": None,  # scanned, so each device needs every layer
    "vocab": "tensor",
    "embed": "fsdp",  # the residual stream's side of a weight: gathered when used
    "heads": "tensor",  # attention and MLP are split as in Megatron
    "kv_heads": "tensor",
    "mlp": "tensor",
    "patch": None,
    "norm": None,  # a few thousand numbers
    "lora": None,  # the rank
    # Of activations. Along `sequence` devices share the tokens of their items, and in
    # attention, where tokens meet, the heads instead (DeepSpeed-Ulysses, 2309.14509).
    "tokens": ("data", "fsdp", "sequence"),
    "attention_heads": ("tensor", "sequence"),
}


def make_mesh(config, devices=None) -> Mesh:
    """The device mesh of a config's `mesh` section.

    Args:
      config: has `data`, `fsdp`, `tensor` and `sequence`; one may be -1: the devices
        left over.
      devices: default `jax.devices()`.

    Raises:
      UserError: the axes do not multiply to the number of devices.
    """
    devices = list(jax.devices() if devices is None else devices)
    sizes = [int(config[name]) for name in MESH_AXES]
    if sizes.count(-1) > 1 or any(n < 1 and n != -1 for n in sizes):
        raise UserError(
            f"mesh: {_show(sizes)} must be positive numbers, at most one of them -1"
        )
    known = 1
    for n in sizes:
        known *= 1 if n == -1 else n
    full = [len(devices) // known if n == -1 else n for n in sizes]
    product = known * (len(devices) // known if -1 in sizes else 1)
    if product != len(devices):
        raise UserError(
            f"mesh: {_show(sizes)} does not use all of the {len(devices)} devices; "
            "set one axis to -1"
        )
    # Auto: the compiler places what these shardings do not say.
    return jax.make_mesh(
        full, MESH_AXES, axis_types=(AxisType.Auto,) * len(full), devices=devices
    )


def _show(sizes) -> str:
    return ", ".join(f"{k}={n}" for k, n in zip(MESH_AXES, sizes, strict=True))


def spec(axes: tuple[str | None, ...], shape, mesh: Mesh) -> PartitionSpec:
    """How a mesh splits an array with these logical axes.

    A mesh axis is left out where it does not divide the dimension, and where an
    earlier dimension took it: the array is then whole along it.

    Raises:
      KeyError: RULES does not have the axis.
    """
    taken: set[str] = set()
    parts = []
    for axis, size in zip(axes, shape, strict=True):
        rule = None if axis is None else RULES[axis]
        names = []
        for name in (rule,) if isinstance(rule, str) else rule or ():
            if name not in taken and size % mesh.shape[name] == 0:
                names.append(name)
                taken.add(name)
                size //= mesh.shape[name]
        parts.append(names[0] if len(names) == 1 else tuple(names) or None)
    return PartitionSpec(*parts)


def constrain(x: jax.Array, *axes: str | None) -> jax.Array:
    """Places an activation by RULES, where there is a mesh around.

    Left alone, the compiler may split features as the weights that made them are, and
    then gathers activations in each layer, where gathered weights are a fraction.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.size <= 1:  # 0: there is none
        return x
    return jax.lax.with_sharding_constraint(x, spec(axes, x.shape, mesh))


def shardings(tree: Any, mesh: Mesh) -> Any:
    """A NamedSharding for each leaf of a tree of arrays or ShapeDtypeStructs.

    Leaves inside an nnx.Variable with metadata `axes` (parameters, and optimiser
    moments that mirror them) follow RULES; all others are whole on every device.
    """

    def place(leaf):
        if not isinstance(leaf, nnx.Variable):
            return NamedSharding(mesh, PartitionSpec())
        axes = leaf.get_metadata("axes", None)
        value = leaf.get_value()
        if not jax.tree.leaves(value):
            return leaf  # a moment that the optimiser does not keep
        if axes is None or len(axes) != len(value.shape):
            return leaf.replace(NamedSharding(mesh, PartitionSpec()))
        return leaf.replace(NamedSharding(mesh, spec(axes, value.shape, mesh)))

    return jax.tree.map(place, tree, is_leaf=lambda x: isinstance(x, nnx.Variable))


def batch_ways(mesh: Mesh) -> int:
    """Into how many parts a mesh splits a batch."""
    return math.prod(mesh.shape[axis] for axis in RULES["batch"])


def own_rows(n: int, mesh: Mesh) -> np.ndarray:
    """Which rows of a batch of n this process holds, ascending."""
    places = batch_sharding(mesh).addressable_devices_indices_map((n,))
    return np.unique(np.concatenate([np.arange(n)[i] for i in places.values()]))


def from_own_rows(tree: Any, mesh: Mesh) -> Any:
    """A batch on the mesh, of which each process gives the rows that it holds."""
    place, ways = batch_sharding(mesh), batch_ways(mesh)
    share = ways // len(own_rows(ways, mesh))  # processes with different rows

    def put(x):
        shape = (len(x) * share, *x.shape[1:])
        return jax.make_array_from_process_local_data(place, x, shape)

    return from_all_rows(tree, place) if share == 1 else jax.tree.map(put, tree)


def from_all_rows(tree: Any, place: NamedSharding) -> Any:
    """Arrays on a mesh, of which every process has the whole."""
    if place.is_fully_addressable:
        return jax.device_put(tree, place)
    put = lambda x: jax.make_array_from_callback(x.shape, place, x.__getitem__)  # noqa: E731
    return jax.tree.map(put, tree)


def replicated(mesh: Mesh) -> NamedSharding:
    """Of arrays that every device holds whole."""
    return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Of batches: items over the data and fsdp axes, whole items everywhere."""
    return NamedSharding(mesh, PartitionSpec(RULES["batch"]))
