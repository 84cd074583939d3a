"""Bulk embedding: shards on any runner and several processes write what one does."""

import contextlib
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import jax
import numpy as np
import pytest
from jax.experimental import multihost_utils

from data_synthesis import pipelines
from data_synthesis.bulk import work
from data_synthesis.embedding import Client, Embedded
from gve_jax.contract import Contract
from gve_jax.data.records import read_items
from gve_jax.embed import Embedder, embed_to_folder
from gve_jax.train.loop import train
from gve_jax.types import UserError
from tests import small_uvrb, tiny
from tests.processes import finish

ROOT = pathlib.Path(__file__).parents[1]
IN_MEMORY = pipelines.beam_options([])


def files_of(folder: pathlib.Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.iterdir()}


def write_items(path: pathlib.Path, rows: list[dict]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


# Without a model: a vector follows from the text, and "bad" ones fail.


class StubClient:
    def __init__(self, contract: Contract, dies_at: int = 99):
        self.contract, self.calls, self._dies_at = contract.to_json(), [], dies_at

    def embed(self, items) -> Embedded:
        if len(self.calls) == self._dies_at:
            raise UserError("the embedder ended with code 9: it said nothing")
        self.calls.append([item.id for item in items])
        rows = [
            np.random.default_rng(list(i.text.encode())).normal(size=8) for i in items
        ]
        bad = {i: "it is bad" for i, x in enumerate(items) if x.text.startswith("bad")}
        return Embedded(np.array(rows, np.float32), bad)

    def close(self) -> None:
        pass


@pytest.fixture
def shared(monkeypatch):
    """What is set as `shared.client` embeds."""

    class Shared:
        client = None

    monkeypatch.setattr(Client, "shared", classmethod(lambda *a: Shared.client))
    return Shared


TEXTS = ["red", "green", "bad one", "red", "blue", "a b", "bad two"]
CONTRACT = Contract(dim=8)


@pytest.fixture
def source(tmp_path) -> str:
    rows = [{"id": f"{i} é", "text": text} for i, text in enumerate(TEXTS)]
    return write_items(tmp_path / "items.jsonl", rows)


def go(source, output, shard_items=2) -> work.Result:
    return work.embed(source, output, ("--checkpoint=x",), shard_items, IN_MEMORY)


def test_shards_are_put_together_in_order(source, shared, tmp_path):
    shared.client = StubClient(CONTRACT)
    out = tmp_path / "out"
    assert go(source, out) == (7, 8, {2: "it is bad", 6: "it is bad"})
    assert sorted(map(len, shared.client.calls)) == [1, 2, 2, 2]
    assert set(files_of(out)) == {
        "embeddings.npy", "ids.json", "contract.json", "failures.jsonl", "items.sha256"
    }  # fmt: skip
    ids = json.loads((out / "ids.json").read_text())
    assert ids == [f"{i} é" for i in (0, 1, 3, 4, 5)]
    want = StubClient(CONTRACT).embed(read_items(source)).vectors
    np.testing.assert_array_equal(
        np.load(out / "embeddings.npy"), want[[0, 1, 3, 4, 5]]
    )
    before = files_of(out)
    shared.client = StubClient(CONTRACT, dies_at=0)
    assert go(source, out).failures.keys() == {2, 6}  # read back
    assert files_of(out) == before


def test_finished_shards_are_not_made_again(source, shared, tmp_path):
    shared.client = StubClient(CONTRACT)
    go(source, tmp_path / "whole")
    shared.client = dying = StubClient(CONTRACT, dies_at=2)
    with pytest.raises(UserError, match="the embedder ended with code 9"):
        go(source, tmp_path / "out")
    assert not (tmp_path / "out" / "embeddings.npy").exists()
    shared.client = rest = StubClient(CONTRACT)
    go(source, tmp_path / "out")
    assert len(dying.calls) == 2 and len(rest.calls) == 2
    assert sorted(i for c in dying.calls + rest.calls for i in c) == [
        f"{i} é" for i in range(7)
    ]
    assert files_of(tmp_path / "out") == files_of(tmp_path / "whole")


def test_shards_of_changed_items_or_of_another_contract_are(source, shared, tmp_path):
    shared.client = StubClient(CONTRACT, dies_at=3)
    with pytest.raises(UserError):
        go(source, tmp_path / "out")
    path = pathlib.Path(source)
    path.write_text(path.read_text().replace("red", "yellow"))
    shared.client = StubClient(Contract(dim=8, weights_hash="other"), dies_at=3)
    with pytest.raises(UserError):
        go(source, tmp_path / "out")
    # The first three now are of another contract, so all four are made.
    shared.client = last = StubClient(CONTRACT)
    go(source, tmp_path / "out")
    assert len(last.calls) == 4
    go(source, tmp_path / "clean")
    assert files_of(tmp_path / "out") == files_of(tmp_path / "clean")


def test_a_worker_with_another_model_is_refused(source, tmp_path, monkeypatch):
    clients = iter([StubClient(CONTRACT), StubClient(Contract(dim=8, decoder="old"))])
    monkeypatch.setattr(Client, "shared", classmethod(lambda *a: next(clients)))
    with pytest.raises(UserError, match=r"this worker and .* \(decoder: 'old'"):
        work.embed(source, tmp_path / "out", (), 9, IN_MEMORY)


def test_folders_that_are_not_for_this(source, shared, tmp_path):
    shared.client = StubClient(CONTRACT)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "pieces").mkdir()
    with pytest.raises(UserError, match="full holds something else"):
        go(source, tmp_path / "full")
    go(source, tmp_path / "out")
    shared.client = StubClient(Contract(dim=8, dtype="bfloat16"))
    with pytest.raises(UserError, match="dtype: 'float32' against 'bfloat16'"):
        go(source, tmp_path / "out")


