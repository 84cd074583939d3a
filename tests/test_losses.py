"""The losses against loops in NumPy, in float64, and their finite differences."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gve_jax.config import default_config
from gve_jax.losses import contrastive_loss, distillation, info_nce
from gve_jax.types import PairBatch, UserError

B, K, D = 6, 2, 8


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def vectors(seed=0):
    """Queries, targets near them and hard negatives, float64 of float32 values."""
    rng = np.random.default_rng(seed)
    q, t, negs = (rng.normal(size=(n, D)) for n in (B, B, B * K))
    t = unit(t) + 0.5 * unit(q)
    return tuple(unit(x).astype(np.float32).astype(np.float64) for x in (q, t, negs))


def ids(*values):
    return np.array(values, np.int32)


def pair_batch(**changes):
    """Two queries, two targets and two sources are equal; a slot is unused, and a hard
    negative is another row's target."""
    rng = np.random.default_rng(9)
    scores = rng.normal(0.3, 0.2, (B, 1 + K)).astype(np.float32)
    scores[1, 0] = scores[2, 1] = np.nan  # the latter in the unused slot
    return PairBatch(
        query=None, target=None, negatives=None,
        query_ids=ids(1, 2, 3, 1, 5, 6),
        target_ids=ids(1, 2, 2, 4, 5, 6),
        source_ids=ids(1, 2, 3, 4, 5, 5),
        negative_ids=ids(30, 31, 32, 5, -1, 35, 36, 37, 38, 39, 40, 41),
        target_kinds=ids(4, 4, 4, 2, 4, 4),
        negative_kinds=ids(4, 2, 4, 4, 4, 4, 4, 4, 6, 4, 4, 2),
        scores=scores,
    )._replace(**changes)  # fmt: skip


def config(**changes):
    loss = default_config().loss
    loss.update(changes)
    return loss


def info_nce_by_hand(now, fixed, batch, tau, loss):
    """`fixed` are the vectors that hardness and masks see, without derivative.

    Returns the loss and the mean numbers left out by identity and by score."""
    q, t, negs = now
    s, h = q @ t.T, None if negs is None else q @ negs.T
    s0, h0 = fixed[0] @ fixed[1].T, None if negs is None else fixed[0] @ fixed[2].T
    b, margin = len(q), loss.mask_margin
    rows, columns, twins, high = [], [], 0, 0
    for i in range(b):
        row, column = [s[i, i] / tau], [s[i, i] / tau]
        for j in range(b):
            if j == i:
                continue
            if loss.modality_mask and batch.target_kinds[i] != batch.target_kinds[j]:
                continue
            if any(x[i] == x[j] for x in batch[3:6]):
                twins += 1
                continue
            if s0[i, j] <= s0[i, i] + margin:
                row.append(s[i, j] / tau + loss.hardness * s0[i, j])
            else:
                high += 1
            if s0[j, i] <= s0[i, i] + margin:
                column.append(s[j, i] / tau + loss.hardness * s0[j, i])
        for n in range(0 if negs is None else len(negs)):
            kind = None if batch.negative_kinds is None else batch.negative_kinds[n]
            if batch.negative_ids[n] < 0:
                continue
            if loss.modality_mask and kind != batch.target_kinds[i]:
                continue
            if batch.negative_ids[n] == batch.target_ids[i]:
                twins += 1
            elif h0[i, n] > s0[i, i] + margin:
                high += 1
            else:
                row.append(h[i, n] / tau + loss.hardness * h0[i, n])
        rows.append(np.log(np.sum(np.exp(row))) - row[0])
        columns.append(np.log(np.sum(np.exp(column))) - column[0])
    w = loss.query_weight
    return w * np.mean(rows) + (1 - w) * np.mean(columns), twins / b, high / b


def distillation_by_hand(now, batch, tau):
    q, t, negs = now
    out = []
    for i in range(len(q)):
        ours, theirs = [q[i] @ t[i]], [batch.scores[i, 0]]
        for n in range(K):
            if batch.negative_ids[i * K + n] >= 0:
                ours.append(q[i] @ negs[i * K + n])
                theirs.append(batch.scores[i, 1 + n])
        ours, theirs = np.array(ours) / tau, np.array(theirs, np.float64) / tau
        if not np.isnan(theirs).any():
            p = np.exp(theirs) / np.exp(theirs).sum()
            out.append(-np.sum(p * (ours - np.log(np.exp(ours).sum()))))
    return np.mean(out)


