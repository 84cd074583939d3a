"""Makes a training set of raw videos and their captions; started again, it goes on.

python -m data_synthesis --config=configs/synthesis_world.py \
    --input=runs/quickstart/world/raw/raw.jsonl --output=runs/synthesis

`--stages=qc` runs one stage (those before it must be done); `--retry_failed=CODES` (or
`all`) makes the records that ended in such errors anew. All other arguments are Beam's:
`--runner=DaskRunner --dask_client_address=HOST:PORT`, and so on.
"""

import importlib
import os
import pathlib
import shlex
import sys

from absl import flags
from ml_collections import config_flags

from data_synthesis import outputs, pipelines, retry, shards
from data_synthesis.captioners import choice
from data_synthesis.report.write import write_report
from data_synthesis.run import Run, open_run
from data_synthesis.stages import STAGES
from gve_jax.main import run as run_command
from gve_jax.types import UserError

_CONFIG = config_flags.DEFINE_config_file("config", None, "Experiment file.")
_INPUT = flags.DEFINE_string("input", None, "raw.jsonl: id, video and text a line.")
_OUTPUT = flags.DEFINE_string("output", None, "Folder of the run.")
_STAGES = flags.DEFINE_list(
    "stages", [], f"Of {', '.join(STAGES)}, report; default: all."
)
_PROCESSES = flags.DEFINE_integer(
    "processes", 1, "Of this machine, with Beam's own runner; no byte depends on it."
)
_CHANGE = flags.DEFINE_bool(
    "change", False, "Take a changed config: what depends on it is made anew."
)
_RETRY = flags.DEFINE_list(
    "retry_failed", [], "Codes of errors, or `all`: such records are made anew."
)


def main(argv: list[str]) -> None:
    known = (*STAGES, "report")
    unknown = set(_STAGES.value) - set(known)
    if unknown:
        raise UserError(
            f"--stages: no stage {min(unknown)!r}; give some of {', '.join(known)}"
        )
    options = pipelines.beam_options(argv[1:], _PROCESSES.value)
    output = pathlib.Path(os.path.abspath(_OUTPUT.value))
    try:
        _run(options, output)
    except OSError as e:  # a full disk, a folder that may not be written, ...
        raise UserError(
            f"--output: {e.filename or output}: {e.strerror or e}; mend it, and the "
            "same command goes on"
        ) from e


def _run(options, output: pathlib.Path) -> None:
    with shards.only_run(output):
        shards.remove_parts(output)
        run = open_run(
            _CONFIG.value,
            pathlib.Path(os.path.abspath(_INPUT.value)),
            output,
            _CHANGE.value,
        )
        if _RETRY.value:
            retry.forget(run, _RETRY.value)
        for name in STAGES:
            if not _STAGES.value or name in _STAGES.value:
                _stage(run, name, options)
        if not _STAGES.value or "examples" in _STAGES.value:
            outputs.finish(run)
        if not _STAGES.value or "report" in _STAGES.value:
            print(f"report     {write_report(run, STAGES, _command())}", flush=True)


def _command() -> str:
    """The command of this run, without what was for this time alone."""
    once = ("--stages", "--retry_failed", "--change")
    kept = [a for a in sys.argv[1:] if not a.startswith(once)]
    return shlex.join(["python", "-m", "data_synthesis", *kept])


def _stage(run: Run, name: str, options) -> None:
    module = importlib.import_module(f"data_synthesis.stages.{name}")
    made = pipelines.run(module.work(run), options)
    choice.close()  # a model that the next stages need no memory for
    counts = shards.stage_counts(run.layout, name)
    line = f"{name:10} in {counts.entered}, kept {counts.kept}"
    if counts.dropped or counts.errors:
        line += f", dropped {counts.dropped}, errors {counts.errors}"
    reasons = sorted(counts.reasons.items(), key=lambda r: -r[1])
    if reasons:
        line += " (" + ", ".join(f"{code} {n}" for code, n in reasons) + ")"
    print(line if made else f"{line}; there already", flush=True)


if __name__ == "__main__":
    run_command(main, required=("config", "input", "output"), others=True)
