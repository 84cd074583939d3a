"""A checkpoint of any kind: training workdir, Hugging Face folder or hub id."""

import dataclasses
import os
import pathlib
from typing import NamedTuple

import jax
from flax import nnx
from ml_collections import ConfigDict

from gve_jax import build
from gve_jax.checkpoint import Checkpoints, load_config, weights_hash
from gve_jax.config import default_config
from gve_jax.contract import Contract
from gve_jax.disk import read_rows
from gve_jax.hub import find_weights
from gve_jax.media import DECODER
from gve_jax.model import ModelConfig, abstract, convert_weights, partition
from gve_jax.preprocess import Tokenizer, load_tokenizer
from gve_jax.types import UserError


class Restored(NamedTuple):
    """A model with all that its vectors depend on."""

    model_config: ModelConfig
    graphdef: nnx.GraphDef
    params: nnx.State
    tokenizer: Tokenizer
    contract: Contract
    config: ConfigDict  # the workdir's own, or that of the Hugging Face folder's run


def restore(
    checkpoint: str | os.PathLike,
    *,
    dtype: str | None = None,
    weights: str | None = None,
    config: ConfigDict | None = None,
    mesh: jax.sharding.Mesh | None = None,
) -> Restored:
    """Reads a training workdir, a Hugging Face or PEFT folder, or a hub id.

    Args:
      checkpoint: where to look, in this order of kinds. WORKDIR@STEP and WORKDIR@best
        (by the evaluations in training) name one that is not the newest.
      dtype: of activations, "float32" or "bfloat16"; default: what a workdir was
        trained with; bfloat16 for a Hugging Face folder, but float32 on CPU.
      weights: "float32", "bfloat16" or "int8" (matrices; the rest is bfloat16).
        Default: what a workdir was trained with, what is in a Hugging Face folder;
        "fast" is the same but for such a folder on CPU, where it is float32. A folder's
        tensors are quantised one by one; a workdir must fit as it is first, and its
        low-rank updates are merged.
      config: what a Hugging Face folder does not say; a workdir has its own.
      mesh: the parameters are spread over; None: the default device.

    Raises:
      UserError: nothing loadable there, or the weights that a workdir builds upon have
        changed since.
    """
    if is_workdir(checkpoint):
        folder, which = _parts(checkpoint)
        return _workdir(folder.absolute(), which, dtype, weights, mesh)
    return _hugging_face(str(checkpoint), dtype, weights, config, mesh)


def is_workdir(checkpoint: str | os.PathLike) -> bool:
    """Whether it is a training workdir, which has a configuration of its own."""
    return (_parts(checkpoint)[0] / "checkpoints").is_dir()


def _parts(checkpoint: str | os.PathLike) -> tuple[pathlib.Path, str]:
    """WORKDIR@WHICH as its two parts; the second is empty if there is none."""
    path = pathlib.Path(checkpoint)
    name, _, which = path.name.rpartition("@")
    if not name or (path / "checkpoints").is_dir():
        return path, ""
    return path.with_name(name), which


def _step(workdir: pathlib.Path, which: str, checkpoints: Checkpoints) -> int:
    """The step of the checkpoint that is asked for."""
    steps = checkpoints.steps
    if not steps:
        raise UserError(f"{workdir}: no checkpoint yet; train it first")
    if not which:
        return steps[-1]
    if which == "best":
        rows = read_rows(workdir / "evaluations.jsonl")
        rows = [row for row in rows if row["step"] in steps]
        if not rows:
            raise UserError(
                f"{workdir}@best: nothing was evaluated in training; set "
                "train.eval_every, or name a step"
            )
        return max(rows, key=lambda row: row["score"])["step"]
    if which not in map(str, steps):
        raise UserError(
            f"{workdir}@{which}: its checkpoints are of the steps "
            f"{', '.join(map(str, steps))}; @best is the best of them"
        )
    return int(which)


def _workdir(
    workdir: pathlib.Path, which: str, dtype: str | None, weights: str | None, mesh
) -> Restored:
    config = load_config(workdir)
    config.model.dtype = dtype or config.model.dtype
    tokenizer = load_tokenizer(workdir / "tokenizer")
    checkpoints = Checkpoints(workdir)
    step = _step(workdir, which, checkpoints)
    model_config, graphdef, params = build.make_model(config, tokenizer, mesh)
    trainable, frozen = partition(params, config.model.trainable)
    trainable, contract = checkpoints.restore_params(step, trainable)
    checkpoints.close()
    base, _, _ = contract.weights_hash.partition("-")
    if weights_hash(frozen) != base:
        raise UserError(
            f"{workdir}: the weights it was trained upon are not those of "
            f"model.init_from={config.model.init_from!r} now: restore them there"
        )
    params = nnx.merge_state(trainable, frozen)
    if weights not in (None, "fast", model_config.weights):
        model_config, params = convert_weights(model_config, params, weights, mesh)
        graphdef = abstract(model_config)[0]
    # What this run, not the checkpoint, decides.
    contract = dataclasses.replace(
        contract,
        dtype=model_config.dtype,
        weights=model_config.weights,
        decoder=DECODER,
    )
    return Restored(model_config, graphdef, params, tokenizer, contract, config)


def _hugging_face(
    name: str,
    dtype: str | None,
    weights: str | None,
    config: ConfigDict | None,
    mesh,
) -> Restored:
    config = config.copy_and_resolve_references() if config else default_config()
    find_weights(name, "--checkpoint")  # an error names the flag, not the key below
    config.model.init_from = name
    # As frozen weights, which keep `param_dtype`, and with no update on top.
    config.model.trainable, config.model.lora.rank = "lora", 0
    cpu = jax.default_backend() == "cpu"
    fast = "float32" if cpu else "bfloat16"
    config.model.dtype = dtype or config.model.dtype or fast
    if weights == "fast":
        # XLA for CPUs computes in float32, and would keep a float32 copy of all
        # bfloat16 weights beside them.
        weights = config.model.param_dtype or ("float32" if cpu else "")
    config.model.param_dtype = weights or config.model.param_dtype
    tokenizer = build.make_tokenizer(config, ())
    model_config, graphdef, params = build.make_model(config, tokenizer, mesh)
    contract = build.make_contract(config, model_config)
    if not contract.weights_hash:
        contract = dataclasses.replace(contract, weights_hash=weights_hash(params))
    return Restored(model_config, graphdef, params, tokenizer, contract, config)
