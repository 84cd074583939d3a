"""Write the vectors of an index, and what they are of, for other programs.

python -m gve_jax.index export --index=runs/index --format=faiss --output=runs/faiss

docs/export has a page for each format. In memory are the items and one block of vectors
at a time; with usearch, which builds in memory, one file of them.
"""

import contextlib
import importlib
import json
import pathlib
import shutil
from collections.abc import Iterator
from types import ModuleType
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from absl import flags

from gve_jax.embeddings import write_array
from gve_jax.index.flags import INDEX, arguments
from gve_jax.index.store import Index, open_index
from gve_jax.progress import ProgressLine
from gve_jax.types import UserError

_BLOCK = 4096  # vectors in memory
_PART_BYTES = 2 << 30  # of vectors in one file of usearch


class Source(NamedTuple):
    """A commit of an index, without the rows that nothing has any more."""

    index: Index
    rows: np.ndarray  # int64 [n], ascending: those of the index that are exported
    items: pa.Table  # of the index, by row, which here counts from 0 to n - 1
    line: ProgressLine

    @property
    def dtype(self) -> np.dtype:
        """float16 where the index keeps that, else float32."""
        return np.dtype("<f2" if self.index.dtype == "float16" else "<f4")

    def vectors(self, numbers: np.ndarray | slice) -> np.ndarray:
        """[m, dim] of `dtype`"""
        rows = self.rows[numbers]
        if self.dtype == np.float16:
            return self.index.embeddings[rows]
        return self.index.vectors(rows)

    def blocks(self, start: int, stop: int) -> Iterator[np.ndarray]:
        """The vectors from row `start` on, in order."""
        for at in range(start, stop, _BLOCK):
            block = self.vectors(slice(at, min(at + _BLOCK, stop)))
            yield block
            self.line.advance(len(block))

    def schema(self) -> pa.Schema:
        """Of `batches`."""
        vector = pa.list_(pa.from_numpy_dtype(self.dtype), self.index.dim)
        return self.items.schema.append(pa.field("vector", vector))

    def batches(self) -> Iterator[pa.RecordBatch]:
        """The items with their vectors, which copies of a file repeat."""
        for start in range(0, len(self.items), _BLOCK):
            part = self.items.slice(start, _BLOCK)
            flat = pa.array(self.vectors(part["row"].to_numpy()).ravel())
            vectors = pa.FixedSizeListArray.from_arrays(flat, self.index.dim)
            table = part.append_column(self.schema().field("vector"), vectors)
            yield from table.combine_chunks().to_batches()
            self.line.advance(len(part))


def export(index: Index, target: str, output: pathlib.Path) -> int:
    """Writes all of it or nothing; returns the number of vectors.

    Args:
      target: a value of --format.
      output: a folder that is yet to be made, or empty.

    Raises:
      UserError: there is nothing to export, the target's library is not installed, or
        the folder holds something or cannot be written.
    """
    if not len(index.items):
        raise UserError(f"{index.path} is empty: there is nothing to export")
    items = index.items.drop_columns("scale").sort_by("row")
    rows, places = np.unique(items["row"].to_numpy(), return_inverse=True)
    items = items.set_column(0, "row", pa.array(places))
    total = len(items) if target in _BY_ITEM else len(rows)
    with (
        _whole(output) as folder,
        ProgressLine(f"export to {target}", total, "vectors") as line,
    ):
        _FORMATS[target](Source(index, rows, items, line), folder)
        if target not in _BY_ITEM:
            pq.write_table(items, folder / "items.parquet", compression="zstd")
        index.contract.save(folder / "contract.json")
    return total


@contextlib.contextmanager
def _whole(output: pathlib.Path) -> Iterator[pathlib.Path]:
    """A folder that becomes `output` in the end, or is removed."""
    if output.exists() and not (output.is_dir() and not any(output.iterdir())):
        raise UserError(f"--output={output}: something is there; name a new folder")
    part = output.with_name(f".{output.name}.export.part")
    try:
        shutil.rmtree(part, ignore_errors=True)  # of one who was killed
        part.mkdir(parents=True)
        yield part
        part.replace(output)
    except OSError as e:
        raise UserError(
            f"--output={output}: cannot be written ({e.strerror or e}); "
            "nothing of it was kept"
        ) from None
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _numpy(source: Source, folder: pathlib.Path) -> None:
    n = len(source.rows)
    shape, blocks = (n, source.index.dim), source.blocks(0, n)
    write_array(folder / "embeddings.npy", shape, source.dtype, blocks)
    _, first = np.unique(source.items["row"].to_numpy(), return_index=True)
    named = source.items.take(first).select(["file", "start", "end"]).to_pylist()
    ids = [
        x["file"] if x["start"] is None else "{file}#t={start},{end}".format(**x)
        for x in named
    ]
    (folder / "ids.json").write_text(json.dumps(ids), encoding="utf-8")


