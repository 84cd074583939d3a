"""From a configuration to its parts: tokenizer, contract, processor, model."""

from collections.abc import Iterable

from flax import nnx
from ml_collections import ConfigDict

from gve_jax.contract import Contract
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


def make_tokenizer(config: ConfigDict, texts: Iterable[str]) -> Tokenizer:
    """The tokenizer of the config, of the initial checkpoint, or one trained on
    `texts`, in this order."""
    folder = config.preprocess.tokenizer or config.model.init_from
    if folder:
        return load_tokenizer(folder)
    return train_tokenizer(texts, config.preprocess.vocab_size)


def make_contract(config: ConfigDict, model_config: ModelConfig) -> Contract:
    """The contract that the config's vectors are made under, weights not yet named."""
    p = config.preprocess
    return Contract(
        family="qwen2_5_vl",
        num_frames=p.num_frames,
        min_pixels=p.min_pixels,
        max_pixels=p.max_pixels,
        max_tokens=p.max_tokens,
        time=p.time,
        dtype=config.model.dtype,
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
        geometry=_geometry(model_config),
        cache_dir=p.cache_dir,
    )


def _geometry(model_config: ModelConfig) -> Geometry:
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


def make_model(
    config: ConfigDict, tokenizer: Tokenizer
) -> tuple[ModelConfig, nnx.GraphDef, nnx.State]:
    """Model and parameters: read from model.init_from, or random from the seed.

    Raises:
      UserError: the folder is no checkpoint, or the tokenizer has more ids than the
        model's vocabulary.
    """
    if config.model.init_from:
        model_config, params = read_hf(
            config.model.init_from, config.model, seed=config.seed
        )
        if tokenizer.vocab_size > model_config.text.vocab_size:
            raise UserError(
                f"{config.model.init_from}: the tokenizer has {tokenizer.vocab_size} "
                f"ids, the model only {model_config.text.vocab_size}"
            )
        return model_config, abstract(model_config)[0], params
    model_config = ModelConfig.from_config(
        config.model,
        tokenizer.vocab_size,
        image_token_id=tokenizer.special("<|image_pad|>"),
        video_token_id=tokenizer.special("<|video_pad|>"),
        vision_start_token_id=tokenizer.special("<|vision_start|>"),
        vision_end_token_id=tokenizer.special("<|vision_end|>"),
    )
    return model_config, *create(model_config, config.seed)
