"""The contracts of published models, written out, and how a config picks one."""

import dataclasses

import numpy as np
import pytest
import qwen_vocab
from PIL import Image
from transformers import PreTrainedTokenizerFast

from configs import world
from gve_jax import build, presets
from gve_jax.config import default_config
from gve_jax.contract import DEFAULT_SYSTEM, Contract
from gve_jax.hub import Weights
from gve_jax.media import DECODER
from gve_jax.model import ModelConfig
from gve_jax.preprocess import Processor, load_tokenizer
from gve_jax.preprocess.prompt import PromptTemplate
from gve_jax.types import Item, UserError
from tests.tiny import write_video


def chat(user, system=DEFAULT_SYSTEM):
    return (
        f"<|im_start|>system\n{system}<|im_end|>\n<|im_start|>user\n{user}<|im_end|>\n"
        "<|im_start|>assistant\n<|endoftext|>"
    )


VIDEO = "<|vision_start|><|video_pad|><|vision_end|>"
IMAGE = "<|vision_start|><|image_pad|><|vision_end|>"
QWEN3_VIDEO = f"<0.5 seconds>{VIDEO}<12.2 seconds>{VIDEO}"
# (preset, text, instruction, media) -> the prompt, as the authors' code writes it.
PROMPTS = [
    ("gve", "a ball", None, "", chat("a ball")),
    ("gve", "a ball", "Find it.", "vi", chat(f"{VIDEO}{IMAGE}a ball", "Find it.")),
    ("gve", "a ball", "Find it", "", chat("a ball", "Find it")),
    ("gme", "a ball", "Find it", "i", chat(f"{IMAGE}a ball", "Find it.")),
    ("gme", "", None, "v", chat(VIDEO)),
    (
        "unite",
        "a ball",
        None,
        "",
        chat("a ball\nSummary above sentence in one word:"),
    ),
    (
        "unite",
        "a ball",
        "Find it.",
        "v",
        chat(f"{VIDEO}Find it. a ball\nSummary above sentence and video in one word:"),
    ),
    ("unite", "", None, "v", chat(f"{VIDEO}\nSummary above video in one word:")),
    ("unite", "", None, "i", chat(f"{IMAGE}\nSummary above image in one word:")),
    (
        "unite",
        "a ball",
        None,
        "i",
        chat(f"{IMAGE}a ball\nSummary above sentence and image in one word:"),
    ),
    ("vlm2vec-v2", "a ball", "Find it:", "", "Find it: a ball"),
    ("vlm2vec-v2", "a ball", None, "", "a ball"),
    (
        "vlm2vec-v2",
        "",
        None,
        "v",
        "<|video_pad|> Understand the content of the provided video.",
    ),
    ("b3", "", None, "i", "<|image_pad|> Represent the given image."),
    ("b3", "a ball?", "Find:", "i", "<|image_pad|> Find: a ball?"),
    (
        "qwen3-vl-embedding",
        "a ball",
        None,
        "",
        chat("a ball", "Represent the user's input."),
    ),
    (
        "qwen3-vl-embedding",
        "a ball",
        " Find it ",
        "vi",
        chat(f"{QWEN3_VIDEO}{IMAGE}a ball", "Find it."),
    ),
]


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return qwen_vocab.tokenizer_json(tmp_path_factory.mktemp("qwen"))


@pytest.fixture(scope="module")
def tokenizer(path):
    return load_tokenizer(path)


@pytest.fixture(scope="module")
def reference(path):
    return PreTrainedTokenizerFast(tokenizer_file=str(path))


@pytest.mark.parametrize("name, text, instruction, media, expected", PROMPTS)
def test_prompts_are_the_authors(
    tokenizer, reference, name, text, instruction, media, expected
):
    contract = presets.PRESETS[name]
    times = [0.5, 12.2] if contract.video_group and "v" in media else []
    prompt = PromptTemplate(tokenizer, contract).fill(
        text,
        instruction,
        video_tokens=("v" in media) * max(len(times), 1),
        image_tokens=int("i" in media),
        times=times,
    )
    assert tokenizer.decode(prompt.tokens) == expected
    assert prompt.tokens == reference(expected).input_ids


