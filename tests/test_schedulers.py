"""Curriculum schedulers against formulas worked out here, and on simulated tasks."""

import json
import math
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from gve_jax.data import schedulers
from gve_jax.data.schedulers import SCHEDULERS, Epoch, Signals, draw_epoch, scheduler
from gve_jax.types import UserError

NAN = math.nan
UNKNOWN = Signals(NAN, NAN, NAN, NAN, NAN, NAN)


def epoch(index: int, count: int = 3) -> Epoch:
    return Epoch(index, count, sigma_start=0.1, sigma_end=1.0)


def signals(**columns) -> dict[str, Signals]:
    """Tasks a, b, c ...; signals that are not given are unknown, bases equal."""
    n = len(next(iter(columns.values())))
    columns = {"base": [1 / n] * n, **columns}
    return {
        "abcdefgh"[i]: UNKNOWN._replace(**{k: v[i] for k, v in columns.items()})
        for i in range(n)
    }


def weigh(name: str, given: dict[str, Signals], at: Epoch, state: dict | None = None):
    return scheduler(name).weigh(at, given, state or {})


def run(name: str, epochs: list[dict[str, Signals]]) -> list[dict[str, float]]:
    """Probabilities of each epoch; the state goes through JSON in between."""
    state, found = {}, []
    for index, given in enumerate(epochs):
        p, state = weigh(name, given, epoch(index, len(epochs)), state)
        state = json.loads(json.dumps(state))
        found.append(p)
    return found


def test_static_is_the_base_share():
    p, state = weigh("static", signals(base=[0.7, 0.2, 0.1]), epoch(1))
    assert list(p) == ["a", "b", "c"] and state == {}
    np.testing.assert_allclose(list(p.values()), [0.7, 0.2, 0.1], rtol=1e-12)


@pytest.mark.parametrize("index, sigma", [(0, 0.1), (1, 0.55), (2, 1.0)])
def test_pyramid_follows_the_paper(index, sigma):
    r = [0.62, 0.31, 0.45]
    p, _ = weigh("pyramid", signals(alignment=r), epoch(index))
    powers = [math.exp(x / sigma) for x in r]
    expected = [x / sum(powers) for x in powers]
    np.testing.assert_allclose(list(p.values()), expected, rtol=1e-12)


def test_pyramid_goes_from_easy_tasks_to_all():
    given = signals(base=[0.1, 0.1, 0.8], alignment=[0.8, 0.5, 0.2])
    first, *_, last = run("pyramid", [given] * 4)
    assert first["a"] > 0.9 and first["c"] < 0.01  # sizes do not matter
    # exp(0.8 - 0.2) is the largest ratio at sigma 1.
    assert max(last.values()) / min(last.values()) == pytest.approx(math.exp(0.6))


def test_a_single_epoch_starts_with_sigma_start():
    p, _ = weigh("pyramid", signals(alignment=[0.5, 0.4]), epoch(0, count=1))
    assert p["a"] / p["b"] == pytest.approx(math.e)


def test_centred_pyramid_takes_the_floor_away():
    # Task b's cosines are all high; its pairs stand out less.
    given = signals(alignment=[0.5, 0.9], shuffled=[0.1, 0.8])
    p, _ = weigh("pyramid_centred", given, epoch(0))
    assert p["a"] / p["b"] == pytest.approx(math.exp((0.4 - 0.1) / 0.1))
    raw, _ = weigh("pyramid", given, epoch(0))
    assert raw["b"] > raw["a"]


def test_odm_by_hand():
    losses = [[2.0, 1.0], [1.5, 0.5]]
    epochs = [signals(train_loss=x) for x in ([NAN, NAN], *losses)]
    p1, p2, p3 = run("odm", epochs)
    assert p1 == {"a": 0.5, "b": 0.5}
    # Epoch 2, n = 1: R = L / P, first rewards taken whole; e = sqrt(ln 2 / (2 * 2)).
    ra, rb = 2.0 / 0.5, 1.0 / 0.5
    e2 = math.sqrt(math.log(2) / 4)
    soft = math.exp(0.5 * ra) / (math.exp(0.5 * ra) + math.exp(0.5 * rb))
    assert p2["a"] == pytest.approx((1 - 2 * e2) * soft + e2, rel=1e-12)
    # Epoch 3, n = 2: half of the old average stays.
    ra, rb = (ra + 1.5 / p2["a"]) / 2, (rb + 0.5 / p2["b"]) / 2
    e3 = math.sqrt(math.log(2) / 8)
    soft = math.exp(e2 * ra) / (math.exp(e2 * ra) + math.exp(e2 * rb))
    assert p3["a"] == pytest.approx((1 - 2 * e3) * soft + e3, rel=1e-12)


def test_odm_finds_the_task_with_most_loss():
    true_loss = [0.5, 0.5, 3.0, 0.5, 0.5]
    rows = run(
        "odm", [signals(train_loss=[NAN] * 5)] + [signals(train_loss=true_loss)] * 9
    )
    assert set(rows[1].values()) == {0.2}  # 1 < ln 5: still exploring
    for p in rows[2:]:  # from n = 2 > ln 5 on
        assert max(p, key=p.get) == "c"
    assert rows[-1]["c"] > 1.4 * rows[-1]["a"]


