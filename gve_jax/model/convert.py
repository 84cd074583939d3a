"""Hugging Face safetensors in and out, by one table for both directions."""

import collections
import dataclasses
import functools
import os
import pathlib
import re
from collections.abc import Iterable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import NamedSharding, PartitionSpec

from gve_jax import sharding
from gve_jax.disk import write_json
from gve_jax.model.config import ModelConfig
from gve_jax.model.encoder import abstract, random_state
from gve_jax.model.families import from_hf, to_hf
from gve_jax.model.files import (
    FLOATS,
    Tensor,
    open_tensors,
    read_json,
    save_tensors,
    with_adapter,
)
from gve_jax.model.layers import LoRAParam, quantise_kernel
from gve_jax.model.quantise import convert_weights
from gve_jax.types import UserError

_SHARD_BYTES = 5 * 10**9


def _linear(theirs: str, ours: str, bias: bool) -> list[tuple[str, str]]:
    rows = [(f"{theirs}.weight", f"{ours}/kernel")]
    return rows + [(f"{theirs}.bias", f"{ours}/bias")] * bias


def _norm(theirs: str, ours: str, bias: bool) -> list[tuple[str, str]]:
    rows = [(f"{theirs}.weight", f"{ours}/scale")]
    return rows + [(f"{theirs}.bias", f"{ours}/bias")] * bias


def _vision(bias: bool, mlp: dict[str, str]) -> list[tuple[str, str]]:
    """Blocks of the tower; `bias`: of the patch embedding and of the norms."""
    block, ours = "visual.blocks.{}", "visual/blocks"
    return [
        *_norm(f"{block}.norm1", f"{ours}/norm1", bias),
        *_norm(f"{block}.norm2", f"{ours}/norm2", bias),
        *_linear(f"{block}.attn.qkv", f"{ours}/qkv", True),
        *_linear(f"{block}.attn.proj", f"{ours}/proj", True),
        *(
            row
            for theirs, mine in mlp.items()
            for row in _linear(f"{block}.mlp.{theirs}", f"{ours}/mlp/{mine}", True)
        ),
    ]


def _merger(
    theirs: str, ours: str, norm: str, bias: bool, fcs
) -> list[tuple[str, str]]:
    return [
        *_norm(f"{theirs}.{norm}", f"{ours}/norm", bias),
        *_linear(f"{theirs}.{fcs[0]}", f"{ours}/fc1", True),
        *_linear(f"{theirs}.{fcs[1]}", f"{ours}/fc2", True),
    ]


def _text(bias: bool, qk_norm: bool) -> list[tuple[str, str]]:
    layer, ours = "model.layers.{}", "text/layers"
    rows = [
        ("model.embed_tokens.weight", "text/embedding"),
        *_norm(f"{layer}.input_layernorm", f"{ours}/norm1", False),
        *_norm(f"{layer}.post_attention_layernorm", f"{ours}/norm2", False),
        *_norm("model.norm", "text/norm", False),
        *_linear(f"{layer}.self_attn.o_proj", f"{ours}/o", False),
    ]
    for name in "qkv":
        rows += _linear(f"{layer}.self_attn.{name}_proj", f"{ours}/{name}", bias)
    for name in ("gate", "up", "down"):
        rows += _linear(f"{layer}.mlp.{name}_proj", f"{ours}/mlp/{name}", False)
    if qk_norm:
        for name in "qk":
            rows += _norm(
                f"{layer}.self_attn.{name}_norm", f"{ours}/{name}_norm", False
            )
    return rows


_QWEN2_MERGER = ("visual.merger", "visual/merger", "ln_q")
_QWEN3_FCS = ("linear_fc1", "linear_fc2")
# Family -> (source key, our path) of every tensor; "{}" is a layer. Names are plain
# ones: the prefixes of `_ALIASES` are read too, and written for families whose files
# have them. A path that ends in "kernel" holds [in, *out] of a matrix [out, in].
TABLES = {
    "qwen2_vl": [
        *_linear("visual.patch_embed.proj", "visual/patch_embed", False),
        *_vision(True, {"fc1": "fc1", "fc2": "fc2"}),
        *_merger(*_QWEN2_MERGER, True, ("mlp.0", "mlp.2")),
        *_text(True, False),
    ],
    "qwen2_5_vl": [
        *_linear("visual.patch_embed.proj", "visual/patch_embed", False),
        *_vision(False, {"gate_proj": "gate", "up_proj": "up", "down_proj": "down"}),
        *_merger(*_QWEN2_MERGER, False, ("mlp.0", "mlp.2")),
        *_text(True, False),
    ],
    "qwen3_vl": [
        *_linear("visual.patch_embed.proj", "visual/patch_embed", True),
        ("visual.pos_embed.weight", "visual/positions/table"),
        *_vision(True, {"linear_fc1": "fc1", "linear_fc2": "fc2"}),
        *_merger("visual.merger", "visual/merger", "norm", True, _QWEN3_FCS),
        *_merger(
            "visual.deepstack_merger_list.{}",
            "visual/deep_mergers",
            "norm",
            True,
            _QWEN3_FCS,
        ),
        *_text(False, True),
    ],
}
# Of models with a head that is not the embedding. An embedder has none: the key is
# known, and its tensor not used.
_HEAD = ("lm_head.weight", "text/head/kernel")
_ALIASES = (("model.visual.", "visual."), ("model.language_model.", "model."))


