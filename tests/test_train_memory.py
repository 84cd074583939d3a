"""Large batches in small memory: chunks, frozen towers, accumulation, skipped steps."""

import contextlib
import io
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from jax.ad_checkpoint import print_saved_residuals

from gve_jax import sharding
from gve_jax.data.sources import load_tasks
from gve_jax.model import partition
from gve_jax.train import setup
from gve_jax.train.gradcache import count_chunks
from gve_jax.train.state import TrainState, make_gradient, make_update
from tests import tiny

# Widths that nothing but the vision tower has.
VISION = dict(hidden_size=24, intermediate_size=40, num_heads=2)


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    return tiny.write_pairs(tmp_path_factory.mktemp("pairs") / "train")


def make(pairs, tmp_path, devices=1, **changes):
    """(gradient function, its arguments) of the first T2V batch."""
    changes = {"data__tasks": {"T2V": 1.0}, "model__lora__dropout": 0.0, **changes}
    config = tiny.config(pairs, **changes)
    config.model.vision.update(VISION)
    tasks = load_tasks(config.data.pairs, ["T2V"])
    tokenizer = setup.prepare_workdir(config, tmp_path / "run", tasks)
    model = setup.make_model(config, tokenizer, jax.devices()[:devices])
    groups = setup.make_groups(config, tasks, model)
    loader = setup.make_loader(config, groups, model, tmp_path)
    batch = sharding.from_own_rows(loader.example(groups[0]).inputs, model.mesh)
    loader.close()
    trainable = model.state.trainable
    if config.model.trainable == "lora":  # B is zero at first: A would have no gradient
        trainable = jax.tree.map(lambda x: x + 0.01, trainable)
    gradient = make_gradient(model.graphdef, config, model.mesh)

    def run(*arguments):
        with jax.set_mesh(model.mesh):
            return jax.jit(gradient)(*arguments)

    arguments = (trainable, model.frozen, batch, jnp.int32(0), jnp.int32(0))
    return run, gradient, arguments


def test_chunks_are_as_large_as_allowed_and_equal():
    assert count_chunks(rows=12, tokens=100, chunk=0) == 1
    assert count_chunks(rows=12, tokens=100, chunk=400) == 3
    assert count_chunks(rows=12, tokens=100, chunk=599) == 3  # five do not divide
    assert count_chunks(rows=12, tokens=100, chunk=50) == 12  # at least one
    assert count_chunks(rows=7, tokens=1, chunk=3) == 7


