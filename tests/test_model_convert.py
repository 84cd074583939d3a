"""Hugging Face folders in and out."""

import dataclasses
import json

import numpy as np
import pytest
import safetensors.numpy
import torch
from flax import nnx
from jax.sharding import NamedSharding
from peft import LoraConfig, get_peft_model
from transformers import AutoModel, Qwen2_5_VLForConditionalGeneration

from gve_jax.config import default_config
from gve_jax.model import abstract, merge_lora, read_hf, write_hf
from gve_jax.model.convert import _rows, plain_name
from gve_jax.model.families import from_hf, to_hf
from gve_jax.sharding import make_mesh, spec
from gve_jax.types import UserError
from tests.model_witness import (
    FAMILIES,
    embed,
    hf_class,
    hf_config_class,
    hf_model,
    make_item,
    to_jax,
    torch_embed,
)


@pytest.fixture(scope="module")
def items():
    rng = np.random.default_rng(0)
    return [make_item(rng, [3, ("image", (1, 6, 10)), 4]), make_item(rng, [20])]


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """An untied model: its files hold a head, which an encoder leaves alone."""
    model = hf_model()
    folder = tmp_path_factory.mktemp("hf")
    model.save_pretrained(folder)
    return model, folder


def load(folder):
    return safetensors.numpy.load_file(folder / "model.safetensors")


def save(folder, tensors, source):
    safetensors.numpy.save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text((source / "config.json").read_text())


def ours(folder, items, model):
    cfg, params = read_hf(folder)
    return embed(nnx.merge(abstract(cfg)[0], params), to_jax(model, items))


def equal(a, b):
    flat_a, flat_b = dict(nnx.to_flat_state(a)), dict(nnx.to_flat_state(b))
    assert flat_a.keys() == flat_b.keys()
    for path, v in flat_a.items():
        np.testing.assert_array_equal(v[...], flat_b[path][...], err_msg=str(path))


def test_tied_files_have_no_head(items, tmp_path):
    model = hf_model(tied=True)
    model.save_pretrained(tmp_path)
    assert "lm_head.weight" not in load(tmp_path)
    theirs = torch_embed(model, items)
    np.testing.assert_allclose(ours(tmp_path, items, model), theirs, atol=1e-4)
    assert read_hf(tmp_path)[0].tie_word_embeddings


def test_both_key_layouts_and_shards(source, tmp_path):
    _, folder = source
    plain = load(folder)
    assert "lm_head.weight" in plain
    nested = {
        (
            f"model.language_model.{k[6:]}"
            if k.startswith("model.")
            else f"model.{k}"
            if k.startswith("visual.")
            else k
        ): v
        for k, v in plain.items()
    }
    assert any(k.startswith("model.visual.") for k in nested)
    save(tmp_path, nested, folder)
    want = read_hf(folder)[1]
    equal(read_hf(tmp_path)[1], want)

    sharded = tmp_path / "sharded"
    hf_model().save_pretrained(sharded, max_shard_size="100KB")
    assert len(list(sharded.glob("*.safetensors"))) > 3
    equal(read_hf(sharded)[1], want)


def test_bfloat16_files_need_no_torch(source, items, tmp_path):
    model, _ = source
    low = hf_model().to(torch.bfloat16)
    low.save_pretrained(tmp_path)
    # Read again, as .float() would keep rotary tables rounded to bfloat16.
    wide = Qwen2_5_VLForConditionalGeneration.from_pretrained(
        tmp_path, dtype=torch.float32
    )
    theirs = torch_embed(wide.eval(), items)
    np.testing.assert_allclose(ours(tmp_path, items, model), theirs, atol=1e-4)
    settings = default_config().model
    settings.param_dtype = "bfloat16"
    _, params = read_hf(tmp_path, settings)
    assert params["text"]["embedding"].dtype == "bfloat16"


