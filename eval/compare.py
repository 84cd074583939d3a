"""Compare two evaluations, or two groups of them, query by query.

python -m eval.compare --run=runs/a/eval --baseline=runs/b/eval --output=difference.json

Several seeds of each, paired by position:
    --run=a-0/eval,a-1/eval --baseline=b-0/eval,b-1/eval

Scores are those of the benchmark, from the ranks that `python -m eval` leaves. A
difference is run minus baseline, its interval that of a paired bootstrap:

- The queries of a dataset are drawn with replacement, the same for both sides and for
  all pairs. Abilities and averages are formed of these datasets, nested as ever.
- With n > 1 pairs, to the mean over them is added what chance in the pairs gives: the
  sum over pairs of g_s / sqrt(n (n - 1) q) times the difference of pair s, with g
  standard normal less its mean and q a chi-square over its n - 1 degrees of freedom.
  That is Student's t times s / sqrt(n), for all scores at once. Pairs drawn with
  replacement would do for many; of 2, 3 and 5 pairs that differ more than their queries
  explain, they found a difference where there was none 19, 14 and 8 times in 100.

The interval is the central 95 % of the resamples; two-sided p is twice the smaller
share of them at or beyond 0 on one side, 1 added to both counts, at most 1.
"""

import json
import pathlib
import zlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from absl import flags

from eval import abilities
from gve_jax import main as command
from gve_jax import retrieval
from gve_jax.disk import read_rows, write_json
from gve_jax.types import UserError

_WHOLE = ("TXT", "CMP", "VIS")  # abilities that hold each of the sixteen datasets once


class Difference(NamedTuple):
    """Run minus baseline, of one score in 0..1."""

    difference: float  # mean over pairs
    low: float  # of the 95 % interval
    high: float
    p: float  # two-sided
    pairs: tuple[float, ...]  # the difference of each pair


class Dataset(NamedTuple):
    """One dataset; counts are of queries, summed over pairs."""

    score: Difference
    metric: str
    num_queries: int
    wins: int  # right in the run, wrong in the baseline
    losses: int
    ties: int


class Comparison(NamedTuple):
    """What `compare` finds. What needs a dataset that is not there is None."""

    datasets: dict[str, Dataset]
    abilities: dict[str, Difference | None]
    ability_average: Difference | None
    dataset_average: Difference | None
    left_out: dict[str, list[str]]  # dataset -> folders that have no results of it

    def to_json(self) -> dict:
        """JSON values; a dataset's row holds its Difference as well."""

        def row(value: Difference | None) -> dict | None:
            return value and value._asdict()

        return {
            "datasets": {
                name: data.score._asdict()
                | {key: getattr(data, key) for key in data._fields[1:]}
                for name, data in self.datasets.items()
            },
            "abilities": {name: row(value) for name, value in self.abilities.items()},
            "ability_average": row(self.ability_average),
            "dataset_average": row(self.dataset_average),
            "left_out": self.left_out,
        }


def compare(
    runs: Sequence[str | pathlib.Path],
    baselines: Sequence[str | pathlib.Path],
    resamples: int = 10000,
    seed: int = 0,
) -> Comparison:
    """Compares folders of `python -m eval`, those at equal positions as a pair.

    Args:
      runs: folders with results.json and rankings/.
      baselines: as many.
      resamples: of the bootstrap, at least 1.

    Raises:
      UserError: a folder is incomplete or damaged, or two are not of the same
        benchmark: queries, corpus sizes or metrics differ, or no dataset is in all.
    """
    if len(runs) != len(baselines):
        raise UserError(
            f"--run has {len(runs)} folders and --baseline {len(baselines)}: they are "
            "compared in pairs, give as many"
        )
    if resamples < 1:
        raise UserError(f"--resamples={resamples}: give at least 1")
    folders = [pathlib.Path(folder) for folder in (*runs, *baselines)]
    tables = {folder: _datasets(folder) for folder in folders}
    known = dict.fromkeys(name for table in tables.values() for name in table)
    left_out = {
        name: [str(f) for f, table in tables.items() if name not in table]
        for name in known
    }
    names = [name for name in known if not left_out[name]]
    if not names:
        raise UserError(
            f"no dataset is in all of {', '.join(map(str, folders))}: compare "
            "evaluations of the same datasets"
        )
    rng = np.random.default_rng([seed, len(runs)])
    chance = _pair_weights(rng, len(runs), resamples)
    found, means, samples = {}, {}, {}
    for name in names:
        hits = _hits(name, folders, tables)  # [2 * pairs, queries]
        gains = hits[: len(runs)] - hits[len(runs) :]
        means[name] = gains.mean(1)
        # Seeded per dataset, so that a part of the benchmark gives the same. The mean
        # over pairs comes first: all of them have the same queries drawn.
        drawn = retrieval.bootstrap(
            gains.mean(0), resamples, [seed, zlib.crc32(name.encode())]
        )
        samples[name] = drawn + chance @ means[name]
        wins, losses = int((gains > 0).sum()), int((gains < 0).sum())
        found[name] = Dataset(
            _difference(means[name], samples[name]),
            tables[folders[0]][name]["metric"],
            gains.shape[1],
            wins,
            losses,
            gains.size - wins - losses,
        )
    skills, sampled = abilities.abilities(means), abilities.abilities(samples)
    whole = all(value is not None for value in skills.values())
    core = [d for part in _WHOLE for d in abilities.datasets_of(part)] if whole else []
    return Comparison(
        datasets=found,
        abilities={name: _difference(skills[name], sampled[name]) for name in skills},
        ability_average=_difference(
            abilities.ability_average(skills), abilities.ability_average(sampled)
        ),
        dataset_average=_difference(
            np.mean([means[name] for name in core], axis=0) if whole else None,
            np.mean([samples[name] for name in core], axis=0) if whole else None,
        ),
        left_out={name: without for name, without in left_out.items() if without},
    )


