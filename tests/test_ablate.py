"""Studies: what is run, when, what is refused, and what the page says."""

import html.parser
import importlib.util
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from configs import ablation_world, world
from gve_jax.ablate.results import table, verdict
from gve_jax.ablate.study import run_study
from gve_jax.types import UserError

ROOT = pathlib.Path(__file__).parents[1]
STUB = (sys.executable, str(ROOT / "tests" / "stub_runs.py"))
ARMS = ["collected", "synthesised", "pyramid"]


@pytest.fixture(autouse=True)
def in_the_checkout(monkeypatch):
    monkeypatch.chdir(ROOT)


def study(**changes):
    config = ablation_world.get_config()
    config.update(seeds=(0, 1), steps=20, resamples=500)
    config.update(changes)
    return config


def calls(output):
    return (output / "calls").read_text().splitlines()


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        output = tmp_path_factory.mktemp("study")
        run_study(study(), output, ARMS, STUB)
    return output


@pytest.fixture
def output(finished, tmp_path):
    return shutil.copytree(finished, tmp_path / "study")


def test_seed_by_seed_behind_the_prober(finished):
    expected = ["synthesised 100 train"]
    for seed in (0, 1):
        for arm in ARMS:
            probed = " probed by synthesised/100/train" if arm == "pyramid" else ""
            expected += [f"{arm} {seed} train{probed}", f"{arm} {seed} eval"]
    assert calls(finished) == expected


def test_results_are_those_of_the_evaluations(finished):
    results = json.loads((finished / "results.json").read_text())
    assert list(results["arms"]) == ARMS and results["seeds"] == [0, 1]
    for name, arm in results["arms"].items():
        paths = [finished / name / seed / "eval" / "results.json" for seed in "01"]
        scores = [json.loads(path.read_text())["ability_average"] for path in paths]
        assert arm["scores"]["ability_average"] == scores
        assert arm["means"]["ability_average"] == pytest.approx(np.mean(scores))
    assert results["arms"]["collected"]["comparison"] is None
    for name, baseline, word in (
        ("synthesised", "collected", "shows"),
        ("pyramid", "synthesised", "does not show"),
    ):
        arm = results["arms"][name]
        means = [results["arms"][x]["means"]["TXT"] for x in (name, baseline)]
        found = arm["comparison"]["abilities"]["TXT"]
        assert found["difference"] == pytest.approx(means[0] - means[1])
        assert len(found["pairs"]) == 2 and found["low"] < found["high"]
        assert arm["baseline"] == baseline and arm["verdict"]["word"] == word


def test_the_table_holds_the_means(finished):
    results = json.loads((finished / "results.json").read_text())
    head, rule, *rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in table(results).splitlines()
    ]
    assert len({len(row) for row in (head, rule, *rows)}) == 1
    assert [row[0] for row in rows] == ARMS
    pyramid = dict(zip(head, rows[2], strict=True))
    arm = results["arms"]["pyramid"]
    assert float(pyramid["TXT"]) == pytest.approx(100 * arm["means"]["TXT"], abs=0.05)
    found = arm["comparison"]["ability_average"]
    assert pyramid["against its baseline"].startswith(
        f"{100 * found['difference']:+.1f} [{100 * found['low']:+.1f}, "
    )
    assert rows[0][-1] == ""


class Page(html.parser.HTMLParser):
    """Collects text, figures and whatever a page would fetch."""

    def __init__(self, path):
        super().__init__()
        self.words, self.labels, self.fetched, self.charts = [], [], [], 0
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        self.charts += tag == "svg"
        if values.get("role") == "img":
            self.labels.append(values["aria-label"])
        if tag in ("script", "link", "img") or values.get("src"):
            self.fetched.append(tag)

    def handle_data(self, data):
        self.words.append(data)


def test_the_page_says_it_plainly(finished):
    page = Page(finished / "report.html")
    text = " ".join(" ".join(page.words).split())
    assert not page.fetched
    assert page.charts == len(page.labels) == 5
    assert "Synthesised data help: this study shows it." in text
    assert "The curriculum helps: this study does not show it, but the rev" in text
    assert "over 2 seeds" in text and "The study goes on" not in text
    assert "curriculum.name static static pyramid" in text
    assert "python -m gve_jax.train --config=configs/ablation_world.py:pyramid" in text
    assert "synthesised/1/eval" in text and "synthesised/100/eval" not in text