@pytest.mark.parametrize("trainable, devices", [("lora", 4), ("all", 1)])
def test_gradcache_gives_the_gradient_of_the_whole_batch(
    pairs, tmp_path, trainable, devices
):
    changes = dict(
        model__trainable=trainable,
        model__lora__rank=4,
        data__num_negatives=1,
        devices=devices,
    )
    whole, _, arguments = make(pairs, tmp_path / "a", **changes)
    want, want_curves = whole(*arguments)
    chunked, gradient, arguments = make(
        pairs, tmp_path / "b", train__chunk=130, **changes
    )
    assert "scan" in str(jax.make_jaxpr(gradient)(*arguments))
    got, curves = chunked(*arguments)
    scale = float(optax.tree.norm(want))
    assert scale > 1e-3
    for a, b in zip(*map(jax.tree.leaves, (want, got)), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6 * scale)
    for a, b in zip(want_curves, curves, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


def test_chunks_draw_dropout_of_their_own_and_repeat_it(pairs, tmp_path):
    """The second encoding sees what the first saw: the gradient is that of the loss."""
    changes = dict(
        model__trainable="lora", model__lora__rank=4, model__lora__dropout=0.5
    )
    run, _, arguments = make(pairs, tmp_path, train__chunk=130, **changes)
    grads, _ = run(*arguments)
    again, _ = run(*arguments)
    jax.tree.map(np.testing.assert_array_equal, grads, again)
    step = 1e-3 / float(optax.tree.norm(grads)) ** 2
    moved = jax.tree.map(lambda x, g: x - step * g, arguments[0], grads)
    before, after = (run(x, *arguments[1:])[1].loss for x in (arguments[0], moved))
    np.testing.assert_allclose(before - after, 1e-3, rtol=0.1)
    other, _ = run(*arguments[:4], jnp.int32(1))
    assert not np.allclose(jax.tree.leaves(other)[0], jax.tree.leaves(grads)[0])


def test_memory_does_not_grow_with_the_batch_in_chunks(pairs, tmp_path):
    """PERF: log-log exponent at most 0.05 of what the activations take."""

    def needed(size, chunk):
        _, gradient, arguments = make(
            pairs,
            tmp_path / f"{size}-{chunk}",
            data__batch_size=size,
            train__chunk=chunk,
            model__trainable="all",
            model__remat="none",
        )
        memory = jax.jit(gradient).lower(*arguments).compile().memory_analysis()
        return memory.temp_size_in_bytes

    whole = needed(24, 0) / needed(6, 0)
    chunks = needed(24, 130) / needed(6, 130)
    assert whole > 2 and chunks < 1.25


def vision_shapes(text: str) -> list[str]:
    """Float arrays whose last side only the vision tower has."""
    return re.findall(r"f32\[(?:\d+,)*(?:24|40|72|96)\]", text)


def test_no_activation_of_a_frozen_tower_is_kept(pairs, tmp_path):
    def kept(**changes):
        _, gradient, arguments = make(pairs, tmp_path / str(changes), **changes)
        model_loss = gradient.__wrapped__  # what jax.grad differentiates
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            print_saved_residuals(
                lambda t: model_loss(t, *arguments[1:])[0], arguments[0]
            )
        # Weights are arguments; what an equation made is an activation.
        lines = [x for x in out.getvalue().splitlines() if "argument" not in x]
        return vision_shapes("\n".join(x for x in lines if "constant" not in x))

    assert kept(model__trainable="all")
    assert not kept(model__trainable="lora", model__lora__rank=4)


def test_a_frozen_tower_is_run_once_for_each_chunk(pairs, tmp_path):
    """Its features are kept: the way back does not make them again."""

    def products(**changes):
        _, gradient, arguments = make(
            pairs, tmp_path / str(changes), train__chunk=130, **changes
        )
        text = jax.jit(gradient).lower(*arguments).compile().as_text()
        return len(re.findall(r"f32\[\d+,40\]\S* (?:dot|fusion|custom-call)\(", text))

    frozen = products(model__trainable="lora", model__lora__rank=4)
    trained = products(model__trainable="all")
    assert 0 < frozen < trained / 2


def state_and_update(accumulate=1):
    params = {"w": jnp.arange(4.0)}
    optimizer = optax.adam(0.1)
    zero = jnp.int32(0)
    state = TrainState(zero, zero, zero, params, optimizer.init(params))
    return state, make_update(optimizer, lambda step: 0.1, accumulate)


def test_an_update_is_of_the_mean_gradient():
    grads = [{"w": jnp.array([1.0, -2, 3, 0])}, {"w": jnp.array([3.0, 0, 1, 2])}]
    state, update = state_and_update(accumulate=2)
    total = jax.tree.map(jnp.add, *grads)
    two, metrics = update(state, total)
    state, update = state_and_update()
    one, _ = update(state, jax.tree.map(lambda x: x / 2, total))
    jax.tree.map(np.testing.assert_array_equal, one, two)
    np.testing.assert_allclose(metrics.grad_norm, np.linalg.norm([2, -1, 2, 1]))


def test_an_update_that_is_not_finite_is_skipped_and_counted():
    state, update = state_and_update()
    good = {"w": jnp.ones(4)}
    bad = {"w": jnp.array([1, np.nan, 1, 1])}
    after, metrics = update(state, bad)
    jax.tree.map(np.testing.assert_array_equal, after.trainable, state.trainable)
    jax.tree.map(np.testing.assert_array_equal, after.opt_state, state.opt_state)
    assert (after.step, metrics.skipped, metrics.skipped_in_row) == (1, 1, 1)
    after, metrics = update(after, {"w": jnp.array([1, np.inf, 1, 1])})
    assert (after.step, metrics.skipped, metrics.skipped_in_row) == (2, 2, 2)
    after, metrics = update(after, good)
    assert (after.step, metrics.skipped, metrics.skipped_in_row) == (3, 2, 0)
    plain, _ = update(state, good)
    jax.tree.map(np.testing.assert_array_equal, after.trainable, plain.trainable)


def test_lora_alone_has_gradients_and_moments(pairs, tmp_path):
    config = tiny.config(pairs, model__trainable="lora", model__lora__rank=4)
    tasks = load_tasks(config.data.pairs, ["T2V"])
    tokenizer = setup.prepare_workdir(config, tmp_path / "run", tasks)
    config.optim.name = "adamw"
    model = setup.make_model(config, tokenizer, jax.devices()[:1])
    lora = sum(x.size for x in jax.tree.leaves(model.state.trainable))
    moments = sum(x.size for x in jax.tree.leaves(model.state.opt_state))
    assert moments <= 2 * lora + 8
    params = nnx.merge_state(model.state.trainable, model.frozen)
    assert lora < sum(x.size for x in jax.tree.leaves(params)) / 5
    assert partition(params, "lora")[0] == model.state.trainable
