"""Generation against `generate` of `transformers`, on tiny random float32 models."""

import copy
import dataclasses
import functools
import tempfile

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from transformers.generation.logits_process import (
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from gve_jax.model import abstract, read_hf, write_hf
from gve_jax.model.generate import Sampling, generate, truncate
from gve_jax.model.text import Cache, TextModel
from tests.model_witness import (
    FAMILIES,
    embed,
    hf_class,
    hf_model,
    jit,
    make_item,
    to_jax,
    to_torch,
)

NEVER = np.array([-1])  # no token
BATCHES = {
    "text": [[9], [31], [1]],
    "image": [[4, ("image", (1, 6, 10)), 3], [4, ("image", (1, 14, 6)), 20]],
    "video": [[4, ("video", (4, 6, 6), 0.6), 3], [4, ("video", (4, 6, 6), 2.2), 1]],
    "mixed": [
        [5, ("video", (3, 6, 10), 0.7), 4],
        [9],
        [3, ("video", (2, 4, 6), 1.0), ("image", (1, 10, 14)), 7],
    ],
}


def with_head(model):
    """(config, parameters) of the torch model, head included."""
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        return read_hf(folder, head=True)


@functools.cache
def pair(family, tied=False):
    """The torch model and ours with its weights, logits far from each other."""
    model = hf_model(family, tied=tied)
    with torch.no_grad():
        model.lm_head.weight *= 4
    cfg, params = with_head(model)
    return model, nnx.merge(abstract(cfg)[0], params)


def batch_of(family, name):
    rng = np.random.default_rng(1)
    return [make_item(rng, parts, family) for parts in BATCHES[name]]


def torch_greedy(model, item, n, stop_ids=None) -> list[int]:
    """New tokens of one item, stop token left out."""
    inputs = to_torch([item])
    with torch.no_grad():
        out = model.generate(
            **inputs,
            do_sample=False,
            max_new_tokens=n,
            eos_token_id=None if stop_ids is None else list(map(int, stop_ids)),
            pad_token_id=0,
        )
    new = out[0, len(item["tokens"]) :].tolist()
    return [t for t in new if stop_ids is None or t not in stop_ids]


def run(model, inputs, n, stop_ids=NEVER, sampling=None, compiled=None):
    return (compiled or compile_for(model, n))(
        nnx.split(model)[1], inputs, stop_ids, sampling
    )


def compile_for(model, n):
    graph = nnx.split(model)[0]
    return jit(
        lambda p, x, stop, sampling: generate(nnx.merge(graph, p), x, stop, n, sampling)
    )


def texts(generated) -> list[list[int]]:
    return [
        row[:n].tolist() for row, n in zip(*map(np.asarray, generated), strict=True)
    ]


@pytest.mark.parametrize("name", BATCHES)
@pytest.mark.parametrize("family", FAMILIES)
def test_logits_after_the_prompt_and_of_further_tokens(family, name):
    """Forced tokens through the cache, against theirs and ours without one."""
    witness, ours = pair(family)
    items = batch_of(family, name)
    more = np.random.default_rng(2).integers(0, 180, (len(items), 4))
    inputs = to_jax(witness, items, length=128)

    def ours_with_cache(params, inputs, more):
        model = nnx.merge(graph, params)
        text, lengths, rows = model.text, inputs.lengths, np.arange(len(items))
        x, deep = model.embed_inputs(inputs)
        cache = Cache.empty(model.cfg, len(items), 128 + 4)
        x, cache = text.cached(x, inputs.positions, cache, deep=deep)
        states = [x[rows * 128 + lengths - 1]]
        last = inputs.positions[rows, :, lengths - 1]
        for t in range(4):
            positions = (last + 1 + t)[:, :, None]
            x = text.embed(more[:, t])
            x, cache = text.cached(x, positions, cache, lengths + t)
            states.append(x)
        logits = jnp.stack([text.logits(x) for x in states], 1)
        return logits, jnp.stack([text.norm(x) for x in states], 1)

    graph, params = nnx.split(ours)
    logits, states = map(np.asarray, jit(ours_with_cache)(params, inputs, more))
    assert logits.dtype == np.float32
    longer = copy.deepcopy(items)
    for i, item in enumerate(longer):
        item["tokens"] += more[i].tolist()
        item["types"] += [0] * 4
        with torch.no_grad():
            theirs = witness(**to_torch([item])).logits[0, -5:].numpy()
        np.testing.assert_allclose(logits[i], theirs, atol=1e-4, rtol=0)
        assert np.std(theirs) > 1
    vectors = states / np.linalg.norm(states, axis=-1, keepdims=True)
    np.testing.assert_allclose(
        vectors[:, -1], embed(ours, to_jax(witness, longer)), atol=1e-4, rtol=0
    )


@pytest.mark.parametrize("name", ["video", "mixed"])
@pytest.mark.parametrize("family", FAMILIES)
def test_greedy_tokens(family, name):
    witness, ours = pair(family)
    items = batch_of(family, name)
    compiled = compile_for(ours, 12)
    inputs = to_jax(witness, items)
    mine = texts(run(ours, inputs, 12, compiled=compiled))
    assert mine == [torch_greedy(witness, i, 12) for i in items]
    assert len({t for text in mine for t in text}) > 4
    # Some end early, at either of two tokens.
    stop = np.array([mine[0][3], mine[1][7]])
    found = run(ours, inputs, 12, stop, compiled=compiled)
    assert texts(found) == [torch_greedy(witness, i, 12, stop) for i in items]
    assert found.lengths[0] <= 3
    assert (np.asarray(found.tokens)[0, found.lengths[0] :] == stop[0]).all()


@pytest.mark.parametrize("family", ["qwen2_vl", "qwen3_vl"])
def test_tied_head(family):
    witness, ours = pair(family, tied=True)
    assert ours.cfg.head and not hasattr(ours.text, "head")
    items = batch_of(family, "mixed")
    mine = texts(run(ours, to_jax(witness, items), 8))
    assert mine == [torch_greedy(witness, i, 8) for i in items]


def test_head_in_files(tmp_path):
    """Read only if wanted; written, `transformers` has it back."""
    witness, ours = pair("qwen2_5_vl")
    params = nnx.split(ours)[1]
    witness.save_pretrained(tmp_path / "in")
    assert "head" not in read_hf(tmp_path / "in")[1]["text"]
    write_hf(ours.cfg, params, tmp_path / "out")
    again = hf_class("qwen2_5_vl").from_pretrained(tmp_path / "out")
    assert torch.equal(again.lm_head.weight, witness.lm_head.weight)


@pytest.mark.parametrize("family", FAMILIES)
def test_batch_and_bucket_do_not_matter(family):
    witness, ours = pair(family)
    items = batch_of(family, "mixed")
    whole = texts(run(ours, to_jax(witness, items), 10))
    padded = to_jax(witness, items[::-1], length=256, patches=384)
    assert texts(run(ours, padded, 10))[::-1] == whole
    assert texts(run(ours, to_jax(witness, items[1:2]), 10)) == whole[1:2]


@pytest.mark.parametrize("layers", [1, 3])
def test_unrolled_and_one_layer(layers):
    witness = hf_model(seed=3)
    witness.model.language_model.layers = witness.model.language_model.layers[:layers]
    witness.config.text_config.num_hidden_layers = layers
    witness.config.text_config.layer_types = ["full_attention"] * layers
    items = batch_of("qwen2_5_vl", "image")
    cfg, params = with_head(witness)
    model = nnx.merge(abstract(dataclasses.replace(cfg, scan=False))[0], params)
    mine = texts(run(model, to_jax(witness, items), 6))
    assert mine == [torch_greedy(witness, i, 6) for i in items]


def test_stops_when_all_have_ended_and_compiles_once(monkeypatch):
    witness, ours = pair("qwen2_5_vl")
    steps = []
    plain = TextModel.embed

    def counting(self, tokens):
        jax.debug.callback(lambda: steps.append(1))
        return plain(self, tokens)

    monkeypatch.setattr(TextModel, "embed", counting)
    compiled = compile_for(ours, 50)
    inputs = to_jax(witness, batch_of("qwen2_5_vl", "text"))
    found = run(ours, inputs, 50, np.array([-1] * 3), compiled=compiled)
    jax.effects_barrier()
    assert len(steps) == 50  # the prompts, and all new tokens but the last
    assert (np.asarray(found.lengths) == 50).all()
    steps.clear()
    found = run(ours, inputs, 50, np.asarray(found.tokens)[:, 4], compiled=compiled)
    jax.effects_barrier()
    assert len(steps) == max(found.lengths) + 1 <= 5
    assert compiled._cache_size() == 1


def keys(seed, n):
    return jax.random.split(jax.random.key(seed), n)


def test_sampling():
    witness, ours = pair("qwen2_5_vl")
    items = batch_of("qwen2_5_vl", "text")
    inputs = to_jax(witness, items)
    compiled = compile_for(ours, 10)
    draw = lambda **s: texts(  # noqa: E731
        run(ours, inputs, 10, sampling=Sampling(**s), compiled=compiled)
    )
    k = keys(0, 3)
    sampled = draw(keys=k, temperature=1.0)
    assert draw(keys=k, temperature=1.0) == sampled
    assert draw(keys=keys(1, 3), temperature=1.0) != sampled
    greedy = texts(run(ours, inputs, 10))
    assert sampled != greedy
    assert draw(keys=k, top_k=1) == greedy
    assert draw(keys=k, top_p=1e-6) == greedy
    assert draw(keys=k, temperature=1e-4) == greedy
    # All settings are one program.
    assert compiled._cache_size() == 1
    # An item's draws do not depend on its batch.
    alone = run(ours, to_jax(witness, items[1:2]), 10, sampling=Sampling(k[1:2], 1.0))
    assert texts(alone) == sampled[1:2]


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_first_token_has_the_models_distribution(temperature):
    witness, ours = pair("qwen2_5_vl")
    n = 4000
    item = batch_of("qwen2_5_vl", "text")[2]  # one token
    one = to_jax(witness, [item])
    inputs = jax.tree.map(lambda x: np.repeat(x, n, 0), one)
    found = run(ours, inputs, 1, sampling=Sampling(keys(0, n), temperature))
    with torch.no_grad():
        logits = witness(**to_torch([item])).logits[0, -1]
    wanted = torch.softmax(logits / temperature, -1).numpy()
    counts = np.bincount(np.asarray(found.tokens)[:, 0], minlength=200) / n
    bound = 5 * np.sqrt(wanted * (1 - wanted) / n) + 1 / n
    assert (np.abs(counts - wanted) <= bound).all()


@pytest.mark.parametrize(
    ("top_p", "top_k"), [(0.9, 0), (0.5, 0), (1, 7), (0.8, 20), (0.01, 3), (1, 0)]
)
def test_truncation_is_that_of_transformers(top_p, top_k):
    logits = np.random.default_rng(0).normal(size=(5, 200)).astype(np.float32) * 3
    theirs = torch.from_numpy(logits)
    if top_k:
        theirs = TopKLogitsWarper(top_k)(None, theirs)
    if top_p < 1:
        theirs = TopPLogitsWarper(top_p)(None, theirs)
    mine = np.asarray(truncate(jnp.asarray(logits), top_p, top_k))
    np.testing.assert_array_equal(mine, theirs.numpy())
    # In words: the fewest of the k likeliest that reach p.
    order = np.argsort(-logits, axis=1)
    for row, ranks, cut in zip(logits, order, mine, strict=True):
        kept = ranks[: top_k or None]
        probs = np.exp(row[kept] - row.max())
        reached = np.cumsum(probs / probs.sum())
        count = np.sum(reached < top_p) + 1 if top_p < 1 else None
        assert set(np.flatnonzero(np.isfinite(cut))) == set(kept[:count])
