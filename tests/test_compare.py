"""Paired comparisons of evaluations, against loops in NumPy and simulations."""

import json
import subprocess
import sys
import zlib

import numpy as np
import pytest

from eval import abilities, uvrb
from eval.compare import compare
from gve_jax.types import UserError

COARSE = ("MSRVTT", "DiDeMo", "CRB-G")


def write(folder, hits, metric="recall@1", num_corpus=50, prefix="q"):
    """An evaluation in which query i of a dataset is right where hits[name][i] is."""
    (folder / "rankings").mkdir(parents=True)
    rows = {}
    for name, right in hits.items():
        lines = [
            {"query": f"{prefix}{i}", "rank": 1 if r else (None if i % 2 else 30)}
            for i, r in enumerate(right)
        ]
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (folder / "rankings" / f"{name}.jsonl").write_text(text)
        rows[name] = dict(
            metric=metric, score=float(np.mean(right)), num_corpus=num_corpus
        )
    (folder / "results.json").write_text(json.dumps({"datasets": rows}))
    return folder


def random_hits(rng, share, sizes=(20, 31, 17)):
    return {name: rng.random(n) < share for name, n in zip(COARSE, sizes, strict=True)}


def test_a_run_does_not_differ_from_itself(tmp_path):
    rng = np.random.default_rng(0)
    folder = write(tmp_path / "a", random_hits(rng, 0.5))
    for count in (1, 3):
        found = compare([folder] * count, [folder] * count, 100)
        data = found.datasets["MSRVTT"]
        assert data.score[:4] == (0, 0, 0, 1)
        assert (data.wins, data.losses, data.ties) == (0, 0, 20 * count)
        assert found.abilities["CG"][:4] == (0, 0, 0, 1)


@pytest.mark.parametrize("pairs", [1, 3])
def test_against_loops(tmp_path, pairs):
    rng = np.random.default_rng(pairs)
    runs = [random_hits(rng, 0.6) for _ in range(pairs)]
    bases = [random_hits(rng, 0.4) for _ in range(pairs)]
    sides = [
        [write(tmp_path / f"{side}{i}", hits) for i, hits in enumerate(group)]
        for side, group in (("run", runs), ("base", bases))
    ]
    resamples, seed = 60, 7
    found = compare(*sides, resamples, seed)

    draws = np.random.default_rng([seed, pairs])
    normal = draws.standard_normal((resamples, pairs))
    chi = draws.chisquare(max(pairs - 1, 1), (resamples, 1))
    samples = {}
    for name in COARSE:
        gains = [
            run[name].astype(float) - base[name]
            for run, base in zip(runs, bases, strict=True)
        ]
        means = [gain.mean() for gain in gains]
        pick = np.random.default_rng([seed, zlib.crc32(name.encode())])
        places = pick.integers(len(gains[0]), size=(resamples, len(gains[0])))
        values = []
        for r in range(resamples):
            value = np.mean([gain[places[r]].mean() for gain in gains])
            if pairs > 1:  # Student's t, as normal over root of chi-square
                # (g - mean(g)) . d has the spread of the deviations of d
                spread = sum(
                    (g - normal[r].mean()) * d
                    for g, d in zip(normal[r], means, strict=True)
                )
                degrees = pairs - 1
                t = spread / np.sqrt(chi[r, 0] / degrees)
                value += t / np.sqrt(pairs * degrees)
            values.append(value)
        samples[name] = np.array(values)
        row = found.datasets[name]
        assert row.score.difference == pytest.approx(np.mean(means))
        assert row.score.pairs == pytest.approx(means)
        assert row.score.low == pytest.approx(np.percentile(values, 2.5))
        assert row.score.high == pytest.approx(np.percentile(values, 97.5))
        below, above = (samples[name] <= 0).sum(), (samples[name] >= 0).sum()
        assert row.score.p == pytest.approx(
            min(1, 2 * (1 + min(below, above)) / (1 + resamples))
        )
        assert row.wins == sum(int((gain > 0).sum()) for gain in gains)
        assert row.losses == sum(int((gain < 0).sum()) for gain in gains)
        assert row.wins + row.losses + row.ties == pairs * len(gains[0])
    nested = np.mean([samples[name] for name in COARSE], axis=0)
    ability = found.abilities["CG"]
    assert (ability.low, ability.high) == pytest.approx(
        tuple(np.percentile(nested, (2.5, 97.5)))
    )
    # Other abilities, and averages, need datasets that are not there.
    assert found.abilities["TXT"] is found.ability_average is None
    assert found.dataset_average is None


def test_averages_are_of_the_benchmark_alone(tmp_path):
    rng = np.random.default_rng(2)
    sides = []
    for side in "ab":
        hits = {name: rng.random(12) < 0.5 for name in uvrb.DATASETS}
        extra = {"own": np.full(12, side == "a")}  # won by 1, and not to be counted
        sides.append([write(tmp_path / side, hits | extra)])
    found = compare(*sides, 50)
    gains = {name: row.score.difference for name, row in found.datasets.items()}
    assert gains.pop("own") == 1
    assert found.dataset_average.difference == pytest.approx(
        np.mean(list(gains.values()))
    )
    expected = abilities.abilities(gains)
    for name, value in found.abilities.items():
        assert value.difference == pytest.approx(expected[name])
    assert found.ability_average.difference == pytest.approx(
        abilities.ability_average(expected)
    )


