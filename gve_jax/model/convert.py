"""Hugging Face safetensors in and out, by one table for both directions."""

import dataclasses
import json
import os
import pathlib
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_dtypes  # noqa: F401  (gives NumPy the bfloat16 that safetensors reads)
import numpy as np
import safetensors
import safetensors.numpy
from flax import nnx

from gve_jax.model.config import ModelConfig
from gve_jax.model.encoder import abstract, random_state
from gve_jax.model.layers import LoRAParam
from gve_jax.types import UserError

_SHARD_BYTES = 5 * 10**9

# Transforms: (ours -> theirs, theirs -> ours but for the final reshape).
_MATRIX = (lambda x: x.reshape(x.shape[0], -1).T, lambda x: x.reshape(len(x), -1).T)
_SAME = (lambda x: x, lambda x: x)


def _linear(theirs: str, ours: str, bias: bool) -> list[tuple]:
    rows = [(f"{theirs}.weight", f"{ours}/kernel", _MATRIX)]
    return rows + [(f"{theirs}.bias", f"{ours}/bias", _SAME)] * bias


def _norm(theirs: str, ours: str, bias: bool) -> list[tuple]:
    rows = [(f"{theirs}.weight", f"{ours}/scale", _SAME)]
    return rows + [(f"{theirs}.bias", f"{ours}/bias", _SAME)] * bias


def _vision(bias: bool, mlp: dict[str, str]) -> list[tuple]:
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


def _merger(theirs: str, ours: str, norm: str, bias: bool, fcs) -> list[tuple]:
    return [
        *_norm(f"{theirs}.{norm}", f"{ours}/norm", bias),
        *_linear(f"{theirs}.{fcs[0]}", f"{ours}/fc1", True),
        *_linear(f"{theirs}.{fcs[1]}", f"{ours}/fc2", True),
    ]


