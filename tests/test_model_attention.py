"""The implementations of attention against torch, and their lowering elsewhere."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from gve_jax.model import attention as module
from gve_jax.model.attention import attention
from gve_jax.model.rows import permute
from gve_jax.sharding import make_mesh


def make(b, t, heads, kv_heads, d, dtype=np.float32):
    rng = np.random.default_rng(0)
    return [
        rng.normal(size=(b, t, n, d)).astype(dtype) for n in (heads, kv_heads, kv_heads)
    ]


def witness(q, k, v, lengths=None, causal=False):
    t, group = q.shape[1], q.shape[2] // k.shape[2]
    mask = torch.ones(len(q), 1, t, t, dtype=torch.bool)
    if causal:
        mask = mask.tril()
    if lengths is not None:
        mask &= (torch.arange(t) < torch.tensor(lengths)[:, None])[:, None, None]
    q, k, v = (torch.from_numpy(x).transpose(1, 2) for x in (q, k, v))
    k, v = (x.repeat_interleave(group, 1) for x in (k, v))
    out = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    return out.transpose(1, 2).numpy()


@pytest.mark.parametrize("implementation", ["dense", "blocked", "auto"])
@pytest.mark.parametrize(
    ("t", "kv_heads", "lengths", "causal"),
    [
        (7, 4, None, False),
        (7, 2, None, True),
        (9, 4, [9, 1, 4], False),
        (600, 2, None, True),  # three blocks of queries, the last one short
        (600, 1, [600, 300, 257], False),
    ],
)
def test_equals_torch(implementation, t, kv_heads, lengths, causal):
    q, k, v = make(3, t, 4, kv_heads, 16)
    run = jax.jit(
        functools.partial(attention, causal=causal, implementation=implementation)
    )
    out = run(q, k, v, lengths=None if lengths is None else np.array(lengths))
    theirs = witness(q, k, v, lengths, causal)
    np.testing.assert_allclose(out, theirs, atol=1e-5, rtol=0)


def test_empty_rows_are_finite_forwards_and_backwards():
    q, k, v = make(2, 5, 2, 2, 8)

    def loss(q, k, v):
        lengths = jnp.array([5, 0])
        return jnp.sum(attention(q, k, v, lengths=lengths, implementation="blocked"))

    value, grads = jax.value_and_grad(loss, argnums=(0, 1, 2))(q, k, v)
    assert np.isfinite(value)
    assert all(np.isfinite(g).all() for g in grads)


def test_one_query_sees_its_length():
    q, k, v = make(3, 8, 4, 2, 16)
    lengths = np.array([8, 3, 1])
    out = attention(q[:, :1], k, v, lengths=lengths)
    np.testing.assert_allclose(out, witness(q, k, v, lengths)[:, :1], atol=1e-5)


@pytest.mark.parametrize("causal", [True, False])
def test_splash_kernel_interpreted(causal):
    q, k, v = make(2, 200, 4, 2, 128)  # not a multiple of the kernel's blocks
    lengths = np.array([200, 70])
    out = module._splash(q, k, v, jnp.asarray(lengths), causal, interpret=True)
    theirs = witness(q, k, v, lengths, causal)
    for row, length in enumerate(lengths):
        np.testing.assert_allclose(
            out[row, :length], theirs[row, :length], atol=2e-5, rtol=0
        )


def test_splash_is_split_over_a_mesh_by_items_and_heads():
    """Under `jax.set_mesh`, without which a kernel cannot run on several devices."""
    mesh = make_mesh(dict(data=2, fsdp=1, tensor=2, sequence=-1))
    for kv_heads in (2, 1):  # one key head cannot be split
        q, k, v = make(2, 128, 4, kv_heads, 128)
        lengths = jnp.array([128, 70])
        with jax.set_mesh(mesh):
            f = jax.jit(functools.partial(module._splash, causal=True, interpret=True))
            out = f(q, k, v, lengths)
        theirs = witness(q, k, v, lengths.tolist(), True)
        np.testing.assert_allclose(out[1, :70], theirs[1, :70], atol=2e-5, rtol=0)
        np.testing.assert_allclose(out[0], theirs[0], atol=2e-5, rtol=0)


@pytest.mark.parametrize("with_lengths", [True, False])
@pytest.mark.parametrize("head_dim", [80, 128])
def test_splash_lowers_for_tpu_with_its_gradient(head_dim, with_lengths):
    q, k, v = (x.astype(jnp.bfloat16) for x in make(2, 256, 4, 2, head_dim))
    lengths = np.array([256, 9]) if with_lengths else None

    def loss(q, k, v):
        out = attention(q, k, v, lengths=lengths, causal=True, implementation="splash")
        return jnp.sum(out.astype(jnp.float32))

    text = jax.jit(jax.grad(loss)).trace(q, k, v).lower(lowering_platforms=("tpu",))
    assert "tpu_custom_call" in text.as_text()


def test_auto_chooses_by_backend(monkeypatch):
    choose = module._choose
    assert choose(jnp.float32, 128) == "blocked"
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
    assert choose(jnp.float32, 80) == "splash"
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert choose(jnp.bfloat16, 80) == "cudnn"
    assert choose(jnp.float32, 80) == "blocked"  # cuDNN has no float32
    assert choose(jnp.bfloat16, 256) == "blocked"


def test_permute_has_the_gradient_of_a_masked_gather():
    """Three real rows of four, in slots of which two are padding."""
    x = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
    index, back = np.array([2, 0, 0, 1, 0]), np.array([1, 3, 0, 0])
    real = np.array([True, True, True, False])
    used = np.array([1, 1, 0, 1, 0], np.float32)[:, None]  # padding is not looked at
    weights = np.arange(15, dtype=np.float32).reshape(5, 3)
    one = lambda x: permute(x, index[None], back[None], real)  # noqa: E731
    ours = jax.grad(lambda x: jnp.sum(one(x) * weights * used))
    plain = jax.grad(lambda x: jnp.sum(x[index] * weights * used))
    np.testing.assert_array_equal(ours(x), plain(x))
    assert "scatter" not in str(jax.make_jaxpr(ours)(x))
