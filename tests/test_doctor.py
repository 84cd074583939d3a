"""`gve doctor`: each fault that it is there for is found, the rest still looked at."""

import os
import pathlib
import subprocess
import sys

import jax
import numpy as np
import pytest

from gve_jax import doctor, media
from gve_jax.contract import Contract
from gve_jax.index import store
from gve_jax.train.loop import train
from tests import tiny

ROOT = pathlib.Path(__file__).parents[1]


def run(*arguments, **environment):
    return subprocess.run(
        [sys.executable, "-m", "gve_jax.doctor", *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )


def lines(check, *arguments):
    return list(doctor._guarded(check, *arguments))


def states(found):
    return [line.state for line in found]


def test_a_machine_that_works():
    done = run()
    assert done.returncode == 0, done.stderr
    for name in ("python", "packages", "codecs", "cache", "disk", "memory", "devices"):
        assert f"OK    {name} " in done.stdout, done.stdout
    assert "H.264, VP9, HEVC, AV1" in done.stdout
    assert not done.stderr  # nothing of what encoders print


@pytest.mark.parametrize(
    "broken, found",
    [
        ("raise ImportError('libjax.so: cannot open')", "libjax.so: cannot open"),
        ("import os; os.kill(os.getpid(), 4)", "killed by SIGILL"),
    ],
)
def test_jax_that_does_not_start_is_one_line(tmp_path, broken, found):
    (tmp_path / "jax.py").write_text(broken)
    done = run("--checkpoint=any", PYTHONPATH=str(tmp_path))
    assert done.returncode == 1
    assert "FAIL  devices" in done.stdout and found in done.stdout
    assert "warn  checkpoint  not looked at" in done.stdout
    assert "OK    codecs" in done.stdout  # all else is looked at
    assert done.stderr.startswith("error: 1 of the lines above say FAIL")


def test_a_device_that_computes_wrongly(monkeypatch):
    told = '{"total": 511, "backend": "gpu", "kinds": ["X", "X"], "bytes": [0, 0]}'
    done = subprocess.CompletedProcess([], 0, told, "")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: done)
    (line,) = lines(doctor.devices)
    assert line.state == "FAIL" and "2 x X" in line.found


def test_an_unused_accelerator(monkeypatch):
    monkeypatch.setattr(doctor, "_hardware", lambda: "GPU")
    (line,) = lines(doctor.devices)
    assert line.state == "warn" and "[cuda]" in line.remedy


def test_versions_are_held_to_their_bounds(monkeypatch):
    real = doctor._version
    old = {"jax": "0.10.1", "av": None}
    monkeypatch.setattr(doctor, "_version", lambda name: old.get(name, real(name)))
    found = [line for line in lines(doctor.packages) if line.state == "FAIL"]
    assert [line.found.split()[0] for line in found] == ["jax", "av"]
    assert "0.10.1" in found[0].found and "missing" in found[1].found
    assert found[0].remedy.startswith('pip install "jax')
    monkeypatch.setattr(doctor.platform, "python_version", lambda: "3.9.1")
    assert states(lines(doctor.python)) == ["FAIL"]


def test_extras_ask_for_what_their_extras_need(monkeypatch):
    real = doctor._requirements
    from packaging.requirements import Requirement

    def requirements(name, extra=""):
        if (name, extra) == ("gve_jax", "tpu"):
            return [Requirement("jax[tpu]")]
        if (name, extra) == ("jax", "tpu"):
            return [Requirement("no-such-package")]
        return real(name, extra)

    monkeypatch.setattr(doctor, "_requirements", requirements)
    (line,) = lines(doctor.extras)
    assert "tpu" in line.found.split("not here:")[1]


def test_codecs_that_lack_or_lie(monkeypatch):
    real = doctor._has
    monkeypatch.setattr(
        doctor, "_has", lambda av, *which: which[0] != "h264" and real(av, *which)
    )
    found = lines(doctor.codecs)
    assert states(found) == ["FAIL", "OK"] and "H.264" not in found[1].found
    monkeypatch.setattr(doctor, "_has", lambda av, codec, mode: mode == "r")
    assert "no encoder" in lines(doctor.codecs)[-1].found
    monkeypatch.setattr(doctor, "_has", real)
    monkeypatch.setattr(doctor, "CODECS", doctor.CODECS[:1])
    read = media.read_video

    def negative(path, **options):
        found = read(path, **options)
        return found._replace(pixels=255 - found.pixels)

    monkeypatch.setattr(media, "read_video", negative)
    assert states(lines(doctor.codecs)) == ["FAIL", "FAIL"]


