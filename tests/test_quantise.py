"""int8 and bfloat16 weights: how far off, how large, and through every way in."""

import dataclasses
import json
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from flax import nnx
from jax.sharding import NamedSharding

from gve_jax.config import default_config
from gve_jax.export import export_hf
from gve_jax.model import (
    ModelConfig,
    abstract,
    convert_weights,
    create,
    merge_lora,
    partition,
    read_hf,
    write_hf,
)
from gve_jax.model.families import from_hf
from gve_jax.model.layers import quantise_kernel
from gve_jax.restore import restore
from gve_jax.sharding import make_mesh, spec
from gve_jax.train.loop import train
from gve_jax.types import UserError
from tests import tiny
from tests.model_witness import (
    FAMILIES,
    embed,
    hf_config_class,
    hf_model,
    make_item,
    to_jax,
)
from tests.test_model_convert import RELEASED


@pytest.fixture(scope="module", params=FAMILIES)
def source(request, tmp_path_factory):
    """(folder, a batch with a video, a picture and a text) of each family."""
    family = request.param
    model = hf_model(family)
    folder = tmp_path_factory.mktemp(family)
    model.save_pretrained(folder)
    rng = np.random.default_rng(0)
    parts = [
        [3, ("image", (1, 6, 10)), 4],
        [20],
        [2, ("video", (2, 8, 6), 1.0), 5],
    ]
    items = [make_item(rng, p, family) for p in parts]
    return folder, to_jax(model, items)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("qwen2_5_vl")
    hf_model().save_pretrained(folder)
    return folder


def settings(weights="", dtype="float32", rank=0):
    model = default_config().model
    model.param_dtype, model.dtype, model.lora.rank = weights, dtype, rank
    return model


def flat(params):
    return {path: v[...] for path, v in nnx.to_flat_state(params)}


def equal(a, b):
    a, b = flat(a), flat(b)
    assert a.keys() == b.keys()
    for path, x in a.items():
        assert x.dtype == b[path].dtype, path
        np.testing.assert_array_equal(x, b[path], err_msg=str(path))


def run(cfg, params, batch):
    return embed(nnx.merge(abstract(cfg)[0], params), batch)


# One kernel.


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_no_weight_is_off_by_more_than_half_a_step(dtype):
    rng = np.random.default_rng(0)
    sizes = 10.0 ** rng.uniform(-4, 2, (3, 5))
    x = (rng.normal(size=(64, 3, 5)) * sizes).astype(dtype)
    x[:, 1, 2] = 0
    steps, size = map(np.asarray, quantise_kernel(jnp.asarray(x)))
    assert steps.dtype == np.int8 and steps.shape == x.shape
    assert size.dtype == np.float32 and size.shape == (3, 5)
    x = x.astype(np.float32)
    most = np.abs(x).max(0)
    error = np.abs(steps.astype(np.float32) * size - x).max(0)
    # The reference: rounded to the nearest of 127 steps either way.
    np.testing.assert_allclose(size, np.where(most, most / 127, 1), rtol=1e-6)
    exact = x / np.where(most, most / 127, 1)
    clear = np.abs(np.abs(exact - np.trunc(exact)) - 0.5) > 1e-4  # two are as near
    np.testing.assert_array_equal(steps[clear], np.round(exact)[clear])
    assert (error <= most / 254 * (1 + 1e-4)).all()
    assert np.abs(steps).max() == 127 and not steps[:, 1, 2].any()


# Whole models.


def test_embeddings_are_near_those_of_float32(source):
    """Of 3 + 3 random layers; measured: bfloat16 at least 0.9999, int8 0.9994."""
    where, batch = source
    want = run(*read_hf(where, settings()), batch)
    for weights in ("bfloat16", "int8"):
        got = run(*read_hf(where, settings(weights, "bfloat16")), batch)
        cosines = (got * want).sum(-1)
        assert (cosines > 0.999).all(), (weights, cosines)
        assert (cosines < 1 - 1e-6).all()  # something was rounded