def _parquet(source: Source, folder: pathlib.Path) -> None:
    schema = source.schema()
    plain = [name for name in schema.names if name != "vector"]
    path = folder / "vectors.parquet"
    with pq.ParquetWriter(path, schema, compression="zstd", use_dictionary=plain) as f:
        for batch in source.batches():
            f.write_batch(batch)


def _faiss(source: Source, folder: pathlib.Path) -> None:
    faiss = _library("faiss")
    n, dim, metric = len(source.rows), source.index.dim, faiss.METRIC_INNER_PRODUCT
    if source.dtype == np.float16:
        kind = faiss.ScalarQuantizer.QT_fp16
        empty, one = (faiss.IndexScalarQuantizer(dim, kind, metric) for _ in range(2))
    else:
        empty, one = (faiss.IndexFlatIP(dim) for _ in range(2))
    # FAISS writes what it has in memory. Its file is a header and then the vectors; the
    # header differs from that of an empty index in two numbers of 8 bytes: of vectors,
    # after the first 8 bytes, and, at the end, their size.
    first = source.vectors(slice(1))
    one.add(first.astype(np.float32))
    empty, one = (faiss.serialize_index(x).tobytes() for x in (empty, one))
    size = int.from_bytes(one[len(empty) - 8 : len(empty)], "little")

    def header(n: int) -> bytes:
        number, sizes = (x.to_bytes(8, "little") for x in (n, n * size))
        return empty[:8] + number + empty[16:-8] + sizes

    if header(1) + first.tobytes() != one:
        raise UserError(
            f"FAISS {faiss.__version__} writes files of another form than this version "
            "knows: install one that setup.py names"
        )
    with open(folder / "index.faiss", "wb") as f:
        f.write(header(n))
        for block in source.blocks(0, n):
            f.write(np.ascontiguousarray(block).data)


def _usearch(source: Source, folder: pathlib.Path) -> None:
    usearch = _library("usearch.index")
    n, dim = len(source.rows), source.index.dim
    dtype = "f16" if source.dtype == np.float16 else "f32"
    each = max(1, _PART_BYTES // (dim * source.dtype.itemsize))
    for number, start in enumerate(range(0, n, each)):
        part = usearch.Index(ndim=dim, metric="ip", dtype=dtype)
        for block in source.blocks(start, min(start + each, n)):
            key = start + len(part)
            part.add(np.arange(key, key + len(block), dtype=np.uint64), block)
        with _os_errors():
            part.save(folder / f"index-{number:05d}.usearch")


def _lancedb(source: Source, folder: pathlib.Path) -> None:
    database, schema = _library("lancedb").connect(str(folder)), source.schema()
    reader = pa.RecordBatchReader.from_batches(schema, source.batches())
    with _os_errors():
        database.create_table("vectors", reader, schema=schema)


@contextlib.contextmanager
def _os_errors() -> Iterator[None]:
    """What libraries that cannot write say, as what it is."""
    try:
        yield
    except RuntimeError as e:
        # Where in its source comes last.
        raise OSError(str(e).split(", /")[0]) from None


def _library(module: str) -> ModuleType:
    try:
        return importlib.import_module(module)
    except ImportError as e:
        name = module.partition(".")[0]
        raise UserError(
            f"--format={name}: {name} cannot be imported ({e}); "
            f"pip install -e '.[{name}]'"
        ) from None


_FORMATS = {
    "numpy": _numpy,
    "parquet": _parquet,
    "faiss": _faiss,
    "usearch": _usearch,
    "lancedb": _lancedb,
}
# Those whose rows are items with their vectors; the others have items.parquet beside.
_BY_ITEM = ("parquet", "lancedb")

REQUIRED = ("index", "format", "output")
_FORMAT = flags.DEFINE_enum("format", None, list(_FORMATS), "Of what is written.")
_OUTPUT = flags.DEFINE_string("output", None, "Folder to write: new or empty.")


def main(argv: list[str]) -> None:
    arguments(argv, "nothing else", most=0)
    index = open_index(INDEX.value)
    total = export(index, _FORMAT.value, pathlib.Path(_OUTPUT.value))
    print(f"{_OUTPUT.value}: {total} vectors of {index.dim} for {_FORMAT.value}")