def test_what_is_done_is_not_done_again(output):
    before = calls(output)
    run_study(study(), output, ARMS, STUB)
    assert calls(output) == before
    run_study(study(seeds=(0, 1, 2)), output, ["collected", "synthesised"], STUB)
    new = calls(output)[len(before) :]
    assert new == [f"{arm} 2 {what}" for arm in ARMS[:2] for what in ("train", "eval")]
    assert json.loads((output / "results.json").read_text())["seeds"] == [0, 1, 2]


def test_another_study_is_refused_by_field(output, tmp_path):
    with pytest.raises(UserError, match=r"steps: 20 there, 30 now.*new --output"):
        run_study(study(steps=30), output, ARMS, STUB)
    changed = tmp_path / "changed.py"
    changed.write_text(
        "from configs import ablation_world\n"
        "def get_config(arm):\n"
        "    c = ablation_world.get_config(arm)\n"
        "    c.optim.peak_lr = 1.0\n"
        "    return c\n"
    )
    other = study()
    other.arms.pyramid.config = f"{changed}:pyramid"
    with pytest.raises(UserError, match=r"pyramid/config.json.*optim.peak_lr: 0.008"):
        run_study(other, output, ARMS, STUB)


def test_a_failed_run_names_its_log(tmp_path):
    run = tmp_path / "collected" / "0"
    run.mkdir(parents=True)
    (run / "fail").touch()
    with pytest.raises(UserError) as failed:
        run_study(study(), tmp_path, ["collected"], STUB)
    assert f"{run}/train.log" in str(failed.value)
    assert "code 1" in str(failed.value) and "no space left" in str(failed.value)
    assert "much that is well" not in str(failed.value)
    (run / "fail").unlink()
    (run / "stop").touch()  # as a run does that gets SIGTERM from elsewhere
    with pytest.raises(UserError, match="stopped at step 1 of 20"):
        run_study(study(), tmp_path, ["collected"], STUB)
    assert not (run / "eval").exists()


def test_an_interrupt_lets_the_run_save(tmp_path):
    run = tmp_path / "collected" / "0"
    run.mkdir(parents=True)
    (run / "slow").touch()

    def interrupt():
        while not (run / "started").exists():
            time.sleep(0.02)
        signal.raise_signal(signal.SIGINT)

    threading.Thread(target=interrupt).start()
    with pytest.raises(KeyboardInterrupt):
        run_study(study(), tmp_path, ["collected"], STUB)
    assert (run / "saved").exists()


def test_sigterm_ends_the_command_with_a_line(tmp_path):
    command = [
        *(sys.executable, "-m", "gve_jax.ablate", "--arms=collected"),
        *("--config=configs/ablation_world.py", f"--output={tmp_path}"),
    ]
    child = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    log = tmp_path / "collected" / "0" / "train.log"
    while not log.exists() and child.poll() is None:
        time.sleep(0.05)
    child.terminate()
    _, errors = child.communicate(timeout=60)
    assert child.returncode == 130
    assert errors.splitlines()[-1] == (
        "error: interrupted: run the same command again to go on"
    )


@pytest.mark.parametrize(
    "changes, arms, message",
    [
        ({}, ["pyramids"], "no arm 'pyramids' in the study: give one of collected"),
        ({"seeds": (1, 1)}, None, r"seeds=\(1, 1\)"),
        ({"steps": 0}, None, "steps=0"),
        ({"prober": {"arm": "synthesised", "seed": 1}}, None, "seed other than those"),
        ({"prober": {"arm": "pyramid", "seed": 9}}, None, "an arm that is not probed"),
        ({"prober": {"arm": "gone", "seed": 9}}, None, "no arm 'gone'"),
        ({"arms": {"odm": {"config": "gone.py"}}}, None, "arms.odm.config: cannot"),
    ],
)
def test_faulty_studies_are_refused(tmp_path, changes, arms, message):
    with pytest.raises(UserError, match=message):
        run_study(study(**changes), tmp_path / "out", arms, STUB)
    assert not (tmp_path / "out").exists()


