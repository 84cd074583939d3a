"""What a config's model is, without its weights."""

import pathlib
from typing import NamedTuple

from ml_collections import ConfigDict

from gve_jax import build, presets
from gve_jax.contract import Contract
from gve_jax.model import ModelConfig
from gve_jax.model.families import from_hf
from gve_jax.model.files import read_json
from gve_jax.preprocess import Geometry
from gve_jax.types import UserError

# config.json of Qwen2.5-VL, the sizes alone; GVE has those of its base.
_3B = dict(
    vocab_size=151936,
    hidden_size=2048,
    intermediate_size=11008,
    num_hidden_layers=36,
    num_attention_heads=16,
    num_key_value_heads=2,
    tie_word_embeddings=True,
)
_7B = dict(
    vocab_size=152064,
    hidden_size=3584,
    intermediate_size=18944,
    num_hidden_layers=28,
    num_attention_heads=28,
    num_key_value_heads=4,
)
_KNOWN = {
    "Alibaba-NLP/GVE-3B": _3B,
    "Alibaba-NLP/GVE-7B": _7B,
    "Qwen/Qwen2.5-VL-3B-Instruct": _3B,
    "Qwen/Qwen2.5-VL-7B-Instruct": _7B,
}


class Architecture(NamedTuple):
    """Sizes of a model and how it is asked."""

    model: ModelConfig
    contract: Contract
    source: str  # where the sizes are from

    @property
    def geometry(self) -> Geometry:
        return build.geometry(self.model)


def find_architecture(config: ConfigDict, step: str, attention: str) -> Architecture:
    """The model of `config.model` as the step runs it, of which no weight is read.

    Sizes are those of the folder `model.init_from`; of the hub ids of GVE and
    Qwen2.5-VL those known here; of other hub ids their config.json, which alone is
    downloaded; without init_from the config's own.

    Args:
      config: of the run.
      step: "train", or "embed": without low-rank updates.
      attention: what "auto" means on the chips, which are not this host's.

    Raises:
      UserError: no sizes can be had.
    """
    options = config.model.copy_and_resolve_references()
    if step == "embed":
        options.trainable, options.lora.rank = "lora", 0
    if options.attention == "auto":
        options.attention = attention
    name = options.init_from
    repo = name.partition("@")[0]
    config = config.copy_and_resolve_references()
    if not name:
        model = ModelConfig.from_config(options, config.preprocess.vocab_size)
        return Architecture(model, build.make_contract(config, model), "the config")
    if repo in _KNOWN:
        text = _KNOWN[repo]
        vision = dict(hidden_size=1280, out_hidden_size=text["hidden_size"])
        values = dict(model_type="qwen2_5_vl", vision_config=vision, **text)
        stored, source = "bfloat16", f"the known sizes of {repo}"
    else:
        file = _config_file(name)
        values, source = read_json(file), str(file)
        stored = values.get("dtype") or values.get("torch_dtype") or "float32"
        stored = "bfloat16" if stored == "bfloat16" else "float32"
    model = from_hf(values, source).with_options(options, stored)
    if not pathlib.Path(name).is_dir():
        # The weights, which a contract would be looked for beside, are not wanted.
        config.model.init_from = ""
        preset = presets.OF_HUB_ID.get(repo, "")
        config.preprocess.preset = config.preprocess.preset or preset
    return Architecture(model, build.make_contract(config, model), source)


def _config_file(name: str) -> pathlib.Path:
    folder = pathlib.Path(name)
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise UserError(
                f"model.init_from={name}: no config.json there; plan an adapter with "
                "the name of its base model"
            )
        return folder / "config.json"
    from huggingface_hub import hf_hub_download

    repo, _, revision = name.partition("@")
    try:
        return pathlib.Path(
            hf_hub_download(repo, "config.json", revision=revision or None)
        )
    except (OSError, ValueError) as e:  # all that huggingface_hub raises is of them
        raise UserError(
            f"model.init_from={name}: no such folder, and its config.json could not be "
            f"downloaded ({str(e).splitlines()[0]}); known without are "
            f"{', '.join(_KNOWN)}"
        ) from None
