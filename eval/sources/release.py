"""A source dataset's own release: its annotation files, and media found by name."""

import json
import os
import pathlib
import tarfile
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import pyarrow
import pyarrow.parquet as pq

from gve_jax import disk
from gve_jax.data.formats import rows
from gve_jax.types import UserError

# Names of media: the rest of a release is annotations and archives. DiDeMo has videos
# that end in a bare dot or in nothing.
_VIDEO = (
    {".mp4", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".m4v", ".wmv", ".flv"}
    | {".ogv", ".3gp", ".3g2", ".mts", ".m2ts", ".ts", ".gif"}
    | {".", ""}
)
_IMAGE = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif"}
_KINDS = {"video": _VIDEO, "image": _IMAGE}
_TABLES = (".json", ".jsonl", ".csv", ".txt", ".parquet")
_ARCHIVES = (".zip", ".tar.gz", ".tgz", ".7z", ".rar")
_BLOCK = 1 << 20


class Stored(NamedTuple):
    """A file, or a file inside of a tar file."""

    path: str
    name: str  # its place in the release, tar files being folders
    offset: int | None = None  # of its bytes in the tar file
    size: int = 0

    def read(self) -> bytes:
        with open(self.path, "rb") as f:
            if self.offset is None:
                return f.read()
            f.seek(self.offset)
            return f.read(self.size)

    def place(self, target: pathlib.Path, copy: bool) -> None:
        """Links or copies it to `target`, unless that was done before."""
        if self.offset is None and not copy:
            source = os.path.abspath(self.path)
            if target.is_symlink():
                if os.readlink(target) == source:
                    return
                target.unlink()
            if not target.exists():
                target.symlink_to(source)
            return
        size = os.path.getsize(self.path) if self.offset is None else self.size
        there = target.is_file() and not target.is_symlink()
        if there and target.stat().st_size == size:
            return
        part = target.with_name(target.name + ".part")
        with open(self.path, "rb") as f, open(part, "wb") as out:
            f.seek(self.offset or 0)
            while size and (block := f.read(min(_BLOCK, size))):
                out.write(block)
                size -= len(block)
        part.replace(target)


