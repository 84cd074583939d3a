"""The loss in tiles and over eight devices: against the dense matrix in float64."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.loss_memory import compile_loss, found_collectives
from gve_jax.losses import exchange, info_nce, tiles
from gve_jax.sharding import batch_sharding, make_mesh

# A prime for each device: tiles of up to 128 columns never divide its rows.
N, K, D = 8 * 131, 1, 16
TAU, MARGIN, HARDNESS, WEIGHT = 0.05, 0.3, 2.0, 0.4
SPLIT = dict(data=4, fsdp=2)
COPIES = dict(data=2, fsdp=2, tensor=2)


def mesh_of(sizes):
    return make_mesh(dict(data=1, fsdp=1, tensor=1, sequence=1) | sizes)


def problem(k):
    """Vectors, and ids with many duplicates, unused slots and two kinds."""
    rng = np.random.default_rng(0)

    def unit(x):
        return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)

    q = unit(rng.normal(size=(N, D)))
    t = unit(0.5 * q * D**0.5 + rng.normal(size=(N, D)))
    negatives = unit(rng.normal(size=(N * k, D))) if k else None
    labels = dict(
        query_ids=rng.integers(0, N, N),
        target_ids=rng.integers(0, N, N),
        source_ids=rng.integers(0, N, N),
        target_kinds=rng.choice([2, 4], N),
    )
    if k:
        labels["negative_ids"] = rng.integers(-1, N, N * k)
        labels["negative_kinds"] = rng.choice([2, 4], N * k)
    return (q, t, negatives), {k: np.int32(v) for k, v in labels.items()}


def dense(vectors, labels):
    """By the formula, with the whole matrix and JAX's own derivative."""
    q, t, negatives = vectors
    scores = q @ t.T
    positive = jnp.diagonal(scores)
    ids = ("query_ids", "target_ids", "source_ids")
    out = sum(labels[x][:, None] == labels[x] for x in ids) > 0
    out |= labels["target_kinds"][:, None] != labels["target_kinds"]
    out &= ~jnp.eye(N, dtype=bool)
    other = ~jnp.eye(N, dtype=bool)

    def logits(scores, out, negative):
        extra = jnp.where(negative, HARDNESS * jax.lax.stop_gradient(scores), 0)
        return jnp.where(out, -jnp.inf, scores / TAU + extra)

    rows = logits(scores, out | (scores > positive[:, None] + MARGIN), other)
    columns = logits(scores, out | (scores > positive + MARGIN), other)
    if negatives is not None:
        hard = q @ negatives.T
        out = (hard > positive[:, None] + MARGIN) | (labels["negative_ids"] < 0)
        out |= labels["target_ids"][:, None] == labels["negative_ids"]
        out |= labels["target_kinds"][:, None] != labels["negative_kinds"]
        rows = jnp.concatenate([rows, logits(hard, out, True)], axis=1)
    row = jax.nn.logsumexp(rows, axis=1) - positive / TAU
    column = jax.nn.logsumexp(columns, axis=0) - positive / TAU
    return WEIGHT * jnp.mean(row) + (1 - WEIGHT) * jnp.mean(column)


def ours(vectors, labels, mesh=None, form="auto"):
    """Loss and gradients of the vectors, and the curves."""

    @jax.jit
    def run(vectors, labels, temperature):
        return jax.value_and_grad(
            lambda v: info_nce(
                *v, **labels, temperature=temperature, mask_margin=MARGIN,
                query_weight=WEIGHT, hardness=HARDNESS, mesh=mesh, exchange=form,
            ),
            has_aux=True,
        )(vectors)  # fmt: skip

    arrays = vectors, labels
    if mesh is not None:
        arrays = jax.device_put(arrays, batch_sharding(mesh))
    (value, curves), grads = run(*arrays, np.float32(TAU))
    return (value, *[g for g in grads if g is not None]), curves


@pytest.fixture(autouse=True, scope="module")
def small_tiles():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiles, "TILE", 1)
        jax.clear_caches()  # of derivatives traced with other tiles
        yield
    jax.clear_caches()


@functools.cache
def witness(k):
    vectors, labels = problem(k)
    with jax.enable_x64():
        wide = jax.tree.map(lambda x: np.asarray(x, np.float64), vectors)
        value, grads = jax.jit(jax.value_and_grad(dense))(wide, labels)
        return value, *[np.asarray(g) for g in grads if g is not None]


@functools.cache
def alone(k):
    return ours(*problem(k))


def assert_close(got, want):
    """Within 1e-6 of the length of each array."""
    for a, b in zip(got, want, strict=True):
        a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
        assert np.linalg.norm(a - b) <= 1e-6 * np.linalg.norm(b)


@pytest.mark.parametrize("k", [0, K])
def test_tiles_add_up_to_the_matrix(k):
    got, curves = alone(k)
    assert_close(got, witness(k))
    assert curves.masked_identity > 1 and curves.masked_score > 1


@pytest.mark.parametrize(
    "sizes, form, k",
    [
        (SPLIT, "gather", 0),
        (SPLIT, "gather", K),
        (SPLIT, "ring", 0),
        (SPLIT, "ring", K),
        (COPIES, "gather", K),
        (COPIES, "ring", K),
        (dict(tensor=8), "auto", K),  # every device has all rows
    ],
)
def test_eight_devices_equal_one(sizes, form, k):
    want, want_curves = alone(k)
    got, curves = ours(*problem(k), mesh_of(sizes), form)
    assert_close(got, want)
    assert_close(curves, want_curves)


def test_auto_is_a_ring_where_much_would_be_gathered():
    mesh = mesh_of(dict(data=8))
    assert exchange.choose("auto", mesh, 8192, 2048).form == "gather"  # 64 MiB
    assert exchange.choose("auto", mesh, 8193, 2048).form == "ring"
    assert exchange.choose("ring", mesh_of(dict(tensor=8)), 8193, 2048).mesh is None


def sizes_of(form, n, d, k=0):
    compiled = compile_loss(form, n, d, k, mesh_of(SPLIT))
    found = [(name, size) for name, size, _ in found_collectives(compiled)]
    return found, compiled.memory_analysis().temp_size_in_bytes


def test_collectives_of_the_compiled_program():
    n, d = 1024, 128
    gather, _ = sizes_of("gather", n, d)
    large = sorted(name for name, size in gather if size >= n * d / 8)
    assert large == ["all-gather", "reduce-scatter"]
    ring, _ = sizes_of("ring", n, d)
    large = sorted(name for name, size in ring if size >= n * d / 8)
    assert large == ["collective-permute"] * 3  # targets forth; they and theirs back
    assert all(size <= n * d / 8 for _, size in ring)
    with_negatives, _ = sizes_of("ring", n, d, k=2)
    assert max(size for _, size in with_negatives) == 3 * n * d / 8


def test_memory_of_the_compiled_program(monkeypatch):
    monkeypatch.setattr(tiles, "TILE", 1 << 21)
    jax.clear_caches()
    temp = {
        (form, n): sizes_of(form, n, 2048)[1]
        for form in ("ring", "gather", "dense")
        for n in (8192, 32768)
    }

    def growth(form):
        return math.log(temp[form, 32768] / temp[form, 8192], 4)

    assert growth("ring") < 1.1 and growth("gather") < 1.1 < 1.6 < growth("dense")
    assert temp["ring", 32768] <= 160 << 20
    assert temp["ring", 32768] * 8 <= temp["dense", 32768]
