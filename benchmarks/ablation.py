"""Do the synthesised tasks and the curriculum help? Trained and scored on the world.

make quickstart
python -m benchmarks.ablation --world=runs/quickstart/world --output=runs/ablation \
    --seeds=0,1,2

The rows are those of the paper's ablation (METHOD: GVE-i, GVE-s, GVE) and the other
schedulers: `collected` trains on tasks of a kind that is collected, `synthesised` on
those that V-SynFlow makes as well, both with fixed weights; the others schedule the
tasks of the second. All have the same steps, model and data order seeds. The external
prober of the first epoch is a `synthesised` run of a seed that is not compared.

Prints scores on UVRB-mini: mean over seeds, and the difference to the row before it in
question, paired by seed, with its 95 % t interval. A run that is there is not repeated.
"""

import json
import pathlib
import statistics
import subprocess
import sys

from absl import app, flags
from scipy import stats

_WORLD = flags.DEFINE_string("world", "runs/quickstart/world", "A rendered world.")
_OUTPUT = flags.DEFINE_string("output", "runs/ablation", "Of runs and results.")
_SEEDS = flags.DEFINE_list("seeds", ["0", "1", "2"], "Seeds of each row.")
_STEPS = flags.DEFINE_integer("steps", 1200, "Of each run.")
_ROWS = flags.DEFINE_list("rows", None, "Some of the rows; default all.")

COLLECTED = dict(T2V=0.54, T2I=0.14, T2T=0.05, I2I=0.08, TI2I=0.03)
SYNTHESISED = dict(I2V=0.13, V2V=0.06, TI2V=0.07, TV2V=0.06)
PROBER_SEED = 100
# Row -> (scheduler, tasks, epochs, the row it is compared with).
ROWS = {
    "collected": ("static", COLLECTED, 3, None),
    "synthesised": ("static", COLLECTED | SYNTHESISED, 3, "collected"),
    "pyramid": ("pyramid", COLLECTED | SYNTHESISED, 3, "synthesised"),
    "pyramid_centred": ("pyramid_centred", COLLECTED | SYNTHESISED, 3, "synthesised"),
    # Bandits need more rounds than three.
    "odm": ("odm", COLLECTED | SYNTHESISED, 8, "synthesised"),
    "doremi": ("doremi", COLLECTED | SYNTHESISED, 8, "synthesised"),
}
COLUMNS = ("TXT", "CMP", "VIS", "CG", "FG", "LC")


def _train(folder: pathlib.Path, row: str, seed: int, prober: pathlib.Path) -> dict:
    """Trains and evaluates one run, unless that is done; returns results.json."""
    results = folder / "eval" / "results.json"
    if not results.exists():
        scheduler, tasks, epochs, _ = ROWS[row]
        config = {
            "seed": seed,
            "data.pairs": f"{_WORLD.value}/train",
            "data.tasks": tasks,
            "data.held_out": 64,
            "preprocess.cache_dir": f"{_OUTPUT.value}/cache",
            "curriculum.name": scheduler,
            "curriculum.epochs": epochs,
            "curriculum.prober": "" if scheduler == "static" else str(prober),
            "train.steps": _STEPS.value,
            "train.checkpoint_every": _STEPS.value,
        }
        flags_ = [f"--config.{k}={v}" for k, v in config.items() if k != "data.tasks"]
        names = ",".join(f"{k}={v}" for k, v in tasks.items())
        _run(
            "gve_jax.train",
            f"--config=benchmarks/ablation_config.py:{names}",
            f"--workdir={folder}/train",
            *flags_,
        )
        _run(
            "eval",
            f"--config=configs/uvrb_mini.py:{_WORLD.value}/uvrb_mini",
            f"--checkpoint={folder}/train",
            f"--output={folder}/eval",
        )
    return json.loads(results.read_text())


def _run(module: str, *arguments: str) -> None:
    subprocess.run([sys.executable, "-m", module, *arguments], check=True)


def _interval(differences: list[float]) -> tuple[float, float]:
    """Mean and half the width of its 95 % t interval."""
    n = len(differences)
    mean = statistics.fmean(differences)
    if n < 2:
        return mean, float("nan")
    error = statistics.stdev(differences) / n**0.5
    return mean, float(stats.t.ppf(0.975, n - 1)) * error


def main(_) -> None:
    output = pathlib.Path(_OUTPUT.value)
    prober = output / f"prober-{PROBER_SEED}"
    _train(prober, "synthesised", PROBER_SEED, prober)
    seeds = [int(seed) for seed in _SEEDS.value]
    rows = _ROWS.value or list(ROWS)
    scores: dict[str, dict[str, list[float]]] = {}
    for seed in seeds:  # seed by seed, so that a run cut short compares all rows
        for row in rows:
            found = _train(output / f"{row}-{seed}", row, seed, prober / "train")
            values = {name: found["abilities"][name] for name in COLUMNS}
            values["average"] = found["ability_average"]
            for name, value in values.items():
                scores.setdefault(row, {}).setdefault(name, []).append(value)
    summary = {}
    print(f"UVRB-mini, {len(seeds)} seeds, {_STEPS.value} steps, points of 100")
    for row in rows:
        means = {name: statistics.fmean(v) for name, v in scores[row].items()}
        line = "  ".join(f"{name} {100 * mean:5.1f}" for name, mean in means.items())
        summary[row] = {"scores": scores[row]}
        against = ROWS[row][3]
        if against in scores:
            for name in means:
                pairs = zip(scores[row][name], scores[against][name], strict=True)
                mean, half = _interval([a - b for a, b in pairs])
                summary[row][f"{name} against {against}"] = [mean, half]
                if name == "average":
                    line += f"   {100 * mean:+.1f} ± {100 * half:.1f} against {against}"
        print(f"{row:16} {line}")
    (output / "summary.json").write_text(json.dumps(summary, indent=1) + "\n")


if __name__ == "__main__":
    app.run(main)