def _pair_weights(rng: np.random.Generator, pairs: int, resamples: int) -> np.ndarray:
    """float64 [resamples, pairs]: the weights that the module's docstring gives."""
    if pairs == 1:
        return np.zeros((resamples, 1))
    normal = rng.standard_normal((resamples, pairs))
    normal -= normal.mean(1, keepdims=True)
    q = rng.chisquare(pairs - 1, (resamples, 1)) / (pairs - 1)
    return normal / np.sqrt(pairs * (pairs - 1) * q)


def _difference(
    pairs: np.ndarray | None, samples: np.ndarray | None
) -> Difference | None:
    """Of the pairs' own values [n] and the resamples of their mean."""
    if pairs is None:
        return None
    low, high = retrieval.interval(np.clip(samples, -1, 1))  # no score differs by more
    beyond = min((samples <= 0).sum(), (samples >= 0).sum())
    p = min(1.0, 2 * (1 + int(beyond)) / (1 + len(samples)))
    return Difference(float(np.mean(pairs)), low, high, p, tuple(pairs.tolist()))


def _datasets(folder: pathlib.Path) -> dict[str, dict]:
    """Rows of results.json."""
    path = folder / "results.json"
    try:
        return json.loads(path.read_text(encoding="utf-8"))["datasets"]
    except FileNotFoundError:
        raise UserError(
            f"{path}: no such file: give folders that python -m eval has finished"
        ) from None
    except (ValueError, KeyError, TypeError) as e:
        raise UserError(
            f"{path}: not results of python -m eval ({e!r}): evaluate again"
        ) from None


def _hits(
    name: str, folders: Sequence[pathlib.Path], tables: dict[pathlib.Path, dict]
) -> np.ndarray:
    """float64 [folders, queries]: 1 where a query counts as right.

    Raises UserError if the folders do not hold the same dataset.
    """
    rows, ids = [], []
    for folder in folders:
        table, path = folder / "results.json", folder / "rankings" / f"{name}.jsonl"
        facts, first = tables[folder][name], tables[folders[0]][name]
        for key in ("metric", "num_corpus"):
            if facts[key] != first[key]:
                raise UserError(
                    f"{table}: {name} has {key} {facts[key]}, but {first[key]} in "
                    f"{folders[0]}: compare evaluations of the same data"
                )
        ranks = _ranks(path)
        ids = ids or list(ranks)
        if odd := ranks.keys() ^ set(ids):
            raise UserError(
                f"{path}: {name} has other queries than in {folders[0]} ({len(odd)} "
                f"are in one only, such as {min(odd)!r}): compare evaluations of the "
                "same data"
            )
        cutoff = int(facts["metric"].rpartition("@")[2])
        hits = retrieval.recall(np.array([ranks[query] for query in ids]), cutoff)
        if abs(hits.mean() - facts["score"]) > 1e-9:
            raise UserError(
                f"{path}: gives {name} a score of {hits.mean():.4f}, but results.json "
                f"has {facts['score']:.4f}: evaluate again"
            )
        rows.append(hits)
    return np.stack(rows)


def _ranks(path: pathlib.Path) -> dict[str, float]:
    """Query -> rank of its best positive; inf: never found."""
    if not path.exists():
        raise UserError(f"{path}: no such file: evaluate again")
    try:
        return {
            row["query"]: np.inf if row["rank"] is None else row["rank"]
            for row in read_rows(path)
        }
    except (KeyError, TypeError) as e:
        raise UserError(f"{path}: a line lacks {e}: evaluate again") from None


def _print(comparison: Comparison) -> None:
    """A line for each score, in points of 100."""

    def line(name: str, value: Difference | None, rest: str = "") -> None:
        if value is None:
            print(f"{name:<17} not all of its datasets are there")
            return
        numbers = [100 * x for x in (value.difference, value.low, value.high)]
        interval = "{:+6.1f}  [{:+6.1f}, {:+6.1f}]".format(*numbers)
        print(f"{name:<17} {interval}  p {value.p:.4f}  {rest}".rstrip())

    for name, data in comparison.datasets.items():
        counts = f"{data.wins} won, {data.losses} lost, {data.ties} alike"
        line(name, data.score, counts)
    for name, value in comparison.abilities.items():
        line(name, value)
    line("dataset average", comparison.dataset_average)
    line("ability average", comparison.ability_average)
    for name, folders in comparison.left_out.items():
        print(f"left out: {name}, not in {', '.join(folders)}")


if __name__ == "__main__":
    # Here, because other commands with such flags import this module.
    _RUN = flags.DEFINE_list("run", None, "Output folders of python -m eval.")
    _BASELINE = flags.DEFINE_list("baseline", None, "As many, paired by position.")
    _RESAMPLES = flags.DEFINE_integer("resamples", 10000, "Of the bootstrap.")
    _SEED = flags.DEFINE_integer("seed", 0, "Of the bootstrap.")
    _OUTPUT = flags.DEFINE_string("output", None, "JSON file of all of it.")

    def main(_: list[str]) -> None:
        found = compare(_RUN.value, _BASELINE.value, _RESAMPLES.value, _SEED.value)
        _print(found)
        if _OUTPUT.value:
            write_json(pathlib.Path(_OUTPUT.value), found.to_json())

    command.run(main, required=("run", "baseline"))