def by_hand(now, fixed, batch, tau, loss):
    total = info_nce_by_hand(now, fixed, batch, tau, loss)[0]
    for dim in loss.matryoshka:
        cut = [[x if x is None else unit(x[:, :dim]) for x in v] for v in (now, fixed)]
        total += info_nce_by_hand(*cut, batch, tau, loss)[0]
    total /= 1 + len(loss.matryoshka)
    if loss.distillation:
        total += loss.distillation * distillation_by_hand(now, batch, tau)
    return total


def finite_differences(value, at, step=1e-5):
    """Of `value(arrays)` by each number of each array."""
    grads = []
    for k, x in enumerate(at):
        grad = np.zeros_like(x)
        for place in np.ndindex(x.shape):
            ends = []
            for sign in (1, -1):
                moved = x.copy()
                moved[place] += sign * step
                ends.append(value((*at[:k], moved, *at[k + 1 :])))
            grad[place] = (ends[0] - ends[1]) / (2 * step)
        grads.append(grad)
    return grads


def float32(arrays):
    return tuple(None if x is None else jnp.asarray(x, jnp.float32) for x in arrays)


CASES = {
    "plain": {},
    "no margin": dict(mask_margin=2.0, query_weight=0.3),
    "tight margin": dict(mask_margin=-0.4),
    "modality": dict(modality_mask=True),
    "hardness": dict(hardness=9.0),
    "matryoshka": dict(matryoshka=(3, 5), mask_margin=0.0),
    "distillation": dict(distillation=0.7),
    "all": dict(
        modality_mask=True, hardness=2.0, matryoshka=(4,), distillation=0.5,
        query_weight=0.6, mask_margin=0.05,
    ),
}  # fmt: skip


@pytest.mark.parametrize("tau", [0.03, 20.0])
@pytest.mark.parametrize("case", CASES)
def test_value_and_gradients_are_those_of_the_sum_by_hand(case, tau):
    at, batch, loss = vectors(), pair_batch(), config(**CASES[case])
    run = jax.jit(
        jax.value_and_grad(
            lambda v, tau: contrastive_loss(*v, batch, loss, tau), has_aux=True
        )
    )
    (value, curves), grads = run(float32(at), tau)
    want = functools.partial(by_hand, fixed=at, batch=batch, tau=tau, loss=loss)
    np.testing.assert_allclose(value, want(at), rtol=2e-6)
    assert curves.loss == value
    for got, grad in zip(grads, finite_differences(want, at), strict=True):
        np.testing.assert_allclose(got, grad, atol=2e-5 * np.abs(grad).max() + 1e-9)


@pytest.mark.parametrize("modality_mask", [False, True])
@pytest.mark.parametrize("with_negatives", [False, True])
def test_curves(with_negatives, modality_mask):
    q, t, negs = vectors()
    loss = config(mask_margin=-0.2, modality_mask=modality_mask)
    now = (q, t, negs if with_negatives else None)
    batch = pair_batch(scores=None)
    value, curves = contrastive_loss(*float32(now), batch, loss, 0.1)
    want, identity, high = info_nce_by_hand(now, now, batch, 0.1, loss)
    np.testing.assert_allclose(value, want, rtol=1e-6)
    assert high > 0
    np.testing.assert_allclose(curves.masked_identity, identity, rtol=1e-6)
    np.testing.assert_allclose(curves.masked_score, high, rtol=1e-6)
    np.testing.assert_allclose(curves.positive_score, np.mean(np.sum(q * t, 1)), 1e-6)
    np.testing.assert_allclose(curves.mean_score, np.mean(q @ t.T), atol=1e-6)
    assert all(x.dtype == jnp.float32 and x.shape == () for x in curves)


def test_gap_and_accuracy_are_of_the_hardest_negative_left():
    q = t = np.eye(3, dtype=np.float32)
    hard = unit(np.array([[3, 4, 0], [0, 0, 1], [3, 4, 0]]))  # 0.6, 0.8 | 1 | unused
    one, distinct = np.ones((1, 3)), np.arange(3)
    negatives = dict(negatives=hard, negative_ids=ids(7, 8, -1), mask_margin=2.0)
    common = dict(temperature=0.1, query_ids=distinct, source_ids=distinct)
    _, curves = info_nce(q, t, target_ids=distinct, **negatives, **common)
    np.testing.assert_allclose(curves.hard_gap, np.mean([0.4, 0.2, 0.0]), rtol=1e-6)
    assert curves.accuracy == 1  # a tie is the positive's
    flipped = info_nce(q, np.roll(t, 1, 0), target_ids=distinct, **common)[1]
    assert flipped.accuracy == 1  # all that scores higher is masked ...
    open_ = info_nce(
        q, np.roll(t, 1, 0), target_ids=distinct, mask_margin=2.0, **common
    )[1]
    assert open_.accuracy == 0 and open_.hard_gap == -1
    alone = info_nce(
        one, one, temperature=0.1, query_ids=[0], target_ids=[0], source_ids=[0]
    )[1]
    assert alone.hard_gap == 0