def test_disk_memory_and_cache(monkeypatch, tmp_path):
    usage = doctor.shutil.disk_usage(".")
    for free, state in ((1 << 20, "FAIL"), (2 << 30, "warn"), (1 << 40, "OK")):
        full = usage._replace(free=free)
        monkeypatch.setattr(doctor.shutil, "disk_usage", lambda _, full=full: full)
        assert states(lines(doctor.disk)) == [state] * 2
    monkeypatch.setattr(doctor, "free_memory", lambda: 1 << 30)
    assert states(lines(doctor.memory)) == ["warn"]
    (tmp_path / "file").touch()
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "file" / "cache"))
    assert states(lines(doctor.cache)) == ["warn"]


def test_a_check_that_breaks_is_a_finding():
    def breaks():
        yield doctor.Line("OK", "first", "")
        raise ZeroDivisionError("of all things")

    found = lines(breaks)
    assert states(found) == ["OK", "FAIL"] and "of all things" in found[1].found


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("doctor")
    pairs = tiny.write_pairs(folder / "train")
    train(tiny.config(pairs, train__steps=0), folder / "run", jax.devices()[:1])
    return folder / "run"


def write_index(path, contract, model, files):
    vectors = np.eye(contract.dim, dtype=np.float32)[: len(files)]
    entries = [
        store.Entry(store.File(str(file), "/", 1, 1, str(file)), "image")
        for file in files
    ]
    with store.writer(path, contract, contract.dim, model=model) as index:
        index.append(vectors, entries)
        index.failures = [store.Failure("broken.mp4", "broken.mp4: no video", False)]
        index.commit()
    return path


def returned(check, *arguments):
    """(lines, what the check returns)."""
    found, running = [], doctor._guarded(check, *arguments)
    while True:
        try:
            found.append(next(running))
        except StopIteration as end:
            return found, end.value


def test_checkpoint_and_index(workdir, tmp_path, monkeypatch):
    found, contract = returned(doctor.checkpoint, {"checkpoint": str(workdir)})
    assert states(found) == ["OK"] and contract.dim == 32
    (tmp_path / "there").touch()
    path = write_index(
        tmp_path / "index",
        contract,
        {"checkpoint": str(workdir)},
        [tmp_path / "there", tmp_path / "gone"],
    )
    found, opened = returned(doctor.index, str(path))
    assert states(found) == ["OK", "warn", "warn"]
    assert "1 of 2 files are gone" in found[1].found and "gone" in found[1].found
    assert "broken.mp4: no video" in found[2].found
    assert states(lines(doctor.contract, contract, opened)) == ["OK"]
    (wrong,) = lines(doctor.contract, Contract(dim=32, weights_hash="w"), opened)
    assert wrong.state == "FAIL" and "weights_hash" in wrong.found

    # The index says which checkpoint it is of, unless one is named.
    looked = []
    for check in ("devices", "codecs"):
        monkeypatch.setattr(doctor, check, lambda: ())
    monkeypatch.setattr(doctor, "checkpoint", lambda model: looked.append(model) or ())
    list(doctor.findings(None, str(path)))
    list(doctor.findings("other", str(path)))
    list(doctor.findings("other", None))
    assert [m["checkpoint"] for m in looked] == [str(workdir), "other", "other"]

    (path / "index.json").write_text("{")
    assert states(lines(doctor.index, str(path))) == ["FAIL"]


def test_checkpoints_that_are_none(tmp_path, monkeypatch):
    model = {"checkpoint": str(tmp_path)}
    (line,) = lines(doctor.checkpoint, model)
    assert line.state == "FAIL" and "neither a training workdir" in line.found
    (tmp_path / "model.safetensors").write_bytes(b"12345")
    monkeypatch.setattr(doctor, "free_memory", lambda: 4)
    (line,) = lines(doctor.checkpoint, model)
    assert line.state == "FAIL" and "memory" in line.found
