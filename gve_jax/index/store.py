"""The index folder: written by one, read by any number, whole at every moment.

INDEX/
  index.json       the commit: replaced last, and it names all that belongs together
  contract.json    what the vectors were made under
  embeddings.npy   [rows, dim] float32, float16 or int8: data/'s current one
  items.parquet    what each row is of, as `SCHEMA`: data/'s current one
  failures.jsonl   files that are not in it, and why
  data/            embeddings-N.npy, which only grows, and items-N.parquet
  lock             held by who writes

A commit appends rows, writes the items to a file of a new name, then replaces
index.json. Readers go by index.json alone: rows beyond those that it counts are yet
nobody's. So whoever writes may be killed at any moment, and whoever reads sees one
commit or the next, never parts of both. What a commit replaced is deleted by the commit
after it; a reader that comes too late even for that reads index.json again.
"""

import contextlib
import dataclasses
import datetime
import functools
import json
import os
import pathlib
import re
import urllib.parse
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from gve_jax.contract import Contract
from gve_jax.disk import read_rows, replace, sync
from gve_jax.index.folder import (
    DTYPES,
    HEADER,
    REBUILD,
    SCHEMA,
    create,
    dump,
    header,
    link,
    locked,
    map_rows,
    read_commit,
    read_items,
    reason,
    writing,
)
from gve_jax.types import UserError

_CHUNK = 1 << 14  # rows copied at a time
# What a folder without a commit may hold and still be one of ours.
_OURS = {"lock", "data", "contract.json", "contract.json.part", "index.json.part"}
_OURS |= {"index.json"}  # made a moment ago


class File(NamedTuple):
    """A file as the index knows it."""

    path: str  # as `path_text` writes it
    root: str
    size: int
    mtime_ns: int
    hash: str


class Entry(NamedTuple):
    """What a vector is of; the fields are those of `SCHEMA`."""

    file: File
    kind: str
    start: float | None = None
    end: float | None = None
    duration: float = 0.0


class Failure(NamedTuple):
    """Why a file, or a part of it, is not in the index.

    `again`: the machine's fault, or nobody knows whose: worth another try although the
    file has not changed.
    """

    file: str
    error: str
    again: bool
    size: int = 0
    mtime_ns: int = 0


def path_text(path: str) -> str:
    """A path as text that any program can keep: a file:// URI where it is not UTF-8."""
    try:
        path.encode()
        return path
    except UnicodeEncodeError:
        return "file://" + urllib.parse.quote(os.fsencode(path))


def local_path(text: str) -> str:
    """The path that `path_text` wrote."""
    if not text.startswith("file://"):
        return text
    return os.fsdecode(urllib.parse.unquote_to_bytes(text.removeprefix("file://")))


def shorten(vectors: np.ndarray, dim: int) -> np.ndarray:
    """float32 [n, dim]: the first numbers of unit vectors [n, d], made unit again."""
    if dim == vectors.shape[1]:
        return np.asarray(vectors, np.float32)
    return _unit(vectors[:, :dim].astype(np.float32))


def kept(vectors: np.ndarray, dim: int, dtype: str) -> np.ndarray:
    """float32 [n, dim]: what an index gives back of unit vectors, float32 [n, d]."""
    return _unit(_stored(shorten(vectors, dim), dtype)[0].astype(np.float32))


