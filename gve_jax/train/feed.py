"""Batches on their way to the devices, and the watch over them."""

import queue
import threading
from collections.abc import Callable
from typing import NamedTuple

from gve_jax.data.loader import Batch, PairLoader
from gve_jax.types import PairBatch, UserError

# Batches that wait on the devices: one hides the transfer of the next.
_AHEAD = 2
# Parts of the longest wait: a process that was stopped for hours loses one of them.
_WAITS = 10


class Fed(NamedTuple):
    """A batch on the devices, and the loader's position behind it."""

    batch: Batch  # without its inputs
    inputs: PairBatch
    state: dict


class Feed:
    """Takes batches from a loader in a thread of its own, which starts at once.

    Args:
      loader: in an epoch that has begun.
      count: batches to take in all.
      put: places a PairBatch on the devices.
      stall_s: most seconds to wait for a batch; 0: no limit.
    """

    def __init__(
        self,
        loader: PairLoader,
        count: int,
        put: Callable[[PairBatch], PairBatch],
        stall_s: float,
    ):
        self._loader, self._put, self._stall_s = loader, put, stall_s
        self._queue: queue.Queue[Fed | Exception] = queue.Queue(_AHEAD)
        self._closed = threading.Event()
        # A thread that waits for storage must not keep the run from ending.
        threading.Thread(target=self._run, args=(count,), daemon=True).start()

    def close(self) -> None:
        """Lets the thread end; batches that were not taken are lost."""
        self._closed.set()

    def __next__(self) -> Fed:
        """The next batch.

        Raises:
          UserError: none came for `stall_s` seconds; names the media being read. Also
            whatever the loader raised.
        """
        for _ in range(_WAITS):
            try:
                # Without a limit the first wait is the last.
                fed = self._queue.get(timeout=self._stall_s / _WAITS or None)
                break
            except queue.Empty:
                continue
        else:
            reading = self._loader.reading()
            raise UserError(
                f"no batch for {self._stall_s:g} s (data.stall_s), while reading "
                f"{', '.join(sorted(set(reading))[:8]) or 'no medium'}: see to the "
                "storage or to these files, then run the same command again to go on"
            )
        if isinstance(fed, Exception):
            raise fed
        return fed

    def _run(self, count: int) -> None:
        try:
            for _ in range(count):
                batch = next(self._loader)
                state = self._loader.get_state()
                inputs = self._put(batch.inputs)
                self._hand(Fed(batch._replace(inputs=None), inputs, state))
                if self._closed.is_set():
                    return
        except Exception as e:  # raised where the batch is wanted
            self._hand(e)

    def _hand(self, fed: Fed | Exception) -> None:
        while not self._closed.is_set():
            try:
                return self._queue.put(fed, timeout=0.2)
            except queue.Full:
                continue