def test_odm_keeps_what_it_knew_of_a_task_without_batches():
    first, second = signals(train_loss=[NAN] * 2), signals(train_loss=[2.0, 1.0])
    silent = signals(train_loss=[NAN, 1.0])
    state = {}
    for index, given in enumerate((first, second)):
        _, state = weigh("odm", given, epoch(index), state)
    _, later = weigh("odm", silent, epoch(2), state)
    assert later["rewards"]["a"] == state["rewards"]["a"]
    assert later["rewards"]["b"] != state["rewards"]["b"]
    # One that never had a batch is taken for a task like the others.
    _, state = weigh("odm", first, epoch(0))
    p, _ = weigh("odm", silent, epoch(1), state)
    assert p["a"] == pytest.approx(p["b"])


def test_doremi_by_hand():
    start = signals(probe_loss=[1.0, 1.0, 1.0], reference_loss=[1.0, 1.0, 1.0])
    later = signals(probe_loss=[1.5, 0.2, 1.0], reference_loss=[1.0, 1.0, 1.0])
    p1, p2, p3 = run("doremi", [start, later, later])
    np.testing.assert_allclose(list(p1.values()), [1 / 3] * 3, rtol=1e-12)
    a = np.full(3, 1 / 3)
    steps = [a]
    for _ in range(2):  # only a lags: b is ahead by 0.8, which is cut to 0
        grown = a * np.exp([0.5, 0.0, 0.0])
        a = 0.999 * grown / grown.sum() + 0.001 / 3
        steps.append(a)
    np.testing.assert_allclose(list(p2.values()), np.mean(steps[:2], axis=0), rtol=1e-9)
    np.testing.assert_allclose(list(p3.values()), np.mean(steps, axis=0), rtol=1e-9)


def test_doremi_raises_the_task_that_lags_further_each_epoch():
    lags = signals(probe_loss=[3.0, 2.0, 2.0], reference_loss=[2.0, 2.0, 3.0])
    rows = run("doremi", [lags] * 8)
    shares = [p["a"] for p in rows]
    assert shares == sorted(shares) and shares[-1] > 0.6
    assert rows[-1]["b"] == pytest.approx(rows[-1]["c"])


@pytest.mark.parametrize("name", SCHEDULERS)
def test_probabilities_hold_for_any_signals(name):
    rng = np.random.default_rng(3)
    state = {}
    for index in range(6):
        values = rng.normal(scale=30, size=(5, 6))
        values[rng.random(values.shape) < 0.3] = NAN
        values[:, 0] = rng.dirichlet(np.ones(5))
        given = {f"t{i}": Signals(*row) for i, row in enumerate(values.tolist())}
        if index == 3:
            given = {k: UNKNOWN._replace(base=0.2) for k in given}
        before = json.dumps(state)
        p, new = weigh(name, given, epoch(index, 6), state)
        assert list(p) == list(given)
        assert min(p.values()) > 0 and math.fsum(p.values()) == pytest.approx(1)
        assert json.dumps(state) == before, "the state it was given has changed"
        restored = json.loads(json.dumps(new, allow_nan=False))
        assert weigh(name, given, epoch(index, 6), json.loads(before)) == (p, restored)
        state = restored


@pytest.mark.parametrize(
    "name, columns",
    [
        ("pyramid", {"alignment": [0.6, NAN, 0.2]}),
        ("pyramid_centred", {"alignment": [0.6, 0.5, 0.2], "shuffled": [0, NAN, 0]}),
        ("doremi", {"probe_loss": [2, NAN, 1], "reference_loss": [1, 1, 1]}),
    ],
)
def test_a_task_that_is_not_known_is_taken_as_the_mean(name, columns):
    p, _ = weigh(name, signals(**columns), epoch(0))
    assert p["b"] == pytest.approx(math.sqrt(p["a"] * p["c"]), rel=2e-3)
    unknown = {"a": UNKNOWN, "b": UNKNOWN}
    assert weigh(name, unknown, epoch(2))[0] == pytest.approx({"a": 0.5, "b": 0.5})


def test_faults_name_the_key():
    with pytest.raises(UserError, match=r"curriculum\.name='stattic'.*static, pyramid"):
        scheduler("stattic")
    at = Epoch(0, 3, sigma_start=0.1, sigma_end=0.0)
    with pytest.raises(UserError, match=r"curriculum\.sigma_end=0\.0"):
        weigh("pyramid", signals(alignment=[0.1, 0.2]), at)


def test_draws_are_seeded_and_follow_the_probabilities():
    p = np.array([0.6, 0.3, 0.1])
    drawn = draw_epoch(p, 20_000, seed=7, epoch=1)
    assert drawn.dtype == np.int64 and drawn.shape == (20_000,)
    np.testing.assert_array_equal(drawn, draw_epoch(list(p), 20_000, seed=7, epoch=1))
    counts = np.bincount(drawn, minlength=3)
    # Four standard deviations of a binomial count.
    assert (abs(counts - 20_000 * p) < 4 * np.sqrt(20_000 * p * (1 - p))).all()
    for other in (dict(seed=8, epoch=1), dict(seed=7, epoch=2)):
        assert (drawn != draw_epoch(p, 20_000, **other)).any()
    # Independent, too: what follows task 0 is distributed as all are.
    after = np.bincount(drawn[1:][drawn[:-1] == 0], minlength=3)
    np.testing.assert_allclose(after / after.sum(), p, atol=0.02)


def test_the_data_side_needs_no_jax():
    code = "import sys, gve_jax.data.schedulers; sys.exit('jax' in sys.modules)"
    root = pathlib.Path(schedulers.__file__).parents[2]
    assert subprocess.run([sys.executable, "-c", code], cwd=root).returncode == 0
