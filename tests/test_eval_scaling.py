"""Test-time scaling: contracts by hand, and the whole on a tiny encoder."""

import dataclasses
import json

import pytest
import small_uvrb as small
import tiny

from configs import uvrb_mini
from eval import loaders, run, scaling
from eval.scaling import Size
from gve_jax import build, presets
from gve_jax.preprocess import Geometry, smart_resize
from gve_jax.restore import Restored
from gve_jax.types import Item, UserError

GVE = presets.PRESETS["gve"]
QWEN = Geometry()


def test_sizes_of_the_paper():
    own = scaling.own_size(GVE, QWEN)
    assert own == Size(8, 200)
    every = scaling.sizes(own, [8, 16, 48], [200, 400, 800])
    assert every == {
        Size(8, 200): ["frames", "tokens"],
        Size(16, 200): ["frames"],
        Size(48, 200): ["frames"],
        Size(8, 400): ["tokens"],
        Size(8, 800): ["tokens"],
    }
    # Two frames are one: 24 groups of 200 tokens fit below the cap with their text.
    assert Size(48, 200).visual(QWEN) == 4800
    assert scaling.max_tokens(GVE, QWEN, list(every)) == GVE.max_tokens == 8192


def test_contracts_record_the_change():
    own = dataclasses.replace(GVE, fps=1.0, total_pixels=999, min_pixels=150 * 784)
    large = scaling.contract_of(own, QWEN, Size(48, 400), 9000)
    assert (large.num_frames, large.fps, large.total_pixels) == (48, 0, 0)
    assert (large.min_pixels, large.max_pixels) == (150 * 784, 400 * 784)
    assert large.max_tokens == 9000
    small_one = scaling.contract_of(own, QWEN, Size(8, 9), 8192)
    assert small_one.min_pixels == small_one.max_pixels == 9 * 784
    # What has frames by time is asked for the protocol's 8; towers have own units.
    qwen3 = presets.PRESETS["qwen3-vl-embedding"]
    raster = Geometry(patch_size=16, window_size=0)
    assert scaling.own_size(qwen3, raster) == Size(8, 768)


@pytest.mark.parametrize("tokens", [9, 18, 36, 200])
def test_tokens_are_those_of_a_frame(tokens):
    budget = scaling.contract_of(GVE, QWEN, Size(8, tokens), 8192)
    for height, width in ((168, 168), (720, 1280), (1080, 600)):
        rows, columns = smart_resize(
            height, width, budget.min_pixels, budget.max_pixels, QWEN.factor
        )
        assert rows * columns // QWEN.factor**2 <= tokens


def test_the_cap_leaves_texts_their_room():
    tight = dataclasses.replace(GVE, num_frames=8, max_pixels=9 * 784, max_tokens=224)
    # 224 - 36 tokens of text stay beside the 24 * 9 of 48 frames.
    assert scaling.max_tokens(tight, QWEN, [Size(48, 9)]) == 216 + 188
    assert scaling.max_tokens(tight, QWEN, [Size(4, 9)]) == 224
    wide = dataclasses.replace(GVE, max_tokens=8192)
    assert scaling.max_tokens(wide, QWEN, [Size(48, 800)]) == 24 * 800 + 512


@pytest.mark.parametrize("value", ["0", "8.5", "-1", "many"])
def test_numbers_that_cannot_be(value):
    with pytest.raises(UserError, match=f"--frames: '{value}' is not a whole number"):
        scaling._numbers("frames", ["8", value])


@pytest.fixture(scope="module")
def restored():
    """A checkpoint of 4 frames of 4 tokens, made for no more; without weights."""
    config = tiny.config("unused")
    config.preprocess.max_tokens = 96
    config.preprocess.token_buckets = (96,)
    config.preprocess.patch_buckets = (48,)
    tokenizer = build.make_tokenizer(config, ["a red square goes left", "v is what I"])
    model = build.ModelConfig.from_config(config.model, tokenizer.vocab_size)
    contract = build.make_contract(config, model)
    return Restored(model, None, None, tokenizer, contract, config)


@pytest.fixture
def config(tmp_path):
    small.write_dataset(tmp_path / "uvrb", "MSRVTT", 3)
    config = uvrb_mini.get_config(str(tmp_path / "uvrb"))
    config.eval.gallery, config.eval.bootstrap = 0, 10
    return config


def test_an_embedder_of_another_size(restored, config, tmp_path):
    contract = scaling.contract_of(
        restored.contract, build.geometry(restored.model_config), Size(16, 9), 96 + 64
    )
    video = Item("v", video=str(tmp_path / "uvrb" / "MSRVTT" / "videos" / "v0.mp4"))
    own = scaling.embedder_of(restored, restored.contract, config)
    large = scaling.embedder_of(restored, contract, config)
    assert own.contract == restored.contract and large.contract == contract
    # 4 frames of 2 x 2 tokens, 16 of 2 x 2: a frame of 48 pixels is not enlarged.
    assert len(own.processor.encode(video).patches) == 2 * 4 * 4
    assert len(large.processor.encode(video).patches) == 8 * 4 * 4
    assert len(restored.config.preprocess.token_buckets) == 1  # is left as it was


def test_a_sweep_of_a_checkpoint(tmp_path, restored, config, capsys, monkeypatch):
    made = []

    def embedder_of(_, contract, __):
        encoder = small.FakeEmbedder()
        encoder.contract = dataclasses.replace(contract, dim=encoder.dim)
        made.append(encoder)
        return encoder

    monkeypatch.setattr(scaling, "embedder_of", embedder_of)
    sets = run.read(config, loaders.names(["MSRVTT"]))
    sweep = lambda: scaling.scale(  # noqa: E731
        config, sets, restored, tmp_path / "out", [4, 64], [1, 4], "demo"
    )
    found = sweep()
    assert [v["folder"] for v in found["variants"]] == ["f4_t4", "f64_t4", "f4_t1"]
    assert [v["own"] for v in found["variants"]] == [True, False, False]
    assert [v["visual_tokens"] for v in found["variants"]] == [8, 128, 2]
    assert found["max_tokens"] == 128 + (96 - 8)
    warnings = capsys.readouterr().err
    assert "own contract is 4 frames of 4 tokens; f64_t4, f4_t1" in warnings
    assert "up to 216 tokens, instead of 96, in every variant" in warnings
    for v in found["variants"]:
        file = tmp_path / "out" / v["folder"] / "results.json"
        results = json.loads(file.read_text())
        contract = results["contract"]
        assert contract["num_frames"] == v["frames"]
        assert contract["max_pixels"] == v["tokens"] * 28 * 28
        assert contract["max_tokens"] == 216
        assert v["datasets"] == {"MSRVTT": results["datasets"]["MSRVTT"]["score"]}
    assert scaling.table(found).count("MSRVTT") == 2
    assert json.loads((tmp_path / "out" / "scaling.json").read_text()) == found
    # Again: nothing is embedded anew.
    assert len(made) == 3 and all(encoder.items for encoder in made)
    assert sweep() == found
    assert not any(encoder.items for encoder in made[3:])