def _text(bias: bool, qk_norm: bool) -> list[tuple]:
    layer, ours = "model.layers.{}", "text/layers"
    rows = [
        ("model.embed_tokens.weight", "text/embedding", _SAME),
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
# Family -> rows of (source key, path, transform); "{}" is a layer. Names are those of
# the released files; the prefixes of `_ALIASES` are read too.
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
        ("visual.pos_embed.weight", "visual/positions/table", _SAME),
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
# Keys that are known and not used: an embedder has no language-model head.
IGNORED = ("lm_head.weight",)
_ALIASES = (("model.visual.", "visual."), ("model.language_model.", "model."))


class _Row(NamedTuple):
    key: str
    path: tuple[str, ...]
    layer: int | None  # place in a stack
    shape: tuple[int, ...]  # in the file
    transform: tuple[Callable, Callable]


def _rows(cfg: ModelConfig) -> list[_Row]:
    """The table of one architecture, layers written out."""
    shapes = {
        p: v.shape
        for p, v in nnx.to_flat_state(abstract(cfg)[1])
        if not isinstance(v, LoRAParam)
    }
    v, rows = cfg.vision, []
    counts = {
        "visual/blocks": v.depth,
        "visual/deep_mergers": len(v.deepstack_visual_indexes),
        "text/layers": cfg.text.num_hidden_layers,
    }
    for key, path, transform in TABLES[cfg.family]:
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
            elif transform is _MATRIX:
                shape = (int(np.prod(shape[1:])), shape[0])
            elif key.endswith(".bias"):
                shape = (int(np.prod(shape)),)
            rows.append(_Row(key.format(i), place, layer, tuple(shape), transform))
    unreached = shapes.keys() - {r.path for r in rows}
    assert not unreached, f"TABLES does not reach {unreached}"
    return rows


def read_hf(
    folder: str | os.PathLike, model=None, *, seed: int = 0, shardings=None
) -> tuple[ModelConfig, nnx.State]:
    """Reads a Hugging Face Qwen-VL folder: safetensors and config.json only.

    Args:
      folder: holds config.json and model.safetensors, or shards and their index.
      model: `config.model`: run-time choices, as `ModelConfig.with_options`. None:
        float32, no LoRA.
      seed: of the LoRA parameters, which the files do not hold.
      shardings: (ModelConfig) -> tree as of `gve_jax.sharding.shardings`, to place
        parameters; None: the default device.

    Returns:
      (config, parameters); `abstract(config)[0]` is the graphdef.

    Raises:
      UserError: a file is missing or broken, or keys or shapes do not match; all of
        them are listed.
    """
    folder = pathlib.Path(folder)
    path = folder / "config.json"
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: not found; is this a Hugging Face folder?") from None
    except json.JSONDecodeError as e:
        raise UserError(f"{path}: not JSON ({e})") from None
    cfg = ModelConfig.from_hf(values, str(path))
    if model is not None:
        cfg = cfg.with_options(model)
    placed = None if shardings is None else shardings(cfg)
    params = _assemble(cfg, _open_tensors(folder), str(folder), placed)
    if cfg.lora_rank:
        lora = None if placed is None else nnx.filter_state(placed, LoRAParam)
        params = nnx.merge_state(params, random_state(cfg, seed, lora, LoRAParam))
    return cfg, params


def _open_tensors(folder: pathlib.Path) -> list[tuple[str, Callable[[], np.ndarray]]]:
    """(key, loader) of every tensor of a folder, shards in the order of the index."""
    index = folder / "model.safetensors.index.json"
    names = ["model.safetensors"]
    if index.exists():
        try:
            weight_map = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        except (json.JSONDecodeError, KeyError) as e:
            raise UserError(f"{index}: not a safetensors index ({e!r})") from None
        names = sorted(set(weight_map.values()))
        for name in names:
            if pathlib.PurePath(name).name != name:
                raise UserError(f"{index}: shard {name!r} lies outside the folder")
    tensors = []
    for name in names:
        try:
            file = safetensors.safe_open(folder / name, "np")
        except FileNotFoundError:
            raise UserError(f"{folder / name}: not found; download it again") from None
        except safetensors.SafetensorError as e:
            raise UserError(
                f"{folder / name}: broken ({e}); download it again"
            ) from None
        for key in file.keys():  # noqa: SIM118  (not a dict)
            tensors.append((key, lambda file=file, key=key: file.get_tensor(key)))
    return tensors


def _assemble(
    cfg: ModelConfig,
    tensors: Iterable[tuple[str, Callable[[], np.ndarray]]],
    where: str,
    placed=None,
) -> nnx.State:
    """Fills the parameters, LoRA's aside; each key is used once or all is refused."""
    wanted = {row.key: row for row in _rows(cfg)}
    loaders: dict[str, Callable] = {}
    errors = []
    for key, load in tensors:
        name = key
        for prefix, plain in _ALIASES:
            if key.startswith(prefix):
                name = plain + key[len(prefix) :]
        if name in IGNORED:
            continue
        if name not in wanted:
            errors.append(f"unknown {key}")
        elif name in loaders:
            errors.append(f"duplicate {key}")
        else:
            loaders[name] = load
    errors += [f"missing {key}" for key in wanted if key not in loaders]

    variables = {
        path: v
        for path, v in nnx.to_flat_state(abstract(cfg)[1])
        if not isinstance(v, LoRAParam)
    }
    places = dict(nnx.to_flat_state(placed)) if placed is not None else {}
    rows_of: dict[tuple, list[_Row]] = {}
    for row in wanted.values():
        rows_of.setdefault(row.path, []).append(row)
    filled = {}
    # One parameter at a time: the host holds no second copy of the model.
    for path, variable in variables.items():
        out = np.empty(variable.shape, variable.dtype)
        for row in rows_of[path]:
            if row.key not in loaders:
                continue
            x = loaders[row.key]()
            if x.shape != row.shape:
                errors.append(f"shape of {row.key} {x.shape}, wanted {row.shape}")
                continue
            target = out if row.layer is None else out[row.layer]
            target[...] = row.transform[1](x).reshape(target.shape)
        if errors:
            continue
        place = places[path].get_value() if path in places else None
        filled[path] = variable.replace(jax.device_put(out, place))
    if errors:
        raise UserError(
            f"{where}: its tensors do not match its config.json: {'; '.join(errors)}"
        )
    return nnx.from_flat_state(filled)


def merge_lora(cfg: ModelConfig, params: nnx.State) -> tuple[ModelConfig, nnx.State]:
    """Folds the low-rank updates into the weights: (config without LoRA, params).

    The products are computed in float32 and rounded to the weights' dtype once.
    """
    if not cfg.lora_rank:
        return cfg, params
    scale = cfg.lora_alpha / cfg.lora_rank
    flat = dict(nnx.to_flat_state(params))
    merged = {p: v for p, v in flat.items() if not isinstance(v, LoRAParam)}
    for path in [p for p in flat if p[-1] == "lora_a"]:
        kernel = flat[*path[:-1], "kernel"]
        a, b = flat[path], flat[*path[:-1], "lora_b"]
        merged[*path[:-1], "kernel"] = kernel.replace(
            _add_update(kernel[...], a[...], b[...], scale)
        )
    return dataclasses.replace(cfg, lora_rank=0), nnx.from_flat_state(merged)


@jax.jit
def _add_update(kernel, a, b, scale):
    update = jnp.einsum(
        "...ir,...rz->...iz", a, b.reshape(*a.shape[:-2], a.shape[-1], -1)
    )
    return (kernel + scale * update.reshape(kernel.shape)).astype(kernel.dtype)


def write_hf(
    cfg: ModelConfig,
    params: nnx.State,
    folder: str | os.PathLike,
    *,
    shard_bytes: int = _SHARD_BYTES,
) -> None:
    """Writes what `transformers` loads to the same embedding; LoRA is merged.

    Files are config.json and model.safetensors, or shards and an index above
    `shard_bytes`, under the key names of the released weights. There is no head, so
    `tie_word_embeddings` is set: loaders that want one take the embedding.
    """
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
            x = row.transform[0](x).reshape(row.shape)
            tensors[row.key] = np.ascontiguousarray(x)
            weight_map[row.key] = name
        part = folder / f"{name}.part"
        safetensors.numpy.save_file(tensors, part, metadata={"format": "pt"})
        os.replace(part, folder / name)
    if len(shards) > 1:
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        _write_json(folder / "model.safetensors.index.json", index)
    # Last: a folder without config.json is one that was interrupted.
    _write_json(folder / "config.json", cfg.to_hf() | {"tie_word_embeddings": True})


def _write_json(path: pathlib.Path, values: Any) -> None:
    part = path.with_name(path.name + ".part")
    part.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
    os.replace(part, path)