@pytest.mark.parametrize("pairs, spread", [(1, 0.0), (2, 0.1), (4, 0.1)])
def test_no_more_false_alarms_than_promised(tmp_path, pairs, spread):
    """Two sides of equal skill, runs of which differ by chance, 5 % at most."""
    rng = np.random.default_rng(11)
    alarms, trials = 0, 300
    for trial in range(trials):
        skill = rng.uniform(0.2, 0.8, 150)
        folders = [
            write(
                tmp_path / f"{trial}-{side}-{pair}",
                {"MSRVTT": rng.random(150) < skill + spread * rng.standard_normal()},
            )
            for side in "ab"
            for pair in range(pairs)
        ]
        found = compare(folders[:pairs], folders[pairs:], 200, trial)
        score = found.datasets["MSRVTT"].score
        alarms += not score.low <= 0 <= score.high
    # Of 300 trials at 5 %: 15, within three standard deviations; more pairs are on
    # the safe side, as the queries' chance counts in both parts.
    assert alarms <= 26
    if pairs == 1:
        assert alarms >= 5


def test_an_effect_is_found(tmp_path):
    rng = np.random.default_rng(3)
    base = rng.random(400) < 0.4
    better = base | (rng.random(400) < 0.2)  # 0.12 more on average
    found = compare(
        [write(tmp_path / "a", {"MSRVTT": better})],
        [write(tmp_path / "b", {"MSRVTT": base})],
        2000,
    )
    data = found.datasets["MSRVTT"]
    assert data.score.low < 0.12 < data.score.high and data.score.low > 0
    assert data.score.p < 0.01 and data.losses == 0 < data.wins


def test_what_does_not_match_is_refused(tmp_path):
    hits = {"MSRVTT": np.array([True, False, True])}
    base = write(tmp_path / "base", hits)
    for name, changes, message in (
        ("metric", {"metric": "recall@10"}, r"metric/results.json: MSRVTT has metric"),
        ("corpus", {"num_corpus": 51}, r"corpus/results.json: MSRVTT has num_corpus"),
        (
            "ids",
            {"prefix": "r"},
            r"ids/rankings/MSRVTT.jsonl: MSRVTT has other queries",
        ),
    ):
        other = write(tmp_path / name, hits, **changes)
        with pytest.raises(UserError, match=message):
            compare([base], [other])
    fewer = write(tmp_path / "fewer", {"MSRVTT": np.array([True, False])})
    with pytest.raises(UserError, match=r"1 are in one only, such as 'q2'"):
        compare([base], [fewer])
    cut = write(tmp_path / "cut", hits)
    table = json.loads((cut / "results.json").read_text())
    table["datasets"]["MSRVTT"]["score"] = 0.5
    (cut / "results.json").write_text(json.dumps(table))
    with pytest.raises(UserError, match=r"score of 0.6667, but results.json has 0.5"):
        compare([cut], [base])
    (cut / "rankings" / "MSRVTT.jsonl").unlink()
    with pytest.raises(UserError, match=r"MSRVTT.jsonl: no such file"):
        compare([cut], [base])
    with pytest.raises(UserError, match=r"gone/results.json: no such file"):
        compare([tmp_path / "gone"], [base])
    (cut / "results.json").write_text("[]")
    with pytest.raises(UserError, match=r"cut/results.json: not results"):
        compare([cut], [base])
    with pytest.raises(UserError, match="--run has 2 folders and --baseline 1"):
        compare([base, base], [base])
    with pytest.raises(UserError, match="--resamples=0"):
        compare([base], [base], 0)
    other = write(tmp_path / "other", {"DiDeMo": np.array([True])})
    with pytest.raises(UserError, match="no dataset is in all of"):
        compare([base], [other])


def test_the_command_names_what_it_leaves_out(tmp_path):
    rng = np.random.default_rng(5)
    hits = random_hits(rng, 0.5)
    whole = write(tmp_path / "whole", hits)
    part = write(tmp_path / "part", {"MSRVTT": hits["MSRVTT"]})
    done = subprocess.run(
        [sys.executable, "-m", "eval.compare", f"--run={part}", f"--baseline={whole}",
         f"--output={tmp_path / 'out.json'}", "--resamples=50"],
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert f"left out: DiDeMo, not in {part}" in done.stdout
    assert "MSRVTT" in done.stdout and "0 won, 0 lost, 20 alike" in done.stdout
    found = json.loads((tmp_path / "out.json").read_text())
    assert found["left_out"] == {"DiDeMo": [str(part)], "CRB-G": [str(part)]}
    assert found["datasets"]["MSRVTT"]["ties"] == 20
    assert found["datasets"]["MSRVTT"]["high"] == 0
