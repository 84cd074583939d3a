"""Training through its real entry: learning, resuming, devices, failures."""

import json
import shutil

import jax
import numpy as np
import pytest

from gve_jax.checkpoint import Checkpoints
from gve_jax.embed import Embedder
from gve_jax.train.loop import train
from gve_jax.types import Item, UserError
from tests import tiny


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    return tiny.write_pairs(tmp_path_factory.mktemp("pairs") / "train")


@pytest.fixture(scope="module")
def trained(pairs, tmp_path_factory):
    """An uninterrupted run of 4 steps on one device, checkpoints at 2 and 4."""
    workdir = tmp_path_factory.mktemp("runs") / "whole"
    train(tiny.config(pairs), workdir, devices=jax.devices()[:1])
    return workdir


def metrics(workdir):
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    return [{k: v for k, v in row.items() if k != "pairs_per_s"} for row in rows]


def params_of(workdir, step):
    """The raw arrays of a checkpoint, read without the project's model."""
    import orbax.checkpoint as ocp

    with ocp.StandardCheckpointer() as reader:
        return reader.restore(workdir / "checkpoints" / str(step) / "params")


def test_what_a_run_leaves(trained):
    rows = metrics(trained)
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    for name in ("loss", "positive_score", "mean_score", "hard_gap", "grad_norm"):
        assert all(np.isfinite(row[name]) for row in rows)
    contract = json.loads((trained / "contract.json").read_text())
    assert contract["num_frames"] == 4 and contract["weights_hash"]
    assert json.loads((trained / "config.json").read_text())["train"]["steps"] == 4


def test_resumed_equals_uninterrupted(trained, pairs, tmp_path):
    # As after a crash between checkpoint 2 and checkpoint 4.
    shutil.copytree(trained, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "4")
    train(tiny.config(pairs), tmp_path / "run", devices=jax.devices()[:1])
    assert metrics(tmp_path / "run") == metrics(trained)
    whole, resumed = params_of(trained, 4), params_of(tmp_path / "run", 4)
    jax.tree.map(np.testing.assert_array_equal, whole, resumed)
    start = params_of(trained, 2)
    changed = jax.tree.map(lambda a, b: bool(np.any(a != b)), start, whole)
    assert any(jax.tree.leaves(changed))


def test_eight_devices_give_the_loss_of_one(trained, pairs, tmp_path):
    config = tiny.config(pairs, mesh__data=2, mesh__fsdp=2, mesh__tensor=2)
    train(config, tmp_path / "run", devices=jax.devices())
    for one, eight in zip(metrics(trained), metrics(tmp_path / "run"), strict=True):
        for name in ("loss", "positive_score", "grad_norm"):
            np.testing.assert_allclose(one[name], eight[name], rtol=2e-5)


def test_it_learns_and_its_vectors_retrieve(pairs, tmp_path):
    config = tiny.config(pairs, train__steps=60, train__checkpoint_every=60)
    config.train.log_every = 10
    config.optim.name = "adamw"
    train(config, tmp_path / "run", devices=jax.devices()[:1])
    rows = metrics(tmp_path / "run")
    assert rows[-1]["loss"] < 0.6 * rows[0]["loss"]
    embedder = Embedder.from_checkpoint(tmp_path / "run")
    names = list(tiny.COLOURS)
    texts = [
        Item(n, text=f"a {n} square", instruction="Find the video.") for n in names
    ]
    videos = [Item(n, video=str(pairs / f"{n}-left.mp4")) for n in names]
    query, target = embedder.embed(texts).vectors, embedder.embed(videos).vectors
    np.testing.assert_allclose(np.linalg.norm(target, axis=1), 1, atol=1e-5)
    hits = np.mean(np.argmax(query @ target.T, axis=1) == np.arange(len(names)))
    assert hits >= 4 / 6  # chance is 1/6


def test_hard_negatives_enter_the_loss(trained, pairs, tmp_path):
    config = tiny.config(pairs, data__num_negatives=1)
    train(config, tmp_path / "run", devices=jax.devices()[:1])
    # Same first batch and weights, more in the denominator.
    assert metrics(tmp_path / "run")[0]["loss"] > metrics(trained)[0]["loss"]


