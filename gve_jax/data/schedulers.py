"""Curriculum schedulers: how often each task is drawn in an epoch.

Pure functions of what is known at the start of the epoch and of a state that is JSON,
so that every process computes the same, and a resumed run goes on as it would have.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from gve_jax.types import UserError

# No task's probability falls below this share, or rounds to zero.
_FLOOR = 1e-9
# Of old rewards in the moving average of `odm`.
_KEPT = 0.5
# Step size and share of the uniform distribution in `doremi`, as in its source.
_STEP, _UNIFORM = 1.0, 1e-3


class Signals(NamedTuple):
    """What is known of one task at the start of an epoch; NaN: not known."""

    base: float  # share of the batches by data.tasks or size; sums to 1 over tasks
    alignment: float  # mean cosine of held-out positive pairs under the prober
    shuffled: float  # the same of the queries with other pairs' targets
    probe_loss: float  # InfoNCE of the held-out pairs under this epoch's prober
    reference_loss: float  # ... and under that of the first epoch
    train_loss: float  # mean over the task's batches of the epoch before


class Epoch(NamedTuple):
    """Which epoch is about to start, and the temperatures of the first and the last."""

    index: int  # from 0
    count: int
    sigma_start: float
    sigma_end: float


Weighed = tuple[dict[str, float], dict]  # probabilities of the tasks, next state


class Scheduler(NamedTuple):
    """One entry of `SCHEDULERS`.

    `weigh` takes the epoch, the tasks' signals and the state that it returned for the
    epoch before (at first an empty dict). It returns each task's probability, above 0
    and summing to 1, and the state for the next epoch. `probes`: it reads signals of
    held-out pairs.
    """

    weigh: Callable[[Epoch, Mapping[str, Signals], dict], Weighed]
    probes: bool


def scheduler(name: str) -> Scheduler:
    """The scheduler of that name. Raises UserError if there is none."""
    if name not in SCHEDULERS:
        known = ", ".join(SCHEDULERS)
        raise UserError(f"curriculum.name={name!r}: give one of {known}")
    return SCHEDULERS[name]


def static(epoch: Epoch, signals: Mapping[str, Signals], state: dict) -> Weighed:
    """The same in every epoch: P(k) = base share of k."""
    return _distribution(signals, [s.base for s in signals.values()]), {}


def pyramid(epoch: Epoch, signals: Mapping[str, Signals], state: dict) -> Weighed:
    """Modality Pyramid (Guo et al., arXiv 2510.27571): well aligned tasks first.

    P(k) ∝ exp(R_k / sigma), R_k the alignment and sigma linear over the epochs. Sizes
    of tasks and data.tasks do not enter. A task of unknown alignment takes the mean of
    the others; if none is known, all are drawn alike.
    """
    alignment = _filled([s.alignment for s in signals.values()])
    return _distribution(signals, _softmax(alignment / _sigma(epoch))), {}


def pyramid_centred(
    epoch: Epoch, signals: Mapping[str, Signals], state: dict
) -> Weighed:
    """`pyramid` with R_k minus the mean cosine of shuffled pairs (this project's).

    Cosines of different modalities have different floors; what a pair scores above its
    task's floor can be compared.
    """
    gain = _filled([s.alignment - s.shuffled for s in signals.values()])
    return _distribution(signals, _softmax(gain / _sigma(epoch))), {}


def odm(epoch: Epoch, signals: Mapping[str, Signals], state: dict) -> Weighed:
    """Online data mixing (Albalak et al., arXiv 2312.02406): the task with most loss.

    An EXP3 bandit whose reward is the training loss L. For K tasks in round t:

        R_k <- x R_k + (1 - x) L_k / P(k)
        e_t = min(1 / K, sqrt(ln K / (K t)))
        P(k) = (1 - K e_t) softmax(e_{t-1} R)_k + e_t

    In the source a round is one batch. Here probabilities change with epochs only, and
    an epoch, which trains every task, counts as K rounds: after n epochs t = K n, so
    that tasks are drawn alike until n > ln K. Averages are over epochs, x = 0.5, and
    start from the first reward, not from 0: rounds are few. A task without batches in
    the epoch before keeps its R; one that never had any takes the mean of the others.
    InfoNCE grows with the batch and its negatives: tasks with more of them count as
    harder.
    """

    def exploration(n: int) -> float:
        return 1 / k if n < 1 else min(1 / k, math.sqrt(math.log(k) / n) / k)

    k = len(signals)
    rewards = dict(state.get("rewards", {}))
    played = state.get("probabilities", {})
    for task, s in signals.items():
        if task in played and math.isfinite(s.train_loss):
            reward = s.train_loss / played[task]
            rewards[task] = _KEPT * rewards.get(task, reward) + (1 - _KEPT) * reward
    mean = _filled([rewards.get(task, math.nan) for task in signals])
    now, before = exploration(epoch.index), exploration(epoch.index - 1)
    mixed = (1 - k * now) * _softmax(before * mean) + now
    probabilities = _distribution(signals, mixed)
    return probabilities, {"rewards": rewards, "probabilities": probabilities}


def doremi(epoch: Epoch, signals: Mapping[str, Signals], state: dict) -> Weighed:
    """DoReMi (Xie et al., arXiv 2305.10429): tasks that lag behind a reference model.

        a_k <- (1 - c) norm(a_k exp(eta max(l_k - ref_k, 0))) + c / K

    from a = 1 / K on, with eta = 1 and c = 0.001; P is the mean of all a so far. In the
    source a step is a batch, l and ref are losses of single tokens, and the mean over
    the run of a small model weighs the run of a large one. Here a step is the border of
    an epoch, l and ref are InfoNCE losses of the held-out pairs (of as many negatives
    for every task, or they could not be compared), and each epoch is weighed by the
    mean so far. The reference is the first epoch's prober: worth it if that is a good
    embedder, as a run soon beats its own first weights. A task whose losses are unknown
    takes the mean excess of the others.
    """
    k = len(signals)
    uniform = dict.fromkeys(signals, 1 / k)
    excess = _filled([s.probe_loss - s.reference_loss for s in signals.values()])
    before = np.log([state.get("weights", uniform)[task] for task in signals])
    weights = _softmax(before + _STEP * np.maximum(excess, 0))
    weights = (1 - _UNIFORM) * weights + _UNIFORM / k
    mean = np.array([state.get("mean", uniform)[task] for task in signals])
    mean += (weights - mean) / (epoch.index + 1)
    probabilities = _distribution(signals, mean)
    weights = dict(zip(signals, weights.tolist(), strict=True))
    return probabilities, {"weights": weights, "mean": probabilities}


SCHEDULERS = {
    "static": Scheduler(static, probes=False),
    "pyramid": Scheduler(pyramid, probes=True),
    "pyramid_centred": Scheduler(pyramid_centred, probes=True),
    "odm": Scheduler(odm, probes=False),
    "doremi": Scheduler(doremi, probes=True),
}


def draw_epoch(
    probabilities: Sequence[float], steps: int, seed: int, epoch: int
) -> np.ndarray:
    """The task of each batch of an epoch, drawn independently.

    A pure function of its arguments.

    Args:
      probabilities: of the tasks; they sum to 1 within 1e-6.
      steps: batches of the epoch.
      epoch: from 0.

    Returns:
      int64 [steps], indices of tasks.
    """
    p = np.asarray(probabilities, np.float64)
    rng = np.random.default_rng([seed, epoch, 0x6D6978])
    return rng.choice(len(p), size=steps, p=p / p.sum())


def _sigma(epoch: Epoch) -> float:
    for name, value in (("start", epoch.sigma_start), ("end", epoch.sigma_end)):
        if not value > 0:
            raise UserError(f"curriculum.sigma_{name}={value}: give a number above 0")
    part = epoch.index / max(epoch.count - 1, 1)
    return epoch.sigma_start + part * (epoch.sigma_end - epoch.sigma_start)


def _filled(values: Sequence[float]) -> np.ndarray:
    """float64: unknown values become the mean of those known, or 0 if none is."""
    values = np.array(values, np.float64)
    known = np.isfinite(values)
    values[~known] = values[known].mean() if known.any() else 0.0
    return values


def _softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max())
    return powers / powers.sum()


def _distribution(tasks: Mapping, values: Sequence[float]) -> dict[str, float]:
    values = np.maximum(values, _FLOOR)
    return dict(zip(tasks, (values / values.sum()).tolist(), strict=True))