class Release:
    """A folder as it was fetched, archives unpacked; tar files may stay as they are.

    Args:
      folder: of one source; media may lie at any depth, links are followed.
      unpacked: where readers keep media that are no files yet.
      get: where the release is to be had, for messages.

    Raises:
      UserError: no such folder, or a broken tar file in it.
    """

    def __init__(self, folder: str | os.PathLike, unpacked: pathlib.Path, get: str):
        self.folder = pathlib.Path(folder).absolute()
        self.unpacked, self.get = unpacked, get
        self.corpus = rows.Corpus(self.folder, self.folder, 0)
        self.archives: list[str] = []  # that are still packed
        self._stored: dict[str, Stored] = {}  # by name
        self._tables: list[tuple[pathlib.PurePosixPath, pathlib.Path]] = []
        self._media: dict[str, list[str]] = {}  # stem of a file's name -> names
        if not self.folder.is_dir():
            raise UserError(f"--input: no folder {str(folder)!r}; give the release's")
        for path in _walk(self.folder):
            name = path.relative_to(self.folder).as_posix()
            if path.suffix == ".tar":
                self._add_tar(path, name.removesuffix(".tar"))
            else:
                self._add(Stored(str(path), name))
            if name.endswith(_TABLES):
                self._tables.append((pathlib.PurePosixPath(name), path))
            if name.endswith(_ARCHIVES):
                self.archives.append(name)

    def _add(self, stored: Stored) -> None:
        if stored.name in self._stored:
            return
        self._stored[stored.name] = stored
        stem, suffix = os.path.splitext(os.path.basename(stored.name))
        if suffix.lower() in _VIDEO | _IMAGE:
            self._media.setdefault(stem, []).append(stored.name)

    def _add_tar(self, path: pathlib.Path, folder: str) -> None:
        try:
            with tarfile.open(path, "r:") as tar:
                for member in tar:
                    inner = pathlib.PurePosixPath(member.name)
                    if member.isreg() and ".." not in inner.parts:
                        place = (member.offset_data, member.size)
                        self._add(Stored(str(path), f"{folder}/{inner}", *place))
        except (tarfile.TarError, OSError) as e:
            raise UserError(f"{path}: a broken tar file ({e}); fetch it again") from e

    def stored(self, suffix: str) -> list[Stored]:
        """All files whose names end so, also inside of tar files, by name."""
        return [s for n, s in sorted(self._stored.items()) if n.endswith(suffix)]

    def annotations(self, *patterns: str) -> list[pathlib.Path]:
        """The files of the first pattern that has any, at the least depth that has one.

        Raises UserError if there are none.
        """
        for pattern in patterns:
            found = [path for name, path in self._tables if name.match(pattern)]
            least = min((len(path.parts) for path in found), default=0)
            found = [path for path in found if len(path.parts) == least]
            if len(found) > 1 and "*" not in pattern:
                raise UserError(f"{found[0]} and {found[1]}: remove one of the two")
            if found:
                return sorted(found)
        raise UserError(
            f"--input: none of {', '.join(patterns)} is below {self.folder}; the "
            f"source is {self.get}"
        )

    def find(self, value: str, kind: str) -> Stored | None:
        """The file of a medium that an annotation names, None if there is none.

        `value` is the end of its path, at whatever depth; another ending than the
        annotation's will do, as releases re-encode. The whole value must agree: base
        names alone may recur.

        Raises UserError if different files answer to it.
        """
        *folders, name = pathlib.PurePosixPath(value).parts
        stem, suffix = os.path.splitext(name)
        # An id may hold dots: what follows its last one need not be an ending.
        stems = (name, stem) if suffix.lower() in _KINDS[kind] else (name,)
        ranked: dict[int, list[str]] = {}
        for rank, wanted in enumerate(stems, 1):
            for found in self._media.get(wanted, ()):
                *above, last = found.split("/")
                fits = os.path.splitext(last)[1].lower() in _KINDS[kind]
                if fits and (not folders or above[-len(folders) :] == folders):
                    ranked.setdefault(0 if last == name else rank, []).append(found)
        best = ranked[min(ranked)] if ranked else []
        if not best:
            return None
        if len(best) > 1 and len({self._size(name) for name in best}) > 1:
            raise UserError(
                f"{self.folder}: {best[0]} and {best[1]} both answer to {value!r} and "
                "differ; remove the one that is not meant"
            )
        return self._stored[best[0]]

    def _size(self, name: str) -> int:
        stored = self._stored[name]
        return os.path.getsize(stored.path) if stored.offset is None else stored.size

    def file(self, stored: Stored) -> str:
        """The path of a file that decoders can open."""
        if stored.offset is None:
            return stored.path
        path = self.unpacked / inside(stored.name, stored.path)
        path.parent.mkdir(parents=True, exist_ok=True)
        stored.place(path, copy=True)
        return str(path)

    def has(self, pattern: str) -> bool:
        """Whether `annotations` would find it."""
        return any(name.match(pattern) for name, _ in self._tables)

    def keep(self, name: str, content: bytes) -> None:
        """Makes a medium that an annotation file holds one of the release's."""
        path = self.unpacked / inside(name, "a medium of the release")
        if not path.is_file() or path.stat().st_size != len(content):
            path.parent.mkdir(parents=True, exist_ok=True)
            disk.replace(path, content)
        self._add(Stored(str(path), name))

    def json_rows(self, *patterns: str) -> Iterator[tuple[str, dict]]:
        """Rows of JSON lines or lists. Raises UserError for what is none."""
        return _sound(rows.json_rows(self.corpus, self.annotations(*patterns)))

    def csv_rows(self, need: str, *patterns: str) -> Iterator[tuple[str, dict]]:
        """Rows by their header, which must have the column `need`."""
        return _sound(rows.csv_rows(self.corpus, self.annotations(*patterns), need))

    def parquet_rows(self, *patterns: str) -> Iterator[tuple[str, dict]]:
        """Rows of Parquet files."""
        for path in self.annotations(*patterns):
            number = 0
            try:
                with pq.ParquetFile(path) as file:
                    for batch in file.iter_batches(16):
                        for row in batch.to_pylist():
                            number += 1
                            yield f"{path}:{number}", row
            except pyarrow.ArrowException as e:
                raise UserError(f"{path}: no Parquet file ({e}); fetch it") from e

    def rows(self, *patterns: str) -> Iterator[tuple[str, dict]]:
        """Rows of whichever of the patterns' files is there, by its ending."""
        suffix = self.annotations(*patterns)[0].suffix
        if suffix == ".parquet":
            return self.parquet_rows(*patterns)
        return self.json_rows(*patterns)

    def lines(self, *patterns: str) -> Iterator[tuple[str, str]]:
        """Lines of text files that are not blank."""
        for path in self.annotations(*patterns):
            for number, line in enumerate(path.read_text("utf-8").splitlines(), 1):
                if line.strip():
                    yield f"{path}:{number}", line.strip()

    def json_files(self, split: str) -> Iterator[tuple[str, dict]]:
        """The object of each .json file, also of those inside of tar files.

        Its column "file" is the file's stem. Where there are folders of the name
        `split`, only what is in them counts.
        """
        found = self.stored(".json")
        inner = [s for s in found if split in s.name.split("/")[:-1]]
        for stored in inner or found:
            try:
                row = json.loads(stored.read())
            except ValueError as e:
                raise UserError(f"{stored.path}: {stored.name}: not JSON ({e})") from e
            if isinstance(row, dict):
                stem = os.path.splitext(os.path.basename(stored.name))[0]
                yield f"{stored.path}: {stored.name}", row | {"file": stem}


def inside(value: str, where: str) -> pathlib.PurePosixPath:
    """A relative path that stays in its folder. Raises UserError if it does not."""
    path = pathlib.PurePosixPath(value)
    if path.is_absolute() or ".." in path.parts or not path.parts:
        raise UserError(f"{where}: {value!r} leaves the dataset's folder")
    return path


def _walk(folder: pathlib.Path) -> Iterator[pathlib.Path]:
    """All files, through links, each folder once, hidden ones left out."""
    seen = set()
    for base, folders, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(base)
        folders[:] = [] if real in seen else sorted(f for f in folders if f[0] != ".")
        if real not in seen:
            seen.add(real)
            yield from (pathlib.Path(base, f) for f in sorted(files) if f[0] != ".")


def _sound(found: Iterable[rows.Row]) -> Iterator[tuple[str, dict]]:
    """A benchmark is whole: a row that cannot be read is an error, not a loss."""
    for where, row in found:
        if isinstance(row, rows.Drop):
            raise UserError(f"{where}: {row.reason}; fetch the file again")
        yield where, row