class _Row(NamedTuple):
    key: str
    path: tuple[str, ...]
    layer: int | None  # place in a stack
    shape: tuple[int, ...]  # in the file

    @property
    def matrix(self) -> bool:
        return self.path[-1] == "kernel"

    def to_theirs(self, x: np.ndarray) -> np.ndarray:
        """The tensor as the file has it; of a stack, x is one layer."""
        x = x.reshape(len(x), -1).T if self.matrix else x
        return x.reshape(self.shape)


def _rows(cfg: ModelConfig) -> list[_Row]:
    """The table of one architecture, layers written out."""
    shapes = {
        p: v.shape
        for p, v in nnx.to_flat_state(abstract(cfg)[1])
        if not isinstance(v, LoRAParam) and p[-1] != "kernel_scale"
    }
    v, rows = cfg.vision, []
    counts = {
        "visual/blocks": v.depth,
        "visual/deep_mergers": len(v.deepstack_visual_indexes),
        "text/layers": cfg.text.num_hidden_layers,
    }
    head = [_HEAD] * (tuple(_HEAD[1].split("/")) in shapes)
    for key, path in TABLES[cfg.family] + head:
        count = counts["/".join(path.split("/")[:2])] if "{}" in key else 1
        for i in range(count):
            layer = i if "{}" in key else None
            place = tuple(path.split("/"))
            if place[:2] == ("text", "layers") and i == count - 1:
                layer, place = None, ("text", "last", *place[2:])
            shape = shapes[place] if layer is None else shapes[place][1:]
            if key == "visual.patch_embed.proj.weight":
                size = (v.patch_size, v.patch_size)
                shape = (shape[1], v.in_channels, v.temporal_patch_size, *size)
            elif place[-1] == "kernel":
                shape = (int(np.prod(shape[1:])), shape[0])
            elif key.endswith(".bias"):
                shape = (int(np.prod(shape)),)
            rows.append(_Row(key.format(i), place, layer, tuple(shape)))
    unreached = shapes.keys() - {r.path for r in rows}
    assert not unreached, f"TABLES does not reach {unreached}"
    return rows


def read_hf(
    folder: str | os.PathLike,
    model=None,
    *,
    head: bool = False,
    adapter: str | os.PathLike | None = None,
    seed: int = 0,
    mesh: jax.sharding.Mesh | None = None,
) -> tuple[ModelConfig, nnx.State]:
    """Reads a Hugging Face Qwen-VL folder: safetensors and config.json only.

    Tensors go to the devices one at a time, and are quantised there: beside the
    parameters the host holds one tensor of a file, and a device one more.

    Args:
      folder: holds config.json and model.safetensors, or shards and their index.
      model: `config.model`: run-time choices, as `ModelConfig.with_options`. None:
        float32, no LoRA.
      head: the language model's head too, for `gve_jax.model.generate`.
      adapter: PEFT folder whose low-rank update is merged into the weights.
      seed: of the LoRA parameters, which the files do not hold.
      mesh: places the parameters by `gve_jax.sharding.RULES`; None: the default device.

    Returns:
      (config, parameters); `abstract(config)[0]` is the graphdef.

    Raises:
      UserError: a file is missing or broken, or keys or shapes do not match; all of
        them are listed.
    """
    folder = pathlib.Path(folder)
    cfg = from_hf(read_json(folder / "config.json"), folder / "config.json")
    cfg = dataclasses.replace(cfg, head=head)
    tensors = open_tensors(folder)
    if model is not None:
        cfg = cfg.with_options(model, _stored(tensors))
    if adapter is not None:
        tensors = with_adapter(tensors, pathlib.Path(adapter), plain_name)
    placed = None if mesh is None else sharding.shardings(abstract(cfg)[1], mesh)
    params = _assemble(cfg, tensors, str(folder), placed)
    if cfg.lora_rank:
        lora = None if placed is None else nnx.filter_state(placed, LoRAParam)
        params = nnx.merge_state(params, random_state(cfg, seed, lora, LoRAParam))
    return cfg, params


