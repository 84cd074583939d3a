"""The index folder: what was committed is read, whoever is killed or in the way."""

import json
import os
import resource
import signal
import subprocess
import sys
import threading

import numpy as np
import pyarrow.parquet as pq
import pytest

from gve_jax.contract import Contract
from gve_jax.index import store
from gve_jax.index.store import Entry, File, open_index, writer
from gve_jax.types import UserError

DIM = 16
MODIFIED = 1_700_000_000_123_456_789
CONTRACT = Contract(dim=DIM)


def unit(n, seed=0):
    vectors = np.random.default_rng(seed).normal(size=(n, DIM)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def entries(name, n):
    file = File(
        f"/videos/{name}.mp4", "/videos", 100 + n, 1_700_000_000_123_456_789, name
    )
    windows = [Entry(file, "window", 5.0 * i, 5.0 * i + 10, 60.0) for i in range(n - 1)]
    return [*windows, Entry(file, "video", None, None, 60.0)]


def new(path, dtype="float32"):
    return writer(path, CONTRACT, DIM, dtype, {"window": 10.0})


def content(index):
    """What an index says: (file, kind, start) -> vector."""
    vectors = index.vectors()
    return {
        (row["file"], row["kind"], row["start"]): vectors[row["row"]].tobytes()
        for row in index.items.to_pylist()
    }


def test_what_is_committed_is_read_back(tmp_path):
    path, vectors = tmp_path / "index", unit(7)
    with new(path) as w:
        w.append(vectors[:3], entries("a", 3))
        w.append(vectors[3:5], entries("b", 2))
        w.commit()
        w.append(vectors[5:], entries("c", 2))
        w.commit()
        w.append(vectors[5:], entries("d", 2))  # given up
    index = open_index(path)
    assert index.generation == 2 and index.settings == {"window": 10.0}
    assert index.contract == CONTRACT and (index.dim, index.dtype) == (DIM, "float32")
    np.testing.assert_array_equal(index.vectors(), vectors)
    np.testing.assert_array_equal(index.vectors(np.array([4, 0])), vectors[[4, 0]])
    assert index.items.schema.equals(store.SCHEMA)
    row = index.items.to_pylist()[1]
    assert row["row"] == 1 and row["file"] == "/videos/a.mp4" and row["hash"] == "a"
    assert (row["kind"], row["start"], row["end"]) == ("window", 5.0, 15.0)
    assert row["modified"].microsecond == 123456 and row["modified"].year == 2023
    assert row["mtime_ns"] == MODIFIED
    # The names that people know: plain NumPy and Parquet.
    np.testing.assert_array_equal(np.load(path / "embeddings.npy", "r"), vectors)
    assert pq.read_table(str(path / "items.parquet")).equals(index.items)
    assert Contract.load(path / "contract.json") == CONTRACT


def test_removed_copied_and_compacted(tmp_path):
    path, vectors = tmp_path / "index", unit(6)
    with new(path) as w:
        for i, name in enumerate("abc"):
            w.append(vectors[2 * i : 2 * i + 2], entries(name, 2))
        w.commit()
    before = open_index(path)
    moved = File("/other/c.mp4", "/other", 102, 5, "c")
    with writer(path) as w:
        copy = moved._replace(path="/b", hash="b")
        other = moved._replace(path="/x", hash="none that b.mp4 ever had")
        w.share([("/videos/c.mp4", moved), ("/videos/b.mp4", copy)])
        w.share([("/videos/b.mp4", other)])
        w.drop_files(["/videos/a.mp4", "/videos/c.mp4"])
        w.commit()
    index = open_index(path)
    assert before.stale() and not index.stale()
    assert index.items["file"].to_pylist() == ["/videos/b.mp4"] * 2 + [
        "/other/c.mp4", "/other/c.mp4", "/b", "/b",
    ]  # fmt: skip
    assert index.items["row"].to_pylist() == [2, 3, 4, 5, 2, 3]
    assert index.items["mtime_ns"].to_pylist()[2] == 5
    assert np.isnan(index.vectors()[:2]).all()  # of nothing
    with writer(path) as w:
        w.compact()
        w.append(unit(1, 9), entries("z", 1))
        w.commit()
    after = open_index(path)
    np.testing.assert_array_equal(after.vectors(), [*vectors[2:], unit(1, 9)[0]])
    known = content(index)
    assert {k: v for k, v in content(after).items() if k in known} == known
    np.testing.assert_array_equal(np.load(path / "embeddings.npy"), after.vectors())
    # Readers of old commits go on, although the files have gone.
    np.testing.assert_array_equal(before.vectors(), vectors)
    assert len(list((path / "data").iterdir())) == 3  # of the last commit but one, too


def test_two_files_that_swapped_their_names(tmp_path):
    with new(tmp_path) as w:
        w.append(unit(2), [*entries("a", 1), *entries("b", 1)])
        a, b = (e.file for e in (*entries("a", 1), *entries("b", 1)))
        swapped = [(a.path, a._replace(path=b.path)), (b.path, b._replace(path=a.path))]
        for pair in swapped:
            w.share([pair])
        w.drop(np.arange(4) < 2)
        w.commit()
    items = open_index(tmp_path).items
    rows = {r["file"]: (r["row"], r["hash"]) for r in items.to_pylist()}
    assert rows == {a.path: (1, "b"), b.path: (0, "a")}


@pytest.mark.parametrize("dtype, error", [("float16", 1e-3), ("int8", 2e-2)])
def test_smaller_types(tmp_path, dtype, error):
    vectors = unit(50)
    with new(tmp_path / "i", dtype) as w:
        w.append(vectors, entries("a", 50))
        w.commit()
    index = open_index(tmp_path / "i")
    assert index.embeddings.dtype == dtype
    found = index.vectors()
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(found, vectors, atol=error)
    scale = index.items["scale"].to_numpy()
    if dtype == "int8":  # as another program would read it
        by_hand = np.load(tmp_path / "i" / "embeddings.npy") * scale[:, None]
        np.testing.assert_allclose(by_hand, vectors, atol=np.abs(vectors).max() / 254)
    else:
        assert np.isnan(scale).all()


def test_shortened_vectors_are_unit_again():
    vectors = unit(3)
    short = store.shorten(vectors, 4)
    by_hand = vectors[:, :4] / np.sqrt((vectors[:, :4] ** 2).sum(1, keepdims=True))
    np.testing.assert_allclose(short, by_hand, rtol=1e-6)
    np.testing.assert_array_equal(store.shorten(vectors, DIM), vectors)


@pytest.mark.parametrize("name", ["plain", "täglich 映像", "a\udcff\udcfe%b", "%41"])
def test_any_path_is_kept(name, tmp_path):
    path = str(tmp_path / name)
    text = store.path_text(path)
    assert store.local_path(text) == path
    assert (text == path) == ("\udcff" not in name)
    text.encode()


class Killed(BaseException):
    pass


STEPS = ("fsync", "pwrite", "link", "replace", "unlink", "open")


def work(path):
    """Commits of all sorts; yields after each."""
    with new(path) as w:
        yield
        w.append(unit(3, 1), entries("a", 3))
        w.append(unit(2, 2), entries("b", 2))
        w.commit()
        yield
        w.drop_files(["/videos/a.mp4"])
        w.append(unit(2, 3), entries("c", 2))
        w.failures = [store.Failure("/x", "broken", False)]
        w.commit()
        yield
        w.compact()
        yield


def test_killed_at_every_step_it_is_one_commit_or_the_next(tmp_path, monkeypatch):
    """Whichever call to the system is the last, what was committed is there."""
    states = []
    for _ in work(tmp_path / "whole"):
        states.append(content(open_index(tmp_path / "whole")))
    assert [len(s) for s in states] == [0, 5, 4, 4]

    def until(count):
        """Runs all until the call of that number, which does not come about."""
        left = [count]

        def guarded(function):
            def call(*args, **kwargs):
                left[0] -= 1
                if left[0] == 0:
                    raise Killed
                return function(*args, **kwargs)

            return call

        done = 0
        with monkeypatch.context() as m:
            for name in STEPS:
                m.setattr(os, name, guarded(getattr(os, name)))
            try:
                for _ in work(tmp_path / str(count)):
                    done += 1
            except Killed:
                return done, True
        return done, False

    count, killed = 0, True
    while killed:
        count += 1
        done, killed = until(count)
        path = tmp_path / str(count)
        if not done:
            assert not (path / "index.json").exists() or not content(open_index(path))
        else:
            assert content(open_index(path)) in states[done - 1 : done + 1]
        # Another goes on from there, to the same end.
        with new(path) as w:
            w.drop(np.ones(len(w.items), bool))
            w.append(unit(3, 5), entries("z", 3))
            w.commit()
        index = open_index(path)
        np.testing.assert_array_equal(index.vectors()[index.live], unit(3, 5))
        np.testing.assert_array_equal(
            np.load(path / "embeddings.npy"), index.embeddings
        )
        assert pq.read_table(str(path / "items.parquet")).equals(index.items)
    assert count > 30


def test_killed_for_real(tmp_path):
    """A process that commits on and on is killed; its last words were the truth."""
    code = (
        "import sys\n"
        "from tests.test_index_store import *\n"
        "with new(sys.argv[1]) as w:\n"
        "    for i in range(10**6):\n"
        "        w.append(unit(2, i), entries(str(i), 2))\n"
        "        w.commit()\n"
        "        print(i, flush=True)\n"
    )
    path = tmp_path / "index"
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE, text=True
    )
    for _ in range(20):
        process.stdout.readline()
    # While it is alive it is the only one.
    with pytest.raises(UserError, match=f"written by process {process.pid} on "):
        new(path).__enter__()
    process.send_signal(signal.SIGKILL)
    said = process.stdout.read().split()
    process.wait()
    last = int(said[-1]) if said else 19
    index = open_index(path)
    assert index.generation - 1 in (last, last + 1)
    every = np.concatenate([unit(2, i) for i in range(index.generation)])
    np.testing.assert_array_equal(index.vectors(), every)
    with new(path) as w:
        w.append(unit(1, 0), entries("z", 1))
        w.commit()
    assert len(open_index(path).items) == len(index.items) + 1


