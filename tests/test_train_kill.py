"""Killed at random moments and started again, a run ends as if nothing had been."""

import contextlib
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import threading
import time
from typing import NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

from gve_jax.checkpoint import Checkpoints
from gve_jax.contract import Contract
from gve_jax.data.sources import load_tasks
from gve_jax.disk import read_rows
from gve_jax.preprocess import Tokenizer
from gve_jax.train import setup
from gve_jax.train.logs import cut_after
from tests import tiny
from tests.test_train import metrics
from tests.test_train_processes import ROOT, free_port

STEPS, EPOCH, EVERY = 24, 4, 6  # updates: of the run, an epoch, between evaluations
# Two devices. What differs by the number of processes is what costs them most.
CONFIG = """
from tests import tiny

def get_config():
    return tiny.config(
        {pairs!r}, data__batch_size=4, data__held_out=4, data__num_negatives=1,
        mesh__data=2, curriculum__name="pyramid", curriculum__epochs={epochs},
        optim__name="adamw", model__vision__depth=1,
        model__vision__fullatt_block_indexes=(0,), train__accumulate=2,
        train__steps={steps}, train__eval_every={every}, train__checkpoint_every=2,
        **{changes!r},
    )
"""
CHANGES = {1: dict(train__chunk=130, mine__each_epoch=True), 2: {}}
# Most seconds for a process to end that lost its peer: JAX gives up a peer whose
# heartbeat is missing for 100 s, and then waits for it to leave, too.
SURVIVES_S = 150


class Moment(NamedTuple):
    """When to kill."""

    at: str  # what is waited for, see `seen`
    after: int  # and the step from which on it counts
    wait: float  # seconds from then on
    victims: tuple[int, ...]  # processes


def moments(seed: int, processes: int) -> list[Moment]:
    """Ten; the first is when the run has planned its first epoch and saved nothing."""
    rng = np.random.default_rng(seed)
    longest = {"start": 6.0, "line": 1.0, "saving": 0.1, "before": 0.5, "border": 0.3}
    kinds = ["start"] * 2 + ["line"] * 2 + ["saving"] * 3 + ["before", "border"]
    every = tuple(range(processes))
    drawn = [Moment("border", 0, 0.0, every)]
    afters = np.sort(rng.integers(0, STEPS // 2, len(kinds))).tolist()
    for at, after in zip(rng.permutation(kinds).tolist(), afters, strict=True):
        # One that starts alone waits for the other for minutes.
        one = processes > 1 and at != "start" and len(drawn) % 2
        victims = (int(rng.integers(processes)),) if one else every
        drawn.append(Moment(at, after, rng.uniform(0, longest[at]), victims))
    return drawn


def seen(moment: Moment, workdir: pathlib.Path, began: float) -> bool:
    """Whether what is waited for is there, in a run that was started at `began`."""
    if moment.at == "start":
        return True
    path = workdir / "curriculum.jsonl"
    # Going on, a run writes its logs anew; a new one has planned its first epoch.
    if not path.exists() or path.stat().st_mtime < began:
        return False
    if moment.at == "border":  # a plan that no checkpoint knows
        plan = read_rows(path)[-1:]
        return bool(plan) and plan[0]["step"] > max(newest(workdir), moment.after - 1)
    if moment.at == "saving":
        return any(
            int(name.split(".")[0]) >= moment.after and made >= path.stat().st_mtime
            for name, made in unfinished(workdir).items()
        )
    step = reached(workdir)
    before = moment.at == "line" or (step + 1) % EPOCH == 0
    return step >= max(moment.after, 1) and before


def unfinished(workdir) -> dict[str, float]:
    """Checkpoints that are not whole: name -> when its folder last changed."""
    found = {}
    for path in (workdir / "checkpoints").glob("*"):
        if not path.name.isdigit():
            with contextlib.suppress(FileNotFoundError):  # whole just now
                found[path.name] = path.stat().st_mtime
    return found


def newest(workdir) -> int:
    """The step of the last whole checkpoint; -1: there is none."""
    names = [path.name for path in (workdir / "checkpoints").glob("*")]
    return max((int(name) for name in names if name.isdigit()), default=-1)


def reached(workdir) -> int:
    """The last step in metrics.jsonl; 0: none."""
    return max((row["step"] for row in read_rows(workdir / "metrics.jsonl")), default=0)


# JAX keeps the compiled programs of the first process only: where this is run, it keeps
# those of all, and the runs that follow start quickly.
KEEPING = """
import runpy, types
from jax._src import compiler
compiler.distributed = types.SimpleNamespace(
    global_state=types.SimpleNamespace(process_id=0, client=None)
)
runpy.run_module("gve_jax.train", run_name="__main__", alter_sys=True)
"""


def run(config, workdir, processes: int, moment: Moment | None, log, *python) -> list:
    """Runs the command, its stderr in files named `log`; the exit codes.

    Args:
      python: arguments that make Python run the command, if it is not run as users do.
    """
    flags = (
        f"--xla_force_host_platform_device_count={2 // processes}",
        "--xla_backend_optimization_level=0",  # compiling is what takes the time
    )
    environment = {"XLA_FLAGS": " ".join(flags), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, *(python or ("-m", "gve_jax.train"))]
    command += [f"--config={config}", f"--workdir={workdir}"]
    if processes > 1:
        address = f"--coordinator=127.0.0.1:{free_port()}"
        command += [address, f"--processes={processes}"]
    began, started = time.time(), []
    for i in range(processes):
        number = [f"--process={i}"] if processes > 1 else []
        with open(f"{log}.{i}", "w") as f:
            started.append(
                subprocess.Popen(
                    [*command, *number],
                    cwd=ROOT,
                    env=os.environ | environment,
                    stderr=f,
                )
            )
    try:
        if moment:
            while not seen(moment, workdir, began) and all(
                process.poll() is None for process in started
            ):
                time.sleep(0.003)
            time.sleep(moment.wait)
            for i in moment.victims:
                started[i].kill()
        since = time.time()
        for process in started:
            process.wait(timeout=SURVIVES_S if moment else 500)
    finally:
        for process in started:
            process.kill()
    print(
        f"{moment}: after {since - began:.1f} s, all ended {time.time() - since:.1f} s "
        f"later; step {reached(workdir)}, saved {newest(workdir)}, unfinished: "
        f"{[*unfinished(workdir)]}"
    )
    return [process.returncode for process in started]


def position(workdir, step: int) -> dict:
    """What a checkpoint holds beside arrays: of the loader, the curriculum, the log."""
    path = workdir / "checkpoints" / str(step) / "data" / "metadata"
    return json.loads(path.read_text())


def arrays(workdir, item: str) -> dict[str, np.ndarray]:
    """Of the last checkpoint, read without the project's model or its devices."""
    path = workdir / "checkpoints" / str(STEPS) / item
    with ocp.PyTreeCheckpointer() as reader:
        tree = reader.metadata(path).item_metadata.tree
        args = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), tree)
        found = reader.restore(path, restore_args=args)
    leaves = jax.tree_util.tree_leaves_with_path(found)
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in leaves}


