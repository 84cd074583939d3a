"""The curriculum: probes at the border of epochs, and what follows from them."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.experimental import multihost_utils
from ml_collections import ConfigDict

from gve_jax.data.schedulers import Epoch, Signals, scheduler
from gve_jax.embed import Embedder
from gve_jax.train.probe import probe
from gve_jax.types import Pair, UserError


class Plan(NamedTuple):
    """Of one epoch."""

    probabilities: dict[str, float]  # of the tasks
    prober: str  # who probed; empty if nobody
    signals: dict[str, Signals]  # what the probabilities follow from
    scheduler: str

    def line(self, epoch: int, ends: list[int], drawn: Mapping[str, int]) -> dict:
        """Of curriculum.jsonl: the plan, and how many batches of each task came out."""
        return {
            "epoch": epoch + 1,
            "step": ends[epoch],
            "steps": ends[epoch + 1] - ends[epoch],
            "scheduler": self.scheduler,
            "prober": self.prober,
            "tasks": {
                task: {
                    **self.signals[task]._asdict(),
                    "probability": probability,
                    "draws": drawn[task],
                }
                for task, probability in self.probabilities.items()
            },
        }


def borders(config: ConfigDict) -> list[int]:
    """Updates done at the start of each epoch, and at the end of the last.

    Epochs are equal parts of train.steps; there are no more of them than steps.

    Raises:
      UserError: curriculum.epochs is below 1.
    """
    epochs, steps = config.curriculum.epochs, config.train.steps
    if epochs < 1:
        raise UserError(f"curriculum.epochs={epochs}: give at least 1")
    epochs = min(epochs, max(steps, 1))
    return [steps * i // epochs for i in range(epochs + 1)]


class Curriculum:
    """Decides with which probability each epoch draws each task.

    Args:
      config: of the run.
      shares: task -> its share of the batches by data.tasks or size.
      held: task -> pairs that nothing trains on.

    Raises:
      UserError: the scheduler is unknown, or has nothing to probe.
    """

    def __init__(
        self,
        config: ConfigDict,
        shares: Mapping[str, float],
        held: Mapping[str, Sequence[Pair]],
    ):
        self._config, self._shares, self._held = config, shares, held
        self._scheduler = scheduler(config.curriculum.name)
        self._count = len(borders(config)) - 1
        # JSON values: the scheduler's own, and losses under the first prober.
        self.state: dict[str, Any] = {"scheduler": {}, "reference": {}}
        if self._scheduler.probes and not all(held.get(task) for task in shares):
            raise UserError(
                f"curriculum.name={config.curriculum.name!r} probes held-out pairs: "
                "set data.held_out to a number above 0, such as 128"
            )

    @property
    def probes(self) -> bool:
        return self._scheduler.probes

    def plan(
        self, epoch: int, own: Callable[[], Embedder], losses: Mapping[str, float]
    ) -> Plan:
        """Plans epoch number `epoch`, from 0; called once for each, in order.

        Args:
          own: makes an embedder of the weights as they are.
          losses: task -> mean training loss in the epoch before.
        """
        c = self._config.curriculum
        probes, prober = {}, ""
        if self._scheduler.probes:
            external = epoch == 0 and c.prober
            prober = c.prober if external else "own weights"
            embedder = Embedder.from_checkpoint(c.prober) if external else own()
            probes = probe(embedder, self._held, self._config.loss.temperature)
            if epoch == 0:
                self.state["reference"] = {k: p.loss for k, p in probes.items()}
        signals = {}
        for task, share in self._shares.items():
            found = probes.get(task)
            signals[task] = Signals(
                base=share,
                alignment=found.alignment if found else np.nan,
                shuffled=found.shuffled if found else np.nan,
                probe_loss=found.loss if found else np.nan,
                reference_loss=self.state["reference"].get(task, np.nan),
                train_loss=losses.get(task, np.nan),
            )
        at = Epoch(epoch, self._count, c.sigma_start, c.sigma_end)
        weights, self.state["scheduler"] = self._scheduler.weigh(
            at, signals, self.state["scheduler"]
        )
        if jax.process_count() > 1:  # to the last bit what the first process has
            values = np.array(list(weights.values()))
            values = multihost_utils.broadcast_one_to_all(_bits(values))
            weights = dict(zip(weights, _floats(values).tolist(), strict=True))
        return Plan(weights, prober, signals, c.name)


def _bits(values: np.ndarray) -> np.ndarray:
    """float64 as int32 pairs, which JAX passes on unrounded."""
    return values.view(np.int32)


def _floats(bits: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(np.asarray(bits, np.int32)).view(np.float64)