@pytest.mark.parametrize("name", presets.PRESETS)
def test_every_preset_serves_every_item(tokenizer, name, tmp_path):
    """Buckets of the default config hold it all but one rare exception: a long video
    and a large image of Qwen3-VL in one item."""
    contract = presets.PRESETS[name]
    config = default_config()
    model_config = family(contract.family)
    processor = build.make_processor(config, tokenizer, contract, model_config)
    assert isinstance(processor, Processor)
    write_video(tmp_path / "v.mp4", frames=40, size=112)
    Image.fromarray(np.zeros((64, 80, 3), np.uint8)).save(tmp_path / "i.png")
    media = {"video": str(tmp_path / "v.mp4"), "image": str(tmp_path / "i.png")}
    parts = media | {"text": "a red ball"}
    for chosen in range(1, 8):
        bits = zip((1, 2, 4), parts.items(), strict=True)
        item = Item("a", **dict(part for bit, part in bits if chosen & bit))
        encoded = processor.encode(item)
        assert len(encoded.tokens) <= processor.token_bound(item)
        assert processor.bucket(encoded).tokens >= len(encoded.tokens)
        last = encoded.tokens[-1]
        assert (last == 151643) == bool(contract.pooled_token)
    largest = Item("b", text="x", video=media["video"])
    assert processor.token_bound(largest) < contract.max_tokens


def family(name):
    config = ModelConfig()
    vision = config.vision
    if name != "qwen2_5_vl":
        vision = dataclasses.replace(
            vision,
            window_size=0,
            fullatt_block_indexes=(),
            patch_size=16 if name == "qwen3_vl" else 14,
            num_position_embeddings=2304 if name == "qwen3_vl" else 0,
        )
    return dataclasses.replace(config, family=name, vision=vision)


@pytest.mark.parametrize("name", presets.PRESETS)
def test_contracts_go_to_json_and_back(name, tmp_path):
    contract = presets.PRESETS[name]
    contract.save(tmp_path / "contract.json")
    assert Contract.load(tmp_path / "contract.json") == contract
    assert hash(contract) == hash(Contract.load(tmp_path / "contract.json"))


def test_template_hash_is_of_all_texts():
    plain = Contract()
    hashes = {plain.template_hash}
    changes = {f.name: "x" for f in dataclasses.fields(plain) if f.type is str}
    changes |= {"forms": {"text": "x"}, "instructions": {"text": "x"}}
    same = {"family", "frame_rule", "time", "positions", "dtype", "weights"}
    same |= {"weights_hash", "decoder"}
    for field, value in changes.items():
        changed = dataclasses.replace(plain, **{field: value}).template_hash
        assert (changed in hashes) == (field in same), field
        hashes.add(changed)


def test_an_older_contract_is_named(tmp_path):
    values = Contract().to_json()
    del values["forms"]
    (tmp_path / "contract.json").write_text("{}")
    with pytest.raises(UserError, match=r"old\.json.*missing \['forms'\]"):
        Contract.from_json(values, "old.json")


def test_hub_ids_and_families_name_presets_of_their_own_kind():
    assert set(presets.OF_HUB_ID.values()) == set(presets.PRESETS)
    for hub_id, name in presets.OF_HUB_ID.items():
        series = "qwen3_vl" if "Qwen3" in hub_id else "qwen2_vl"
        series = "qwen2_5_vl" if "GVE" in hub_id else series
        assert presets.PRESETS[name].family == series
    for series, name in presets.OF_FAMILY.items():
        assert presets.PRESETS[name].family == series


# From a config.


def test_default_is_the_family_s():
    for series, name in presets.OF_FAMILY.items():
        got = build.make_contract(default_config(), family(series))
        expected = dataclasses.replace(
            presets.PRESETS[name], dim=got.dim, decoder=DECODER
        )
        assert got == expected
    assert presets.PRESETS["gve"] == Contract()


@pytest.fixture
def checkpoint(tmp_path, monkeypatch):
    """A config of a checkpoint as of a hub id: config = checkpoint(hub_id)."""

    def make(hub_id):
        monkeypatch.setattr(
            build, "find_weights", lambda *_: Weights(tmp_path, None, hub_id)
        )
        config = default_config()
        config.model.init_from = hub_id
        return config

    return make


def test_hub_id_picks_its_preset(checkpoint):
    def pooled(hub_id):
        config = checkpoint(hub_id)
        return build.make_contract(config, family("qwen2_vl")).pooled_token

    assert pooled("VLM2Vec/VLM2Vec-V2.0") == ""
    assert pooled("somebody/else") == "<|endoftext|>"