def test_readers_see_commits_never_a_mixture(tmp_path):
    """Vectors of commit n are all n; half of the commits compact."""
    path, stop, faults, seen = tmp_path / "index", threading.Event(), [], set()

    def commit(w, n):
        w.drop(np.ones(len(w.items), bool))
        vectors = np.zeros((n % 5 + 1, DIM), np.float32)
        vectors[:, n % DIM] = 1
        file = File(f"/{n}", "/", 1, 1, str(n))
        w.append(vectors, [Entry(file, "image")] * len(vectors))
        w.compact() if n % 2 else w.commit()

    def read():
        while not stop.is_set():
            try:
                index = open_index(path)
                names = set(index.items["file"].to_pylist())
                n = int(names.pop()[1:])
                vectors = index.vectors()[index.live]
                good = not names and len(vectors) == n % 5 + 1 == len(index.items)
                if not good or not (vectors[:, n % DIM] == 1).all():
                    faults.append((n, vectors))
                seen.add(n)
            except Exception as e:
                faults.append(e)

    with new(path) as w:
        commit(w, 0)
        threads = [threading.Thread(target=read) for _ in range(3)]
        for thread in threads:
            thread.start()
        for n in range(1, 60):
            commit(w, n)
        stop.set()
        for thread in threads:
            thread.join()
    assert not faults and len(seen) > 5