@pytest.mark.slow
@pytest.mark.parametrize("processes, seed", [(1, 0), (2, 1)])
def test_a_run_killed_ten_times_ends_as_one_that_was_not(processes, seed, tmp_path):
    pairs = tiny.write_pairs(tmp_path / "train")
    config = tmp_path / "config.py"
    config.write_text(
        CONFIG.format(
            pairs=str(pairs),
            epochs=STEPS // EPOCH,
            steps=STEPS,
            every=EVERY,
            changes=CHANGES[processes],
        )
    )
    whole, workdir = tmp_path / "whole", tmp_path / "run"
    assert not any(run(config, whole, processes, None, tmp_path / "0", "-c", KEEPING))
    torn = 0
    for number, moment in enumerate([*moments(seed, processes), None], 1):
        log = tmp_path / str(number)
        codes = run(config, workdir, processes, moment, log)
        told = pathlib.Path(f"{log}.0").read_text()
        if moment:
            assert all(codes[i] == -signal.SIGKILL for i in moment.victims), told
            assert all(codes)
            torn += bool(unfinished(workdir))
        else:
            assert not any(codes), told
        # The plan of the running epoch is not made anew.
        resumed = re.search(r"resuming .* at step (\d+)", told)
        first, last = int(resumed[1]) if resumed else -1, reached(workdir)
        probes = [s for s in range(0, STEPS, EPOCH) if first < s <= last + 1]
        probes += [s for s in range(EVERY, STEPS + 1, EVERY) if first < s <= last]
        count = len(re.findall("^probe:", told, re.MULTILINE))
        assert count <= len(probes) if moment else count == len(probes)
    assert torn, "no kill fell into the writing of a checkpoint"
    assert metrics(workdir) == metrics(whole)
    for name in ("curriculum", "evaluations"):
        assert read_rows(workdir / f"{name}.jsonl") == read_rows(
            whole / f"{name}.jsonl"
        )
    for item in ("params", "train"):
        ends = [arrays(folder, item) for folder in (whole, workdir)]
        jax.tree.map(np.testing.assert_array_equal, *ends)
    assert position(workdir, STEPS) == position(whole, STEPS)
    assert Checkpoints(workdir).steps == Checkpoints(whole).steps
    assert not unfinished(workdir)


def test_logs_without_a_checkpoint_are_begun_anew(tmp_path):
    """Else the plan before the first step would be there twice."""
    for step, kept in ((None, []), (0, [0]), (1, [0, 1])):
        path = tmp_path / f"{step}.jsonl"
        path.write_text('{"step": 0}\n{"step": 1}\n{"st')
        cut_after(path, step)
        assert [row["step"] for row in read_rows(path)] == kept


def test_a_checkpoint_keeps_what_was_given_to_it(tmp_path, monkeypatch):
    """Orbax encodes in the background, while the next steps are done and logged."""
    dumps, changed = json.dumps, threading.Event()

    def late(values, **options):
        if isinstance(values, dict) and "losses" in values:
            changed.wait(60)
        return dumps(values, **options)

    weights, data = {"w": np.zeros(3)}, {"losses": {"T2V": [1.0, 1]}}
    checkpoints = Checkpoints(tmp_path)
    monkeypatch.setattr(json, "dumps", late)
    checkpoints.save(0, weights, Contract(), weights, data)
    data["losses"]["T2V"][0] = 2.0
    changed.set()
    checkpoints.close()
    assert position(tmp_path, 0) == {"losses": {"T2V": [1.0, 1]}}


def test_a_tokenizer_is_there_whole_or_not_at_all(tmp_path, monkeypatch):
    """Half of one would refuse every later start."""
    pairs = tiny.write_pairs(tmp_path / "train")
    config, tasks, workdir = tiny.config(pairs), load_tasks(pairs), tmp_path / "run"

    def die(_, folder):
        folder.mkdir(parents=True)
        (folder / "tokenizer.json").write_text("{")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Tokenizer, "save", die)
        setup.prepare_workdir(config, workdir, tasks)
    digests = {setup.prepare_workdir(config, workdir, tasks).digest for _ in range(2)}
    assert len(digests) == 1
    assert not (workdir / "tokenizer.part").exists()
