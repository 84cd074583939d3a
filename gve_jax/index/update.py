"""What is new in some folders, embedded into an index; what is gone, taken out.

Files are known by path, size and time of change; those that seem new, by the hash of
their bytes, so that moved files and copies are not embedded again. Windows of a file
are kept as they come, its whole video last: a file without that is unfinished, and the
next run goes on with the windows that it lacks. While it runs items are only added:
what they replace, and what is gone, is taken out at its end.
"""

import collections
import contextlib
import functools
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from gve_jax import media
from gve_jax.config import default_config
from gve_jax.embed import Embedder
from gve_jax.embed.embedder import Ready
from gve_jax.index import spans
from gve_jax.index.recall import Sample
from gve_jax.index.spans import End, Job, Span
from gve_jax.index.store import (
    SCHEMA,
    Entry,
    Failure,
    File,
    Writer,
    local_path,
    path_text,
    shorten,
)
from gve_jax.index.walk import Found, Walk, under
from gve_jax.index.windows import Windows
from gve_jax.media import MediaError, files
from gve_jax.preprocess import Lost, Reader
from gve_jax.progress import ProgressLine
from gve_jax.types import UserError

# Between two commits: at least so many seconds, and so many times what one took.
_COMMIT_S, _COMMIT_TIMES = 60.0, 10.0
# Codes of MediaError that say a file is none of ours, not that something is wrong.
_NO_MEDIA = {"unknown_format", "no_video", "empty", "not_a_file"}


class _Reading:
    """A file that is being read and embedded."""

    def __init__(self, file: File):
        self.file = file
        self.waiting = 0  # spans on their way through the embedder
        self.end: End | Lost | None = None
        self.whole: tuple[Entry, np.ndarray] | None = None
        self.errors: list[str] = []  # of its parts
        self.share = 0.0  # of it that is read


