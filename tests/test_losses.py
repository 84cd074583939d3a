"""InfoNCE against loops in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gve_jax.losses import info_nce


def unit(rng, *shape):
    x = rng.normal(size=shape)
    return (x / np.linalg.norm(x, axis=-1, keepdims=True)).astype(np.float32)


def by_hand(q, t, tau, w, margin, qid, tid, sid, negs=None, nids=None):
    b = len(q)
    s = (q @ t.T).astype(np.float64)
    rows, columns = [], []
    for i in range(b):
        row, column = [s[i, i]], [s[i, i]]
        for j in range(b):
            twin = qid[i] == qid[j] or tid[i] == tid[j] or sid[i] == sid[j]
            if j == i or twin:
                continue
            if s[i, j] <= s[i, i] + margin:
                row.append(s[i, j])
            if s[j, i] <= s[i, i] + margin:
                column.append(s[j, i])
        if negs is not None:
            for n, nid in zip(negs, nids, strict=True):
                score = float(q[i].astype(np.float64) @ n)
                if nid >= 0 and nid != tid[i] and score <= s[i, i] + margin:
                    row.append(score)
        rows.append(np.log(np.sum(np.exp(np.array(row) / tau))) - s[i, i] / tau)
        columns.append(np.log(np.sum(np.exp(np.array(column) / tau))) - s[i, i] / tau)
    return w * np.mean(rows) + (1 - w) * np.mean(columns)


def ids(*values):
    return np.array(values, np.int32)


@pytest.mark.parametrize("with_negatives", [False, True])
@pytest.mark.parametrize("margin", [0.1, -0.2])
def test_equals_the_sum_by_hand(with_negatives, margin):
    rng = np.random.default_rng(0)
    q, t = unit(rng, 6, 8), unit(rng, 6, 8)
    t = unit(rng, 6, 8) * 0.3 + q * 0.7
    t /= np.linalg.norm(t, axis=1, keepdims=True)
    qid, tid = ids(1, 2, 3, 1, 5, 6), ids(1, 2, 2, 4, 5, 6)
    sid = ids(1, 2, 3, 4, 5, 5)
    negs, nids = unit(rng, 12, 8), np.arange(12, dtype=np.int32) - 1
    extra = {"negatives": negs, "negative_ids": nids} if with_negatives else {}
    loss, curves = info_nce(
        q, t, temperature=0.1, query_weight=0.3, mask_margin=margin,
        query_ids=qid, target_ids=tid, source_ids=sid, **extra,
    )  # fmt: skip
    expected = by_hand(
        q, t, 0.1, 0.3, margin, qid, tid, sid, *((negs, nids) if extra else ())
    )
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    np.testing.assert_allclose(curves.positive_score, np.mean(np.sum(q * t, 1)), 1e-5)
    np.testing.assert_allclose(curves.mean_score, np.mean(q @ t.T), atol=1e-6)


def test_a_twin_of_the_positive_does_not_repel():
    rng = np.random.default_rng(1)
    q, t = unit(rng, 4, 8), unit(rng, 4, 8)
    common = dict(temperature=0.05, query_ids=np.arange(4), source_ids=np.arange(4))
    t[1] = t[0]

    def loss(q, tid):
        return info_nce(q, t, target_ids=tid, **common)[0]

    pulled = jax.grad(loss)(jnp.asarray(q), np.arange(4))
    masked = jax.grad(loss)(jnp.asarray(q), ids(0, 0, 2, 3))
    assert not np.allclose(pulled[0], masked[0])
    # Masked, the twin leaves row 0's own denominator: nothing of it pulls row 0 away.
    alone = jax.grad(loss)(jnp.asarray(q), ids(0, 0, 0, 0))
    np.testing.assert_allclose(alone, 0.0, atol=1e-6)


def test_gradient_is_finite_when_all_negatives_are_masked():
    rng = np.random.default_rng(2)
    q, t = unit(rng, 3, 8), unit(rng, 3, 8)
    same = np.zeros(3, np.int32)
    value, grad = jax.value_and_grad(
        lambda q: info_nce(
            q, t, temperature=0.03, query_ids=same, target_ids=same, source_ids=same
        )[0]
    )(jnp.asarray(q))
    assert abs(float(value)) < 1e-5
    assert np.all(np.isfinite(grad))
