"""Hugging Face folders in and out."""

import dataclasses
import json

import numpy as np
import pytest
import safetensors.numpy
import torch
from flax import nnx
from transformers import AutoModel, Qwen2_5_VLForConditionalGeneration

from gve_jax.config import default_config
from gve_jax.model import abstract, merge_lora, read_hf, write_hf
from gve_jax.types import UserError
from tests.model_witness import embed, hf_model, make_item, to_jax, torch_embed


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
        "shape of visual.merger.ln_q.weight (7,), wanted (32,)",
    ):
        assert part in message, message


def test_broken_folders_are_one_clear_error(source, tmp_path):
    _, folder = source
    with pytest.raises(UserError, match=r"config\.json: not found"):
        read_hf(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(UserError, match="not JSON"):
        read_hf(tmp_path)
    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    with pytest.raises(UserError, match=r"model\.safetensors: not found"):
        read_hf(tmp_path)
    whole = (folder / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=r"model\.safetensors: broken"):
        read_hf(tmp_path)
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "../elsewhere.safetensors"}}))
    with pytest.raises(UserError, match="outside the folder"):
        read_hf(tmp_path)


def test_every_parameter_is_reached_by_the_table(source):
    from gve_jax.model.convert import _rows

    cfg = dataclasses.replace(read_hf(source[1])[0], lora_rank=2)
    rows = _rows(cfg)
    places = [(r.path, r.layer) for r in rows]
    assert len(set(places)) == len(places) == len({r.key for r in rows})
    files = set(load(source[1])) - {"lm_head.weight"}
    assert {r.key for r in rows} == files