def _stored(tensors: list[Tensor]) -> str:
    """The kind of weights that holds a folder's: float16 needs float32's precision."""
    return "bfloat16" if all(t.dtype == "BF16" for t in tensors) else "float32"


def plain_name(key: str) -> str:
    """A tensor's name under the oldest of the namings in use."""
    for prefix, plain in _ALIASES:
        if key.startswith(prefix):
            return plain + key[len(prefix) :]
    return key


def written_name(family: str, key: str) -> str:
    """A plain name as the family's released files have it; the only one that its
    class in transformers finds."""
    if family == "qwen3_vl":
        for prefix, plain in _ALIASES:
            if key.startswith(plain):
                return prefix + key[len(plain) :]
    return key


def _assemble(
    cfg: ModelConfig, tensors: list[Tensor], where: str, placed=None
) -> nnx.State:
    """Fills the parameters, LoRA's aside; each key is used once or all is refused."""
    wanted = {row.key: row for row in _rows(cfg)}
    found: dict[str, Tensor] = {}
    errors: dict[str, list[str]] = collections.defaultdict(list)
    for tensor in tensors:
        name = plain_name(tensor.key)
        if name == _HEAD[0] and name not in wanted:
            continue
        if name not in wanted:
            errors["unknown"].append(tensor.key)
        elif name in found:
            errors["duplicate"].append(tensor.key)
        elif tensor.shape != wanted[name].shape:
            errors[f"shape {tensor.shape}, wanted {wanted[name].shape}, of"].append(
                tensor.key
            )
        elif tensor.dtype not in FLOATS:
            errors[f"dtype {tensor.dtype} (quantised?) of"].append(tensor.key)
        found[name] = tensor
    errors["missing"] = [key for key in wanted if key not in found]
    if any(errors.values()):
        raise UserError(
            f"{where}: its tensors do not match its config.json: "
            + "; ".join(
                f"{what} {key}"
                for what, keys in errors.items()
                for key in _by_layer(keys)
            )
        )

    rows_of: dict[tuple, list[_Row]] = collections.defaultdict(list)
    for row in wanted.values():
        rows_of[row.path].append(row)
    variables = dict(nnx.to_flat_state(abstract(cfg)[1]))
    places = dict(nnx.to_flat_state(placed)) if placed is not None else {}
    filled = {}
    for path, rows in rows_of.items():
        paths = [path]
        if variables[path].dtype == jnp.int8:
            paths.append((*path[:-1], "kernel_scale"))
        values = ((row, found[row.key].load()) for row in rows)
        arrays = _place(
            [variables[p] for p in paths],
            values,
            tuple(places[p].get_value() for p in paths) if places else None,
        )
        for p, x in zip(paths, arrays, strict=True):
            filled[p] = variables[p].replace(x)
    return nnx.from_flat_state(filled)


def _by_layer(keys: list[str]) -> list[str]:
    """Keys that differ in a layer number are one entry: an error stays readable."""
    groups = collections.defaultdict(list)
    for key in keys:
        groups[re.sub(r"\.\d+\.", ".*.", key)].append(key)
    return [
        group[0] if len(group) == 1 else f"{name} ({len(group)} of them)"
        for name, group in groups.items()
    ]


