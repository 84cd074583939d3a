"""Commands that run as several processes: their flags, their joining, their order."""

from collections.abc import Callable
from typing import TypeVar

import jax
from absl import flags
from jax.experimental import multihost_utils

from gve_jax.types import UserError

_COORDINATOR = flags.DEFINE_string(
    "coordinator",
    None,
    "Run as one of several processes: HOST:PORT of the first, or auto where JAX knows "
    "the cluster (TPU pods, SLURM, Open MPI, Kubernetes).",
)
_PROCESSES = flags.DEFINE_integer("processes", None, "Their number; not with auto.")
_PROCESS = flags.DEFINE_integer("process", None, "Which of them, from 0.")


T = TypeVar("T")


def first_ahead(work: Callable[[], T]) -> T:
    """Does `work` in the first process, and then in the others, who find what it left
    in a folder that all share."""
    if jax.process_index() != 0:
        multihost_utils.sync_global_devices("first ahead")
        return work()
    found = work()
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices("first ahead")
    return found


def initialize() -> None:
    """Joins the other processes, if the flags say so; before JAX is used otherwise.

    Raises:
      UserError: the flags do not fit together, or the others cannot be reached.
    """
    numbers = (_PROCESSES.value, _PROCESS.value)
    if not _COORDINATOR.value:
        if numbers != (None, None):
            raise UserError("--processes and --process need --coordinator=HOST:PORT")
        return
    auto = _COORDINATOR.value == "auto"
    if auto != (numbers == (None, None)) or (not auto and None in numbers):
        raise UserError(
            f"--coordinator={_COORDINATOR.value}: give --processes and --process with "
            "HOST:PORT, and neither with auto"
        )
    try:
        jax.distributed.initialize(
            None if auto else _COORDINATOR.value,
            *numbers,
            # One that failed waits so long for the others, who wait for it.
            shutdown_timeout_seconds=30,
        )
    except (RuntimeError, ValueError) as e:
        raise UserError(
            f"--coordinator={_COORDINATOR.value}: the processes did not find each "
            f"other ({str(e).splitlines()[0]})"
        ) from None
