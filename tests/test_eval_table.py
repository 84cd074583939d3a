"""eval.table: its contract, printed means that cannot be, correlations, refusals."""

import json
import subprocess
import sys
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from eval import abilities, table, uvrb
from gve_jax.types import UserError


def _write(path, content):
    path.write_text(json.dumps(content))
    return path


def _command(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "eval.table", *map(str, arguments)],
        capture_output=True,
        text=True,
    )


def _flat(value, **changes):
    return {name: value for name in uvrb.DATASETS} | changes


def test_the_command_names_the_published_row_that_disagrees(tmp_path):
    # By hand: VLM2Vec-V2's scores sum to 8.089, / 16 = 0.5056, where 0.508 is printed.
    # Those of GME-2B sum to 7.806, / 16 = 0.4879, the 0.488 printed: it only rounds.
    sums = {m: sum(uvrb.PUBLISHED[m]["datasets"].values()) for m in uvrb.PUBLISHED}
    assert sums["VLM2Vec-V2"] == pytest.approx(8.089)
    assert sums["GME-2B"] == pytest.approx(7.806)
    scores = {
        model: {
            "datasets": row["datasets"],
            "printed": {"D-AVG": row["dataset_average"]},
        }
        for model, row in uvrb.PUBLISHED.items()
    }
    for model, printed in uvrb.PUBLISHED_ABILITIES.items():
        scores[model]["printed"] |= printed
    path, out = _write(tmp_path / "scores.json", scores), tmp_path / "out.json"
    done = _command(path, f"--output={out}", "--verify")
    assert done.returncode == 1 and len(done.stderr.splitlines()) == 1
    assert "D-AVG of VLM2Vec-V2" in done.stderr
    found = json.loads(out.read_text())
    assert found.keys() >= {"models", "correlations", "disagreements"}
    assert found["disagreements"] == [
        {
            "model": "VLM2Vec-V2",
            "column": "D-AVG",
            "printed": 0.508,
            "recomputed": pytest.approx(8.089 / 16),
        }
    ]
    row = found["models"]["GVE-7B"]
    assert row["abilities"].keys() == {*abilities.ABILITIES}
    # As printed, and FG flat as others recomputed it.
    assert row["ability_average"] == pytest.approx(0.6, abs=0.001)
    assert row["abilities"]["FG"] == pytest.approx(0.57, abs=0.001)
    assert row["abilities_flat"]["FG"] == pytest.approx(0.548, abs=0.001)
    lines = done.stdout.splitlines()
    assert len({len(line) for line in lines[: 1 + len(scores)]}) == 1
    assert lines[0].split()[:4] == ["scores", "D-AVG", "A-AVG", "A-FLAT"]
    assert "D-AVG of VLM2Vec-V2, printed 0.508, recomputed 0.5056" in lines[-1]

    assert _command(f"--output={out}", path).returncode == 0  # flags first; no --verify
    same = _command("--published", "--verify", f"--output={out}")
    assert same.returncode == 1
    assert [d["model"] for d in json.loads(out.read_text())["disagreements"]] == [
        "VLM2Vec-V2"
    ]


def _exact(scores):
    """Nested means in rational numbers, the dataset average and flat ones."""

    def mean(values):
        return sum(values) / len(values)

    means = dict(scores)
    for name, parts in abilities.PARTS.items():
        means[name] = mean([means[part] for part in parts])
    flat = {
        name: mean([scores[d] for d in abilities.datasets_of(name)])
        for name in abilities.AVERAGED
    }
    return {name: means[name] for name in abilities.ABILITIES} | {
        "AVG": mean([means[name] for name in abilities.AVERAGED]),
        "dataset_average": mean(list(scores.values())),
        "ability_average_flat": mean(list(flat.values())),
    }


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(0, 10**6), min_size=16, max_size=16),
    st.sampled_from([3, 4]),
    st.data(),
)
def test_what_only_rounds_agrees_and_what_is_off_does_not(millionths, decimals, data):
    true = {
        name: Fraction(x, 10**6)
        for name, x in zip(uvrb.DATASETS, millionths, strict=True)
    }
    printed = {k: float(round(v, decimals)) for k, v in _exact(true).items()}
    rounded = {k: float(round(v, decimals)) for k, v in true.items()}
    model = table.Scores(rounded, None, printed)
    assert table.tabulate({"m": model})["disagreements"] == []
    # Rounding explains 1 unit, and the true mean may lie one on the other side.
    column = data.draw(st.sampled_from(sorted(printed)))
    printed[column] = round(printed[column] + 0.0021, 4)
    (wrong,) = table.tabulate({"m": model})["disagreements"]
    assert (wrong["model"], wrong["column"]) == ("m", column)


def test_a_unit_between_scores_and_means_is_rounding_and_more_is_not():
    for value, wrong in ((0.501, 0), (0.499, 0), (0.502, 1), (0.498, 1), (0.5015, 1)):
        model = table.Scores(_flat(0.5), None, {"TXT": value})
        assert len(table.tabulate({"m": model})["disagreements"]) == wrong, value
    # Shown to four decimals, scores leave less to rounding.
    model = table.Scores(_flat(0.5, MSRVTT=0.5001), None, {"LC": 0.501})
    assert len(table.tabulate({"m": model})["disagreements"]) == 1