def test_own_contract_goes_before_the_hub_s_and_behind_a_preset(checkpoint, tmp_path):
    own = dataclasses.replace(
        presets.PRESETS["unite"], num_frames=6, weights_hash="w", decoder="older"
    )
    own.save(tmp_path / "contract.json")
    config = checkpoint("VLM2Vec/VLM2Vec-V2.0")
    got = build.make_contract(config, family("qwen2_vl"))
    expected = dataclasses.replace(own, dim=got.dim, decoder=DECODER)
    assert got == expected
    config.preprocess.preset = "gme"
    got = build.make_contract(config, family("qwen2_vl"))
    assert got.template == Contract().template and got.num_frames == 8
    assert got.weights_hash == "w"


def test_values_of_the_config_replace_the_preset_s():
    config = default_config()
    values = dict(
        num_frames=8, fps=0.0, min_frames=6, min_pixels=10, max_pixels=20,
        image_min_pixels=30, image_max_pixels=40, total_pixels=0, max_tokens=50,
        time="nominal",
    )  # fmt: skip
    config.preprocess.update(values)
    got = build.make_contract(config, family("qwen3_vl"))
    assert {key: getattr(got, key) for key in values} == values
    assert got.video == "{groups}"


def test_the_embedded_default_keeps_its_contract():
    got = build.make_contract(world.get_config(), family("qwen2_5_vl"))
    assert got == dataclasses.replace(
        Contract(),
        min_pixels=84 * 84,
        max_pixels=84 * 84,
        max_tokens=224,
        dim=got.dim,
        decoder=DECODER,
    )


def test_wrong_presets_are_named(checkpoint, tmp_path):
    config = default_config()
    config.preprocess.preset = "gpt"
    with pytest.raises(UserError, match=r"preprocess\.preset is 'gpt': use one of gve"):
        build.make_contract(config, family("qwen2_vl"))
    config.preprocess.preset = "gve"
    with pytest.raises(UserError, match=r"'gve', for qwen2_5_vl, .* one of gme, unite"):
        build.make_contract(config, family("qwen2_vl"))
    Contract().save(tmp_path / "contract.json")
    with pytest.raises(UserError, match=r"contract\.json, for qwen2_5_vl"):
        build.make_contract(checkpoint("a/b"), family("qwen2_vl"))


# 40 frames at 8 a second: four groups of 1.25 s, at 4 positions a second; or counted;
# or each a medium of its own.
@pytest.mark.parametrize(
    "series, dim, steps",
    [
        ("qwen2_vl", 1176, [0, 1, 2, 3]),
        ("qwen2_5_vl", 1176, [0, 5, 10, 15]),
        ("qwen3_vl", 1536, None),
    ],
)
def test_geometry_is_that_of_the_model(tokenizer, tmp_path, series, dim, steps):
    write_video(tmp_path / "v.mp4", frames=40, size=112)
    config = default_config()
    config.preprocess.update(num_frames=8, fps=0.0)
    model_config = family(series)
    contract = build.make_contract(config, model_config)
    processor = build.make_processor(config, tokenizer, contract, model_config)
    got = processor.encode(Item("a", video=str(tmp_path / "v.mp4")))
    assert got.patches.shape[1] == dim
    assert (got.extents is not None) == (series == "qwen3_vl")
    assert bool(len(got.window_lengths)) == (series == "qwen2_5_vl")
    temporal, rows, columns = got.positions[:, got.visual_index >= 0]
    if steps:
        assert np.unique(temporal - temporal[0]).tolist() == steps
    else:
        # The first place of each group has one position on all three axes.
        firsts = np.unique(temporal)
        assert len(firsts) == 4 and set(firsts) <= set(rows) & set(columns)


@pytest.mark.parametrize("name", ["vlm2vec-v2", "b3"])
def test_models_without_media_positions(tokenizer, tmp_path, name):
    Image.fromarray(np.zeros((64, 80, 3), np.uint8)).save(tmp_path / "i.png")
    contract, model_config = presets.PRESETS[name], family("qwen2_vl")
    config = default_config()
    processor = build.make_processor(config, tokenizer, contract, model_config)
    got = processor.encode(Item("a", image=str(tmp_path / "i.png")))
    expected = np.tile(np.arange(len(got.tokens)), (3, 1))
    np.testing.assert_array_equal(got.positions, expected)
