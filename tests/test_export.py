"""Exported folders: read by `transformers`, PEFT and ourselves, to equal vectors."""

import json
import pathlib
import subprocess
import sys

import jax
import numpy as np
import pytest
import safetensors.numpy
from flax import nnx
from peft import PeftModel
from transformers import (
    AutoImageProcessor,
    AutoTokenizer,
    Qwen2_5_VLForConditionalGeneration,
)

from gve_jax.data.records import read_items
from gve_jax.embed import Embedder
from gve_jax.export import export_hf
from gve_jax.restore import restore
from gve_jax.train.loop import train
from gve_jax.types import UserError
from tests import tiny
from tests.model_witness import IMAGE, embed, make_item, to_jax, torch_embed
from tests.test_embed import write_items

ROOT = pathlib.Path(__file__).parents[1]


@pytest.fixture(scope="module")
def media(tmp_path_factory):
    return tiny.write_pairs(tmp_path_factory.mktemp("pairs") / "train")


@pytest.fixture(scope="module")
def whole(media, tmp_path_factory):
    """A workdir whose every weight was trained for a step."""
    folder = tmp_path_factory.mktemp("runs") / "all"
    train(tiny.config(media, train__steps=1), folder, jax.devices()[:1])
    return folder


@pytest.fixture(scope="module")
def low_rank(media, whole, tmp_path_factory):
    """A workdir of low-rank updates on exported weights; (base, workdir)."""
    base = tmp_path_factory.mktemp("hf") / "base"
    export_hf(restore(whole), base)
    folder = tmp_path_factory.mktemp("runs") / "lora"
    config = tiny.config(
        media,
        model__init_from=str(base),
        model__trainable="lora",
        model__lora__rank=4,
        optim__name="adamw",
        # Large steps, so that the update is no rounding error.
        optim__peak_lr=0.05,
        optim__warmup_steps=0,
        train__steps=2,
    )
    train(config, folder, jax.devices()[:1])
    return base, folder


@pytest.fixture(scope="module")
def items(media):
    rows = [
        {"id": "video", "video": "train/red-left.mp4", "instruction": "Find it."},
        {"id": "text", "text": "a red square goes left"},
        {"id": "both", "text": "but blue", "video": "train/blue-right.mp4"},
    ]
    return read_items(write_items(media.parent / "items.jsonl", rows))


def batch(config):
    """Two items of the witness, with the special tokens of another vocabulary."""
    rng = np.random.default_rng(0)
    items = [make_item(rng, [3, ("image", (1, 4, 4)), 4]), make_item(rng, [20])]
    ids = {
        IMAGE: config.image_token_id,
        192: config.vision_start_token_id,
        193: config.vision_end_token_id,
    }
    for item in items:
        item["tokens"] = [ids.get(t, t) for t in item["tokens"]]
    return items


def ours(found, items, model):
    return embed(nnx.merge(found.graphdef, found.params), to_jax(model, items))


@pytest.mark.slow
def test_our_own_vectors_stay(whole, low_rank, items, tmp_path):
    for workdir in (whole, low_rank[1]):
        folder = tmp_path / workdir.name
        export_hf(restore(workdir), folder)
        before, after = map(Embedder.from_checkpoint, (workdir, folder))
        assert before.contract == after.contract
        a, b = before.embed(items).vectors, after.embed(items).vectors
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_transformers_reads_the_folder(whole, tmp_path):
    found = restore(whole)
    export_hf(found, tmp_path / "hf")
    model = Qwen2_5_VLForConditionalGeneration.from_pretrained(tmp_path / "hf").eval()
    two = batch(model.config)
    np.testing.assert_allclose(
        ours(found, two, model), torch_embed(model, two), atol=1e-4
    )
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "hf")
    text = "a red square goes left"
    assert tokenizer(text).input_ids == found.tokenizer.encode(text)
    images = AutoImageProcessor.from_pretrained(tmp_path / "hf")
    budget = (images.size["shortest_edge"], images.size["longest_edge"])
    assert budget == (found.contract.min_pixels, found.contract.max_pixels)


def test_peft_reads_the_adapter(low_rank, tmp_path):
    base, workdir = low_rank
    found = restore(workdir)
    export_hf(found, tmp_path / "adapter", lora="adapter")
    model = Qwen2_5_VLForConditionalGeneration.from_pretrained(base).eval()
    two = batch(model.config)
    plain = torch_embed(model, two)
    adapted = PeftModel.from_pretrained(model, tmp_path / "adapter").eval()
    theirs = torch_embed(adapted.base_model.model, two)
    assert np.abs(plain - theirs).max() > 1e-2  # the update is felt
    np.testing.assert_allclose(ours(found, two, model), theirs, atol=1e-4)
    # Every tensor of ours went where PEFT has one, and none is missing there.
    written = safetensors.numpy.load_file(
        tmp_path / "adapter" / "adapter_model.safetensors"
    )
    known = {
        name.replace(".default", "")
        for name, _ in adapted.named_parameters()
        if "lora_" in name
    }
    assert set(written) == known


def test_we_read_the_adapter(low_rank, items, tmp_path, monkeypatch):
    _, workdir = low_rank
    before = Embedder.from_checkpoint(workdir)
    export_hf(restore(workdir), tmp_path / "adapter", lora="adapter")
    monkeypatch.chdir(tmp_path)
    after = Embedder.from_checkpoint("adapter")
    assert before.contract == after.contract
    a, b = before.embed(items).vectors, after.embed(items).vectors
    np.testing.assert_allclose(a, b, atol=1e-5)


def test_a_round_trip_is_bit_exact(whole, tmp_path):
    found = restore(whole)
    export_hf(found, tmp_path / "a")
    export_hf(restore(tmp_path / "a"), tmp_path / "b")
    names = {p.relative_to(tmp_path / "a") for p in (tmp_path / "a").rglob("*.*")}
    assert len(names) == 15
    # The card names the folder, and what a second export no longer knows.
    for name in names - {pathlib.Path("README.md")}:
        a, b = ((tmp_path / folder / name).read_bytes() for folder in "ab")
        assert a == b, name


def test_bad_requests(whole, tmp_path):
    found = restore(whole)
    with pytest.raises(UserError, match="no low-rank update"):
        export_hf(found, tmp_path / "adapter", lora="adapter")
    assert not (tmp_path / "adapter").exists()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "file").touch()
    with pytest.raises(UserError, match="not empty"):
        export_hf(found, tmp_path / "mine")
    with pytest.raises(UserError, match="int8 weights cannot be written"):
        export_hf(restore(whole, weights="int8"), tmp_path / "int8")
    with pytest.raises(UserError, match="cannot be made"):
        export_hf(found, tmp_path / "mine" / "file" / "under")


def test_the_command(whole, tmp_path):
    out = tmp_path / "hf"
    done = subprocess.run(
        [sys.executable, "-m", "gve_jax.export", f"--checkpoint={whole}",
         f"--output={out}"],
        cwd=ROOT, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads((out / "config.json").read_text())["model_type"] == "qwen2_5_vl"
    assert "differs in transformers: of a video other frames" in done.stdout