def test_nothing_readable_leaves_the_reasons(shared, tmp_path):
    shared.client = StubClient(CONTRACT)
    source = write_items(tmp_path / "i.jsonl", [{"id": "a", "text": "bad"}])
    assert go(source, tmp_path / "out").failures == {0: "it is bad"}
    assert list(files_of(tmp_path / "out")) == ["failures.jsonl"]


def test_dask_changes_no_byte(source, shared, tmp_path):
    distributed = pytest.importorskip("distributed")
    shared.client = StubClient(CONTRACT)
    go(source, tmp_path / "one")
    with distributed.LocalCluster(
        n_workers=1, threads_per_worker=1, processes=False, dashboard_address=None
    ) as cluster:
        address = f"--dask_client_address={cluster.scheduler_address}"
        options = pipelines.beam_options(["--runner=DaskRunner", address])
        work.embed(source, tmp_path / "dask", (), 2, options)
        with contextlib.suppress(ValueError):  # Beam leaves its client open
            while True:
                distributed.default_client().close()
    assert files_of(tmp_path / "dask") == files_of(tmp_path / "one")


# Several processes of JAX.


def test_processes_share_the_items(tmp_path, monkeypatch):
    rows = [{"id": str(i), "text": f"v{i % 9} x"} for i in range(20)]
    items = read_items(write_items(tmp_path / "items.jsonl", rows))
    one = small_uvrb.FakeEmbedder()
    whole = embed_to_folder(one, items, tmp_path / "one")
    two = [small_uvrb.FakeEmbedder(), small_uvrb.FakeEmbedder()]
    number, barrier = threading.local(), threading.Barrier(2, timeout=60)
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(jax, "process_index", lambda: number.value)
    monkeypatch.setattr(
        multihost_utils, "sync_global_devices", lambda name: barrier.wait()
    )

    def process(i):
        number.value = i
        return embed_to_folder(two[i], items, tmp_path / "two")

    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(process, range(2))
    shares = [{item.text for item in each.items} for each in two]
    assert all(shares) and not shares[0] & shares[1]
    assert len(shares[0] | shares[1]) == len(one.items) == 9
    assert second is None
    np.testing.assert_array_equal(first.vectors, whole.vectors)
    assert files_of(tmp_path / "two") == files_of(tmp_path / "one")


def test_a_folder_that_is_not_shared_is_found_out(tmp_path, monkeypatch):
    rows = [{"id": str(i), "text": f"v{i} x"} for i in range(9)]
    items = read_items(write_items(tmp_path / "items.jsonl", rows))
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(multihost_utils, "sync_global_devices", lambda name: None)
    with pytest.raises(UserError, match="a folder that all processes share"):
        embed_to_folder(small_uvrb.FakeEmbedder(), items, tmp_path / "out")


# With a model: loading one, here and in a child, takes long.


