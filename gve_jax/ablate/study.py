"""Runs the arms of a study, one after the other, each in commands of its own.

OUTPUT/config.json                 what of the study decides the runs
OUTPUT/ARM/config.json             what is trained in this arm
OUTPUT/ARM/SEED/train, eval        workdir and evaluation, and the log of each
OUTPUT/ARM/comparison.json         with the arm's baseline, by `eval.compare`
OUTPUT/results.json, report.html   anew after each seed of all arms
"""

import contextlib
import importlib.util
import os
import pathlib
import runpy
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from ml_collections import ConfigDict

from gve_jax.ablate.report import write_report
from gve_jax.ablate.results import collect
from gve_jax.checkpoint import save_config
from gve_jax.data.schedulers import scheduler
from gve_jax.disk import read_rows, write_json
from gve_jax.progress import ProgressLine
from gve_jax.types import UserError

PYTHON = (sys.executable, "-m")  # what runs a module as a command
_POLL_S = 1.0


class Run(NamedTuple):
    """One arm with one seed."""

    arm: str
    seed: int
    folder: pathlib.Path
    train: list[str]  # module and flags of the two commands
    eval: list[str]  # empty: it is not evaluated

    def step(self) -> int:
        """The last that its log tells of; 0 if there is none."""
        rows = read_rows(self.folder / "train" / "metrics.jsonl")
        return rows[-1]["step"] if rows else 0

    def trained(self, steps: int) -> bool:
        """Whether its last checkpoint is there, which is written behind the log."""
        return (self.folder / "train" / "checkpoints" / str(steps)).is_dir()

    def evaluated(self) -> bool:
        return (self.folder / "eval" / "results.json").exists()  # written last


def run_study(
    study: ConfigDict,
    output: str | os.PathLike,
    arms: Sequence[str] | None = None,
    python: Sequence[str] = PYTHON,
) -> dict:
    """Runs what is not there yet, compares, and returns what results.json holds.

    Args:
      study: configs/ablation_world.py shows its keys.
      output: folder; what it holds is gone on with.
      arms: some of those of the study; by default all.
      python: command that a module's name and flags are added to.

    Raises:
      UserError: an unknown arm or faulty study, a run that failed, an output of
        another study, or no checkout of the project.
    """
    output = pathlib.Path(output)
    names = _chosen(study, arms)
    if importlib.util.find_spec("eval") is None:
        raise UserError(
            "gve_jax.ablate needs the folder eval, which is not part of the package: "
            "run it in a checkout of the project"
        )
    configs = {name: _training(study, name) for name in names}
    runs = _plan(study, output, configs)
    if not runs[0].eval:  # the prober's
        configs.setdefault(study.prober.arm, _training(study, study.prober.arm))
    # Nothing runs before all that is there has been found to be of this study.
    _record(output, ConfigDict({key: study[key] for key in _DECIDING}))
    for name, config in configs.items():
        _record(output / name, config)

    total, done = len(runs) * study.steps, sum(run.step() for run in runs)
    commands: list[list[str]] = []
    fresh = False  # whether there is something to compare that was not before
    with ProgressLine("ablate", total, "steps", done) as line:
        for number, run in enumerate(runs, 1):
            title = f"run {number} of {len(runs)}: {run.arm}, seed {run.seed}"
            fresh |= _finish(run, study.steps, line, title, python)
            commands += filter(None, (run.train, run.eval))
            last = number == len(runs)
            if run.eval and run.arm == names[-1] and (fresh or last):
                fresh = False
                seeds = study.seeds[: study.seeds.index(run.seed) + 1]
                comparisons = _comparisons(study, output, names, seeds)
                for name, command in comparisons.items():
                    line.note = f"{title}, comparison of {name}"
                    log = output / name / "comparison.log"
                    _call([*python, *command], log, lambda: line.advance(0))
                results = collect(study, output, names, seeds)
                write_json(output / "results.json", results)
                write_report(output, results, [*commands, *comparisons.values()])
    return results


def _plan(
    study: ConfigDict, output: pathlib.Path, configs: Mapping[str, ConfigDict]
) -> list[Run]:
    """All runs, done or not, in their order; the prober's first if one is needed.

    They go seed by seed, so that a study that is cut short compares all arms.

    Args:
      configs: training config of each arm that is compared.
    """
    probing = [n for n, c in configs.items() if scheduler(c.curriculum.name).probes]
    runs, prober = [], None
    if probing:
        arm, seed = study.prober.arm, study.prober.seed
        config = _training(study, arm)
        if seed in study.seeds or scheduler(config.curriculum.name).probes:
            raise UserError(
                f"prober: arm {arm}, seed {seed}: give an arm that is not probed, and "
                f"a seed other than those compared, {study.seeds}"
            )
        run = _run(study, output, arm, seed)._replace(eval=[])
        runs, prober = [run], run.folder / "train"
    return runs + [
        _run(study, output, name, seed, prober if name in probing else None)
        for seed in study.seeds
        for name in configs
    ]