def test_written_folder_is_what_transformers_loads(source, items, tmp_path):
    model, folder = source
    settings = default_config().model
    settings.lora.rank = 4
    cfg, params = read_hf(folder, settings, seed=1)
    flat = dict(nnx.to_flat_state(params))
    rng = np.random.default_rng(0)
    for path, v in flat.items():
        if path[-1] == "lora_b":
            flat[path] = v.replace(rng.normal(size=v.shape).astype(np.float32) * 0.1)
    params = nnx.from_flat_state(flat)
    mine = embed(nnx.merge(abstract(cfg)[0], params), to_jax(model, items))
    assert np.abs(mine - torch_embed(model, items)).max() > 0.01

    write_hf(cfg, params, tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "config.json",
        "model.safetensors",
    ]
    loaded, info = Qwen2_5_VLForConditionalGeneration.from_pretrained(
        tmp_path, output_loading_info=True
    )
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    np.testing.assert_allclose(torch_embed(loaded.eval(), items), mine, atol=1e-4)
    bare, info = AutoModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"]
    assert type(bare).__name__ == "Qwen2_5_VLModel"

    again, back = read_hf(tmp_path)
    merged_cfg, merged = merge_lora(cfg, params)
    equal(back, merged)
    assert again.vision == merged_cfg.vision
    assert again.text == merged_cfg.text

    shards = tmp_path / "shards"
    write_hf(cfg, params, shards, shard_bytes=200_000)
    assert len(list(shards.glob("model-*.safetensors"))) > 2
    equal(read_hf(shards)[1], merged)
    loaded = Qwen2_5_VLForConditionalGeneration.from_pretrained(shards)
    np.testing.assert_allclose(torch_embed(loaded.eval(), items), mine, atol=1e-4)


def test_bfloat16_out(source, tmp_path):
    _, folder = source
    settings = default_config().model
    settings.param_dtype = "bfloat16"
    cfg, params = read_hf(folder, settings)
    write_hf(cfg, params, tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["dtype"] == "bfloat16"
    loaded = Qwen2_5_VLForConditionalGeneration.from_pretrained(tmp_path)
    assert loaded.dtype == torch.bfloat16
    equal(read_hf(tmp_path, settings)[1], params)


def test_lora_parameters_follow_the_seed(source):
    _, folder = source
    settings = default_config().model
    a, b, c = (read_hf(folder, settings, seed=s)[1] for s in (0, 0, 1))
    equal(a, b)
    path = ("text", "last", "q", "lora_a")
    first, other = (dict(nnx.to_flat_state(x))[path][...] for x in (a, c))
    assert not np.array_equal(first, other)


def test_one_error_lists_every_mismatch(source, tmp_path):
    _, folder = source
    tensors = load(folder)
    del tensors["visual.blocks.1.norm1.weight"]
    del tensors["model.norm.weight"]
    tensors["model.layers.9.mlp.up_proj.weight"] = np.zeros((2, 2), np.float32)
    tensors["model.language_model.embed_tokens.weight"] = tensors[
        "model.embed_tokens.weight"
    ]
    tensors["visual.merger.ln_q.weight"] = np.zeros(7, np.float32)
    save(tmp_path, tensors, folder)
    with pytest.raises(UserError) as error:
        read_hf(tmp_path)
    message = str(error.value)
    assert message.startswith(str(tmp_path))
    for part in (
        "missing visual.blocks.1.norm1.weight",
        "missing model.norm.weight",
        "unknown model.layers.9.mlp.up_proj.weight",
        "duplicate model",
        "shape (7,), wanted (32,), of visual.merger.ln_q.weight",
    ):
        assert part in message, message


def test_an_error_about_all_layers_stays_readable(source, tmp_path):
    _, folder = source
    tensors = {k: v for k, v in load(folder).items() if "q_proj.bias" not in k}
    save(tmp_path, tensors, folder)
    with pytest.raises(UserError, match=r"q_proj\.bias \(3 of them\)$"):
        read_hf(tmp_path)


def test_broken_folders_are_one_clear_error(source, tmp_path):
    _, folder = source
    with pytest.raises(UserError, match=r"config\.json: not found"):
        read_hf(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(UserError, match="not JSON"):
        read_hf(tmp_path)
    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    with pytest.raises(UserError, match=r"model\.safetensors not found"):
        read_hf(tmp_path)
    (tmp_path / "pytorch_model.bin").touch()
    with pytest.raises(UserError, match=r"pickles \(pytorch_model\.bin\).*safetensors"):
        read_hf(tmp_path)
    whole = (folder / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=r"model\.safetensors: broken"):
        read_hf(tmp_path)
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "../elsewhere.safetensors"}}))
    with pytest.raises(UserError, match="outside the folder"):
        read_hf(tmp_path)
    shards = {"a": "model.safetensors", "b": "two.safetensors", "c": "one.safetensors"}
    index.write_text(json.dumps({"weight_map": shards}))
    with pytest.raises(UserError, match=r"one\.safetensors, two\.safetensors not"):
        read_hf(tmp_path)


