"""One progress line for long work: live on a terminal, plain lines elsewhere."""

import sys
import time

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)

# Without a terminal (logs, CI) a line this often says the work goes on.
PLAIN_EVERY_S = 10.0


class ProgressLine:
    """Context manager: `with ProgressLine("embed", total, "items") as line: ...`.

    `advance` counts finished units; the attribute `note` is shown behind the rate and
    ETA. Writes to stderr, so that stdout stays a command's result.
    """

    def __init__(self, name: str, total: int, unit: str, done: int = 0):
        self._name, self._total, self._unit = name, total, unit
        self._done = self._first = done
        self.note = ""
        self._rich: Progress | None = None
        self._task = None

    def __enter__(self) -> "ProgressLine":
        self._start = self._last = time.monotonic()
        if sys.stderr.isatty():
            from rich.console import Console

            self._rich = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[note]}"),
                TimeRemainingColumn(),
                console=Console(stderr=True),
            )
            self._rich.start()
            self._task = self._rich.add_task(
                self._name, total=self._total, completed=self._done, note=""
            )
        return self

    def __exit__(self, kind, value, traceback) -> None:
        if self._rich is not None:
            self._rich.stop()
        elif kind is None:
            seconds = time.monotonic() - self._start
            self._print(f"in {seconds:.1f} s")

    def advance(self, units: int = 1) -> None:
        self._done += units
        if self._rich is not None:
            self._rich.update(self._task, completed=self._done, note=self.note)
            return
        now = time.monotonic()
        if now - self._last >= PLAIN_EVERY_S:
            self._last = now
            rate = (self._done - self._first) / (now - self._start)
            eta = (self._total - self._done) / rate if rate else float("inf")
            self._print(f"{rate:.1f} {self._unit}/s, {eta:.0f} s left {self.note}")

    def _print(self, rest: str) -> None:
        line = f"{self._name}: {self._done}/{self._total} {self._unit}, {rest}"
        print(line.rstrip(), file=sys.stderr, flush=True)