def test_a_full_disk_is_one_line_and_harms_nothing(tmp_path):
    path = tmp_path / "index"
    with new(path) as w:
        w.append(unit(3), entries("a", 3))
        w.commit()
        before = content(open_index(path))
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        # As on a full disk, files stop growing.
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 14, hard))
        try:
            with pytest.raises(UserError, match=r"cannot be written.*last commit") as e:
                w.append(unit(5000, 1), entries("b", 5000))
                w.commit()
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert "\n" not in str(e.value)
    assert content(open_index(path)) == before
    with new(path) as w:  # there is room again
        w.append(unit(5000, 1), entries("b", 5000))
        w.commit()
    assert len(open_index(path).items) == 5003


def test_no_hard_links(tmp_path, monkeypatch):
    def refuse(*_):
        raise PermissionError("not on this file system")

    monkeypatch.setattr(os, "link", refuse)
    for n in (1, 2):
        with new(tmp_path / "i") as w:
            w.append(unit(1, n), entries(str(n), 1))
            w.commit()
        index = open_index(tmp_path / "i")
        np.testing.assert_array_equal(
            np.load(tmp_path / "i" / "embeddings.npy"), index.vectors()
        )
        assert len(pq.read_table(str(tmp_path / "i" / "items.parquet"))) == n


def test_what_cannot_be_is_refused_in_one_line(tmp_path):
    path = tmp_path / "index"
    with pytest.raises(UserError, match="no index there"):
        open_index(path)
    with pytest.raises(UserError, match="no index there"), writer(path):
        pass
    assert not path.exists()
    other = tmp_path / "other"
    other.mkdir()
    (other / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="something else"), new(other):
        pass
    assert [p.name for p in other.iterdir()] == ["notes.txt"]
    with pytest.raises(UserError, match="something else"), new(other / "notes.txt"):
        pass

    with new(path) as w:
        w.append(unit(3), entries("a", 3))
        w.commit()
        # Another writer, also of this process.
        with pytest.raises(UserError, match=f"by process {os.getpid()} on"), new(path):
            pass
    contract = Contract(dim=DIM, num_frames=4)
    with (
        pytest.raises(UserError, match=r"different contracts.*num_frames"),
        writer(path, contract, DIM, "float32", {"window": 10.0}),
    ):
        pass
    with (
        pytest.raises(UserError, match=r"dtype=int8, there float32; window=5.0, there"),
        writer(path, CONTRACT, DIM, "int8", {"window": 5.0}),
    ):
        pass

    commit = json.loads((path / "index.json").read_text())
    (path / "index.json").write_text(json.dumps(commit | {"format": 2}))
    with pytest.raises(UserError, match=r"format 2.*update"):
        open_index(path)
    (path / "index.json").write_text('{"format": 1}')
    with pytest.raises(UserError, match=r"index.json: lacks 'dim'"):
        open_index(path)
    (path / "index.json").write_text("{")
    with pytest.raises(UserError, match="cannot be read"):
        open_index(path)
    (path / "index.json").write_text(json.dumps(commit | {"rows": 4}))
    with pytest.raises(UserError, match=r"damaged.*less than"):
        open_index(path)
    (path / "index.json").write_text(json.dumps(commit))
    (path / commit["items"]).write_bytes(b"PAR1 no")
    with pytest.raises(UserError, match="damaged"):
        open_index(path)
    (path / commit["items"]).unlink()
    with pytest.raises(UserError, match=r"items-1.parquet: missing"):
        open_index(path)