def test_a_twin_of_the_positive_does_not_repel():
    q, t, _ = vectors(1)
    q, t = float32((q[:4], t[:4]))
    t = t.at[1].set(t[0])
    common = dict(temperature=0.05, query_ids=np.arange(4), source_ids=np.arange(4))

    @jax.jit
    @jax.grad
    def gradient(q, tid):
        return info_nce(q, t, target_ids=tid, **common)[0]

    pulled = gradient(q, np.arange(4))
    masked = gradient(q, ids(0, 0, 2, 3))
    assert not np.allclose(pulled[0], masked[0])
    # Masked, the twin leaves row 0's own denominator: nothing of it pulls row 0 away.
    alone = gradient(q, ids(0, 0, 0, 0))
    np.testing.assert_allclose(alone, 0.0, atol=1e-6)


@pytest.mark.parametrize("tau", [1e-3, 0.03, 100.0])
def test_no_nan_where_no_negative_is_left(tau):
    same = np.zeros(B, np.int32)
    batch = pair_batch(
        query_ids=same,
        negative_ids=np.full(B * K, -1, np.int32),
        scores=np.full((B, 1 + K), np.nan, np.float32),
    )
    loss = config(hardness=9.0, matryoshka=(4,), distillation=1.0)
    run = jax.value_and_grad(lambda v: contrastive_loss(*v, batch, loss, tau)[0])
    value, grads = jax.jit(run)(float32(vectors()))
    assert value == 0
    assert all(np.all(np.asarray(g) == 0) for g in grads)


def test_a_small_loss_keeps_its_digits():
    """Its float32 logits are near 33, which are known to 4e-6 only."""
    rng = np.random.default_rng(3)
    q = unit(np.eye(B, D) + 0.4 * rng.normal(size=(B, D)))
    q = q.astype(np.float32).astype(np.float64)
    batch = pair_batch(
        query_ids=np.arange(B), target_ids=np.arange(B), source_ids=np.arange(B)
    )
    want = info_nce_by_hand((q, q, None), (q, q, None), batch, 0.03, config())[0]
    got = contrastive_loss(*float32((q, q)), None, batch, config(), 0.03)[0]
    assert 1e-7 < want < 1e-4
    np.testing.assert_allclose(got, want, rtol=2e-5)


def test_a_nan_embedding_is_not_hidden():
    q, t, negs = vectors()
    q[2, 0] = np.nan
    value = contrastive_loss(*float32((q, t, negs)), pair_batch(), config(), 0.03)[0]
    assert np.isnan(value)


def test_temperature_gets_no_gradient():
    grad = jax.grad(
        lambda tau: contrastive_loss(
            *float32(vectors()), pair_batch(), config(distillation=1.0), tau
        )[0]
    )(0.1)
    assert grad == 0


def test_a_teacher_that_agrees_leaves_its_entropy():
    q, t, negs = vectors()
    own = np.concatenate([t[:, None], negs.reshape(B, K, D)], axis=1)
    scores = np.einsum("bd,bkd->bk", q, own).astype(np.float32)
    common = float32((q, t, negs)), np.zeros(B * K, np.int32), scores, 0.1
    value, grad = jax.value_and_grad(lambda v, *args: distillation(*v, *args))(*common)
    p = np.exp(scores / 0.1) / np.exp(scores / 0.1).sum(1, keepdims=True)
    np.testing.assert_allclose(value, np.mean(-np.sum(p * np.log(p), 1)), rtol=1e-5)
    assert all(np.abs(g).max() < 1e-5 for g in grad)


@pytest.mark.parametrize(
    "change, message",
    [
        (dict(exchange="scatter"), "loss.exchange: 'scatter'"),
        (dict(matryoshka=(4, D)), f"loss.matryoshka: {D} is not between"),
    ],
)
def test_a_wrong_key_is_named(change, message):
    with pytest.raises(UserError, match=message):
        contrastive_loss(*float32(vectors()), pair_batch(), config(**change), 0.03)