def test_it_needs_a_checkout(tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="run it in a checkout"):
        run_study(study(), tmp_path, None, STUB)


def test_arms_differ_in_what_they_say():
    configs = {name: ablation_world.get_config(name) for name in ablation_world.ARMS}
    tasks = {name: config.data.tasks.to_dict() for name, config in configs.items()}
    assert set(tasks["collected"]) < set(tasks["synthesised"])
    for name in ("collected", "synthesised"):
        assert configs[name].curriculum.name == "static"
        assert set(tasks[name].values()) == {1.0}
    for name in ("pyramid", "pyramid_centred", "odm"):
        assert configs[name].curriculum.name == name
        assert tasks[name] == tasks["synthesised"]
    assert tasks["tuned"] == world.get_config().data.tasks.to_dict()
    assert (
        len({(c.train.steps, c.seed, c.data.held_out) for c in configs.values()}) == 1
    )
    with pytest.raises(ValueError, match="no arm 'gone': give one of collected"):
        ablation_world.get_config("gone")


@pytest.mark.parametrize(
    "low, high, word, said",
    [
        (0.001, 0.02, "shows", "this study shows it"),
        (-0.02, -0.001, "does not show", "but the reverse"),
        (-0.01, 0.03, "undecided", "about 2.0 points or more"),
        (0.0, 0.02, "undecided", "undecided here"),
    ],
)
def test_verdicts_follow_from_the_interval(low, high, word, said):
    arm = study().arms.pyramid
    middle = {"difference": (low + high) / 2, "low": low, "high": high}
    found = verdict(arm, {"ability_average": middle}, 2)
    assert found["word"] == word and said in found["sentence"]
    alone = verdict(arm, {"ability_average": middle}, 1)
    assert alone["word"] == "undecided" and "over 1 seed." in alone["sentence"]
    assert verdict(arm, None, 1)["word"] == "undecided"


@pytest.mark.slow
def test_a_tiny_study_for_real(tmp_path):
    """Rendered, trained, evaluated and compared by the real commands."""
    module = [sys.executable, "-m"]
    subprocess.run(
        [*module, "data_synthesis.world", f"--output={tmp_path / 'world'}", "--seed=0",
         "--videos=60"],
        check=True,
    )  # fmt: skip
    arms = tmp_path / "arms.py"
    arms.write_text(
        "from configs import ablation_world\n"
        "def get_config(arm=''):\n"
        "    c = ablation_world.get_config(arm)\n"
        "    if not arm:\n"
        "        for name in c.arms:\n"
        f"            c.arms[name].config = f'{arms}:{{name}}'\n"
        "        return c\n"
        "    c.data.tasks = {'T2V': 1.0, 'I2V': 1.0}\n"  # few programs to compile
        "    c.data.update(batch_size=4, min_share=1.0, cluster_share=0.0)\n"
        "    c.data.held_out = 2\n"
        "    c.train.log_every = 1\n"
        f"    c.preprocess.cache_dir = '{tmp_path / 'cache'}'\n"
        "    return c\n"
    )
    output = tmp_path / "out"
    command = [*module, "gve_jax.ablate", f"--config={arms}", f"--output={output}",
               f"--config.world={tmp_path / 'world'}", "--config.seeds=0,",
               "--config.steps=3", "--config.resamples=200",
               "--arms=synthesised,pyramid"]  # fmt: skip
    environment = os.environ | {"XLA_FLAGS": ""}  # one device, as a user has
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[-1] == f"report: {output / 'report.html'}"
    assert lines[-2].startswith("The curriculum helps: ")
    rows = (output / "pyramid/0/train/curriculum.jsonl").read_text().splitlines()
    first = json.loads(rows[0])
    assert first["prober"] == str(output / "synthesised/100/train")
    assert all(task["alignment"] is not None for task in first["tasks"].values())
    results = json.loads((output / "results.json").read_text())
    assert len(results["arms"]["pyramid"]["comparison"]["datasets"]) == 16
    assert Page(output / "report.html").charts == 5