@dataclasses.dataclass(frozen=True)
class Index:
    """One commit of an index: it stays as it is whatever is written meanwhile."""

    path: pathlib.Path
    contract: Contract
    dim: int  # of its vectors; less than the contract's where they were shortened
    dtype: str  # a key of `DTYPES`
    embeddings: np.ndarray  # [rows, dim] of that type, mapped from disk
    items: pa.Table  # as SCHEMA
    generation: int  # counts the commits
    settings: dict  # how files were cut into windows
    model: dict  # what made the vectors, see `gve_jax.embed.flags.flag_values`
    recall: dict | None  # of the kept vectors against float32, where they differ

    @functools.cached_property
    def live(self) -> np.ndarray:
        """bool [rows]: there are items of the row."""
        live = np.zeros(len(self.embeddings), bool)
        live[self.items["row"].to_numpy()] = True
        return live

    def vectors(self, rows: np.ndarray | slice | None = None) -> np.ndarray:
        """float32 [n, dim]: unit vectors of these rows or all; NaN where no item is."""
        rows = slice(None) if rows is None else rows
        vectors = np.array(self.embeddings[rows], np.float32)
        if self.dtype != "float32":
            vectors = _unit(vectors)
        vectors[~self.live[rows]] = np.nan
        return vectors

    def stale(self) -> bool:
        """Whether there is a later commit. Raises UserError as `open_index`."""
        return read_commit(self.path)["generation"] != self.generation


def open_index(path: str | os.PathLike) -> Index:
    """The last commit of an index.

    Raises:
      UserError: there is no index, it is damaged, or of a later version.
    """
    path = pathlib.Path(path)
    while True:
        commit = read_commit(path)
        try:
            with open(path / commit["embeddings"], "rb") as f:
                embeddings = map_rows(f, commit)
            items = read_items(path / commit["items"])
            break
        except FileNotFoundError as e:
            if read_commit(path)["generation"] == commit["generation"]:
                raise UserError(f"{e.filename}: missing; {REBUILD}") from None
        except (OSError, ValueError) as e:
            raise UserError(f"{path}: damaged ({reason(e)}); {REBUILD}") from None
    if items.schema.names != SCHEMA.names:
        raise UserError(f"{path / commit['items']}: not its columns; {REBUILD}")
    return Index(
        path=path,
        contract=Contract.load(path / "contract.json"),
        dim=commit["dim"],
        dtype=commit["dtype"],
        embeddings=embeddings,
        items=items,
        generation=commit["generation"],
        settings=commit["settings"],
        model=commit["model"],
        recall=commit["recall"],
    )


@contextlib.contextmanager
def writer(
    path: str | os.PathLike,
    contract: Contract | None = None,
    dim: int = 0,
    dtype: str = "float32",
    settings: dict | None = None,
    model: dict | None = None,
) -> Iterator["Writer"]:
    """The one writer of an index. What is not committed at its end is given up.

    Args:
      path: of an index; with a contract it may be one that is yet to be made.
      contract: that its vectors are made under; None: an index that is there.
      dim: of its vectors.
      dtype: that they are kept in, a key of `DTYPES`.
      settings: how files are cut into windows; values that JSON knows.
      model: where its checkpoint is, and how it is read: for who searches. Of an index
        that is there it replaces what was known, as checkpoints are moved.

    Raises:
      UserError: another process writes; the index there differs in any of these, or is
        none; a folder of something else; the disk is full or refuses.
    """
    path = pathlib.Path(path)
    with contextlib.ExitStack() as stack:
        if contract is None:
            read_commit(path)
        elif path.exists() and not (path / "index.json").exists():
            _refuse_others(path)
        with writing(path):
            (path / "data").mkdir(parents=True, exist_ok=True)
            stack.enter_context(locked(path / "lock"))
            if contract is not None and not (path / "index.json").exists():
                create(path, contract, dim, dtype, settings or {}, model or {})
        commit = read_commit(path)
        if contract is not None:
            there = Contract.load(path / "contract.json")
            there.require_equal(contract, f"the index {path}", "this checkpoint")
            wanted = {"dim": dim, "dtype": dtype} | (settings or {})
            found = {"dim": commit["dim"], "dtype": commit["dtype"]}
            found |= commit["settings"]
            differ = [
                f"{k}={wanted.get(k)}, there {found.get(k)}"
                for k in sorted(found.keys() | wanted.keys())
                if found.get(k) != wanted.get(k)
            ]
            if differ:
                raise UserError(
                    f"{path} was built otherwise ({'; '.join(differ)}): give the same "
                    "flags or another --index"
                )
            commit["model"] = model or commit["model"]
        opened = Writer(path, commit)
        stack.callback(opened.close)
        yield opened


