"""From a configuration to its parts: tokenizer, contract, processor, model."""

import dataclasses
from collections.abc import Iterable

import jax
from flax import nnx
from ml_collections import ConfigDict

from gve_jax import presets, sharding
from gve_jax.contract import Contract
from gve_jax.hub import Weights, find_weights
from gve_jax.media import DECODER
from gve_jax.model import ModelConfig, abstract, create, read_hf
from gve_jax.preprocess import (
    Geometry,
    Processor,
    Tokenizer,
    load_tokenizer,
    train_tokenizer,
)
from gve_jax.types import UserError

# Keys of `config.preprocess` that replace the preset's value unless None.
_OVERRIDES = (
    "num_frames",
    "fps",
    "min_frames",
    "min_pixels",
    "max_pixels",
    "total_pixels",
    "image_min_pixels",
    "image_max_pixels",
    "max_tokens",
    "time",
)


def make_tokenizer(config: ConfigDict, texts: Iterable[str]) -> Tokenizer:
    """The tokenizer of the config, of the initial checkpoint, or one trained on
    `texts`, in this order."""
    if config.preprocess.tokenizer:
        return load_tokenizer(config.preprocess.tokenizer)
    if config.model.init_from:
        return load_tokenizer(_weights(config).find("tokenizer.json"))
    return train_tokenizer(texts, config.preprocess.vocab_size)


def make_contract(config: ConfigDict, model_config: ModelConfig) -> Contract:
    """The contract that the config's vectors are made under.

    It is that of the config's preset; without one that saved with `model.init_from`,
    that of its hub id or that of its family, in this order. Values that the config sets
    replace its. Weights are named only where a saved contract names them.

    Args:
      config: of the run.
      model_config: of the checkpoint, or of the random weights.

    Raises:
      UserError: there is no such preset, or the contract is of another family.
    """
    p = config.preprocess
    family = model_config.family
    hub_id, own = "", None
    if config.model.init_from:
        found = _weights(config)
        hub_id, file = found.hub_id, found.find("contract.json")
        own = Contract.load(file) if file.exists() else None
    name = p.preset or presets.OF_HUB_ID.get(hub_id, presets.OF_FAMILY[family])
    if name not in presets.PRESETS:
        raise UserError(
            f"preprocess.preset is {name!r}: use one of {', '.join(presets.PRESETS)}, "
            "or leave it empty for that of the checkpoint"
        )
    base = own if own and not p.preset else presets.PRESETS[name]
    if base.family != family:
        fitting = [n for n, c in presets.PRESETS.items() if c.family == family]
        raise UserError(
            f"{f'preprocess.preset is {name!r}' if p.preset else 'contract.json'}, for "
            f"{base.family}, but the model is a {family}: set preprocess.preset to one "
            f"of {', '.join(fitting)}"
        )
    changes = {key: p[key] for key in _OVERRIDES if p[key] is not None}
    return dataclasses.replace(
        base,
        **changes,
        weights_hash=own.weights_hash if own else "",
        dtype=model_config.dtype,
        weights=model_config.weights,
        dim=model_config.text.hidden_size,
        decoder=DECODER,
    )


def make_processor(
    config: ConfigDict,
    tokenizer: Tokenizer,
    contract: Contract,
    model_config: ModelConfig,
) -> Processor:
    p = config.preprocess
    return Processor(
        tokenizer,
        contract,
        token_buckets=p.token_buckets,
        patch_buckets=p.patch_buckets,
        exact_grids=p.exact_grids,
        geometry=geometry(model_config),
        cache_dir=p.cache_dir,
    )


def geometry(model_config: ModelConfig) -> Geometry:
    """What the vision tower asks of its inputs."""
    v = model_config.vision
    # Of the families, only Qwen2.5-VL has positions in seconds.
    timed = model_config.family == "qwen2_5_vl"
    return Geometry(
        patch_size=v.patch_size,
        merge_size=v.spatial_merge_size,
        temporal_patch_size=v.temporal_patch_size,
        window_size=v.window_size,
        tokens_per_second=v.tokens_per_second if timed else 0,
        extents=v.num_position_embeddings > 0,
    )


def architecture(config: ConfigDict, tokenizer: Tokenizer) -> ModelConfig:
    """Of a model that starts from random weights, with the tokenizer's ids."""
    return ModelConfig.from_config(
        config.model,
        tokenizer.vocab_size,
        image_token_id=tokenizer.special("<|image_pad|>"),
        video_token_id=tokenizer.special("<|video_pad|>"),
        vision_start_token_id=tokenizer.special("<|vision_start|>"),
        vision_end_token_id=tokenizer.special("<|vision_end|>"),
    )


def make_model(
    config: ConfigDict, tokenizer: Tokenizer, mesh: jax.sharding.Mesh | None = None
) -> tuple[ModelConfig, nnx.GraphDef, nnx.State]:
    """Model and parameters: read from model.init_from, or random from the seed.

    Args:
      config: of the run.
      tokenizer: its ids must be in the model's vocabulary.
      mesh: the parameters are spread over; None: the default device.

    Raises:
      UserError: there is no checkpoint, or the tokenizer has more ids than the
        model's vocabulary.
    """
    if config.model.init_from:
        found = _weights(config)
        model_config, params = read_hf(
            found.folder,
            config.model,
            adapter=found.adapter,
            seed=config.seed,
            mesh=mesh,
        )
        if tokenizer.vocab_size > model_config.text.vocab_size:
            raise UserError(
                f"{config.model.init_from}: the tokenizer has {tokenizer.vocab_size} "
                f"ids, the model only {model_config.text.vocab_size}"
            )
        return model_config, abstract(model_config)[0], params
    model_config = architecture(config, tokenizer)
    places = None
    if mesh is not None:
        places = sharding.shardings(abstract(model_config)[1], mesh)
    return model_config, *create(model_config, config.seed, places)


def _weights(config: ConfigDict) -> Weights:
    return find_weights(config.model.init_from, "model.init_from")
