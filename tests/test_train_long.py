"""What long runs meet: curricula, evaluations, stops, stalls, mined negatives."""

import json
import os
import shutil
import signal
import threading
import time

import jax
import numpy as np
import pytest

from gve_jax.checkpoint import Checkpoints
from gve_jax.data.records import read_pairs
from gve_jax.data.sources import hold_out, load_tasks
from gve_jax.embed import Embedder
from gve_jax.restore import restore
from gve_jax.train import curriculum
from gve_jax.train.feed import Feed
from gve_jax.train.loop import train
from gve_jax.train.probe import Evaluation
from gve_jax.types import UserError
from tests import tiny
from tests.test_train import metrics, params_of


def lines(workdir, name):
    text = (workdir / f"{name}.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]


def without(workdir, first):
    """Takes the checkpoints from step `first` on away, as if the run had died."""
    for folder in (workdir / "checkpoints").iterdir():
        if int(folder.name) >= first:
            shutil.rmtree(folder)


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    return tiny.write_pairs(tmp_path_factory.mktemp("pairs") / "train")


def config(pairs, **changes):
    """Two epochs of three updates, of two batches each, under the pyramid."""
    defaults = dict(
        data__batch_size=4,
        data__held_out=4,
        data__num_negatives=1,
        curriculum__name="pyramid",
        curriculum__epochs=2,
        train__accumulate=2,
        train__steps=6,
        train__eval_every=2,
        train__checkpoint_every=1,
        train__keep=9,
        mine__each_epoch=True,
    )
    return tiny.config(pairs, **(defaults | changes))


@pytest.fixture(scope="module")
def prober(pairs, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("prober") / "run"
    train(tiny.config(pairs, train__steps=0), workdir, jax.devices()[:1])
    return workdir


@pytest.fixture(scope="module")
def whole(pairs, prober, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("runs") / "whole"
    train(config(pairs, curriculum__prober=str(prober)), workdir, jax.devices()[:1])
    return workdir


def test_the_pyramid_follows_what_the_prober_says(whole, pairs, prober):
    first, second = lines(whole, "curriculum")
    assert (first["prober"], second["prober"]) == (str(prober), "own weights")
    assert (first["step"], second["step"]) == (0, 3)
    # R_k by hand: the prober's cosines of the pairs that are held out.
    _, held = hold_out(load_tasks(pairs), 4, seed=42)
    embedder = Embedder.from_checkpoint(prober)
    for task, found in first["tasks"].items():
        vectors = [
            embedder.embed([getattr(p, side) for p in held[task]]).vectors
            for side in ("query", "target")
        ]
        cosine = np.mean(np.sum(vectors[0] * vectors[1], axis=1))
        np.testing.assert_allclose(found["alignment"], cosine, atol=1e-6)
    for epoch, sigma in ((first, 0.1), (second, 1.0)):
        tasks = epoch["tasks"].values()
        weights = np.exp([task["alignment"] / sigma for task in tasks])
        expected = weights / weights.sum()
        np.testing.assert_allclose([t["probability"] for t in tasks], expected)
        assert sum(task["draws"] for task in tasks) == 6
    assert second["tasks"]["T2V"]["train_loss"] or second["tasks"]["T2T"]["train_loss"]
    drawn = {task: 0 for task in first["tasks"]}
    for row in lines(whole, "metrics")[:3]:
        for task, of in row["tasks"].items():
            drawn[task] += of["batches"]
    assert drawn == {task: v["draws"] for task, v in first["tasks"].items()}


def test_nothing_that_is_held_out_is_trained_on(pairs):
    tasks, held = hold_out(load_tasks(pairs), 4, seed=42)
    sources = {p.source_id for rows in held.values() for p in rows}
    assert sources and all(
        p.source_id not in sources for rows in tasks.values() for p in rows
    )


@pytest.mark.parametrize("died", [3, 5, 6], ids=["first", "border", "second"])
def test_a_run_that_died_goes_on_exactly(
    whole, pairs, prober, tmp_path, monkeypatch, died
):
    """In the middle of either epoch; what the running epoch draws is not found anew."""
    workdir = tmp_path / "run"
    shutil.copytree(whole, workdir)
    without(workdir, died)
    (workdir / "metrics.jsonl").write_text(
        (workdir / "metrics.jsonl").read_text() + '{"step": 9, "lo'
    )
    if died > 3:  # the second epoch has begun

        def refuse(*_):
            raise AssertionError("probed again")

        monkeypatch.setattr(curriculum.Curriculum, "plan", refuse)
    changed = config(pairs, curriculum__prober=str(prober))
    train(changed, workdir, jax.devices()[:1])
    assert metrics(workdir) == metrics(whole)
    for name in ("curriculum", "evaluations"):
        assert lines(workdir, name) == lines(whole, name)
    jax.tree.map(
        np.testing.assert_array_equal, params_of(whole, 6), params_of(workdir, 6)
    )


def test_negatives_are_mined_anew_for_the_second_epoch(whole, pairs):
    assert sorted(p.name for p in (whole / "mined").iterdir()) == ["2"]
    tasks, _ = hold_out(load_tasks(pairs), 4, seed=42)
    mined = read_pairs(whole / "mined" / "2" / "T2V.jsonl", "T2V")
    assert [p.id for p in mined] == [p.id for p in tasks["T2V"]]
    for pair in mined:
        for negative in pair.negatives:
            assert negative.video != pair.target.video
        assert len(pair.scores) == 1 + len(pair.negatives)
    assert any(pair.negatives for pair in mined)
    assert json.loads((whole / "mined" / "2" / "audit.json").read_text())["T2V"]


def test_what_is_kept_and_named(pairs, tmp_path):
    """The newest, the best by the evaluation, and every third checkpoint."""
    scores = iter([0.2, 0.9, 0.4, 0.3])

    def evaluate(embedder):
        assert embedder.dim == 32
        return Evaluation("made up", next(scores), {})

    workdir = tmp_path / "run"
    train(
        config(
            pairs,
            curriculum__name="static",
            mine__each_epoch=False,
            train__steps=8,
            train__keep=1,
            train__keep_every=3,
        ),
        workdir,
        jax.devices()[:1],
        evaluate=evaluate,
    )
    assert Checkpoints(workdir).steps == [3, 4, 6, 8]
    assert [row["score"] for row in lines(workdir, "evaluations")] == [
        0.2, 0.9, 0.4, 0.3,
    ]  # fmt: skip
    found = {
        which: restore(f"{workdir}{which}").contract.weights_hash
        for which in ("", "@best", "@4", "@8", "@3")
    }
    assert found["@best"] == found["@4"] and found[""] == found["@8"]
    assert len(set(found.values())) == 3
    with pytest.raises(UserError, match=r"steps .*3, 4, 6, 8"):
        restore(f"{workdir}@5")


def test_missing_corpora_are_told_by_the_checkpoint(pairs, tmp_path, capfd):
    changed = tiny.config(pairs, data__pairs="", train__steps=0)
    changed.data.root = str(pairs)
    for task in ("T2V", "T2T", "V2V"):
        changed.data.corpora[task] = dict(
            format="pairs", path=f"{task}.jsonl", get="by looking for it"
        )
    changed.data.prepared = str(tmp_path / "prepared")
    with pytest.raises(UserError, match=r"V2V not found.*--allow-missing"):
        train(changed, tmp_path / "run", jax.devices()[:1])
    assert "by looking for it" in capfd.readouterr().err
    train(changed, tmp_path / "run", jax.devices()[:1], allow_missing=True)
    saved = json.loads(
        (tmp_path / "run" / "checkpoints" / "0" / "data" / "metadata").read_text()
    )
    assert saved["missing_corpora"] == ["V2V"]


def test_best_needs_an_evaluation(prober):
    with pytest.raises(UserError, match=r"train\.eval_every"):
        restore(f"{prober}@best")


def test_sigterm_saves_and_a_second_start_goes_on(pairs, tmp_path, capfd):
    changes = dict(
        curriculum__name="static",
        mine__each_epoch=False,
        train__steps=60,
        train__eval_every=0,
        train__checkpoint_every=60,
        train__accumulate=1,
    )
    whole, workdir = tmp_path / "whole", tmp_path / "run"
    train(config(pairs, **changes), whole, jax.devices()[:1])

    def stop():
        while not (workdir / "metrics.jsonl").exists() or len(metrics(workdir)) < 5:
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=stop)
    thread.start()
    train(config(pairs, **changes), workdir, jax.devices()[:1])
    thread.join()
    assert signal.getsignal(signal.SIGTERM) == before
    stopped = Checkpoints(workdir).latest_step
    assert 5 <= stopped < 60
    assert f"stopped by SIGTERM after step {stopped}" in capfd.readouterr().err
    train(config(pairs, **changes), workdir, jax.devices()[:1])
    assert metrics(workdir) == metrics(whole)
    jax.tree.map(
        np.testing.assert_array_equal, params_of(whole, 60), params_of(workdir, 60)
    )


def test_a_run_without_finite_gradients_stops(pairs, tmp_path):
    changed = config(
        pairs,
        curriculum__name="static",
        mine__each_epoch=False,
        loss__temperature=1e-45,
        loss__start_temperature=1e-45,
        train__max_skipped=3,
        train__eval_every=0,
    )
    with pytest.raises(UserError, match="last 3 updates were skipped"):
        train(changed, tmp_path / "run", jax.devices()[:1])
    assert metrics(tmp_path / "run")[-1]["skipped"] == 3
    assert lines(tmp_path / "run", "metrics")[-1]["loss"] is None


class Stuck:
    """A loader whose medium never comes."""

    def __init__(self):
        self.released = threading.Event()

    def __next__(self):
        self.released.wait()
        raise StopIteration

    def reading(self):
        return ["/videos/b.mp4", "/videos/a.mp4", "/videos/a.mp4"]


def test_a_stalled_pipeline_is_told_from_a_slow_one():
    loader = Stuck()
    feed = Feed(loader, 1, lambda x: x, stall_s=0.2)
    with pytest.raises(UserError, match=r"0.2 s .*/videos/a.mp4, /videos/b.mp4: see"):
        next(feed)
    feed.close()
    loader.released.set()


@pytest.mark.parametrize(
    "changes, message",
    [
        (dict(data__held_out=0, train__eval_every=0), "data.held_out"),
        (dict(data__held_out=0, curriculum__name="static"), "train.eval_every=2 needs"),
        (dict(curriculum__epochs=0), "curriculum.epochs=0"),
        (dict(train__accumulate=0), "train.accumulate=0"),
        (dict(data__num_negatives=0), "mine.each_epoch: no task uses"),
        (dict(train__sinks=("paper",)), "train.sinks names 'paper'"),
        (dict(loss__distillation=0.5), "have no scores of a teacher"),
    ],
)
def test_user_errors_are_one_line(pairs, tmp_path, changes, message):
    with pytest.raises(UserError, match=message):
        train(config(pairs, **changes), tmp_path / "run", jax.devices()[:1])
