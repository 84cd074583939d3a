"""Stands in for `python -m` in tests of studies: `python stub_runs.py MODULE --flags`.

Training and evaluation leave the files that the real commands leave; scores follow from
arm and seed. Comparing is real. OUTPUT/calls lists what was called. A file in the run's
folder changes its training: `fail` ends it with an error, `stop` in the middle with 0,
and `slow` lets it wait for SIGTERM, then save and end with 0.
"""

import json
import pathlib
import runpy
import signal
import sys
import time
import zlib

import numpy as np

ROOT = pathlib.Path(__file__).parents[1]
# How often queries are answered, by arm; others: 0.5.
SKILL = {"collected": 0.3, "synthesised": 0.6, "pyramid": 0.2}


def flag(name: str) -> str:
    found = [a for a in sys.argv if a.startswith(f"--{name}=")]
    return found[0].partition("=")[2] if found else ""


def write(path: pathlib.Path, rows: list[dict]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def train() -> None:
    workdir, steps = pathlib.Path(flag("workdir")), int(flag("config.train.steps"))
    run = workdir.parent
    prober = flag("config.curriculum.prober")
    note(run, f"train {prober and 'probed by ' + '/'.join(prober.split('/')[-3:])}")
    row = {"alignment": 0.7 if prober else None, "probability": 0.5}
    tasks = {"T2V": row, "I2V": row}
    write(workdir / "curriculum.jsonl", [{"epoch": e, "tasks": tasks} for e in (1, 2)])
    if (run / "fail").exists():
        print("much that is well")
        sys.exit("error: no space left")
    if (run / "slow").exists():
        stopped = []
        signal.signal(signal.SIGTERM, lambda *_: stopped.append(1))
        (run / "started").touch()
        while not stopped:
            time.sleep(0.02)
        (run / "saved").touch()
    if (run / "slow").exists() or (run / "stop").exists():
        write(workdir / "metrics.jsonl", [{"step": 1, "loss": 3.0}])
        return
    losses = [{"step": s, "loss": 3.0 - s / steps} for s in range(1, steps + 1)]
    write(workdir / "metrics.jsonl", losses)
    (workdir / "checkpoints" / str(steps)).mkdir(parents=True)


def note(run: pathlib.Path, what: str) -> None:
    with open(run.parents[1] / "calls", "a") as f:
        f.write(f"{run.parent.name} {run.name} {what}".strip() + "\n")


def evaluate() -> None:
    from eval import abilities, uvrb

    output = pathlib.Path(flag("output"))
    arm, seed = output.parts[-3:-1]
    note(output.parent, "eval")
    rows = {}
    for name, facts in uvrb.DATASETS.items():
        rng = np.random.default_rng([zlib.crc32(f"{name}{arm}".encode()), int(seed)])
        hits = rng.random(40) < SKILL.get(arm, 0.5)
        ranks = [{"query": f"q{i}", "rank": 1 if h else 99} for i, h in enumerate(hits)]
        write(output / "rankings" / f"{name}.jsonl", ranks)
        rows[name] = {
            "metric": facts.metric,
            "score": float(hits.mean()),
            "num_corpus": 40,
        }
    found = abilities.abilities({name: row["score"] for name, row in rows.items()})
    results = {
        "datasets": rows,
        "abilities": found,
        "ability_average": abilities.ability_average(found),
        "dataset_average": float(np.mean([row["score"] for row in rows.values()])),
        "complete": True,
    }
    (output / "results.json").write_text(json.dumps(results))


if __name__ == "__main__":
    sys.path[0] = str(ROOT)
    module, sys.argv = sys.argv[1], sys.argv[1:]
    if module == "gve_jax.train":
        train()
    elif module == "eval":
        evaluate()
    else:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