def test_quantised_checkpoints_are_refused_by_name(source, tmp_path):
    _, folder = source
    tensors = load(folder)
    key = "model.layers.0.mlp.up_proj.weight"
    tensors[key] = tensors[key].astype(np.int8)
    save(tmp_path, tensors, folder)
    with pytest.raises(UserError, match=rf"dtype I8 \(quantised\?\) of {key}"):
        read_hf(tmp_path)
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "awq"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="'awq': quantised"):
        read_hf(tmp_path)


def test_half_precision_files(source, tmp_path):
    _, folder = source
    halves = {k: v.astype(np.float16) for k, v in load(folder).items()}
    (tmp_path / "half").mkdir()
    save(tmp_path / "half", halves, folder)
    save(tmp_path, {k: v.astype(np.float32) for k, v in halves.items()}, folder)
    equal(read_hf(tmp_path / "half")[1], read_hf(tmp_path)[1])


@pytest.mark.parametrize("family", FAMILIES)
def test_each_device_gets_its_part(family, tmp_path):
    hf_model(family).save_pretrained(tmp_path)
    mesh = make_mesh(dict(data=2, fsdp=2, tensor=2, sequence=1))
    settings = default_config().model
    _, spread = read_hf(tmp_path, settings, mesh=mesh)
    equal(spread, read_hf(tmp_path, settings)[1])
    flat = dict(nnx.to_flat_state(spread))
    for path, v in flat.items():
        want = spec(v.get_metadata("axes"), v.shape, mesh)
        assert v[...].sharding.is_equivalent_to(NamedSharding(mesh, want), v.ndim), path
    kernel = flat[("text", "layers", "mlp", "up", "kernel")][...]
    assert kernel.addressable_shards[0].data.size * 4 == kernel.size


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("dora", [False, True])
def test_adapters_are_merged_as_peft_does(family, dora, tmp_path):
    model = hf_model(family)
    model.save_pretrained(tmp_path / "base")
    config = LoraConfig(
        r=4,
        lora_alpha=12,
        use_dora=dora,
        target_modules=r".*language_model.*\.(q_proj|o_proj|down_proj)",
    )
    adapted = get_peft_model(model, config).eval()
    rng = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, p in adapted.named_parameters():
            if "lora" in name:
                p.add_(0.3 * torch.randn(p.shape, generator=rng))
    adapted.save_pretrained(tmp_path / "adapter")
    parts = [make_item(np.random.default_rng(0), p, family) for p in ([20], [5])]
    theirs = torch_embed(adapted.base_model.model, parts)
    cfg, params = read_hf(tmp_path / "base", adapter=tmp_path / "adapter")
    model = nnx.merge(abstract(cfg)[0], params)
    mine = embed(model, to_jax(adapted.base_model.model, parts))
    np.testing.assert_allclose(mine, theirs, atol=1e-4)
    plain = nnx.merge(abstract(cfg)[0], read_hf(tmp_path / "base")[1])
    before = embed(plain, to_jax(adapted.base_model.model, parts))
    assert np.abs(before - mine).max() > 0.05


def test_adapters_that_do_not_fit_are_refused(source, tmp_path):
    _, base = source
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "bias": "none"}

    def write(tensors, **changes):
        safetensors.numpy.save_file(tensors, tmp_path / "adapter_model.safetensors")
        (tmp_path / "adapter_config.json").write_text(json.dumps(config | changes))

    def read(match):
        with pytest.raises(UserError, match=match):
            read_hf(base, adapter=tmp_path)

    up = "base_model.model.model.layers.{}.mlp.up_proj.lora_{}.weight"
    a = np.zeros((2, 64), np.float32)
    write({up.format(0, "A"): a})
    read("half of the update of model.*up_proj.weight is missing")
    write({up.format(9, "A"): a, up.format(9, "B"): a})
    read(r"layers\.9\.mlp\.up_proj\.weight, which its base model lacks")
    write({"base_model.model.model.norm.weight": a[0]})
    read("no part of a LoRA update")
    write({up.format(0, "A"): a}, bias="all")
    read("bias is 'all'")
    write({up.format(0, "A"): a}, peft_type="IA3")
    read("peft_type is 'IA3'")


