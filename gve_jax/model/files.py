"""Tensors of Hugging Face and PEFT folders, read one at a time. NumPy only."""

import functools
import json
import math
import pathlib
from collections.abc import Callable
from typing import NamedTuple

import ml_dtypes
import numpy as np
import safetensors.numpy

from gve_jax.types import UserError

# Of safetensors' names.
FLOATS = {"F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16}
_ALIGNMENT = 64  # bytes
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")


class Tensor(NamedTuple):
    """A tensor of a file; `load` reads it, anew at each call."""

    key: str
    shape: tuple[int, ...]
    dtype: str
    load: Callable[[], np.ndarray]


def read_json(path: pathlib.Path) -> dict:
    """Raises UserError if there is none or it is no JSON object."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: not found; is this a Hugging Face folder?") from None
    except ValueError as e:
        raise UserError(f"{path}: not JSON ({e})") from None
    if not isinstance(values, dict):
        raise UserError(f"{path}: not a JSON object")
    return values


def weight_files(folder: pathlib.Path, stem: str = "model") -> list[str]:
    """Names of the safetensors files that hold a model's weights.

    They are those of the index `STEM.safetensors.index.json`, or `STEM.safetensors`.

    Raises:
      UserError: the index is broken or names files outside of the folder.
    """
    index = folder / f"{stem}.safetensors.index.json"
    if not index.exists():
        return [f"{stem}.safetensors"]
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise UserError(f"{index}: not a safetensors index (no weight_map)")
    names = sorted(set(map(str, weight_map.values())))
    for name in names:
        if pathlib.PurePath(name).name != name:
            raise UserError(f"{index}: shard {name!r} lies outside the folder")
    return names


def open_tensors(folder: pathlib.Path, stem: str = "model") -> list[Tensor]:
    """Every tensor of a folder's weights, in the order of the files.

    Raises:
      UserError: files are missing (all are named), broken, or only pickles.
    """
    names = weight_files(folder, stem)
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        pickles = sorted(p.name for glob in _PICKLES for p in folder.glob(glob))
        if pickles and len(missing) == len(names):
            raise UserError(
                f"{folder}: its weights are pickles ({', '.join(pickles)}), which can "
                "run code and are never read: load them in transformers and "
                "save_pretrained them again, which writes safetensors"
            )
        raise UserError(f"{folder}: {', '.join(missing)} not found; download again")
    tensors = []
    for name in names:
        try:
            file = safetensors.safe_open(folder / name, "np")
        except (safetensors.SafetensorError, OSError) as e:
            raise UserError(
                f"{folder / name}: broken ({e}); download it again"
            ) from None
        start, header = _header(folder / name)
        for key in file.keys():  # noqa: SIM118  (not a dict)
            entry = header[key]
            shape, dtype = tuple(entry["shape"]), entry["dtype"]
            offset = start + entry["data_offsets"][0]
            load = functools.partial(_read, folder / name, offset, shape, dtype)
            tensors.append(Tensor(key, shape, dtype, load))
    return tensors


def save_tensors(path: pathlib.Path, tensors: dict[str, np.ndarray]) -> None:
    """Writes a safetensors file, readable by whom the umask says.

    The library's own files are the owner's alone, whatever the umask.
    """
    path.touch()
    mode = path.stat().st_mode
    safetensors.numpy.save_file(tensors, path, metadata={"format": "pt"})
    path.chmod(mode)


def _header(path: pathlib.Path) -> tuple[int, dict]:
    """(where the data begin, key -> entry) of a file that `safe_open` found sound."""
    with open(path, "rb") as f:
        size = int.from_bytes(f.read(8), "little")
        return 8 + size, json.loads(f.read(size))


def _read(path: pathlib.Path, offset: int, shape: tuple[int, ...], dtype: str):
    """Read, not mapped: pages of a mapped file stay in memory until it is closed. At an
    address that JAX on CPU takes as it is, without a copy."""
    size = math.prod(shape) * np.dtype(FLOATS[dtype]).itemsize
    raw = np.empty(size + _ALIGNMENT, np.uint8)
    start = -raw.ctypes.data % _ALIGNMENT
    data = raw[start : start + size]
    with open(path, "rb") as f:
        f.seek(offset)
        if f.readinto(data) != size:
            raise UserError(f"{path}: cut off while it was read; download it again")
    return data.view(FLOATS[dtype]).reshape(shape)


def with_adapter(
    tensors: list[Tensor], folder: pathlib.Path, plain_name: Callable[[str], str]
) -> list[Tensor]:
    """A model's tensors with a PEFT adapter's update merged as they are read.

    LoRA adds scale B A, in float32; DoRA then gives each output row the learned length.

    Args:
      tensors: of the base model.
      folder: holds adapter_config.json and adapter_model.safetensors.
      plain_name: brings a name to the naming that both sides share.

    Raises:
      UserError: an adapter of another kind, one with pickled weights, or one that
        changes what the base model does not have.
    """
    path = folder / "adapter_config.json"
    config = read_json(path)
    for field, fine in (
        ("peft_type", ("LORA",)),
        ("bias", ("none", None)),
        ("fan_in_fan_out", (False, None)),
        ("modules_to_save", (None, [])),
        ("rank_pattern", ({}, None)),
        ("alpha_pattern", ({}, None)),
    ):
        if config.get(field) not in fine:
            raise UserError(
                f"{path}: {field} is {config.get(field)!r}, which is not read "
                f"(only {fine[0]!r}): merge the adapter in PEFT and save the model"
            )
    updates: dict[str, dict[str, Tensor]] = {}
    for tensor in open_tensors(folder, "adapter_model"):
        name = plain_name(tensor.key.removeprefix("base_model.model."))
        module, _, part = name.removesuffix(".weight").rpartition(".")
        if part not in ("lora_A", "lora_B", "lora_magnitude_vector"):
            raise UserError(f"{folder}: {tensor.key} is no part of a LoRA update")
        updates.setdefault(f"{module}.weight", {})[part] = tensor
    known = {plain_name(t.key) for t in tensors}
    if strange := sorted(updates.keys() - known):
        raise UserError(
            f"{folder}: updates {', '.join(strange)}, which its base model lacks: "
            "is base_model_name_or_path right?"
        )
    rank, alpha = config["r"], config["lora_alpha"]
    scale = alpha / (rank**0.5 if config.get("use_rslora") else rank)

    def merged(tensor: Tensor) -> Tensor:
        update = updates.get(plain_name(tensor.key))
        if update is None:
            return tensor
        if {"lora_A", "lora_B"} - update.keys():
            raise UserError(f"{folder}: half of the update of {tensor.key} is missing")

        def load() -> np.ndarray:
            a, b = (update[k].load().astype(np.float32) for k in ("lora_A", "lora_B"))
            x = tensor.load().astype(np.float32) + scale * (b @ a)
            if magnitude := update.get("lora_magnitude_vector"):
                length = np.linalg.norm(x, axis=1, keepdims=True)
                x *= magnitude.load().astype(np.float32).reshape(-1, 1) / length
            return x

        return tensor._replace(load=load)

    return [merged(t) for t in tensors]
