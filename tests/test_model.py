"""Configs, initialisation, LoRA, dtypes, sizes and batch invariance of the encoder."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from gve_jax.config import default_config
from gve_jax.model import (
    Encoder,
    ModelConfig,
    TextConfig,
    VisionConfig,
    abstract,
    create,
    merge_lora,
    partition,
)
from gve_jax.model.families import from_hf, to_hf
from gve_jax.model.layers import LoRAParam
from gve_jax.types import UserError
from tests.model_witness import embed, hf_model, jax_model, jit, make_item, to_jax

TINY = ModelConfig(
    vision=VisionConfig(
        depth=2,
        hidden_size=16,
        intermediate_size=20,
        num_heads=2,
        fullatt_block_indexes=(1,),
    ),
    text=TextConfig(
        vocab_size=200,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=3,
        num_attention_heads=2,
        num_key_value_heads=1,
        mrope_section=(2, 3, 3),
    ),
    lora_rank=4,
    lora_alpha=8.0,
    lora_dropout=0.3,
)

# config.json of the released 3B weights, the flat layout.
FLAT_3B = {
    "attention_dropout": 0.0,
    "bos_token_id": 151643,
    "eos_token_id": 151645,
    "vision_start_token_id": 151652,
    "vision_end_token_id": 151653,
    "vision_token_id": 151654,
    "image_token_id": 151655,
    "video_token_id": 151656,
    "hidden_act": "silu",
    "hidden_size": 2048,
    "initializer_range": 0.02,
    "intermediate_size": 11008,
    "max_position_embeddings": 128000,
    "max_window_layers": 70,
    "model_type": "qwen2_5_vl",
    "num_attention_heads": 16,
    "num_hidden_layers": 36,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-06,
    "rope_theta": 1000000.0,
    "sliding_window": 32768,
    "tie_word_embeddings": True,
    "torch_dtype": "bfloat16",
    "use_sliding_window": False,
    "vision_config": {
        "depth": 32,
        "hidden_act": "silu",
        "hidden_size": 1280,
        "intermediate_size": 3420,
        "num_heads": 16,
        "in_chans": 3,
        "out_hidden_size": 2048,
        "patch_size": 14,
        "spatial_merge_size": 2,
        "spatial_patch_size": 14,
        "window_size": 112,
        "fullatt_block_indexes": [7, 15, 23, 31],
        "tokens_per_second": 2,
        "temporal_patch_size": 2,
    },
    "rope_scaling": {"type": "mrope", "mrope_section": [16, 24, 24]},
    "vocab_size": 151936,
}
FLAT_7B = FLAT_3B | {
    "hidden_size": 3584,
    "intermediate_size": 18944,
    "num_attention_heads": 28,
    "num_hidden_layers": 28,
    "num_key_value_heads": 4,
    "tie_word_embeddings": False,
    "vision_config": FLAT_3B["vision_config"] | {"out_hidden_size": 3584},
    "vocab_size": 152064,
}


def count(tree) -> int:
    return sum(x.size for x in jax.tree.leaves(tree))


def test_sizes_of_the_released_models():
    assert count(abstract(from_hf(FLAT_3B))[1]) == 3_754_622_976
    head = 152064 * 3584  # untied, and not part of an encoder
    assert count(abstract(from_hf(FLAT_7B))[1]) == 8_292_166_656 - head


def test_real_size_has_lora_gradients_only():
    cfg = dataclasses.replace(
        from_hf(FLAT_3B), lora_rank=16, dtype="bfloat16", remat="attn_out"
    )
    graph, params = abstract(cfg)
    trainable, frozen = partition(params, "lora")
    assert count(trainable) == 27_574_272
    item = make_item(np.random.default_rng(0), [9, ("video", (4, 10, 16), 1.0), 20])
    inputs = to_jax(hf_model(), [item, item])

    def loss(trainable, frozen):
        return jnp.sum(nnx.merge(graph, trainable, frozen)(inputs)[0])

    grads = jax.eval_shape(jax.grad(loss), trainable, frozen)
    assert jax.tree.map(jnp.shape, grads) == jax.tree.map(jnp.shape, trainable)


@pytest.mark.parametrize("flat", [FLAT_3B, FLAT_7B], ids=["3B", "7B"])
def test_config_agrees_with_transformers(flat):
    from transformers import Qwen2_5_VLConfig

    cfg = from_hf(flat)
    theirs = Qwen2_5_VLConfig(**flat)
    assert from_hf(theirs.to_dict()) == cfg
    # And there and back through our own file.
    mine = Qwen2_5_VLConfig(**to_hf(cfg))
    assert from_hf(mine.to_dict()) == cfg
    assert from_hf(to_hf(cfg)) == cfg
    assert cfg.vision.tokens_per_second == 2
    assert cfg.text.mrope_section == (16, 24, 24)


def test_defaults_are_those_of_transformers():
    from transformers import Qwen2_5_VLConfig

    bare = {
        "model_type": "qwen2_5_vl",
        "hidden_size": 3584,
        "num_attention_heads": 28,
        "num_key_value_heads": 4,
        "vision_config": {"hidden_size": 1280},
    }
    theirs = Qwen2_5_VLConfig(**bare).to_dict()
    assert from_hf(bare) == from_hf(theirs)


@pytest.mark.parametrize(
    ("change", "names"),
    [
        ({"model_type": "llava"}, "model_type"),
        ({"hidden_act": "gelu"}, "hidden_act"),
        ({"use_sliding_window": True}, "use_sliding_window"),
        ({"rope_scaling": {"type": "yarn"}}, "yarn"),
        ({"num_attention_heads": 17}, "text.hidden_size"),
        ({"vision_config": {"out_hidden_size": 1}}, "out_hidden_size"),
        ({"rope_scaling": {"mrope_section": [1, 2, 3]}}, "mrope_section"),
    ],
)
def test_unsupported_configs_are_refused_by_name(change, names):
    with pytest.raises(UserError, match=names):
        from_hf(FLAT_3B | change)


def test_config_section():
    config = default_config()
    ids = dict(image_token_id=1, video_token_id=2, vision_start_token_id=3)
    cfg = ModelConfig.from_config(config.model, 999, **ids)
    assert (cfg.text.vocab_size, cfg.image_token_id, cfg.dim) == (999, 1, 2048)
    assert (cfg.lora_rank, cfg.tie_word_embeddings) == (16, True)
    config.model.trainable = "all"
    config.model.param_dtype = "bfloat16"
    cfg = ModelConfig.from_config(config.model, 999, **ids)
    assert (cfg.lora_rank, cfg.param_dtype) == (0, "float32")
    for key, value in [("remat", "some"), ("attention", "fast"), ("trainable", "x")]:
        broken = default_config()
        broken.model[key] = value
        with pytest.raises(UserError, match=f"model.{key}"):
            ModelConfig.from_config(broken.model, 999, **ids)


@pytest.fixture(scope="module")
def tiny():
    return create(TINY, 0)


@pytest.fixture(scope="module")
def batch():
    rng = np.random.default_rng(0)
    items = [make_item(rng, [3, ("image", (1, 6, 10)), 4]), make_item(rng, [20])]
    return to_jax(hf_model(), items)


def test_create_is_deterministic_and_abstract_matches(tiny):
    graph, params = tiny
    again = create(TINY, 0)[1]
    other = create(TINY, 1)[1]
    assert jax.tree.all(jax.tree.map(lambda a, b: bool((a == b).all()), params, again))
    assert not np.array_equal(params["text"]["embedding"], other["text"]["embedding"])
    assert graph == abstract(TINY)[0]
    shapes = abstract(TINY)[1]
    assert jax.tree.structure(params) == jax.tree.structure(shapes)
    for path, v in nnx.to_flat_state(shapes):
        assert len(v.get_metadata("axes")) == len(v.shape), path


def test_random_weights_have_the_wanted_spread(tiny):
    flat = dict(
        nnx.to_flat_state(create(dataclasses.replace(TINY, init_std=0.02), 0)[1])
    )
    for path in (("visual", "patch_embed", "kernel"), ("text", "embedding")):
        assert np.std(flat[path][...]) == pytest.approx(0.02, rel=0.05)
    flat = dict(nnx.to_flat_state(tiny[1]))
    kernel = flat["visual", "patch_embed", "kernel"][...]
    assert np.std(kernel) == pytest.approx(1176**-0.5, rel=0.05)
    down = flat["text", "layers", "mlp", "down", "kernel"][...]
    assert np.std(down) == pytest.approx((48 * 2 * 3) ** -0.5, rel=0.1)
    assert not np.array_equal(down[0], down[1])


def run(graph, params, batch, **kwargs):
    return np.asarray(jit(lambda p, x: nnx.merge(graph, p)(x, **kwargs))(params, batch))


def trained(params):
    """LoRA parameters as after training: B is not zero."""
    flat = nnx.to_flat_state(params)
    key = jax.random.key(7)
    return nnx.from_flat_state(
        {
            p: v.replace(jax.random.normal(key, v.shape)) if p[-1] == "lora_b" else v
            for p, v in flat
        }
    )


def test_lora_starts_as_the_base_model_and_merges(tiny, batch):
    graph, params = tiny
    base_cfg, base = merge_lora(TINY, params)
    assert base_cfg.lora_rank == 0
    base_graph = abstract(base_cfg)[0]
    start = run(graph, params, batch)
    np.testing.assert_array_equal(run(base_graph, base, batch), start)
    params = trained(params)
    tuned = run(graph, params, batch)
    assert np.abs(tuned - start).max() > 0.1
    _, merged = merge_lora(TINY, params)
    np.testing.assert_allclose(run(base_graph, merged, batch), tuned, atol=5e-6)


def test_lora_is_on_six_projections_of_the_language_model(tiny):
    _, params = tiny
    trainable, frozen = partition(params, "lora")
    paths = {p[:-1] for p, _ in nnx.to_flat_state(trainable)}
    assert {p[-1] for p in paths} == {"q", "k", "v", "up", "down", "gate"}
    assert {p[0] for p in paths} == {"text"}
    assert not any(isinstance(v, LoRAParam) for _, v in nnx.to_flat_state(frozen))
    everything, nothing = partition(params, "all")
    assert count(everything) == count(params)
    assert count(nothing) == 0
    with pytest.raises(UserError, match="lora"):
        partition(frozen, "lora")
    with pytest.raises(UserError, match="trainable"):
        partition(params, "half")


def test_dropout_is_keyed_and_equal_scanned_or_not(tiny, batch):
    graph, params = tiny
    params = trained(params)
    keys = [jax.random.key(i) for i in (0, 0, 1)]
    a, b, c = (run(graph, params, batch, dropout_key=k) for k in keys)
    np.testing.assert_array_equal(a, b)
    assert np.abs(a - c).max() > 1e-2
    unrolled = abstract(dataclasses.replace(TINY, scan=False))[0]
    d = run(unrolled, params, batch, dropout_key=keys[0])
    np.testing.assert_allclose(a, d, atol=5e-6)
    assert np.abs(a - run(graph, params, batch)).max() > 1e-2


def test_bfloat16_is_near_float32(tiny, batch):
    _, params = tiny
    cfg = dataclasses.replace(TINY, dtype="bfloat16", param_dtype="bfloat16")
    graph, shapes = abstract(cfg)
    low = jax.tree.map(lambda s, p: p.astype(s.dtype), shapes, params)
    lora = {v.dtype for _, v in nnx.to_flat_state(partition(shapes, "lora")[0])}
    assert lora == {jnp.dtype("float32")}
    out = run(graph, low, batch)
    assert out.dtype == np.float32
    cosines = (out * run(tiny[0], params, batch)).sum(-1)
    assert (cosines > 0.999).all(), cosines
    np.testing.assert_allclose(np.linalg.norm(out, axis=-1), 1, atol=1e-6)


def test_an_item_does_not_depend_on_its_batch():
    """Alone, in a batch, in larger buckets: at most 2e-6 apart in float32."""
    witness = hf_model()
    model = jax_model(witness)
    rng = np.random.default_rng(1)
    items = [
        make_item(rng, parts)
        for parts in (
            [3, ("video", (4, 6, 6), 1.0), 5],
            [9],
            [2, ("video", (2, 8, 14), 1.0), ("image", (1, 10, 6)), 3],
        )
    ]
    together = embed(model, to_jax(witness, items))
    larger = embed(model, to_jax(witness, items, length=400, patches=640))
    regular = embed(model, to_jax(witness, items[:1], regular=True))
    indexed = embed(model, to_jax(witness, items[:1], regular=False))
    text = embed(model, to_jax(witness, items[1:2]))
    for other in (larger, np.stack([regular[0], text[0], together[2]])):
        assert np.abs(other - together).max() <= 2e-6
    assert np.abs(indexed - regular).max() <= 2e-6


def test_scan_keeps_the_program_small():
    """The number of layers does not change the program."""

    def size(depth):
        vision = dataclasses.replace(TINY.vision, depth=depth)
        text = dataclasses.replace(TINY.text, num_hidden_layers=depth)
        cfg = dataclasses.replace(TINY, vision=vision, text=text)
        graph, params = abstract(cfg)
        item = make_item(np.random.default_rng(0), [3, ("image", (1, 6, 10)), 4])
        inputs = to_jax(hf_model(), [item])
        f = jax.jit(lambda p: nnx.merge(graph, p)(inputs))
        return len(f.lower(params).as_text().splitlines())

    assert size(3) == size(9)


def test_pruning_saves_the_last_layer():
    cfg = dataclasses.replace(TINY, scan=False, lora_rank=0)
    graph, params = abstract(cfg)
    inputs = to_jax(hf_model(), [make_item(np.random.default_rng(0), [200])])

    def flops(prune):
        f = jax.jit(lambda p: nnx.merge(graph, p)(inputs, prune_last=prune))
        return f.lower(params).cost_analysis()["flops"]

    # K and V remain, so a little more than two layers of three.
    assert 0.6 < flops(True) / flops(False) < 0.75


def test_encoder_is_an_nnx_module():
    model = nnx.eval_shape(lambda: Encoder(TINY, nnx.Rngs(0)))
    assert isinstance(model.text.embedding, nnx.Param)
    assert model.text.layers.q.lora_a.shape == (2, 32, 4)
    assert model.text.layers.q.kernel.get_metadata("axes")[0] == "layers"
