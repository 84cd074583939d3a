"""SIGTERM as a cluster's notice: finish the step, save, leave."""

import signal
import threading

import jax
from jax.experimental import multihost_utils


class Preemption:
    """Context manager within which SIGTERM asks the run to stop.

    With several processes JAX's coordination service takes the signal, and settles the
    step after which all of them stop.
    """

    def __init__(self):
        self._asked = False
        self._old = None

    def __enter__(self) -> "Preemption":
        main = threading.current_thread() is threading.main_thread()
        if main and jax.process_count() == 1:
            self._old = signal.signal(signal.SIGTERM, self._ask)
        return self

    def __exit__(self, kind, value, traceback) -> None:
        if self._old is not None:
            signal.signal(signal.SIGTERM, self._old)

    def asked(self, step: int) -> bool:
        """Whether to stop after this step. To be called once at every step."""
        if jax.process_count() > 1:
            return multihost_utils.reached_preemption_sync_point(step)
        return self._asked

    def _ask(self, number, frame) -> None:
        self._asked = True
