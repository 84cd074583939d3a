"""What keeps a client polite and a run honest: rates, and an end when all fails."""

import threading
import time
from collections.abc import Callable

from gve_jax.types import UserError


class Bucket:
    """So many units a minute, shared by threads; a minute's worth may come at once."""

    def __init__(
        self,
        per_minute: float,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ):
        """`per_minute`: 0 for no limit."""
        self._rate, self._most = per_minute / 60, per_minute
        self._clock, self._sleep = clock, sleep
        self._level, self._at = float(per_minute), clock()
        self._lock = threading.Lock()

    def take(self, units: float) -> None:
        """Waits until the units are there.

        More than a minute's worth is let through when the bucket is full, and the next
        wait longer.
        """
        if not self._rate:
            return
        with self._lock:
            self._fill()
            self._level -= units
            # What others took before is waited for as well: first come, first served.
            wait = (min(units, self._most) - self._level - units) / self._rate
        if wait > 0:
            self._sleep(wait)

    def settle(self, units: float) -> None:
        """Gives back what was taken too much; negative: takes what was too little."""
        with self._lock:
            self._level += units

    def _fill(self) -> None:
        now = self._clock()
        gained = (now - self._at) * self._rate
        self._level, self._at = min(self._most, self._level + gained), now


class Breaker:
    """Ends the run after so many failed requests in a row.

    An outage must not end as thousands of records that failed.
    """

    def __init__(self, most: int, what: str):
        self._most, self._what, self._row = most, what, 0
        self._lock = threading.Lock()

    def passed(self) -> None:
        with self._lock:
            self._row = 0

    def failed(self, detail: str) -> None:
        """Raises UserError where that was one too many."""
        with self._lock:
            self._row += 1
            if self._row >= self._most:
                raise outage(self._what, f"{self._row} failures in a row", detail)


def outage(what: str, happened: str, detail: str) -> UserError:
    return UserError(
        f"{what}: {happened}, the last: {detail}; nothing was given up for it: mend "
        "the server and run the same command again, which asks only what is missing"
    )