# Fields of the study that a run's outcome depends on, beside its arm's own.
_DECIDING = ("steps", "world", "evaluation", "prober")


def _chosen(study: ConfigDict, arms: Sequence[str] | None) -> list[str]:
    """In the order of the study. Checks the study as well."""
    if not study.seeds or len(set(study.seeds)) < len(study.seeds):
        raise UserError(f"seeds={study.seeds}: give one or more, all different")
    if study.steps < 1:
        raise UserError(f"steps={study.steps}: give at least 1")
    for name in [*(arms or ()), study.prober.arm]:
        if name not in study.order:
            known = ", ".join(study.order)
            raise UserError(f"no arm {name!r} in the study: give one of {known}")
    return [name for name in study.order if arms is None or name in arms]


def _training(study: ConfigDict, name: str) -> ConfigDict:
    """The training config of an arm, as its runs will have it but for the seed."""
    path, _, argument = study.arms[name].config.partition(":")
    try:
        get_config = runpy.run_path(path)["get_config"]
    except OSError as e:
        raise UserError(f"arms.{name}.config: cannot read {path}: {e}") from None
    config = get_config(*([argument] if argument else ()))
    config.update_from_flattened_dict(_overrides(study, name))
    return config


def _overrides(study: ConfigDict, name: str) -> dict:
    """What the study sets in the training config of an arm."""
    pairs = study.arms[name].get("pairs", f"{study.world}/train")
    return {"train.steps": study.steps, "data.pairs": pairs}


def _run(
    study: ConfigDict,
    output: pathlib.Path,
    name: str,
    seed: int,
    prober: pathlib.Path | None = None,
) -> Run:
    folder = output / name / str(seed)
    values = _overrides(study, name) | {"seed": seed}
    if prober:
        values["curriculum.prober"] = prober
    train = [
        "gve_jax.train",
        f"--config={study.arms[name].config}",
        f"--workdir={folder / 'train'}",
        *(f"--config.{key}={value}" for key, value in values.items()),
    ]
    evaluation = [
        "eval",
        f"--config={study.evaluation}:{study.world}/uvrb_mini",
        f"--checkpoint={folder / 'train'}",
        f"--output={folder / 'eval'}",
    ]
    return Run(name, seed, folder, train, evaluation)


def _record(folder: pathlib.Path, config: ConfigDict) -> None:
    """Writes config.json, or refuses a changed one, naming the fields."""
    try:
        save_config(folder, config)
    except UserError as e:
        raise UserError(str(e).replace("--workdir", "--output")) from None


def _finish(
    run: Run,
    steps: int,
    line: ProgressLine,
    title: str,
    python: Sequence[str],
) -> bool:
    """Trains and evaluates what is left of a run; says whether anything was."""
    shown = run.step()

    def tick() -> None:
        nonlocal shown
        now = run.step()
        line.note = f"{title}, step {now} of {steps}"
        line.advance(max(now - shown, 0))
        shown = max(now, shown)

    if run.trained(steps) and (run.evaluated() or not run.eval):
        return False
    if not run.trained(steps):
        _call([*python, *run.train], run.folder / "train.log", tick)
        tick()
        if not run.trained(steps):  # SIGTERM asks it to save and to leave, with 0
            raise UserError(
                f"{run.folder}: training was stopped at step {run.step()} of {steps}: "
                "run the same command again to go on"
            )
    if run.eval and not run.evaluated():
        line.note = f"{title}, evaluation"
        _call([*python, *run.eval], run.folder / "eval.log", lambda: line.advance(0))
    return True


def _comparisons(
    study: ConfigDict,
    output: pathlib.Path,
    names: Sequence[str],
    seeds: Sequence[int],
) -> dict[str, list[str]]:
    """Arm -> module and flags that compare it with its baseline, if that is there."""

    def evaluations(arm: str) -> str:
        return ",".join(str(output / arm / str(seed) / "eval") for seed in seeds)

    return {
        name: [
            "eval.compare",
            f"--run={evaluations(name)}",
            f"--baseline={evaluations(study.arms[name].baseline)}",
            f"--resamples={study.resamples}",
            f"--output={output / name / 'comparison.json'}",
        ]
        for name in names
        if study.arms[name].baseline in names
    }


def _call(command: list[str], log: pathlib.Path, tick: Callable[[], None]) -> None:
    """Runs a command, what it prints going to the end of a log file.

    It is in a session of its own: Ctrl-C reaches this process alone, which then lets
    the command save what it has.

    Raises:
      UserError: the command failed.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with open(log, "ab") as out:
        child = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        while child.poll() is None:
            tick()
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(_POLL_S)
    except KeyboardInterrupt:
        child.terminate()
        child.wait()
        raise
    finally:
        if child.poll() is None:  # interrupted a second time, or a fault of our own
            child.kill()
    if child.returncode:
        last = log.read_text(encoding="utf-8", errors="replace").split("\n")[-2:-1]
        raise UserError(
            f"a command of the study failed with code {child.returncode}, see {log}: "
            f"{''.join(last)}"
        )