# Sizes of the released models: (family, text, vision, tied, parameters, counted with
# the language-model head), all published.
_QWEN2_7B = dict(
    vocab_size=152064,
    hidden_size=3584,
    intermediate_size=18944,
    num_hidden_layers=28,
    num_attention_heads=28,
    num_key_value_heads=4,
)
RELEASED = {
    "GVE-3B": (
        "qwen2_5_vl",
        dict(
            vocab_size=151936,
            hidden_size=2048,
            intermediate_size=11008,
            num_hidden_layers=36,
            num_attention_heads=16,
            num_key_value_heads=2,
        ),
        dict(hidden_size=1280, out_hidden_size=2048),
        True,
        (3_754_622_976, True),
    ),
    "GVE-7B": (
        "qwen2_5_vl",
        _QWEN2_7B,
        dict(hidden_size=1280, out_hidden_size=3584),
        False,
        (8_292_166_656, True),
    ),
    "GME-2B": (
        "qwen2_vl",
        dict(
            vocab_size=151936,
            hidden_size=1536,
            intermediate_size=8960,
            num_hidden_layers=28,
            num_attention_heads=12,
            num_key_value_heads=2,
        ),
        dict(hidden_size=1536),
        True,
        (2_208_985_600, True),
    ),
    "GME-7B": (
        "qwen2_vl",
        _QWEN2_7B,
        dict(hidden_size=3584),
        False,
        (7_746_378_240, False),
    ),
    "Qwen3-VL-Embedding-2B": (
        "qwen3_vl",
        dict(
            hidden_size=2048,
            intermediate_size=6144,
            num_hidden_layers=28,
            num_attention_heads=16,
            num_key_value_heads=8,
        ),
        dict(
            depth=24,
            hidden_size=1024,
            intermediate_size=4096,
            deepstack_visual_indexes=[5, 11, 17],
            out_hidden_size=2048,
        ),
        True,
        (2_127_532_032, True),
    ),
    "Qwen3-VL-Embedding-8B": (
        "qwen3_vl",
        dict(
            hidden_size=4096,
            intermediate_size=12288,
            num_hidden_layers=36,
            num_attention_heads=32,
            num_key_value_heads=8,
        ),
        dict(out_hidden_size=4096),
        False,
        (8_144_793_840, False),
    ),
}


@pytest.mark.parametrize("name", RELEASED)
def test_names_and_shapes_of_the_released_sizes(name):
    family, text, vision, tied, (count, with_head) = RELEASED[name]
    config = hf_config_class(family)(
        text_config=text, vision_config=vision, tie_word_embeddings=tied
    )
    with torch.device("meta"):
        model = hf_class(family)(config)
    theirs = {plain_name(k): tuple(p.shape) for k, p in model.named_parameters()}
    assert (
        sum(np.prod(s) for k, s in theirs.items() if with_head or k != "lm_head.weight")
        == count
    )
    cfg = from_hf(config.to_dict())
    mine = {row.key: row.shape for row in _rows(cfg)}
    theirs.pop("lm_head.weight", None)
    assert mine == theirs
    # What is written says the same.
    again = hf_config_class(family)(**to_hf(cfg))
    assert from_hf(again.to_dict()) == cfg


def test_every_parameter_is_reached_by_the_table(source):
    cfg = dataclasses.replace(read_hf(source[1])[0], lora_rank=2)
    rows = _rows(cfg)
    places = [(r.path, r.layer) for r in rows]
    assert len(set(places)) == len(places) == len({r.key for r in rows})
    files = set(load(source[1])) - {"lm_head.weight"}
    assert {r.key for r in rows} == files