@pytest.fixture(scope="module")
def media(tmp_path_factory) -> pathlib.Path:
    """An untrained workdir `run`, and items.jsonl: clips, texts, a file of no video."""
    root = tmp_path_factory.mktemp("bulk")
    clips = tiny.write_pairs(root / "clips")
    config = tiny.config(clips, optim__warmup_steps=0, train__steps=0)
    train(config, root / "run", jax.devices()[:1])
    (clips / "broken.mp4").write_bytes(b"no video")
    names = sorted(p.name for p in clips.glob("*-*.mp4"))
    rows = [{"id": n, "video": f"clips/{n}"} for n in names]
    rows += [
        {"id": "bad", "video": "clips/broken.mp4"},
        {"id": "t", "text": "a red square"},
        {"id": "cut", "video": "clips/red-left.mp4", "start": 0.2, "end": 1.0},
        {"id": "again", "text": "a red square"},
    ]
    write_items(root / "items.jsonl", rows)
    return root


@pytest.fixture(scope="module")
def exact(media, tmp_path_factory) -> pathlib.Path:
    """What one process writes."""
    folder = tmp_path_factory.mktemp("exact") / "out"
    embedder = Embedder.from_checkpoint(
        media / "run", exact=True, devices=jax.devices()[:1]
    )
    embed_to_folder(embedder, read_items(media / "items.jsonl"), folder)
    return folder


@pytest.mark.slow
def test_shards_write_what_exact_embedding_does(media, exact, tmp_path, monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--xla_force_host_platform_device_count=1")
    found = work.embed(
        str(media / "items.jsonl"),
        tmp_path / "out",
        (f"--checkpoint={media / 'run'}",),
        9,
        IN_MEMORY,
    )
    Client.shared(f"--checkpoint={media / 'run'}").close()
    assert found.items == 16 and list(found.failures) == [12]
    assert "broken.mp4" in found.failures[12]
    assert files_of(tmp_path / "out") == files_of(exact)


def command(media, module: str, output: pathlib.Path, *more: str) -> subprocess.Popen:
    arguments = (f"--checkpoint={media / 'run'}", f"--input={media / 'items.jsonl'}")
    return subprocess.Popen(
        [sys.executable, "-m", module, *arguments, f"--output={output}", *more],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        start_new_session=True,
    )  # fmt: skip


BULK = "data_synthesis.bulk"


@pytest.mark.slow
def test_processes_and_interruptions_change_no_byte(media, exact, tmp_path):
    more = "--shard_items=2", "--processes=2"
    victim = command(media, BULK, tmp_path / "out", *more)
    shards = tmp_path / "out" / "shards" / "vectors"
    end = time.monotonic() + 120
    while len(list(shards.glob("*.json"))) < 2 and time.monotonic() < end:
        time.sleep(0.05)
    os.killpg(victim.pid, signal.SIGKILL)
    victim.communicate()
    kept = {p: p.stat().st_mtime_ns for p in shards.glob("*.json")}
    assert 2 <= len(kept) < 8
    again = command(media, BULK, tmp_path / "out", *more)
    ((out, error),) = finish(again)
    assert "15 vectors of 32" in out and "1 of 16 items could not be read" in error
    assert "vectors: 8/8 shards" in error
    assert files_of(tmp_path / "out") == files_of(exact)


@pytest.mark.slow
def test_a_dask_cluster_changes_no_byte(media, exact, tmp_path):
    distributed = pytest.importorskip("distributed")
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, dashboard_address=None,
        env={"PYTHONPATH": str(ROOT)},
    ) as cluster:  # fmt: skip
        address = f"--dask_client_address={cluster.scheduler_address}"
        more = "--runner=DaskRunner", address, "--shard_items=4"
        finish(command(media, BULK, tmp_path / "out", *more))
    assert files_of(tmp_path / "out") == files_of(exact)


@pytest.mark.slow
@pytest.mark.parametrize("flag", ["--exact", "--noexact"])
def test_two_jax_processes_write_what_one_does(media, exact, tmp_path, flag):
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        address = f"--coordinator=127.0.0.1:{s.getsockname()[1]}"
    out = tmp_path / "out"
    more = address, "--processes=2", flag, "--stats"
    (first, error), (second, _) = finish(
        *(
            command(media, "gve_jax.embed", out, *more, f"--process={i}")
            for i in range(2)
        )
    )
    assert "15 vectors of 32" in first and "1 of 16 items" in error
    assert "vectors of" not in second
    if flag == "--exact":
        assert files_of(out) == files_of(exact)
    else:
        both = [np.load(x / "embeddings.npy") for x in (out, exact)]
        np.testing.assert_allclose(*both, atol=2e-6, rtol=0)  # as docs/embedding.md
