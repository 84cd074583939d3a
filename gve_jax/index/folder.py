"""The files of an index folder, one by one; `store` says what they are together."""

import contextlib
import fcntl
import json
import os
import pathlib
import shutil
import socket
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from gve_jax import disk
from gve_jax.contract import Contract
from gve_jax.types import UserError

FORMAT = 1
# Of the rows: the name and NumPy's description.
DTYPES = {"float32": "<f4", "float16": "<f2", "int8": "|i1"}
_TIME = pa.timestamp("us", "UTC")
SCHEMA = pa.schema(
    [
        ("row", pa.int64()),  # of embeddings.npy; copies of a file share it
        ("file", pa.string()),  # absolute path, as `path_text` writes it
        ("root", pa.string()),  # the folder or file that was asked for
        ("kind", pa.string()),  # "video" (whole), "window" or "image"
        ("start", pa.float64()),  # seconds, of a window, else null
        ("end", pa.float64()),
        ("duration", pa.float64()),  # seconds of the whole video, 0 of an image
        ("size", pa.int64()),  # bytes of the file
        ("modified", _TIME),
        ("mtime_ns", pa.int64()),  # the same, exactly
        ("hash", pa.string()),  # SHA-256 of the file's bytes
        ("scale", pa.float32()),  # of an int8 row, which times this is the vector
        ("added", _TIME),
    ]
)
# Of index.json.
_KEYS = {
    "format", "generation", "rows", "dim", "dtype", "embeddings", "items", "settings",
    "model", "recall",
}  # fmt: skip
HEADER = 128  # bytes before the rows of embeddings.npy
REBUILD = "build the index again under another name"


def create(
    path: pathlib.Path,
    contract: Contract,
    dim: int,
    dtype: str,
    settings: dict,
    model: dict,
) -> None:
    """The first commit, of nothing."""
    commit = {
        "format": FORMAT,
        "generation": 0,
        "rows": 0,
        "dim": dim,
        "dtype": dtype,
        "embeddings": "data/embeddings-0.npy",
        "items": "data/items-0.parquet",
        "settings": settings,
        "model": model,
        "recall": None,
    }
    with open(path / commit["embeddings"], "wb") as f:
        f.write(header(0, dim, dtype))
        disk.sync(f)
    with open(path / commit["items"], "wb") as f:
        pq.write_table(SCHEMA.empty_table(), f)
        disk.sync(f)
    disk.replace(path / "contract.json", contract.to_text(), durable=True)
    disk.replace(path / "index.json", dump(commit), durable=True)


def read_commit(path: str | os.PathLike) -> dict:
    """What index.json holds. Raises UserError as `store.open_index`."""
    path = pathlib.Path(path)
    try:
        commit = json.loads((path / "index.json").read_text(encoding="utf-8"))
        version = commit["format"]
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(
            f"--index={path}: no index there; python -m gve_jax.index build makes one"
        ) from None
    except (OSError, ValueError, KeyError, TypeError) as e:
        raise UserError(
            f"{path / 'index.json'}: cannot be read ({reason(e)})"
        ) from None
    if version != FORMAT:
        raise UserError(
            f"{path}: an index of format {version}, this version reads {FORMAT}; "
            "update gve_jax"
        )
    if missing := _KEYS - commit.keys():
        raise UserError(f"{path / 'index.json'}: lacks {min(missing)!r}; {REBUILD}")
    return commit


@contextlib.contextmanager
def locked(path: pathlib.Path) -> Iterator[None]:
    """Held as long as its process lives, however that ends."""
    with open(path, "a+", encoding="utf-8") as f:
        try:
            fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            f.seek(0)
            raise UserError(
                f"{path.parent} is being written by {f.read().strip() or 'another'}: "
                "wait for it or end it"
            ) from None
        f.truncate(0)
        f.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        f.flush()
        yield


@contextlib.contextmanager
def writing(path: pathlib.Path) -> Iterator[None]:
    try:
        yield
    except OSError as e:
        raise UserError(
            f"{path}: cannot be written ({reason(e)}); it is as it was at the last "
            "commit, and once it can be the same command goes on from there"
        ) from None


def read_items(path: pathlib.Path) -> pa.Table:
    # A file, not its path, in which pyarrow would look for columns. No threads: where a
    # program ends right after they began, they have been seen to abort it.
    with open(path, "rb") as f:
        return pq.read_table(f, use_threads=False, pre_buffer=False)


def map_rows(f, commit: dict) -> np.ndarray:
    """[rows, dim], of an open file. Raises ValueError if it holds fewer."""
    shape, dtype = (commit["rows"], commit["dim"]), np.dtype(DTYPES[commit["dtype"]])
    size = HEADER + shape[0] * shape[1] * dtype.itemsize
    if os.fstat(f.fileno()).st_size < size:
        raise ValueError(f"{commit['embeddings']} has less than {size} bytes")
    if not shape[0]:  # nothing can be mapped
        return np.zeros(shape, dtype)
    return np.memmap(f, dtype, "r", HEADER, shape)


def header(rows: int, dim: int, dtype: str) -> bytes:
    """NumPy's, always of one size: it is written again in place."""
    text = f"{{'descr': '{DTYPES[dtype]}', 'fortran_order': False, "
    text += f"'shape': ({rows}, {dim}), }}"
    size = HEADER - 10
    return (
        b"\x93NUMPY\x01\0"
        + size.to_bytes(2, "little")
        + (text.ljust(size - 1).encode() + b"\n")
    )


def link(source: pathlib.Path, target: pathlib.Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # not every file system can
        shutil.copyfile(source, target)


def dump(values: dict) -> str:
    return json.dumps(values, indent=1) + "\n"


def reason(e: BaseException) -> str:
    return getattr(e, "strerror", None) or str(e)
