"""Items read ahead and in order, by threads or by processes that can be killed.

A thread that is stuck in a decoder cannot be stopped, and a decoder that crashes takes
its process along. In a process of their own they cost the item they were reading.
"""

import collections
import contextlib
import functools
import gc
import multiprocessing
import multiprocessing.connection
import os
import pickle
import queue
import signal
import subprocess
import sys
import threading
import time
import traceback
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import threadpoolctl

from gve_jax.types import Item

# A tuple of arrays, or the reason why there is none.
Read = Callable[[Item], tuple | str]

# Results that wait at most: in number, and in bytes where they are large.
_AHEAD, _AHEAD_BYTES = 64, 1 << 30
_MANY = 256  # media that are worth starting processes for, where it is left to us
_WATCH_S = 0.1  # between two looks at the memory of a worker
_CODE = "import sys; from gve_jax.preprocess import workers; workers.serve(sys.argv[1])"


class Lost(str):
    """Why an item was lost to time, memory or a crash.

    Its file may be sound: unlike another reason this is none for good.
    """


class Reader:
    """Reads items with a function, several at once."""

    def __init__(
        self,
        read: Read,
        processes: int = 0,
        timeout_s: float = 180.0,
        memory_mb: int = 4096,
    ):
        """Starts nothing yet.

        Args:
          read: thread-safe. For processes it is pickled; it must not need jax, which
            would ask for the devices again.
          processes: their number; 0 reads in threads of this process, which know no
            limits but those of `read` itself; -1 is one a core, but 0 for calls with
            less than 256 media. Texts are read in this process anyhow.
          timeout_s: wall time of one item in a process.
          memory_mb: resident memory of a process (on Linux; not watched elsewhere).
        """
        cores = os.cpu_count() or 1
        self._least = _MANY if processes < 0 else 1
        processes = cores if processes < 0 else processes
        self._read, self._places, self._threads = read, processes, 2 * cores
        self._start = functools.partial(_Worker, read, timeout_s, memory_mb)
        self._idle: queue.SimpleQueue[_Worker | None] = queue.SimpleQueue()
        for _ in range(processes):
            self._idle.put(None)  # started when it is needed
        self._workers: set[_Worker] = set()
        weakref.finalize(self, _kill, self._workers)

    def ahead(self, items: Sequence[Item]) -> Iterator[tuple | str]:
        """What `read` gives for each item, in order, read ahead by a bounded window.

        An item that takes too long or too much memory, or that ends its process, gives
        a `Lost`. Close the iterator if you leave it early (`contextlib.closing`): that
        ends the processes. Otherwise they wait for the next call.

        Raises:
          RuntimeError: `read` raised in a process, or the processes do not start.
        """
        stop = threading.Event()
        read, places = self._read, self._threads
        if self._places and sum(map(_has_media, items)) >= self._least:
            read, places = functools.partial(self._read_elsewhere, stop), self._places
        pool = ThreadPoolExecutor(places)
        pending: collections.deque = collections.deque()
        window = _AHEAD
        done = False
        try:
            for item in items:
                pending.append(pool.submit(read, item))
                while len(pending) > window:
                    found = pending.popleft().result()
                    size = 1 + _nbytes(found)
                    window = max(places, min(_AHEAD, _AHEAD_BYTES // size))
                    yield found
            while pending:
                yield pending.popleft().result()
            done = True
        finally:
            # A thread that hangs is not waited for.
            pool.shutdown(wait=False, cancel_futures=True)
            if not done:
                stop.set()
                _kill(self._workers)

    def stream(self, jobs: Iterable) -> Iterator[tuple[Any, Any]]:
        """What `read`, here a generator, yields for each job: several at once.

        In processes only. Time and memory are limited from one part to the next, not
        for the whole of a job. A job that passes them, or that ends its process, ends
        in a `Lost`; before its first part another process tries again. Closing the
        iterator ends the processes.

        Args:
          jobs: asked for one when a process is free, by any thread.

        Yields:
          (job, part): a job's in their order, among those of the others.

        Raises:
          RuntimeError: as `ahead`; whatever `jobs` raises.
          ValueError: the reader has no processes.
        """
        if not self._places:
            raise ValueError("a reader in threads cannot end what takes too long")
        parts = _Parts()
        jobs, lock = iter(jobs), threading.Lock()

        def serve() -> None:
            try:
                while True:
                    with lock:
                        job = next(jobs, parts)
                    if job is parts or parts.is_closed():
                        break
                    for part in self._elsewhere(parts.is_closed, _Worker.stream, job):
                        parts.put((job, part))
            except BaseException as e:
                parts.put(e)
            parts.put(None)

        threads = [
            threading.Thread(target=serve, daemon=True) for _ in range(self._places)
        ]
        try:
            for thread in threads:
                thread.start()
            running = len(threads)
            while running:
                found = parts.get()
                if isinstance(found, BaseException):
                    raise found
                if found is None:
                    running -= 1
                else:
                    yield found
        finally:
            parts.close()
            _kill(self._workers)

    def _read_elsewhere(self, stop: threading.Event, item: Item) -> tuple | str:
        if not _has_media(item):
            return self._read(item)
        [found] = self._elsewhere(stop.is_set, _Worker.read, item)
        if isinstance(found, Lost):
            found = Lost(f"{item.video or item.image}: {found}")
        return found

    def _elsewhere(
        self,
        stopped: Callable[[], bool],
        parts_of: Callable[["_Worker", Any], Iterator],
        job: Any,
    ) -> Iterator:
        """What a process gives for a job, the last a `Lost` if it ended."""
        worker = self._idle.get()
        try:
            begun = False
            while True:
                fresh = worker is None
                if fresh:
                    worker = self._start()
                    self._workers.add(worker)
                try:
                    for part in parts_of(worker, job):
                        begun = True
                        yield part
                    return
                except _Ended as e:
                    self._workers.discard(worker)
                    worker = None
                    # Memory that earlier items left behind is not this one's fault,
                    # nor is an end that came before it.
                    if begun or fresh or stopped() or not e.again:
                        yield Lost(e)
                        return
        finally:
            self._idle.put(worker)


class _Parts:
    """A queue from threads to one reader, bounded in number and in bytes."""

    def __init__(self):
        self._parts: collections.deque = collections.deque()
        self._bytes = 0
        self._changed = threading.Condition()
        self._closed = threading.Event()
        self.is_closed = self._closed.is_set

    def put(self, part) -> None:
        """Waits for room; once it is closed, parts are for nobody."""
        size = _nbytes(part)
        with self._changed:
            self._changed.wait_for(
                lambda: (
                    self.is_closed()
                    or not self._parts
                    or (len(self._parts) < _AHEAD and self._bytes + size < _AHEAD_BYTES)
                )
            )
            self._parts.append((part, size))
            self._bytes += size
            self._changed.notify_all()

    def get(self) -> Any:
        with self._changed:
            self._changed.wait_for(lambda: self._parts)
            part, size = self._parts.popleft()
            self._bytes -= size
            self._changed.notify_all()
            return part

    def close(self) -> None:
        with self._changed:
            self._closed.set()
            self._changed.notify_all()


def _nbytes(part) -> int:
    """Of the arrays in nested tuples."""
    if isinstance(part, tuple):
        return sum(map(_nbytes, part))
    return getattr(part, "nbytes", 0)


class _Ended(Exception):
    """A worker is no more; `again`: another may do better."""

    def __init__(self, message: str, again: bool = True):
        super().__init__(message)
        self.again = again


class _Raised(NamedTuple):
    """A fault of the program in a worker, not of an item."""

    text: str


class _Worker:
    """A process that reads one item at a time."""

    def __init__(self, read: Read, timeout_s: float, memory_mb: int):
        self._timeout_s, self._memory_mb = timeout_s, memory_mb
        self._pipe, theirs = multiprocessing.Pipe()
        path = os.pathsep.join(p or os.getcwd() for p in sys.path)
        # Not by multiprocessing, which would import this process's __main__, and with
        # it jax.
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-c", _CODE, str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                env=os.environ | {"PYTHONPATH": path},
                pass_fds=[theirs.fileno()],
                process_group=0,  # Ctrl-C is for this process, which ends them
            )
        try:
            self._pipe.send_bytes(pickle.dumps((read, timeout_s), 5))
            self._pipe.recv_bytes()  # ready: its start is not the first item's time
        except (EOFError, OSError):
            raise RuntimeError(
                f"a process that reads media does not start ({self._end()})"
            ) from None

    def read(self, item: Item) -> Iterator[tuple | str]:
        """What is read, one part.

        Raises _Ended if it could not be read, after which the process is gone.
        """
        self._send(item)
        yield self._receive()

    def stream(self, job) -> Iterator:
        """The parts of what is read; raises as `read`."""
        self._send(job)
        while (part := self._receive()) is not None:
            yield part

    def _send(self, item) -> None:
        with self._ending():
            self._pipe.send_bytes(pickle.dumps(item, 5))

    def _receive(self) -> Any:
        deadline = time.monotonic() + self._timeout_s
        with self._ending():
            while not self._pipe.poll(_WATCH_S):
                if time.monotonic() > deadline:
                    raise _Ended(f"reading took over {self._timeout_s:g} s", False)
                if self._resident_mb() > self._memory_mb:
                    raise _Ended(f"reading took over {self._memory_mb} MB of memory")
            found = pickle.loads(self._pipe.recv_bytes())
        if isinstance(found, _Raised):
            raise RuntimeError(f"in a process that reads media: {found.text}")
        return found

    @contextlib.contextmanager
    def _ending(self) -> Iterator[None]:
        try:
            yield
        except (EOFError, OSError):
            raise _Ended(f"the process that read it ended ({self._end()})") from None
        except _Ended:
            self.kill()
            raise

    def kill(self) -> None:
        """Ends the process, whatever it does."""
        self._process.kill()
        self._process.wait()

    def _end(self) -> str:
        """How it ended, after its pipe has."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(5)
        self.kill()
        code = self._process.returncode
        return signal.Signals(-code).name if code < 0 else f"exit code {code}"

    def _resident_mb(self) -> float:
        try:
            with open(f"/proc/{self._process.pid}/statm") as f:
                return int(f.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20
        except OSError:
            return 0.0


def _has_media(item: Item) -> bool:
    return bool(item.image or item.video)


def _kill(workers: set[_Worker]) -> None:
    for worker in list(workers):
        worker.kill()


def serve(fd: str) -> None:
    """A worker's own side, on the file descriptor of its pipe.

    The pipe's end is its end: it does not outlive the process that started it.
    """
    pipe = multiprocessing.connection.Connection(int(fd))
    try:
        read, timeout_s = pickle.loads(pipe.recv_bytes())
        threadpoolctl.threadpool_limits(1, user_api="blas")  # as in Processor
        gc.freeze()  # what is here by now stays: none of it is looked at again
        pipe.send_bytes(b"ready")
        while True:
            parts = _answers(read, pickle.loads(pipe.recv_bytes()))
            while True:
                # Who started it kills it earlier, but may itself have been killed; then
                # the kernel does, at the default action of SIGALRM.
                signal.setitimer(signal.ITIMER_REAL, 2 * timeout_s)
                part = next(parts, parts)
                signal.setitimer(signal.ITIMER_REAL, 0)
                if part is parts:
                    break
                pipe.send_bytes(pickle.dumps(part, 5))
                # PyAV's frames and their side data hold each other.
                gc.collect()
    except (EOFError, OSError):
        return


def _answers(read: Callable, item) -> Iterator:
    """What is read; of a generator all parts, and None behind them."""
    try:
        found = read(item)
        if isinstance(found, Iterator):
            yield from found
            yield None
        else:
            yield found
    except Exception:
        yield _Raised(traceback.format_exc())