def test_what_is_int8(source):
    where, _ = source
    cfg, params = read_hf(where, settings("int8", rank=2))
    assert (cfg.weights, cfg.int8, cfg.param_dtype) == ("int8", True, "bfloat16")
    kinds = {"kernel": "int8", "kernel_scale": "float32"}
    kinds |= {"lora_a": "float32", "lora_b": "float32"}
    for path, x in flat(params).items():
        assert x.dtype == kinds.get(path[-1], "bfloat16"), path
    shapes = jax.tree.map(lambda x: (x.shape, x.dtype), params)
    assert shapes == jax.tree.map(lambda x: (x.shape, x.dtype), abstract(cfg)[1])


def test_loaded_quantised_is_quantised_when_loaded(source):
    """Tensor by tensor out of the files, or all at once in memory."""
    where, _ = source
    cfg, params = read_hf(where, settings("int8"))
    whole_cfg, whole = convert_weights(*read_hf(where, settings()), "int8")
    assert whole_cfg == cfg
    equal(params, whole)


def test_each_device_gets_its_part_of_an_int8_model(source):
    where, _ = source
    mesh = make_mesh(dict(data=2, fsdp=2, tensor=2, sequence=1))
    _, spread = read_hf(where, settings("int8"), mesh=mesh)
    equal(spread, read_hf(where, settings("int8"))[1])
    later = convert_weights(*read_hf(where, settings(), mesh=mesh), "int8", mesh)[1]
    equal(spread, later)
    for params in (spread, later):
        for path, v in nnx.to_flat_state(params):
            want = NamedSharding(mesh, spec(v.get_metadata("axes"), v.shape, mesh))
            assert v[...].sharding.is_equivalent_to(want, v.ndim), path
    up = flat(spread)["text", "layers", "mlp", "up", "kernel"]
    scale = flat(spread)["text", "layers", "mlp", "up", "kernel_scale"]
    assert up.addressable_shards[0].data.size * 4 == up.size
    assert scale.addressable_shards[0].data.size * 2 == scale.size


def test_random_weights_are_quantised_too():
    cfg = dataclasses.replace(SMALL, lora_rank=2)
    graph, params = create(cfg.with_weights("int8"), 3)
    assert graph == abstract(cfg.with_weights("int8"))[0]
    again = convert_weights(cfg, create(cfg, 3)[1], "int8")[1]
    kernel = ("text", "layers", "mlp", "up", "kernel")
    np.testing.assert_array_equal(flat(params)[kernel], flat(again)[kernel])


SMALL = ModelConfig.from_config(tiny.config("").model, 300)


# LoRA over int8.


def test_lora_trains_over_int8_and_the_weights_stay(source):
    where, batch = source
    cfg, params = read_hf(where, settings("int8", rank=2))
    graph = abstract(cfg)[0]
    trainable, frozen = partition(params, "lora")
    assert {x.dtype for x in flat(trainable).values()} == {jnp.dtype("float32")}

    @jax.jit
    def gradient(trainable):
        def loss(t):
            vectors = nnx.merge(graph, t, frozen)(batch)
            return (vectors[0] * vectors[1]).sum()

        return jax.value_and_grad(loss)(trainable)

    before, grads = gradient(trainable)
    sizes = {p: float(jnp.abs(g).max()) for p, g in flat(grads).items()}
    assert all(np.isfinite(x) for x in sizes.values())
    # B is zero at first, so that A's gradient is too.
    assert all((x > 0) == (p[-1] == "lora_b") for p, x in sizes.items()), sizes
    stepped = jax.tree.map(lambda t, g: t - 0.01 * g, trainable, grads)
    assert gradient(stepped)[0] < before
    with pytest.raises(UserError, match=r"int8 weights cannot be merged.*float32"):
        merge_lora(cfg, params)