class Update:
    """One run of `build` or `add`."""

    def __init__(
        self,
        writer: Writer,
        embedder: Embedder,
        rule: Windows,
        found: Walk,
        drop_gone: bool,
    ):
        """Sorts out what there is to do.

        Args:
          drop_gone: take out files that were under the folders and are no more.

        Raises:
          UserError: a folder is empty of which the index has files.
        """
        self._writer, self._embedder, self._rule = writer, embedder, rule
        self._walk, self._drop_gone = found, drop_gone
        self._counts: collections.Counter[str] = collections.Counter()
        self._left_out = collections.Counter(found.left_out)
        self._failures = {failure.file: failure for failure in found.failures}
        self._seconds = 0.0  # of video, embedded
        self._sample = Sample(writer, embedder.dim)
        self._reading: dict[str, _Reading] = {}  # by path
        # Files of known bytes, which are those of the path in `_by_hash`.
        self._to_share: collections.deque[File] = collections.deque()
        self._silent: set[str] = set()  # hashes of files without pictures
        self._lock = threading.Lock()  # of the progress line
        self._bytes, self._shown = 0.0, 0
        self._changed = False

        items = writer.items
        whole = items.filter(pc.not_equal(items["kind"], "window"))
        done = [_file(row) for row in whole.select(_FIELDS).to_pylist()]
        self._done = {(file.path, file.hash) for file in done}
        self._by_hash = {file.hash: file.path for file in done}
        stamps = {(file.path, file.size, file.mtime_ns) for file in done}
        # Windows of unfinished files; a finished one may once have had the same name.
        self._parts: dict[File, set] = collections.defaultdict(set)
        unfinished = pc.invert(pc.is_in(_version(items), value_set=_version(whole)))
        for row in items.filter(unfinished).to_pylist():
            self._parts[_file(row)].add((row["start"], row["end"]))
        self._known = {path for path, _ in self._done} | {f.path for f in self._parts}
        # Path -> (size, time of change, hash if it was asked for), of media that are
        # there now.
        self._now: dict[str, tuple[int | None, int | None, str | None]] = {}
        self._moved: set[str] = set()  # paths that files were moved from
        self._todo = self._sorted_out(stamps)

    def run(self) -> None:
        """Does it all, committing now and then and at the end.

        Raises:
          UserError: nothing at all could be embedded, or the index not be written.
          KeyboardInterrupt: SIGINT or SIGTERM came; what was done is committed.
        """
        reading = default_config().embed
        reader = Reader(
            functools.partial(spans.read, self._embedder.processor, self._rule),
            reading.decode_workers if reading.decode_workers > 0 else os.cpu_count(),
            reading.decode_timeout_s,
            reading.decode_memory_mb,
        )
        self._start = self._committed = time.monotonic()
        self._took = 0.0  # seconds of the last commit
        total = sum(file.size for file, _ in self._todo)
        # By bytes: how long the videos are is known once each is opened.
        self._unit, name = (1 << 20, "MB") if total >> 27 else (1 << 10, "kB")
        self._line = ProgressLine("index", total // self._unit, name)
        with _Stop() as self._stop:
            if self._todo:
                with (
                    self._line,
                    contextlib.closing(reader.stream(self._jobs())) as parts,
                ):
                    for name, vector in self._embedder.stream(self._ready(parts)):
                        self._take(*name, vector)
            if not self._stop.asked:
                self._finish()
            self._commit()
        if self._stop.asked:
            raise KeyboardInterrupt
        if not self._counts.keys() - {"removed"}:
            roots = ", ".join(map(path_text, self._walk.roots))
            reason = next((f.error for f in self._failures.values()), "")
            reason = (
                f"nothing could be embedded, first: {reason}"
                if reason
                else (self._what_else() or "no video and no image")
            )
            raise UserError(f"{roots}: {reason}")

    def report(self) -> str:
        """What was done, in a few lines."""
        n, took = self._counts, time.monotonic() - self._start
        made = n["windows"] + n["videos"] + n["images"]
        others = ("unchanged", "moved", "copies", "removed")
        lines = [
            f"{self._writer.path}: embedded {n['videos']} videos "
            f"({self._seconds / 3600:.2f} h), {n['windows']} windows, {n['images']} "
            f"images in {took:.0f} s ({made / took:.1f} vectors/s, "
            f"{self._seconds / took:.1f} s of video a second)",
            ", ".join(f"{n[name]} {name}" for name in others if n[name]),
            self._what_else(),
            self._sample.report,
        ]
        if self._failures:
            where = self._writer.path / "failures.jsonl"
            lines.append(f"{len(self._failures)} could not be read, see {where}")
        return "\n".join(filter(None, lines))

    def _what_else(self) -> str:
        most = self._left_out.most_common(8)
        what = ", ".join(f"{count} {name}" for name, count in most)
        rest = sum(self._left_out.values()) - sum(count for _, count in most)
        more = f" and {rest} others" if rest else ""
        return f"left out, neither video nor image: {what}{more}" if what else ""

    def _sorted_out(self, stamps: set[tuple]) -> list[tuple[Found, str]]:
        """The files that have to be read, and whether each is a video or an image."""
        failed = {failure.file: failure for failure in self._writer.failures}
        todo = []
        for found in self._walk.files:
            path, stamp = path_text(found.path), (found.size, found.mtime_ns)
            self._now[path] = (*stamp, None)
            before = failed.get(path)
            if (path, *stamp) in stamps:
                self._counts["unchanged"] += 1
            elif before and not before.again and stamp == before[3:]:
                self._failures[path] = before
            else:
                try:
                    todo.append((found, files.inspect(found.path)[1]))
                except MediaError as e:
                    if e.code in _NO_MEDIA:
                        self._left_out[_suffix(found.path)] += 1
                        del self._now[path]
                    else:
                        self._unreadable(found, e)
        for root in self._walk.roots if self._drop_gone else ():
            inside = sum(under(local_path(path), [root]) for path in self._known)
            if inside and not any(under(f.path, [root]) for f in self._walk.files):
                name = path_text(root)
                raise UserError(
                    f"{name}: no file there, but {inside} in the index: is it mounted? "
                    f"If they are gone: python -m gve_jax.index remove {name}"
                )
        return todo

    def _jobs(self) -> Iterator[Job]:
        """Hashes the files; known bytes are no job. Other threads run it."""
        for found, kind in self._todo:
            if self._stop.asked:
                return
            path = path_text(found.path)
            try:
                info = os.stat(found.path)
                digest = media.content_key(found.path)
            except (OSError, MediaError) as e:
                self._unreadable(found, e)
                self._advance(found.size)
                continue
            file = File(path, found.root, info.st_size, info.st_mtime_ns, digest)
            self._now[path] = file[2:]
            if digest in self._by_hash:
                self._to_share.append(file)
                self._advance(file.size)
                continue
            self._by_hash[digest] = path
            self._reading[found.path] = _Reading(file)
            done = frozenset(self._parts.get(file._replace(root=""), ()))
            yield Job(found.path, kind, done)

    def _ready(self, parts: Iterator) -> Iterator[Ready | None]:
        """What the readers give, for the embedder; keeps account of the rest."""
        for job, part in parts:
            reading = self._reading[job.path]
            if isinstance(part, float):
                self._advance((part - reading.share) * reading.file.size)
                reading.share = part
            elif isinstance(part, (End, Lost)):
                self._advance((1 - reading.share) * reading.file.size)
                reading.end = part
                self._close(reading)
            elif isinstance(part.encoded, str):
                reading.errors.append(part.encoded)
            else:
                reading.waiting += 1
                cut = (job.path, part.span.start, part.span.end)
                yield Ready((reading, part.span), part.encoded, cut)
            pause = max(_COMMIT_S, _COMMIT_TIMES * self._took)
            if time.monotonic() - self._committed > pause or self._stop.asked:
                yield None  # all vectors up to here
                self._commit()
            if self._stop.asked:
                return

    def _take(self, reading: _Reading, span: Span, vector: np.ndarray) -> None:
        """A vector; that of a whole file is kept back until all others are there."""
        entry = Entry(reading.file, *span)
        self._sample.see(vector)
        reading.waiting -= 1
        if span.kind == "window":
            self._append(entry, vector)
            self._counts["windows"] += 1
        else:
            reading.whole = entry, vector
        self._close(reading)

    def _close(self, reading: _Reading) -> None:
        """Ends with a file, if nothing more is to come of it."""
        file, end = reading.file, reading.end
        if end is None or reading.waiting:
            return
        if _stamp(local_path(file.path)) != (file.size, file.mtime_ns):
            end = Lost("it was changed or moved while it was read")
        if isinstance(end, Lost):
            self._fail(file, end, again=True)
            return
        if end.silent:
            self._silent.add(file.hash)
            self._leave_out_silent(file)
        elif end.error:
            self._fail(file, end.error)
        elif reading.errors:
            count = len(reading.errors)
            more = f" ({count} parts of it failed)" if count > 1 else ""
            self._fail(file, reading.errors[0] + more)
        if reading.whole:
            entry, _ = reading.whole
            self._append(*reading.whole)
            self._counts["images" if entry.kind == "image" else "videos"] += 1
            self._seconds += entry.duration
            self._done.add((file.path, file.hash))
        del self._reading[local_path(file.path)]

    def _append(self, entry: Entry, vector: np.ndarray) -> None:
        self._writer.append(shorten(vector[None], self._writer.dim), [entry])
        self._changed = True

    def _finish(self) -> None:
        """Settles what only the end of a run tells."""
        self._share()
        for file in self._to_share:  # copies of what failed
            why = self._failures.get(self._by_hash[file.hash])
            if file.hash in self._silent:
                self._leave_out_silent(file)
            elif why:
                self._fail(file, why.error, why.again)
        gone = set()
        if self._drop_gone:
            hidden = [local_path(f.file) for f in self._walk.failures]
            gone = {
                path
                for path in self._known - self._now.keys() - self._moved
                if under(local_path(path), self._walk.roots)
                and not under(local_path(path), hidden)
            }
            self._counts["removed"] += len(gone)
        mask = self._replaced(sorted(gone))
        if mask.any():
            self._writer.drop(mask)
            self._changed = True
        self._sample.measure()

    def _replaced(self, gone: list[str]) -> np.ndarray:
        """bool [items]: of a file that is gone, or that is another by now."""
        items, now = self._writer.items, list(self._now.values())
        gone = pc.is_in(items["file"], value_set=pa.array(gone, pa.string()))
        mask = gone.to_numpy()
        paths = pa.array(list(self._now), pa.string())
        place = pc.index_in(items["file"], value_set=paths).combine_chunks()
        for k, name in enumerate(("size", "mtime_ns", "hash")):
            values = pa.array([stamp[k] for stamp in now], SCHEMA.field(name).type)
            other = pc.not_equal(items[name], values.take(place))
            mask = mask | other.fill_null(False).to_numpy()
        return mask

    def _share(self) -> None:
        """Files whose bytes are in the index by now get the same rows.

        Where the file that these were of is gone, it was moved: its items go.
        """
        ready = []
        for _ in range(len(self._to_share)):  # other threads append
            file = self._to_share.popleft()
            source = self._by_hash[file.hash]
            if (source, file.hash) in self._done:
                ready.append((source, file))
            else:
                self._to_share.append(file)
        if not ready:
            return
        self._writer.share(ready)
        self._changed = True
        moved = set()
        for source, file in ready:
            self._done.add((file.path, file.hash))
            if source == file.path:  # its time has changed, nothing else
                self._counts["unchanged"] += 1
            elif os.path.lexists(local_path(source)) or source in self._moved:
                self._counts["copies"] += 1
            else:
                self._counts["moved"] += 1
                self._by_hash[file.hash] = file.path
                self._moved.add(source)
                moved.add(f"{file.hash}/{source}")
        versions = _version(self._writer.items)
        old = pc.is_in(versions, value_set=pa.array(sorted(moved), pa.string()))
        self._writer.drop(old.to_numpy())

    def _commit(self) -> None:
        start = time.monotonic()
        self._share()
        others = [
            f
            for f in self._writer.failures
            if not under(local_path(f.file), self._walk.roots)
            and os.path.lexists(local_path(f.file))
        ]
        failures = sorted([*others, *self._failures.values()])
        if self._changed or failures != self._writer.failures:
            self._writer.failures = failures
            self._writer.commit()
        self._changed = False
        self._committed = time.monotonic()
        self._took = self._committed - start

    def _unreadable(self, found: Found, e: Exception) -> None:
        """Nobody knows what is in it: what the index has of it stays."""
        path = path_text(found.path)
        self._now[path] = (None, None, None)
        reason = getattr(e, "message", None) or getattr(e, "strerror", None) or e
        self._failures[path] = Failure(path, f"cannot be read: {reason}", True)

    def _leave_out_silent(self, file: File) -> None:
        self._left_out[f"{_suffix(file.path)} without pictures"] += 1

    def _fail(self, file: File, error: str, again: bool = False) -> None:
        # A path in it may be none that can be printed.
        error = error.encode(errors="backslashreplace").decode()
        self._failures[file.path] = Failure(
            file.path, error, again, file.size, file.mtime_ns
        )

    def _advance(self, size: float) -> None:
        """So many bytes are done with."""
        with self._lock:
            self._bytes += size
            whole = int(self._bytes / self._unit)
            n = self._counts
            self._line.note = (
                f"{n['videos']} videos, {n['images']} images, {n['windows']} windows, "
                f"{len(self._failures)} failures"
            )
            self._line.advance(whole - self._shown)
            self._shown = whole


class _Stop:
    """Within it the first SIGINT or SIGTERM only asks; the next acts as ever."""

    def __init__(self):
        self.asked = False
        self._old: dict = {}

    def __enter__(self) -> "_Stop":
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._old[number] = signal.signal(number, self._ask)
        return self

    def __exit__(self, *_) -> None:
        for number, handler in self._old.items():
            signal.signal(number, handler)

    def _ask(self, number, frame) -> None:
        self.asked = True
        self.__exit__()
        print("stopping: what is finished is kept", file=sys.stderr, flush=True)


_FIELDS = ("file", "size", "mtime_ns", "hash")


def _file(row: dict) -> File:
    """Without its root: to compare."""
    return File(row["file"], "", row["size"], row["mtime_ns"], row["hash"])


def _stamp(path: str) -> tuple[int, int] | None:
    try:
        info = os.stat(path)
        return info.st_size, info.st_mtime_ns
    except OSError:
        return None


def _version(items: pa.Table) -> pa.ChunkedArray:
    """Path and hash of each item."""
    return pc.binary_join_element_wise(items["hash"], items["file"], "/")


def _suffix(path: str) -> str:
    suffix = os.path.splitext(path_text(path))[1].lower()
    return suffix if 1 < len(suffix) < 9 else "without a suffix"
