"""Items to vectors on disk: through the command, resumed, refused, invariant."""

import json
import os
import pathlib
import shutil
import subprocess
import sys

import jax
import numpy as np
import pytest

from gve_jax.config import default_config
from gve_jax.data.records import read_items
from gve_jax.embed import Embedder, embed_to_folder, log
from gve_jax.train.loop import train
from gve_jax.types import Item, UserError
from tests import tiny

ROOT = pathlib.Path(__file__).parents[1]

# float32 sums in another order: by padding, batch or device.
BOUND = 2e-6
# The same in bfloat16: of a value, and of the cosine.
LOW_BOUND, LOW_COSINE = 4e-3, 1e-4


@pytest.fixture(scope="module")
def media(tmp_path_factory):
    """The clips of the pairs, two of another shape, a picture and no video."""
    folder = tiny.write_pairs(tmp_path_factory.mktemp("pairs") / "train")
    tiny.write_video(folder / "large.mp4", (9, 200, 90), size=112)
    (folder / "broken.mp4").write_bytes(b"not a video at all")
    return folder


@pytest.fixture(scope="module")
def workdir(media, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "run"
    # Untrained: nothing here depends on what the weights are.
    config = tiny.config(media, optim__warmup_steps=0, train__steps=0)
    train(config, folder, jax.devices()[:1])
    return folder


@pytest.fixture(scope="module")
def embedder(workdir):
    """On eight devices."""
    return Embedder.from_checkpoint(workdir)


@pytest.fixture
def items_file(media):
    """12 clips, 3 texts and a mixture; one text is there twice, under two ids."""
    names = sorted(p.name for p in media.glob("*-*.mp4"))
    rows = [{"id": name, "video": f"train/{name}"} for name in names]
    rows += [
        {"id": "a", "text": "a red square"},
        {"id": "b", "text": "a red square", "instruction": "Find the video."},
        {"id": "c", "text": "a red square"},
        {"id": "mix", "text": "like this, but blue", "video": "train/red-left.mp4"},
    ]
    return write_items(media.parent / "items.jsonl", rows)


def write_items(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def command(*arguments, devices=None):
    """`python -m gve_jax.embed` as a user runs it, on `devices` CPU devices."""
    flag = f"--xla_force_host_platform_device_count={devices}" if devices else ""
    return subprocess.run(
        [sys.executable, "-m", "gve_jax.embed", *map(str, arguments)],
        cwd=ROOT,
        env=os.environ | {"XLA_FLAGS": flag},
        capture_output=True,
        text=True,
        timeout=300,
    )


def files_of(folder):
    return {p.name: p.read_bytes() for p in folder.iterdir()}


def read(folder):
    vectors = np.load(folder / "embeddings.npy")
    return vectors, json.loads((folder / "ids.json").read_text())


# Through the command.


def test_the_command_writes_what_it_says(items_file, embedder, workdir, tmp_path):
    items = read_items(items_file)
    broken = {"id": "bad", "video": "train/broken.mp4"}
    rows = [json.loads(line) for line in items_file.read_text().splitlines()]
    path = write_items(items_file.with_name("some.jsonl"), [rows[0], broken, *rows[1:]])
    out = tmp_path / "out"
    arguments = f"--checkpoint={workdir}", f"--input={path}", f"--output={out}"
    done = command(*arguments, "--stats")
    assert done.returncode == 0, done.stderr
    assert "1 of 17 items could not be read" in done.stderr
    assert "embed 1/1: " in done.stderr  # the progress line
    assert "items/s" in done.stdout and "shapes compiled" in done.stdout
    assert "16 vectors of 32" in done.stdout

    names = {"embeddings.npy", "ids.json", "contract.json", "failures.jsonl"}
    assert set(files_of(out)) == names | {"items.sha256"}
    vectors, ids = read(out)
    assert ids == [item.id for item in items]
    assert vectors.dtype == np.float32 and vectors.shape == (16, 32)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    failures = (out / "failures.jsonl").read_text().splitlines()
    assert [json.loads(line)["id"] for line in failures] == ["bad"]
    assert "broken.mp4" in json.loads(failures[0])["error"]
    contract = json.loads((out / "contract.json").read_text())
    trained = json.loads((workdir / "contract.json").read_text())
    assert contract == trained and contract["num_frames"] == 4

    # One device in the command, eight here.
    here = embedder.embed(items, progress=False)
    np.testing.assert_allclose(here.vectors, vectors, atol=BOUND, rtol=0)

    before = files_of(out)
    again = command(*arguments)
    assert again.returncode == 0 and "1 of 17" in again.stderr
    assert "embed 1/1: " not in again.stderr  # nothing was embedded
    assert files_of(out) == before


def test_nothing_readable_is_a_failure(media, embedder, workdir, tmp_path):
    row = {"id": "x", "video": str(media / "broken.mp4")}
    path = write_items(tmp_path / "bad.jsonl", [row])
    out = tmp_path / "out"
    done = command(
        f"--checkpoint={workdir}", f"--input={path}", f"--output={out}", devices=1
    )
    assert done.returncode == 1
    errors = [x for x in done.stderr.splitlines() if "error:" in x]
    assert len(errors) == 1 and "no item could be read" in errors[0], done.stderr
    assert "broken.mp4" in errors[0]
    assert list(files_of(out)) == ["failures.jsonl"]
    # Mended, it goes through in the same folder.
    mended = [Item("x", video=str(media / "red-left.mp4"))]
    assert not embed_to_folder(embedder, mended, out).failures
    assert (out / "failures.jsonl").read_text() == ""


@pytest.mark.parametrize(
    "make, message",
    [
        (None, "no such folder"),
        ([], "neither a training workdir"),
        (["checkpoints/"], "config.json: no such file"),
        (["config.json", "model.safetensors"], "config.json: not JSON"),
        (["config.json"], "config.json: not JSON"),
    ],
)
def test_a_bad_checkpoint_is_one_clear_error(tmp_path, make, message):
    folder = tmp_path / "it"
    for name in make or ():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if name.endswith("/"):
            path.mkdir()
        else:
            path.write_text("")
    if make == []:
        folder.mkdir()
    with pytest.raises(UserError, match=message) as e:
        Embedder.from_checkpoint(folder)
    assert str(folder) in str(e.value)


def test_a_hub_id_without_a_network_is_one_clear_error():
    with pytest.raises(UserError, match="as a hub id") as e:
        Embedder.from_checkpoint("nobody/nothing-of-this-name")
    assert len(str(e.value).splitlines()) == 1


def test_a_file_as_checkpoint_is_refused(media):
    with pytest.raises(UserError, match="name the folder"):
        Embedder.from_checkpoint(media / "red-left.mp4")


def test_a_workdir_without_a_checkpoint_is_refused(workdir, tmp_path):
    shutil.copytree(workdir, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "0")
    with pytest.raises(UserError, match="no checkpoint yet"):
        Embedder.from_checkpoint(tmp_path / "run")


def test_changed_base_weights_are_refused(media, tmp_path):
    """LoRA alone is in the checkpoint; what it was trained upon must be the same."""
    config = tiny.config(media, optim__warmup_steps=0, train__steps=0)
    config.model.trainable, config.model.lora.rank = "lora", 2
    train(config, tmp_path / "run", jax.devices()[:1])
    # That it loads unchanged, test_train.py shows.
    values = json.loads((tmp_path / "run" / "config.json").read_text())
    values["seed"] += 1  # random base weights of another seed
    (tmp_path / "run" / "config.json").write_text(json.dumps(values))
    with pytest.raises(UserError, match="trained upon"):
        Embedder.from_checkpoint(tmp_path / "run")


# On disk.


def test_an_interrupted_run_resumes(items_file, embedder, tmp_path, monkeypatch):
    items = read_items(items_file)
    whole = embed_to_folder(embedder, items, tmp_path / "whole").vectors
    monkeypatch.setattr(log, "PIECE", 6)
    real, calls = embedder.embed, []

    def interrupted(part, name):
        if calls:
            raise KeyboardInterrupt
        calls.append(len(part))
        return real(part, name)

    monkeypatch.setattr(embedder, "embed", interrupted)
    with pytest.raises(KeyboardInterrupt):
        embed_to_folder(embedder, items, tmp_path / "out")
    assert not (tmp_path / "out" / "embeddings.npy").exists()

    rest = []
    monkeypatch.setattr(
        embedder, "embed", lambda part, name: rest.append(part) or real(part, name)
    )
    got = embed_to_folder(embedder, items, tmp_path / "out")
    # "c" is "a" once more.
    left = [item.id for item in items[6:] if item.id != "c"]
    assert [item.id for part in rest for item in part] == left
    np.testing.assert_allclose(got.vectors, whole, atol=BOUND, rtol=0)
    assert read(tmp_path / "out")[1] == read(tmp_path / "whole")[1]
    assert not (tmp_path / "out" / "pieces").exists()


def test_pieces_of_other_items_are_not_taken(
    items_file, embedder, tmp_path, monkeypatch
):
    items = read_items(items_file)
    monkeypatch.setattr(log, "PIECE", 1)
    real = embedder.embed
    left = [1]

    def once(part, name):
        if not left:
            raise KeyboardInterrupt
        left.pop()
        return real(part, name)

    monkeypatch.setattr(embedder, "embed", once)
    with pytest.raises(KeyboardInterrupt):
        embed_to_folder(embedder, items[:2], tmp_path / "out")
    monkeypatch.setattr(embedder, "embed", real)
    others = [Item("x", text="blue"), Item("y", text="green")]
    got = embed_to_folder(embedder, others, tmp_path / "out").vectors
    want = embedder.embed(others, progress=False).vectors
    np.testing.assert_allclose(got, want, atol=BOUND, rtol=0)


def test_failures_come_back_in_their_places(media, embedder, tmp_path, monkeypatch):
    monkeypatch.setattr(log, "PIECE", 2)
    texts = [Item(str(i), text=f"number {i}") for i in range(5)]
    items = [*texts[:3], Item("bad", video=str(media / "broken.mp4")), *texts[3:]]
    first = embed_to_folder(embedder, items, tmp_path)
    second = embed_to_folder(embedder, items, tmp_path)
    for result in (first, second):
        assert list(result.failures) == [3]
        assert "broken.mp4" in result.failures[3]
        assert np.isnan(result.vectors[3]).all()
    np.testing.assert_array_equal(first.vectors, second.vectors)
    assert second.stats.items == 0


def test_vectors_of_two_contracts_are_not_mixed(workdir, embedder, tmp_path):
    items = [Item("a", text="red"), Item("b", text="a green square goes left")]
    full = embed_to_folder(embedder, items, tmp_path).vectors
    before = files_of(tmp_path)
    half = Embedder.from_checkpoint(workdir, dtype="bfloat16")
    with pytest.raises(UserError, match="dtype: 'float32' against 'bfloat16'"):
        embed_to_folder(half, items, tmp_path)
    with pytest.raises(UserError, match="other items"):
        embed_to_folder(embedder, items[:1], tmp_path)
    assert files_of(tmp_path) == before
    # It is another dtype, and still the same model.
    rounded = half.embed(items, progress=False).vectors
    cosine = (rounded * full).sum(1)
    assert rounded.dtype == np.float32 and (rounded != full).any()
    assert (cosine > 0.999).all()


def test_a_changed_video_is_another_item(media, embedder, tmp_path):
    shutil.copy(media / "red-left.mp4", tmp_path / "v.mp4")
    items = [Item("v", video=str(tmp_path / "v.mp4"))]
    embed_to_folder(embedder, items, tmp_path / "out")
    shutil.copy(media / "large.mp4", tmp_path / "v.mp4")
    with pytest.raises(UserError, match="other items"):
        embed_to_folder(embedder, items, tmp_path / "out")


def test_folders_that_cannot_be_used(workdir, embedder, media):
    items = [Item("a", text="red")]
    with pytest.raises(UserError, match="is a checkpoint"):
        embed_to_folder(embedder, items, workdir)
    with pytest.raises(UserError, match=r"red-left.mp4.*: cannot be written"):
        embed_to_folder(embedder, items, media / "red-left.mp4")


# In memory.


def test_equal_contents_are_embedded_once(media, embedder, monkeypatch):
    seen = []
    real = embedder.processor.encode
    monkeypatch.setattr(
        embedder.processor, "encode", lambda item: seen.append(item.id) or real(item)
    )
    video = str(media / "red-left.mp4")
    items = [
        Item("a", video=video),
        Item("b", video=video, instruction="Find it."),
        Item("c", video=video),
        Item("d", video=str(media / "broken.mp4")),
        Item("e", video=str(media / "broken.mp4")),
    ]
    result = embedder.embed(items, progress=False)
    assert sorted(seen) == ["a", "b", "d"]
    np.testing.assert_array_equal(result.vectors[0], result.vectors[2])
    assert np.abs(result.vectors[0] - result.vectors[1]).max() > 1e-3
    assert list(result.failures) == [3, 4]


def test_an_item_that_cannot_be_encoded_fails_alone(embedder, monkeypatch):
    def encode(item, real=embedder.processor.encode):
        if item.id == "odd":
            raise UserError("a picture of 1 x 400 pixels")
        return real(item)

    monkeypatch.setattr(embedder.processor, "encode", encode)
    items = [Item("odd", text="odd"), Item("a", text="red")]
    result = embedder.embed(items, progress=False)
    assert result.failures == {0: "a picture of 1 x 400 pixels"}
    assert np.isfinite(result.vectors[1]).all()


def test_no_items_no_vectors(embedder):
    assert embedder.embed([], progress=False).vectors.shape == (0, 32)


def test_an_item_does_not_depend_on_batch_or_bucket(media, workdir, tmp_path, embedder):
    """DESIGN: "an item's embedding does not depend on its batch, padding or bucket"."""
    items = [
        Item("video", video=str(media / "red-left.mp4")),
        Item("other", video=str(media / "blue-right.mp4")),
        Item("cut", video=str(media / "large.mp4"), end=0.5),
        Item("mix", text="but in blue", video=str(media / "green-left.mp4")),
        Item("text", text="a red square goes left"),
        Item("long", text="a red square goes left " * 10),
    ]
    together = embedder.embed(items, progress=False).vectors
    apart = np.abs(together[:, None] - together).max(-1)
    assert apart[~np.eye(len(items), dtype=bool)].min() > 1000 * BOUND

    # Alone, among padding rows.
    for row in (0, 4):
        alone = embedder.embed([items[row]], progress=False).vectors[0]
        np.testing.assert_allclose(alone, together[row], atol=BOUND, rtol=0)

    # Every item in a bucket of its most padding: index arrays, and no exact grid.
    shutil.copytree(workdir, tmp_path / "run")
    config = json.loads((workdir / "config.json").read_text())
    config["preprocess"] |= dict(
        exact_grids=[], token_buckets=[256], patch_buckets=[512]
    )
    (tmp_path / "run" / "config.json").write_text(json.dumps(config))
    overrides = default_config()
    overrides.embed.tokens = 4096  # and other company
    padded = Embedder.from_checkpoint(tmp_path / "run", config=overrides)
    got = padded.embed(items[::-1], progress=False)
    np.testing.assert_allclose(got.vectors[::-1], together, atol=BOUND, rtol=0)


def test_an_item_does_not_depend_on_its_company_in_bfloat16(media, workdir):
    """One bfloat16 step is 4e-3 of a value; vectors of 32 numbers are of size 0.2."""
    clips = sorted(media.glob("*-*.mp4"))
    items = [Item(p.name, video=str(p)) for p in clips]
    items += [
        Item(f"t{i}", text=f"it is {p.stem} " * i) for i, p in enumerate(clips, 1)
    ]
    embedder = Embedder.from_checkpoint(workdir, dtype="bfloat16")
    together = embedder.embed(items, progress=False).vectors
    exact = Embedder.from_checkpoint(workdir, dtype="bfloat16", exact=True)
    alone = exact.embed(items, progress=False).vectors
    for some in (alone, embedder.embed(items[::-3], progress=False).vectors):
        want = together if some is alone else together[::-3]
        assert (some * want).sum(-1).min() > 1 - LOW_COSINE
        np.testing.assert_allclose(some, want, atol=LOW_BOUND, rtol=0)


def test_a_split_model_embeds_the_same(media, workdir, embedder):
    items = [Item("a", text="red"), Item("v", video=str(media / "red-left.mp4"))]
    want = embedder.embed(items, progress=False).vectors
    config = default_config()
    config.mesh.update(data=2, fsdp=2, tensor=2)
    got = Embedder.from_checkpoint(workdir, config=config).embed(items, progress=False)
    np.testing.assert_allclose(got.vectors, want, atol=BOUND, rtol=0)


def test_exact_is_the_same_to_the_last_bit(media, workdir, embedder):
    clips = sorted(media.glob("*-*.mp4"))
    items = [Item(p.name, video=str(p)) for p in clips]
    items += [
        Item(f"t{p.name}", text=f"it is {p.stem}" * i) for i, p in enumerate(clips, 1)
    ]
    exact = Embedder.from_checkpoint(workdir, exact=True)
    together = exact.embed(items, progress=False).vectors
    np.testing.assert_allclose(
        together, embedder.embed(items, progress=False).vectors, atol=BOUND, rtol=0
    )
    for some in (items[::-1], items[3:20:5], items[7:8]):
        for item, vector in zip(
            some, exact.embed(some, progress=False).vectors, strict=True
        ):
            np.testing.assert_array_equal(vector, together[items.index(item)])


COMPILED = []
jax.monitoring.register_event_duration_secs_listener(
    lambda name, seconds, **_: COMPILED.append(name) if "backend_compile" in name else 0
)


def test_steady_state_compiles_nothing(media, workdir):
    config = default_config()
    config.embed.tokens = 128
    embedder = Embedder.from_checkpoint(workdir, config=config)
    clips = sorted(media.glob("*-*.mp4"))

    def some(rows):
        videos = [Item(p.name, video=str(p)) for p in rows]
        return videos + [Item(f"t{p.name}", text=f"it is {p.stem}") for p in rows]

    COMPILED.clear()
    embedder.embed(some(clips[:5]), progress=False)
    # One bucket of clips, one of texts; XLA agrees that something was compiled.
    assert embedder.compiled == 2 and COMPILED
    COMPILED.clear()
    stats = embedder.embed(some(clips[3:]), progress=False).stats
    assert stats.compiled == embedder.compiled == 2
    assert COMPILED == []
    text = str(stats)
    assert "18 items" in text and "2 shapes compiled" in text
    assert 0 < stats.tokens_used < stats.tokens_padded