class Writer:
    """Changes an index, by commits; made by `writer`.

    Attributes:
      rows: of the embeddings, those that no item has included.
      failures: list of Failure: what the next commit writes.
      recall: dict or None, likewise.
    """

    def __init__(self, path: pathlib.Path, commit: dict):
        self.path, self._commit = path, commit
        self.dim, self.dtype = commit["dim"], commit["dtype"]
        self.recall = commit["recall"]
        self.failures = [Failure(**row) for row in read_rows(path / "failures.jsonl")]
        with writing(self.path):
            self.rows, self._name = commit["rows"], commit["embeddings"]
            self._file = open(path / self._name, "r+b")  # noqa: SIM115
            self._items = read_items(path / commit["items"])
            # Whoever was killed after a commit has not come to this.
            self._publish()
        self._new: list[tuple] = []

    def close(self) -> None:
        # Rows in its buffer may not fit on a full disk; no commit counts them.
        with contextlib.suppress(OSError):
            self._file.close()

    @property
    def items(self) -> pa.Table:
        """All items, those that are not committed included."""
        if self._new:
            columns = zip(*self._new, strict=True)
            arrays = [
                pa.array(column, field.type)
                for column, field in zip(columns, SCHEMA, strict=True)
            ]
            fresh = pa.Table.from_arrays(arrays, schema=SCHEMA)
            self._items = pa.concat_tables([self._items, fresh])
            self._new = []
        return self._items

    def append(self, vectors: np.ndarray, entries: Sequence[Entry]) -> None:
        """Adds an item for each vector, float32 [n, dim], unit."""
        stored, scales = _stored(np.asarray(vectors, np.float32), self.dtype)
        with writing(self.path):
            self._file.seek(HEADER + self.rows * stored[:1].nbytes)
            self._file.write(stored.tobytes())
        now = _now()
        for i, (entry, scale) in enumerate(zip(entries, scales, strict=True)):
            f = entry.file
            self._new.append(
                (
                    self.rows + i, f.path, f.root, *entry[1:], f.size,
                    f.mtime_ns // 1000, f.mtime_ns, f.hash, scale, now,
                )
            )  # fmt: skip
        self.rows += len(stored)

    def share(self, pairs: Sequence[tuple[str, File]]) -> None:
        """Adds items of a file (its path) once more, as those of a second one.

        Only those of the hash that the second one has. They share the rows.
        """
        items = self.items
        sources = list(dict.fromkeys(path for path, _ in pairs))
        codes = pc.index_in(items["file"], value_set=pa.array(sources, pa.string()))
        codes = codes.fill_null(-1).to_numpy()
        order = np.argsort(codes, kind="stable")
        bounds = np.searchsorted(codes[order], np.arange(len(sources) + 1))
        place = {path: i for i, path in enumerate(sources)}
        which = [
            order[bounds[place[path]] : bounds[place[path] + 1]] for path, _ in pairs
        ]
        again = np.repeat(np.arange(len(pairs)), [len(x) for x in which])
        more = items.take(np.concatenate([*which, np.zeros(0, np.int64)]))
        files = [file for _, file in pairs]
        hashes = pa.array([file.hash for _, file in pairs], pa.string())
        same = pc.equal(more["hash"], hashes.take(pa.array(again)))
        more, again = more.filter(same), again[same.to_numpy()]
        fields = {
            "file": [f.path for f in files],
            "root": [f.root for f in files],
            "size": [f.size for f in files],
            "modified": [f.mtime_ns // 1000 for f in files],
            "mtime_ns": [f.mtime_ns for f in files],
            "added": [_now()] * len(files),
        }
        for name, values in fields.items():
            field = SCHEMA.field(name)
            column = pa.array(values, field.type).take(pa.array(again))
            more = more.set_column(SCHEMA.names.index(name), field, column)
        self._items = pa.concat_tables([items, more])

    def drop(self, mask: np.ndarray) -> None:
        """Takes out items: bool, one for each of `items`."""
        if mask.any():
            self._items = self.items.filter(pa.array(~mask))

    def drop_files(self, paths: Sequence[str]) -> None:
        """Takes out all items of these files."""
        gone = pc.is_in(self.items["file"], value_set=pa.array(paths, pa.string()))
        self.drop(gone.to_numpy(zero_copy_only=False))

    def commit(self) -> None:
        """Makes all changes those that readers see.

        Raises:
          UserError: it cannot be written; then readers see what they saw.
        """
        generation = self._commit["generation"] + 1
        items = f"data/items-{generation}.parquet"
        with writing(self.path):
            sync(self._file)
            os.pwrite(self._file.fileno(), header(self.rows, self.dim, self.dtype), 0)
            os.fsync(self._file.fileno())
            with open(self.path / items, "wb") as f:
                pq.write_table(self.items, f, compression="zstd")
                sync(f)
            lines = (json.dumps(f._asdict()) + "\n" for f in self.failures)
            replace(self.path / "failures.jsonl", lines, durable=True)
            before = self._commit
            self._commit = before | {
                "generation": generation,
                "rows": self.rows,
                "embeddings": self._name,
                "items": items,
                "recall": self.recall,
            }
            replace(self.path / "index.json", dump(self._commit), durable=True)
            self._publish(before)

    def compact(self) -> None:
        """Writes the rows that items have to a new file, and commits.

        The order of rows stays; their numbers do not.
        """
        live, places = np.unique(self.items["row"].to_numpy(), return_inverse=True)
        number = int(re.search(r"-(\d+)\.npy$", self._name)[1]) + 1
        name = f"data/embeddings-{number}.npy"
        with writing(self.path):
            self._file.flush()
            rows = map_rows(self._file, self._commit | {"rows": self.rows})
            with open(self.path / name, "wb") as f:
                f.write(header(len(live), self.dim, self.dtype))
                for at in range(0, len(live), _CHUNK):
                    f.write(rows[live[at : at + _CHUNK]].tobytes())
            self._file.close()
            self._file = open(self.path / name, "r+b")  # noqa: SIM115
        self._name, self.rows = name, len(live)
        column = pa.array(places.astype(np.int64))
        self._items = self.items.set_column(0, SCHEMA.field("row"), column)
        self.commit()

    def _publish(self, before: dict | None = None) -> None:
        """Shows the commit under the names that people know, and tidies up."""
        for name in ("embeddings", "items"):
            source = self.path / self._commit[name]
            shown = self.path / (name + source.suffix)
            if shown.exists() and shown.samefile(source):
                continue
            part = shown.with_name(shown.name + ".part")
            part.unlink(missing_ok=True)
            link(source, part)
            part.replace(shown)
        kept = {c[k] for c in (before, self._commit) if c for k in _NAMED}
        if before is not None:
            for path in (self.path / "data").iterdir():
                if f"data/{path.name}" not in kept:
                    path.unlink()


def _refuse_others(path: pathlib.Path) -> None:
    if not path.is_dir() or {p.name for p in path.iterdir()} - _OURS:
        raise UserError(f"--index={path}: there is something else; name a new folder")


def _stored(vectors: np.ndarray, dtype: str) -> tuple[np.ndarray, Sequence]:
    """[n, dim] of a type, and the scale of each, None where there is none."""
    if dtype != "int8":
        return vectors.astype(DTYPES[dtype]), [None] * len(vectors)
    scales = np.abs(vectors).max(axis=1) / 127
    return np.rint(vectors / scales[:, None]).astype(np.int8), scales.tolist()


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)


_NAMED = ("embeddings", "items")