def test_an_update_is_merged_before_it_is_rounded(folder):
    for stored in ("float32", "bfloat16", "int8"):
        cfg, params = read_hf(folder, settings(stored, rank=2))
        rng = np.random.default_rng(0)
        params = nnx.from_flat_state(
            {
                path: v.replace(jnp.asarray(rng.normal(size=v.shape), jnp.float32))
                if path[-1] == "lora_b"
                else v
                for path, v in nnx.to_flat_state(params)
            }
        )
        parts = {
            name: np.asarray(flat(params)["text", "last", "mlp", "up", name], "f4")
            for name in ("kernel", "lora_a", "lora_b")
        }
        up = parts["kernel"]
        if stored == "int8":
            up = up * flat(params)["text", "last", "mlp", "up", "kernel_scale"]
        up = up + cfg.lora_alpha / 2 * parts["lora_a"] @ parts["lora_b"]
        for weights in ("float32", "bfloat16", "int8"):
            wanted, got = convert_weights(cfg, params, weights)
            assert (wanted.weights, wanted.lora_rank) == (weights, 0)
            shapes = jax.tree.map(lambda x: (x.shape, x.dtype), got)
            assert shapes == jax.tree.map(
                lambda x: (x.shape, x.dtype), abstract(wanted)[1]
            )
            kernel = np.asarray(flat(got)["text", "last", "mlp", "up", "kernel"], "f4")
            bound = np.abs(up).max(0) * {"float32": 1e-6, "bfloat16": 2**-8}.get(
                weights, 1.001 / 254
            )
            if weights == "int8":
                kernel *= flat(got)["text", "last", "mlp", "up", "kernel_scale"]
            assert (np.abs(kernel - up) <= bound).all(), (stored, weights)


# Kinds of files and of checkpoints.


