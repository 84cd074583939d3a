"""Two real processes: trained, saved and resumed, equal to one process."""

import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from gve_jax.restore import restore
from tests import tiny
from tests.test_train import metrics

ROOT = pathlib.Path(__file__).parents[1]
CONFIG = """
from tests import tiny

def get_config():
    return tiny.config(
        {pairs!r}, data__held_out=4, data__num_negatives=1, mesh__data=2, mesh__fsdp=2,
        curriculum__name="pyramid", curriculum__epochs=2, train__accumulate=2,
        train__eval_every=3, train__checkpoint_every=2, train__chunk=130,
        train__keep=9, train__steps=6, mine__each_epoch=True,
    )
"""


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    folder = tmp_path_factory.mktemp("processes")
    pairs = tiny.write_pairs(folder / "train")
    (folder / "config.py").write_text(CONFIG.format(pairs=str(pairs)))
    return folder / "config.py"


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def start(config, workdir, processes: int, *arguments: str) -> list[subprocess.Popen]:
    """Four devices, over that many processes."""
    flags = (
        f"--xla_force_host_platform_device_count={4 // processes}",
        "--xla_backend_optimization_level=0",  # compiling is what takes the time
    )
    environment = {
        **os.environ,
        "XLA_FLAGS": " ".join(flags),
        "PYTHONPATH": str(ROOT),
    }
    port = free_port()
    started = []
    for i in range(processes):
        command = [
            *(sys.executable, "-m", "gve_jax.train", f"--config={config}"),
            *(f"--workdir={workdir}", *arguments),
        ]
        if processes > 1:
            command += [
                f"--coordinator=127.0.0.1:{port}",
                f"--processes={processes}",
                f"--process={i}",
            ]
        started.append(
            subprocess.Popen(
                command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True
            )
        )
    return started


def finish(started) -> list[str]:
    """Their stderr; all must end well."""
    try:
        errors = [process.communicate(timeout=400)[1] for process in started]
    finally:
        for process in started:
            process.kill()
    for process, error in zip(started, errors, strict=True):
        assert process.returncode == 0, error[-3000:]
    return errors


def lines(workdir, name):
    return [json.loads(x) for x in (workdir / f"{name}.jsonl").read_text().splitlines()]


def close(a, b):
    """Equal, but for the order of sums."""
    if isinstance(a, dict):
        assert a.keys() == b.keys()
        for key in a:
            close(a[key], b[key])
    elif isinstance(a, list):
        for x, y in zip(a, b, strict=True):
            close(x, y)
    elif isinstance(a, float):
        np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-6)
    else:
        assert a == b


@pytest.fixture(scope="module")
def two(config, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("two") / "run"
    finish(start(config, workdir, 2))
    return workdir


def test_two_processes_train_as_one(config, two, tmp_path):
    finish(start(config, tmp_path / "one", 1))
    one = metrics(tmp_path / "one")
    close(one, metrics(two))
    np.testing.assert_allclose(one[0]["loss"], metrics(two)[0]["loss"], rtol=1e-6)
    for name in ("curriculum", "evaluations"):
        close(lines(tmp_path / "one", name), lines(two, name))


def test_two_processes_resume_in_mid_epoch(config, two, tmp_path):
    workdir = tmp_path / "run"
    shutil.copytree(two, workdir)
    for step in (5, 6):
        shutil.rmtree(workdir / "checkpoints" / str(step), ignore_errors=True)
    assert (workdir / "checkpoints" / "4").is_dir()
    errors = finish(start(config, workdir, 2))
    assert all("at step 4" in error for error in errors)
    assert metrics(workdir) == metrics(two)
    for name in ("curriculum", "evaluations"):
        assert lines(workdir, name) == lines(two, name)
    # Read by this process alone, as whoever embeds with them does.
    ends = [restore(folder).params for folder in (two, workdir)]
    jax.tree.map(np.testing.assert_array_equal, *ends)


def test_sigterm_to_one_process_stops_both_at_one_step(config, tmp_path):
    workdir = tmp_path / "run"
    started = start(
        config,
        workdir,
        2,
        "--config.train.steps=100000",
        "--config.curriculum.name=static",
        "--config.mine.each_epoch=False",
        "--config.train.eval_every=0",
        "--config.train.checkpoint_every=100000",
    )
    waited = 0
    while not (workdir / "metrics.jsonl").exists() and waited < 300:
        time.sleep(0.5)
        waited += 0.5
    started[1].send_signal(signal.SIGTERM)
    errors = finish(started)
    steps = {e.split("after step ")[1].split(",")[0] for e in errors}
    assert len(steps) == 1
    assert (workdir / "checkpoints" / steps.pop()).is_dir()