def test_lora_trains_few_parameters_and_loads_again(pairs, tmp_path):
    config = tiny.config(pairs, model__trainable="lora", model__lora__rank=2)
    config.optim.name = "adamw"
    train(config, tmp_path / "run", devices=jax.devices()[:1])
    leaves = jax.tree.leaves(params_of(tmp_path / "run", 4))
    assert 0 < sum(x.size for x in leaves) < 5000
    embedder = Embedder.from_checkpoint(tmp_path / "run")
    vectors = embedder.embed([Item("a", text="red")]).vectors
    assert np.isfinite(vectors).all()


def test_a_changed_config_is_refused(trained, pairs, tmp_path):
    shutil.copytree(trained, tmp_path / "run")
    with pytest.raises(UserError, match=r"optim\.peak_lr: 0.003 there, 0.1 now"):
        train(tiny.config(pairs, optim__peak_lr=0.1), tmp_path / "run")


def test_changed_pairs_are_refused(trained, tmp_path):
    shutil.copytree(trained, tmp_path / "run")
    config = json.loads((trained / "config.json").read_text())
    other = tmp_path / "train"
    shutil.copytree(config["data"]["pairs"], other)
    lines = (other / "T2T.jsonl").read_text().splitlines()
    (other / "T2T.jsonl").write_text("\n".join(lines[1:]) + "\n")
    config["data"]["pairs"] = str(other)
    (tmp_path / "run" / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="changed since step"):
        train(tiny.config(other), tmp_path / "run", devices=jax.devices()[:1])


def test_an_unreadable_video_is_recorded_and_replaced(pairs, tmp_path):
    shutil.copytree(pairs, tmp_path / "train")
    (tmp_path / "train" / "red-left.mp4").write_bytes(b"not a video at all")
    rows = (tmp_path / "train" / "T2V.jsonl").read_text().splitlines()
    # One bad pair in a batch of 12 stays under the limit.
    kept = [r for r in rows if '"red-left.mp4-1"' not in r]
    (tmp_path / "train" / "T2V.jsonl").write_text("\n".join(kept) + "\n")
    (tmp_path / "train" / "T2T.jsonl").unlink()
    config = tiny.config(
        tmp_path / "train", data__batch_size=16, train__steps=2, mesh__fsdp=1
    )
    train(config, tmp_path / "run", devices=jax.devices()[:1])
    failures = (tmp_path / "run" / "failures.jsonl").read_text().splitlines()
    assert json.loads(failures[0])["id"] == "red-left.mp4-0"
    assert sum(row["failed_pairs"] for row in metrics(tmp_path / "run")) >= 1


@pytest.mark.parametrize(
    "broken, message",
    [("*-left.mp4", "(data.max_failed)|of a batch cannot"), ("*.mp4", "of a batch")],
)
def test_too_many_unreadable_videos_stop_the_run(pairs, tmp_path, broken, message):
    shutil.copytree(pairs, tmp_path / "train")
    for video in (tmp_path / "train").glob(broken):
        video.write_bytes(b"not a video at all")
    (tmp_path / "train" / "T2T.jsonl").unlink()
    config = tiny.config(tmp_path / "train", preprocess__exact_grids=())
    with pytest.raises(UserError, match=message):
        train(config, tmp_path / "run", devices=jax.devices()[:1])


def test_steps_zero_writes_the_untrained_model(pairs, tmp_path):
    train(tiny.config(pairs, train__steps=0), tmp_path / "run", jax.devices()[:1])
    assert Checkpoints(tmp_path / "run").latest_step == 0
    assert Embedder.from_checkpoint(tmp_path / "run").dim == 32


@pytest.mark.parametrize(
    "changes, message",
    [
        (dict(data__pairs="/nowhere.jsonl"), "no such file"),
        (dict(data__pairs=""), "data.pairs is empty"),
        (dict(data__batch_size=1000), "fewer than its batch"),
        (dict(data__tasks={"T2X": 1.0}), "names 'T2X'"),
        (dict(model__trainable="some"), "neither"),
        (dict(curriculum__name="odd"), "curriculum.name"),
        (dict(data__batch_size=6), "does not divide over"),
    ],
)
def test_user_errors_are_one_line(pairs, tmp_path, changes, message):
    with pytest.raises(UserError, match=message):
        train(tiny.config(pairs, **changes), tmp_path / "run")
