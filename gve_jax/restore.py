"""A checkpoint of any kind: training workdir, Hugging Face folder or hub id."""

import dataclasses
import json
import os
import pathlib
from typing import NamedTuple

from flax import nnx
from ml_collections import ConfigDict

from gve_jax import build
from gve_jax.checkpoint import Checkpoints, load_config, weights_hash
from gve_jax.config import default_config
from gve_jax.contract import Contract
from gve_jax.media import DECODER
from gve_jax.model import ModelConfig, partition
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
    config: ConfigDict | None = None,
) -> Restored:
    """Reads a training workdir, a Hugging Face safetensors folder or a hub id.

    Args:
      checkpoint: where to look, in this order of kinds.
      dtype: of activations, "float32" or "bfloat16"; default the checkpoint's.
      config: what a Hugging Face folder does not say; a workdir has its own.

    Raises:
      UserError: nothing loadable there, or the weights that a workdir builds upon have
        changed since.
    """
    folder = _resolve(str(checkpoint))
    if (folder / "checkpoints").is_dir():
        return _workdir(folder, dtype)
    return _hugging_face(folder, dtype, config)


def _workdir(workdir: pathlib.Path, dtype: str | None) -> Restored:
    config = load_config(workdir)
    config.model.dtype = dtype or config.model.dtype
    tokenizer = load_tokenizer(workdir / "tokenizer")
    checkpoints = Checkpoints(workdir)
    step = checkpoints.latest_step
    if step is None:
        raise UserError(f"{workdir}: no checkpoint yet; train it first")
    model_config, graphdef, params = build.make_model(config, tokenizer)
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
    contract = _as_run(contract, config)
    return Restored(model_config, graphdef, params, tokenizer, contract, config)


def _hugging_face(
    folder: pathlib.Path, dtype: str | None, config: ConfigDict | None
) -> Restored:
    config = config.copy_and_resolve_references() if config else default_config()
    config.model.init_from = str(folder)
    # As frozen weights, which keep `param_dtype`, and with no update on top.
    config.model.trainable, config.model.lora.rank = "lora", 0
    config.model.dtype = dtype or config.model.dtype
    tokenizer = load_tokenizer(folder)
    model_config, graphdef, params = build.make_model(config, tokenizer)
    if (folder / "contract.json").exists():
        contract = _as_run(Contract.load(folder / "contract.json"), config)
    else:
        contract = dataclasses.replace(
            build.make_contract(config, model_config),
            weights_hash=weights_hash(params),
        )
    return Restored(model_config, graphdef, params, tokenizer, contract, config)


def _as_run(contract: Contract, config: ConfigDict) -> Contract:
    """The contract of a checkpoint with what this run, not the checkpoint, decides."""
    return dataclasses.replace(contract, dtype=config.model.dtype, decoder=DECODER)


def _resolve(checkpoint: str) -> pathlib.Path:
    folder = pathlib.Path(checkpoint)
    if folder.is_dir():
        if (folder / "checkpoints").is_dir() or _is_hugging_face(folder):
            return folder.absolute()
        raise UserError(
            f"--checkpoint={checkpoint}: neither a training workdir (checkpoints/) nor "
            "a Hugging Face folder (config.json with model_type and *.safetensors)"
        )
    if folder.exists():
        raise UserError(f"--checkpoint={checkpoint}: a file; name the folder it is in")
    if checkpoint.count("/") != 1 or checkpoint.startswith((".", "/")):
        raise UserError(f"--checkpoint={checkpoint}: no such folder")
    # Only data files: never pickles, never remote code.
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return pathlib.Path(
            snapshot_download(checkpoint, allow_patterns=["*.safetensors", "*.json"])
        )
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as e:
        raise UserError(
            f"--checkpoint={checkpoint}: no such folder, and as a hub id it could not "
            f"be downloaded ({str(e).splitlines()[0]})"
        ) from None


def _is_hugging_face(folder: pathlib.Path) -> bool:
    config = folder / "config.json"
    if not config.is_file() or not list(folder.glob("*.safetensors")):
        return False
    try:
        return "model_type" in json.loads(config.read_text(encoding="utf-8"))
    except ValueError as e:
        raise UserError(f"{config}: not JSON ({e})") from None