def _place(
    variables: list, values: Iterable[tuple[_Row, np.ndarray]], places
) -> tuple[jax.Array, ...]:
    """One parameter out of the tensors of its layers; two, if it is to be quantised.

    Args:
      variables: its shape and dtype, and those of its scale if it is int8.
      values: (row, tensor), read when they are asked for.
      places: NamedSharding of each of them, or None.
    """
    shape, dtype = variables[0].shape, variables[0].dtype
    place = None if places is None else places[0]
    buffers = None
    for row, x in values:
        one = shape if row.layer is None else shape[1:]
        axes = [None] * len(one)
        if place is not None:
            axes = [*place.spec, *[None] * len(shape)][: len(shape)][-len(one) :]
        if row.matrix:  # turned on the device, where it is a copy anyway
            one, axes = (*one[1:], one[0]), (*axes[1:], axes[0])
        x = x.reshape(one)
        if place is None:
            x = jax.device_put(x)
        else:
            split = NamedSharding(place.mesh, PartitionSpec(*axes))
            x = jax.make_array_from_callback(one, split, x.__getitem__)
        single = row.layer is None
        turn = _turning(row.matrix, dtype, places if single else None)
        if single:
            return turn(x)
        if buffers is None:
            each = places or [None] * len(variables)
            buffers = tuple(
                jnp.zeros(v.shape, v.dtype, device=p)
                for v, p in zip(variables, each, strict=True)
            )
            fill = _filling(places)
        # Waiting bounds what is in flight to one tensor.
        buffers = jax.block_until_ready(fill(buffers, turn(x), row.layer))
    return buffers


@functools.cache
def _turning(matrix: bool, dtype, places):
    """Compiled: a tensor -> the parts of a parameter, or of one layer of it. Equal
    shapes, and models read again, share it."""

    def turn(x):
        x = jnp.moveaxis(x, -1, 0) if matrix else x
        return quantise_kernel(x) if dtype == jnp.int8 else (x.astype(dtype),)

    return jax.jit(turn, out_shardings=places)


@functools.cache
def _filling(places):
    """Compiled: (stacks, parts of one layer, its number) -> stacks, written in place.

    Apart from `_turning`: fused, XLA's CPU code turns element by element."""

    def fill(buffers, parts, layer):
        put = jax.lax.dynamic_update_index_in_dim
        return tuple(put(b, p, layer, 0) for b, p in zip(buffers, parts, strict=True))

    return jax.jit(fill, donate_argnums=0, out_shardings=places)


def merge_lora(cfg: ModelConfig, params: nnx.State) -> tuple[ModelConfig, nnx.State]:
    """Folds the low-rank updates into the weights: (config without LoRA, params).

    The products are computed in float32 and rounded to the weights' dtype once.

    Raises:
      UserError: the weights are int8, to which nothing can be added.
    """
    if not cfg.lora_rank:
        return cfg, params
    _refuse_int8(cfg, "merged")
    return convert_weights(cfg, params, cfg.weights)


def write_hf(
    cfg: ModelConfig,
    params: nnx.State,
    folder: str | os.PathLike,
    *,
    shard_bytes: int = _SHARD_BYTES,
) -> None:
    """Writes what `transformers` loads to the same embedding; LoRA is merged.

    Files are config.json and model.safetensors, or shards and an index above
    `shard_bytes`, under the key names of the released weights. Without a head
    `tie_word_embeddings` is set: loaders that want one take the embedding.

    Raises:
      UserError: the weights are int8, which no Hugging Face model of these is.
    """
    _refuse_int8(cfg, "written")
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    cfg, params = merge_lora(cfg, params)
    flat = dict(nnx.to_flat_state(params))
    itemsize = jnp.dtype(cfg.param_dtype).itemsize
    shards: list[list[_Row]] = [[]]
    used = total = 0
    for row in _rows(cfg):
        size = int(np.prod(row.shape)) * itemsize
        if shards[-1] and used + size > shard_bytes:
            shards.append([])
            used = 0
        shards[-1].append(row)
        used, total = used + size, total + size
    weight_map = {}
    for n, rows in enumerate(shards):
        name = "model.safetensors"
        if len(shards) > 1:
            name = f"model-{n + 1:05d}-of-{len(shards):05d}.safetensors"
        tensors = {}
        for row in rows:
            x = flat[row.path][...]
            x = np.asarray(jax.device_get(x if row.layer is None else x[row.layer]))
            key = written_name(cfg.family, row.key)
            tensors[key] = np.ascontiguousarray(row.to_theirs(x))
            weight_map[key] = name
        part = folder / f"{name}.part"
        save_tensors(part, tensors)
        os.replace(part, folder / name)
    if len(shards) > 1:
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        write_json(folder / "model.safetensors.index.json", index)
    # Last: a folder without config.json is one that was interrupted.
    tied = cfg.tie_word_embeddings or not cfg.head
    write_json(folder / "config.json", to_hf(cfg) | {"tie_word_embeddings": tied})


def _refuse_int8(cfg: ModelConfig, what: str) -> None:
    if cfg.int8:
        raise UserError(
            f"int8 weights cannot be {what}: they are for use alone; load the "
            "checkpoint with float32 or bfloat16 weights (model.param_dtype)"
        )