def test_correlations_over_families_against_scipy(tmp_path):
    rng = np.random.default_rng(0)
    scores = {
        f"m{i}": {
            "family": "few" if i < 2 else "many",
            "datasets": {d: round(float(rng.random()), 3) for d in uvrb.DATASETS},
        }
        for i in range(9)
    }
    found = table.tabulate(table.read(_write(tmp_path / "s.json", scores)))
    assert found["correlations"].keys() == {"all", "many"}
    for family, names in (("all", scores), ("many", list(scores)[2:])):
        rows = [found["models"][m] for m in names]
        for method, witness in (
            ("pearson", stats.pearsonr),
            ("spearman", stats.spearmanr),
        ):
            got = found["correlations"][family][method]
            s, t = ([r["abilities"][a] for r in rows] for a in "ST")
            mean = [r["dataset_average"] for r in rows]
            one = [scores[m]["datasets"]["PEV-K"] for m in names]
            assert got["S"]["T"] == got["T"]["S"] == pytest.approx(witness(s, t)[0])
            assert got["S"]["S"] == pytest.approx(1)
            expected = witness(t, mean)[0]
            assert got["T"]["dataset_average"] == pytest.approx(expected)
            expected = witness(one, mean)[0]
            assert got["PEV-K"]["dataset_average"] == pytest.approx(expected)


def test_constant_columns_and_gaps_have_no_correlation(tmp_path):
    rng = np.random.default_rng(0)
    scores = {
        # Constant but for rounding: 0.1 + 0.2 and 0.3.
        f"m{i}": {
            "datasets": {d: float(rng.random()) for d in uvrb.DATASETS}
            | {"MS-TI": 0.1 * i, "MS-TV": 0.6 - 0.1 * i}
        }
        for i in range(4)
    }
    for model in ("m0", "m1"):
        del scores[model]["datasets"]["CRB-T"]
    path, out = _write(tmp_path / "s.json", scores), tmp_path / "out.json"
    done = _command(path, f"--output={out}")
    assert done.returncode == 0 and done.stderr == ""
    text = out.read_text()
    assert "NaN" not in text and "nan" not in done.stdout
    found = json.loads(text)
    row = found["models"]["m0"]
    assert row["abilities"]["T"] is row["abilities"]["FG"] is row["abilities"]["TXT"]
    assert row["abilities"]["T"] is row["dataset_average"] is None
    assert row["abilities"]["CG"] is not None
    got = found["correlations"]["all"]["spearman"]
    assert got["CMP"]["CG"] is None  # all models the same
    assert got["T"]["CG"] is None  # two models
    assert got["VIS"]["CG"] is not None


def test_results_of_runs_and_gaps_in_what_is_printed(tmp_path):
    folders = []
    for name, change in (("a", 0), ("b", 0.1)):
        results = abilities.condense(_flat(0.25)) | {
            "datasets": {d: {"score": 0.25} for d in (*uvrb.DATASETS, "mine")}
        }
        results["abilities"]["S"] += change
        (tmp_path / name).mkdir()
        folders.append(_write(tmp_path / name / "results.json", results))
    models = {k: v for path in folders for k, v in table.read(path).items()}
    found = table.tabulate(models)
    a, b = (str(path.parent) for path in folders)
    assert found["models"][a]["dataset_average"] == 0.25
    assert [(d["model"], d["column"]) for d in found["disagreements"]] == [(b, "S")]
    assert found["not_averaged"] == {a: ["mine"], b: ["mine"]}

    part = table.Scores({"MSRVTT": 0.5}, None, {"CG": 0.5})
    found = table.tabulate({"part": part})
    assert found["unchecked"] == [{"model": "part", "column": "CG"}]
    text = table.render(found)
    assert "not checked, as datasets are missing: CG of part" in text


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"m": {"datasets": {"MSRVTT": 43.1}}}, "m: MSRVTT is 43.1.*divide percents"),
        ({"m": {"datasets": {"MSRVTT": True}}}, "MSRVTT is True"),
        ({"m": {"datasets": {"MSRVTT": float("nan")}}}, "MSRVTT is nan"),
        ({"m": {"MSRVTT": 0.4}}, 'm: expected {"datasets"'),
        ({"m": {"datasets": {}, "source": 1}}, "unknown field 'source'"),
        ({"m": {"datasets": {}, "printed": {"TEXT": 0.4}}}, "column 'TEXT'; there are"),
        ({"m": {"datasets": {}, "printed": {"TXT": 40}}}, "TXT is 40"),
        ({"m": {"datasets": {}, "family": "all"}}, "family is 'all'"),
        ({"published": {"m": {}}}, '"published" is not as in'),
        ({"datasets": {"MSRVTT": 1}, "abilities": {}}, "not results of python -m eval"),
        ([], "expected an object"),
    ],
)
def test_what_cannot_be_read_is_named(tmp_path, content, message):
    path = _write(tmp_path / "s.json", content)
    with pytest.raises(UserError, match=message):
        table.read(path)


def test_the_command_refuses_with_one_line(tmp_path):
    path = _write(tmp_path / "s.json", {"GVE-3B": {"datasets": _flat(0.5)}})
    out = tmp_path / "out.json"
    for arguments, code, message in (
        ([tmp_path / "gone.json", f"--output={out}"], 1, "gone.json: cannot be read"),
        ([path], 2, "--output"),
        ([f"--output={out}"], 1, "no scores: name files"),
        ([path, f"--output={out}", "--published"], 1, "GVE-3B is in an earlier file"),
    ):
        done = _command(*arguments)
        assert done.returncode == code and message in done.stderr
        assert len(done.stderr.strip().splitlines()) == 1
    assert not out.exists()