@pytest.mark.parametrize(
    "stored, expected",
    [
        ({"": "bfloat16"}, "bfloat16"),
        ({"": "float32"}, "float32"),
        ({"": "float16"}, "float32"),
        ({"": "bfloat16", "model.norm.weight": "float16"}, "float32"),
    ],
)
def test_weights_are_as_in_the_files_unless_asked(folder, tmp_path, stored, expected):
    tensors = {
        k: v.astype(jnp.dtype(stored.get(k, stored[""])))
        for k, v in safetensors.numpy.load_file(folder / "model.safetensors").items()
    }
    safetensors.numpy.save_file(tensors, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    cfg, params = read_hf(tmp_path, settings())
    assert cfg.weights == expected
    assert {str(x.dtype) for x in flat(params).values()} == {expected}
    embedding = tensors["model.embed_tokens.weight"]
    np.testing.assert_array_equal(
        flat(params)["text", "embedding"].astype(embedding.dtype), embedding
    )
    model = settings()
    model.trainable = "all"
    assert read_hf(tmp_path, model)[0].weights == "float32"
    with pytest.raises(UserError, match=r"model\.param_dtype: 'int4' is not one"):
        read_hf(tmp_path, settings("int4"))


def test_int8_is_not_written(folder, tmp_path):
    cfg, params = read_hf(folder, settings("int8"))
    with pytest.raises(UserError, match=r"int8 weights cannot be written.*bfloat16"):
        write_hf(cfg, params, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    write_hf(*convert_weights(cfg, params, "bfloat16"), tmp_path / "out")
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["dtype"] == "bfloat16"


@pytest.fixture(scope="module")
def workdirs(tmp_path_factory):
    """Untrained: all weights, and LoRA over the random weights of a Hugging Face model
    that was made from the first."""
    root = tmp_path_factory.mktemp("runs")
    media = tiny.write_pairs(root / "pairs")
    short = dict(optim__warmup_steps=0, train__steps=0)
    train(tiny.config(media, **short), root / "whole", jax.devices()[:1])
    export_hf(restore(root / "whole"), root / "hf")
    config = tiny.config(media, **short)
    config.model.init_from = str(root / "hf")
    config.model.trainable, config.model.lora.rank = "lora", 2
    train(config, root / "lora", jax.devices()[:1])
    config.model.param_dtype = "int8"
    train(config, root / "lora8", jax.devices()[:1])
    return root


@pytest.mark.parametrize("kind", ["whole", "hf", "lora", "lora8"])
def test_any_checkpoint_comes_in_any_weights(workdirs, kind):
    own = restore(workdirs / kind)
    assert own.contract.weights == {"lora8": "int8"}.get(kind, "float32")
    for weights in ("int8", "bfloat16"):
        found = restore(workdirs / kind, weights=weights)
        assert found.contract.weights == found.model_config.weights == weights
        assert found.graphdef == abstract(found.model_config)[0]
        kernel = flat(found.params)["text", "last", "q", "kernel"]
        assert kernel.dtype == weights
        # It may not be mixed with the others'.
        if weights != own.contract.weights:
            with pytest.raises(UserError, match="weights: "):
                own.contract.require_equal(found.contract, "a", "b")
    low = restore(workdirs / kind, dtype="bfloat16")
    assert low.contract.dtype == low.model_config.dtype == "bfloat16"
    assert low.contract.weights == own.contract.weights


def test_a_hugging_face_folder_is_computed_in_what_the_device_is_fast_in(
    workdirs, tmp_path, monkeypatch
):
    def kinds(found):
        return found.contract.dtype, found.contract.weights

    half = restore(workdirs / "hf", weights="bfloat16")
    export_hf(half, tmp_path / "half")
    assert kinds(restore(tmp_path / "half")) == ("float32", "bfloat16")
    fast = restore(tmp_path / "half", weights="fast")
    assert kinds(fast) == ("float32", "float32")
    config = default_config()
    config.model.dtype, config.model.param_dtype = "bfloat16", "int8"
    assert kinds(restore(tmp_path / "half", config=config)) == ("bfloat16", "int8")
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    for weights in (None, "fast"):
        found = restore(tmp_path / "half", weights=weights)
        assert kinds(found) == ("bfloat16", "bfloat16")
    assert kinds(restore(workdirs / "hf")) == ("bfloat16", "float32")
    # What was trained in float32 stays so.
    assert restore(workdirs / "whole").contract.dtype == "float32"


def embed_command(checkpoint, output, *flags):
    """`python -m gve_jax.embed` as a user runs it, on one text."""
    items = output.with_suffix(".jsonl")
    items.write_text(json.dumps({"id": "a", "text": "a red square"}) + "\n")
    flags = (f"--checkpoint={checkpoint}", f"--output={output}", *flags)
    return subprocess.run(
        [sys.executable, "-m", "gve_jax.embed", f"--input={items}", *flags],
        cwd=pathlib.Path(__file__).parents[1],
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_the_command_embeds_with_other_weights_and_presets(workdirs, tmp_path):
    done = embed_command(
        workdirs / "hf", tmp_path / "out", "--weights=int8", "--preset=gve"
    )
    assert done.returncode == 0, done.stderr
    contract = json.loads((tmp_path / "out" / "contract.json").read_text())
    assert (contract["weights"], contract["dtype"]) == ("int8", "float32")
    own = json.loads((workdirs / "hf" / "contract.json").read_text())
    assert contract["max_tokens"] != own["max_tokens"]  # the preset's
    done = embed_command(workdirs / "whole", tmp_path / "no", "--preset=gve")
    assert done.returncode == 1
    assert "is a training workdir, which embeds as it was trained" in done.stderr


# Sizes.


@pytest.mark.parametrize(
    "name, gigabytes",
    [("GVE-3B", 4.3), ("GVE-7B", 9.2), ("Qwen3-VL-Embedding-8B", 9.2)],
)
def test_a_3b_model_fits_8_gb_and_a_7b_model_16(name, gigabytes):
    family, text, vision, tied, _ = RELEASED[name]
    config = hf_config_class(family)(
        text_config=text, vision_config=vision, tie_word_embeddings=tied
    )
    cfg = from_hf(config.to_dict())

    def size(weights):
        leaves = jax.tree.leaves(abstract(cfg.with_weights(weights))[1])
        return sum(x.size * x.dtype.itemsize for x in leaves) / 1e9

    assert size("int8") < gigabytes
    assert size("int8") < 0.58 * size("bfloat16") < 0.3 * size("float32")
