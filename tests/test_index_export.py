"""Indexes in the form of other programs: read back and searched with equal results."""

import json
import os
import pathlib
import re
import shlex
import subprocess
import sys

import numpy as np
import pyarrow.parquet as pq
import pytest

from gve_jax import embeddings
from gve_jax.contract import Contract
from gve_jax.index import export as module
from gve_jax.index.export import export
from gve_jax.index.searching import INSTRUCTIONS
from gve_jax.index.store import Entry, File, Index, open_index, writer
from gve_jax.retrieval import top_k
from gve_jax.types import Item, UserError

ROOT = pathlib.Path(__file__).parents[1]
DIM, ROWS, K = 24, 60, 5
CONTRACT = Contract(dim=DIM)
# Of scores: sums in another order; and vectors and queries rounded to float16.
BOUND, LOW_BOUND = 1e-6, 1e-3


def unit(n: int, seed: int) -> np.ndarray:
    rows = np.random.default_rng(seed).normal(size=(n, DIM)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


QUERIES = unit(7, 1)


def write_index(path: pathlib.Path, dtype: str, contract=CONTRACT) -> Index:
    """Twenty videos of three rows; number 4 is removed, number 6 is there twice."""
    with writer(path, contract, DIM, dtype, {"window": 10.0}) as index:
        for i in range(ROWS // 3):
            file = File(f"/media/{i}-é.mp4", "/media", 100 + i, 7_000_000_000, f"h{i}")
            index.append(
                unit(3, 100 + i),
                [
                    Entry(file, "video", duration=15.0),
                    Entry(file, "window", 0.0, 10.0, 15.0),
                    Entry(file, "window", 5.0, 15.0, 15.0),
                ],
            )
        index.drop_files(["/media/4-é.mp4"])
        copy = File("/media/copy.mp4", "/media", 106, 8_000_000_000, "h6")
        index.share([("/media/6-é.mp4", copy)])
        index.commit()
    return open_index(path)


@pytest.fixture(scope="module", params=["float32", "float16", "int8"])
def index(request, tmp_path_factory) -> Index:
    return write_index(tmp_path_factory.mktemp("index") / "index", request.param)


@pytest.fixture(params=["numpy", "parquet", "faiss", "usearch", "lancedb"])
def target(request) -> str:
    return request.param


def read_numpy(folder):
    ids = json.loads((folder / "ids.json").read_text())
    assert ids[:3] == [
        f"/media/0-é.mp4{cut}" for cut in ("", "#t=0.0,10.0", "#t=5.0,15.0")
    ]
    return np.load(folder / "embeddings.npy", mmap_mode="r")


def search_numpy(folder, queries):
    vectors = read_numpy(folder).astype(np.float32)
    scores = queries @ vectors.T
    rows = np.argsort(-scores, axis=1)[:, :K]
    return np.take_along_axis(scores, rows, 1), rows


def search_parquet(folder, queries):
    table = pq.read_table(folder / "vectors.parquet")
    assert len(table) == ROWS  # those of the copy too
    vectors = table["vector"].combine_chunks().flatten().to_numpy()
    vectors = vectors.reshape(-1, DIM).astype(np.float32)
    # Each row once: the copy's are those of what it is a copy of.
    rows, first = np.unique(table["row"].to_numpy(), return_index=True)
    for row, vector in zip(table["row"].to_numpy(), vectors, strict=True):
        np.testing.assert_array_equal(vector, vectors[first[row]])
    scores = queries @ vectors[first].T
    best = np.argsort(-scores, axis=1)[:, :K]
    return np.take_along_axis(scores, best, 1), rows[best]


def search_faiss(folder, queries):
    import faiss

    found = faiss.read_index(str(folder / "index.faiss"))
    mapped = faiss.read_index(str(folder / "index.faiss"), faiss.IO_FLAG_MMAP_IFC)
    np.testing.assert_array_equal(
        mapped.search(queries, K)[1], found.search(queries, K)[1]
    )
    return found.search(queries, K)


def search_usearch(folder, queries):
    from usearch.index import Indexes

    parts = Indexes(paths=sorted(map(str, folder.glob("*.usearch"))), view=True)
    found = parts.search(queries, K, exact=True)
    return 1 - found.distances, found.keys


def search_lancedb(folder, queries):
    import lancedb

    table = lancedb.connect(str(folder)).open_table("vectors")
    assert table.count_rows() == ROWS
    scores, rows = [], []
    for query in queries:
        # The copy's rows are there twice.
        found = table.search(query).distance_type("dot").limit(2 * K).to_arrow()
        distances = found["_distance"].to_pylist()
        first = dict(zip(found["row"].to_pylist(), distances, strict=True))
        rows.append(list(first)[:K])
        scores.append([1 - first[row] for row in rows[-1]])
    return np.array(scores), np.array(rows)


def items_of(folder, target):
    name = {"parquet": "vectors", "lancedb": None}.get(target, "items")
    if name is None:
        import lancedb

        return lancedb.connect(str(folder)).open_table("vectors").to_arrow()
    return pq.read_table(folder / f"{name}.parquet")


def test_each_is_searched_as_the_index_is(index, target, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_BLOCK", 7)
    total = export(index, target, tmp_path / "out")
    assert total == (60 if target in ("parquet", "lancedb") else 57)
    live = np.unique(index.items["row"].to_numpy())
    assert len(live) == ROWS - 3
    scores, rows = top_k(QUERIES, index.vectors(live), K)
    found, places = globals()[f"search_{target}"](tmp_path / "out", QUERIES)
    bound = LOW_BOUND if index.dtype == "float16" else BOUND
    np.testing.assert_allclose(found, scores, atol=bound, rtol=0)
    np.testing.assert_array_equal(places, rows)

    # What the rows are of, and what they were made under.
    items = items_of(tmp_path / "out", target)
    of = {
        (x["file"], x["start"], x["end"]): live[x["row"]]
        for x in items.select(["file", "start", "end", "row"]).to_pylist()
    }
    wanted = index.items.select(["file", "start", "end", "row"]).to_pylist()
    assert of == {(x["file"], x["start"], x["end"]): x["row"] for x in wanted}
    assert Contract.load(tmp_path / "out" / "contract.json") == CONTRACT
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_float16_is_kept(tmp_path):
    index = write_index(tmp_path / "index", "float16")
    live = np.unique(index.items["row"].to_numpy())
    for name in ("numpy", "parquet", "faiss"):
        export(index, name, tmp_path / name)
    vectors = read_numpy(tmp_path / "numpy")
    assert vectors.dtype == np.float16
    np.testing.assert_array_equal(vectors, index.embeddings[live])
    assert "halffloat" in str(pq.read_schema(tmp_path / "parquet" / "vectors.parquet"))
    assert (tmp_path / "faiss" / "index.faiss").stat().st_size < 2 * 57 * DIM + 100


def test_usearch_comes_in_parts(tmp_path, monkeypatch):
    index = write_index(tmp_path / "index", "float32")
    monkeypatch.setattr(module, "_PART_BYTES", 25 * 4 * DIM)
    monkeypatch.setattr(module, "_BLOCK", 10)
    export(index, "usearch", tmp_path / "out")
    assert len(list((tmp_path / "out").glob("index-0000?.usearch"))) == 3
    live = np.unique(index.items["row"].to_numpy())
    _, rows = top_k(QUERIES, index.vectors(live), K)
    np.testing.assert_array_equal(search_usearch(tmp_path / "out", QUERIES)[1], rows)


def test_what_is_there_is_not_touched(tmp_path):
    index = write_index(tmp_path / "index", "float32")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").write_text("x")
    (tmp_path / "file").write_text("x")
    for name in ("full", "file"):
        with pytest.raises(UserError, match=f"--output=.*{name}: something is there"):
            export(index, "numpy", tmp_path / name)
    assert (tmp_path / "full" / "mine").read_text() == "x"
    (tmp_path / "empty").mkdir()
    (tmp_path / ".empty.export.part").mkdir()  # of one who was killed
    (tmp_path / ".empty.export.part" / "old").write_text("x")
    export(index, "numpy", tmp_path / "empty")
    assert sorted(p.name for p in (tmp_path / "empty").iterdir()) == [
        "contract.json", "embeddings.npy", "ids.json", "items.parquet"
    ]  # fmt: skip


@pytest.mark.parametrize("target", ["faiss", "usearch", "lancedb"])
def test_a_full_disk_leaves_nothing(target, tmp_path):
    write_index(tmp_path / "index", "float32")
    full = run(
        tmp_path,
        target,
        "import resource as r; r.setrlimit(r.RLIMIT_FSIZE, (999, 999))",
    )
    assert full.returncode == 1, full.stderr
    (line,) = [x for x in full.stderr.splitlines() if "error" in x.lower()]
    assert line.startswith(f"error: --output={tmp_path}/out: cannot be written (")
    assert [p.name for p in tmp_path.iterdir()] == ["index"]


def run(folder: pathlib.Path, target: str, first: str) -> subprocess.CompletedProcess:
    code = f"{first}; from gve_jax.index import __main__; __main__.main()"
    words = f"export --index={folder}/index --format={target} --output={folder}/out"
    return subprocess.run(
        [sys.executable, "-c", code, *words.split()],
        cwd=ROOT, capture_output=True, text=True, timeout=100,
    )  # fmt: skip


def test_nothing_to_export(tmp_path):
    with writer(tmp_path / "index", CONTRACT, DIM, "float32", {}) as index:
        index.commit()
    with pytest.raises(UserError, match="index is empty"):
        export(open_index(tmp_path / "index"), "numpy", tmp_path / "out")


def test_a_library_that_is_not_there(tmp_path, monkeypatch):
    index = write_index(tmp_path / "index", "float32")
    for name in ("faiss", "usearch", "lancedb"):
        monkeypatch.setitem(sys.modules, name, None)
        monkeypatch.setitem(sys.modules, f"{name}.index", None)
        with pytest.raises(UserError, match=rf"--format={name}: .* '\.\[{name}\]'"):
            export(index, name, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_faiss_that_writes_otherwise_is_refused(tmp_path, monkeypatch):
    faiss = pytest.importorskip("faiss")
    real = faiss.serialize_index
    monkeypatch.setattr(faiss, "serialize_index", lambda x: np.append(real(x), 0))
    with pytest.raises(UserError, match="files of another form"):
        export(write_index(tmp_path / "index", "int8"), "faiss", tmp_path / "out")


# The pages.

FULL = 32  # numbers of a query; the index of this test keeps DIM of them


@pytest.fixture
def desk(tmp_path, monkeypatch) -> pathlib.Path:
    """A folder with an index, and a query as `python -m gve_jax.embed` leaves it."""
    contract = Contract(dim=FULL)
    write_index(tmp_path / "runs" / "index", "float32", contract)
    write_queries(tmp_path / "runs" / "queries", contract)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write_queries(folder: pathlib.Path, contract: Contract) -> None:
    more = np.random.default_rng(2).normal(size=(1, FULL - DIM))
    rows = np.append(QUERIES[:1], more, axis=1).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    known = embeddings.know([Item("q", text="a red ball")])
    embeddings.write(folder, contract, known, {}, [rows])


def blocks(page: str, language: str) -> list[str]:
    text = (ROOT / "docs" / "export" / f"{page}.md").read_text(encoding="utf-8")
    found = re.findall(r"^```(\w*)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    return [block for its, block in found if its == language]


def test_every_page_does_what_it_says(target, desk, capsys):
    """Its command, then its code, which prints what is nearest to the query."""
    (command,) = blocks(target, "")
    words = shlex.split(command.replace("\\\n", " "))
    assert words[0] == "python"
    done = subprocess.run(
        [sys.executable, *words[1:]],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, timeout=100,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(
        rf"runs/{target}: \d\d vectors of 24 for {target}\n", done.stdout
    )

    page = (ROOT / "docs" / "export" / f"{target}.md").read_text(encoding="utf-8")
    assert f'"{INSTRUCTIONS[1]}"' in page
    code = blocks(target, "python")
    index = open_index(desk / "runs" / "index")
    items = index.items.select(["row", "kind", "file", "start", "end"]).to_pylist()
    nearest = index.vectors() @ QUERIES[0]
    known: dict[str, object] = {}
    for number, block in enumerate(code):
        exec(compile(block, f"{target}.md", "exec"), known)
        said = capsys.readouterr().out.splitlines()
        right = {
            f"{nearest[x['row']]:.3f} {x['file']} {x['start']} {x['end']}"
            for x in items
            if not number or x["kind"] == "window"
        }
        assert len(said) >= 10 and set(said) <= right
        assert said == sorted(said, key=lambda line: -float(line.split()[0]))
        best = sorted((float(line.split()[0]) for line in right), reverse=True)
        assert [float(line.split()[0]) for line in said[:10]] == best[:10]

    write_queries(desk / "runs" / "other", Contract(dim=FULL, weights_hash="other"))
    with pytest.raises(UserError, match=r"the index and the queries .*weights_hash"):
        exec(code[0].replace("runs/queries", "runs/other"), {})
