"""Requests that arrive together are answered together, by one compiled call."""

import queue
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future


class Busy(Exception):
    """So many requests wait already that another had to wait too long."""


class Batcher:
    """Hands what waits to a function in one thread, as many at once as there are.

    A lone request does not wait for others: those that come while a batch is being
    answered are the next batch.
    """

    def __init__(
        self,
        answer: Callable[[Sequence], Sequence],
        at_once: int = 32,
        waiting: int = 256,
    ):
        """Starts the thread.

        Args:
          answer: from requests to as many answers; an exception is that of all.
          at_once: requests of a call, at most.
          waiting: requests that wait, at most.
        """
        self._answer, self._at_once = answer, at_once
        self._waiting: queue.Queue[tuple[object, Future] | None] = queue.Queue(waiting)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def ask(self, request: object) -> Future:
        """The answer to come; cancel it if nobody waits for it any more.

        Raises Busy if there are too many before it.
        """
        future: Future = Future()
        try:
            self._waiting.put_nowait((request, future))
        except queue.Full:
            raise Busy from None
        return future

    def close(self) -> None:
        """Answers what waits, then ends the thread."""
        self._waiting.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (first := self._waiting.get()) is not None:
            batch = [first]
            while len(batch) < self._at_once and not self._waiting.empty():
                batch.append(self._waiting.get())
            if last := batch[-1] is None:
                batch.pop()
            batch = [pair for pair in batch if pair[1].set_running_or_notify_cancel()]
            try:
                answers = self._answer([request for request, _ in batch])
            except Exception as e:  # whatever it is, it is for those who wait
                for _, future in batch:
                    future.set_exception(e)
            else:
                for (_, future), found in zip(batch, answers, strict=True):
                    future.set_result(found)
            if last:
                return
