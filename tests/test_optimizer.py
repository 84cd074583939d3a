"""The optimisers' updates, against NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from gve_jax.config import default_config
from gve_jax.train.state import make_optimizer
from gve_jax.types import UserError

LR = 0.01


def variable(shape, axes):
    return nnx.Param(jnp.ones(shape), axes=axes)


def params():
    return nnx.State(
        {
            "embedding": variable((9, 6), ("vocab", "embed")),
            "layers": {
                "q": {
                    "kernel": variable(
                        (2, 6, 2, 4), ("layers", "embed", "heads", None)
                    ),
                    "bias": variable((2, 2, 4), ("layers", "heads", None)),
                },
                "norm1": {"scale": variable((2, 6), ("layers", "norm"))},
            },
            "last": {"down": {"kernel": variable((8, 6), ("mlp", "embed"))}},
        }
    )


def first_update(name, weight_decay=0.0):
    """(gradients, updates) of one step, as {path: array}."""
    optim = default_config().optim
    optim.update(name=name, weight_decay=weight_decay, clip_norm=1e9)
    optimizer = make_optimizer(optim, optax.constant_schedule(LR))
    state = params()
    rng = np.random.default_rng(0)
    grads = jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape)), state)
    updates, _ = optimizer.update(grads, optimizer.init(state), state)

    def named(tree):
        leaves = jax.tree_util.tree_leaves_with_path(tree)
        return {jax.tree_util.keystr(k): np.asarray(v) for k, v in leaves}

    return named(grads), named(updates)


def test_adamw_steps_by_the_sign_at_first():
    grads, updates = first_update("adamw")
    for name, grad in grads.items():
        np.testing.assert_allclose(updates[name], -LR * np.sign(grad), rtol=1e-4)


def test_muon_orthogonalises_each_layers_matrix_and_nothing_else():
    grads, updates = first_update("muon")
    for name, grad in grads.items():
        if "kernel" not in name:
            # Nesterov's momentum: the first step looks 1 + b1 - b1^2 ahead, corrected.
            ahead = 0.9 * 0.1 / (1 - 0.9**2) + 0.1 / (1 - 0.9)
            expected = -LR * ahead * np.sign(grad)
            np.testing.assert_allclose(updates[name], expected, rtol=1e-4)
            continue
        # [layers, in, out]: heads are one output, layers are apart.
        shape = (2, 6, 8) if "layers" in name else (1, 8, 6)
        for g, u in zip(grad.reshape(shape), updates[name].reshape(shape), strict=True):
            # The orthogonal matrix nearest to -g, scaled; Newton-Schulz is inexact.
            left, _, right = np.linalg.svd(-g, full_matrices=False)
            values = np.diag(left.T @ u @ right.T)
            assert values.min() > 0.5 * values.max()
            np.testing.assert_allclose(left * values @ right, u, atol=1e-3 * LR)
            # As large as AdamW's, whose root mean square is 0.2 or so in training.
            assert 0.1 * LR < np.sqrt(np.mean(u**2)) < 0.3 * LR


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_norms_and_biases_do_not_decay(name):
    _, plain = first_update(name)
    _, decayed = first_update(name, weight_decay=0.5)
    for key in plain:
        change = np.abs(decayed[key] - plain[key]).max()
        decays = "kernel" in key or (name == "adamw" and "embedding" in key)
        assert change == (pytest.approx(0.5 * LR, rel=1e-3) if decays else 0)


def test_unknown_optimiser():
    optim = default_config().optim
    optim.name = "lion"
    with pytest.raises(UserError, match=r"optim\.name: 'lion' is neither"):
        make_optimizer(optim, optax.constant_schedule(LR))
