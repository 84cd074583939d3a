"""From datasets to vectors: kept, shared, resumed, by any encoder and any number."""

import json
import os
import pathlib
import signal
import socket
import subprocess
import sys

import jax
import numpy as np
import pytest
import small_uvrb as small
from absl import flags
from absl.testing import flagsaver

from configs import uvrb_mini
from eval import loaders, run, vectors
from eval.cache import Cache
from eval.encoders import flags as encoder_flags
from eval.encoders.precomputed import Precomputed
from gve_jax import media
from gve_jax.disk import read_rows
from gve_jax.embed import VectorLog, log
from gve_jax.preprocess import Lost
from gve_jax.types import Item, UserError
from tests import stub_encoders
from tests.processes import finish
from tests.test_generate import save

ROOT = pathlib.Path(__file__).parents[1]
NAMES = ("MSRVTT", "CRB-T", "MS-TV")


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Three datasets over the same six videos."""
    root = tmp_path_factory.mktemp("uvrb")
    for name in NAMES:
        kind = "text+video" if name == "MS-TV" else "text"
        small.write_dataset(root, name, 6, kind)
    return root


def config_of(root, **changes):
    config = uvrb_mini.get_config(str(root))
    config.eval.bootstrap = 50
    for key, value in changes.items():
        config.eval[key] = value
    return config


def evaluate(root, encoder, output, names=NAMES, **changes):
    config = config_of(root, **changes)
    sets = run.read(config, loaders.names(names))
    return run.run(config, sets, encoder, output, "runs/demo")


def written(output):
    """Everything but the vectors."""
    return {
        str(p.relative_to(output)): p.read_bytes()
        for p in sorted(output.rglob("*"))
        if p.is_file() and "embeddings" not in p.parts
    }


# The log of vectors.

KEYS = [bytes([i]) * 32 for i in range(20)]
ROWS = np.random.default_rng(0).normal(size=(20, 5)).astype(np.float32)


def segment(folder):
    (path,) = folder.glob("*.vectors")
    return path


def test_vectors_come_back_bit_by_bit(tmp_path):
    kept = VectorLog(tmp_path, {"a": 1}, 5)
    kept.append(KEYS[:3], ROWS[:3])
    kept.append(KEYS[3:4], ROWS[3:4])
    for reader in (kept, VectorLog(tmp_path, {"a": 1}, 5)):
        for key, row in zip(KEYS[:4], ROWS, strict=False):
            np.testing.assert_array_equal(reader.get(key), row)
        assert KEYS[4] not in reader and reader.get(KEYS[4]) is None
    # 44 bytes of header; 32 of key, 4 a number and 4 of checksum.
    assert segment(tmp_path).stat().st_size == 44 + 4 * (32 + 20 + 4)
    assert json.loads((tmp_path / "identity.json").read_text()) == {"a": 1}


def test_others_vectors_are_left_out(tmp_path):
    VectorLog(tmp_path, {"a": 1}, 5).append(KEYS, ROWS)
    assert KEYS[0] not in VectorLog(tmp_path, {"a": 2}, 5)
    assert KEYS[0] not in VectorLog(tmp_path, {"a": 1}, 10)


@pytest.mark.parametrize("cut", [1, 55, 56, 57])
def test_a_torn_tail_is_left_out(tmp_path, cut):
    VectorLog(tmp_path, {}, 5).append(KEYS, ROWS)
    path = segment(tmp_path)
    path.write_bytes(path.read_bytes()[:-cut])
    again = VectorLog(tmp_path, {}, 5)
    whole = 20 - -(-cut // 56)
    assert [key in again for key in KEYS] == [True] * whole + [False] * (20 - whole)
    again.append(KEYS[whole:], ROWS[whole:])  # in a segment of its own
    last = VectorLog(tmp_path, {}, 5)
    for key, row in zip(KEYS, ROWS, strict=True):
        np.testing.assert_array_equal(last.get(key), row)


def test_a_torn_header_is_left_out(tmp_path):
    VectorLog(tmp_path, {}, 5).append(KEYS, ROWS)
    path = segment(tmp_path)
    path.write_bytes(path.read_bytes()[:30])
    assert KEYS[0] not in VectorLog(tmp_path, {}, 5)


def test_a_damaged_vector_is_left_out_and_told(tmp_path, capsys):
    VectorLog(tmp_path, {}, 5).append(KEYS, ROWS)
    path = segment(tmp_path)
    content = bytearray(path.read_bytes())
    content[44 + 3 * 56 + 40] ^= 1
    path.write_bytes(content)
    again = VectorLog(tmp_path, {}, 5)
    assert [i for i, key in enumerate(KEYS) if key not in again] == [3]
    assert "1 damaged vectors are left out" in capsys.readouterr().err


def test_two_writers_at_once(tmp_path):
    a, b = VectorLog(tmp_path, {}, 5), VectorLog(tmp_path, {}, 5)
    for i in range(0, 20, 2):
        a.append(KEYS[i : i + 1], ROWS[i : i + 1])
        b.append(KEYS[i + 1 : i + 2], ROWS[i + 1 : i + 2])
    assert KEYS[1] not in a
    a.refresh()
    for reader in (a, VectorLog(tmp_path, {}, 5)):
        for key, row in zip(KEYS, ROWS, strict=True):
            np.testing.assert_array_equal(reader.get(key), row)


def test_reasons_are_kept_unless_they_are_the_machine_s(tmp_path):
    kept = VectorLog(tmp_path, {}, 5)
    kept.fail({KEYS[0]: "not a video", KEYS[1]: Lost("took over 9 s")})
    again = VectorLog(tmp_path, {}, 5)
    assert [again.lacks(key) for key in KEYS[:3]] == [False, True, True]
    assert again.failures[KEYS[0]] == log.Failure("not a video", False)
    again.append(KEYS[1:2], ROWS[1:2])
    assert KEYS[1] not in VectorLog(tmp_path, {}, 5).failures


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"file/x: cannot be written \(Not a dir"):
        VectorLog(tmp_path / "file" / "x", {}, 5)


# Contents and runs.


def test_runs_share_what_they_have_embedded(world, tmp_path):
    first, second, third = (small.FakeEmbedder() for _ in range(3))
    cache = str(tmp_path / "cache")
    evaluate(world, first, tmp_path / "a", NAMES[:1], cache=cache)
    assert len(first.items) == 6 + 6  # videos, queries
    evaluate(world, second, tmp_path / "b", NAMES[1:], cache=cache)
    # The videos are known; the queries of CRB-T have another instruction.
    assert len(second.items) == 6 + 6
    assert all(item.instruction for item in second.items)
    evaluate(world, third, tmp_path / "c", cache=cache)
    assert third.items == []
    assert not (tmp_path / "a" / "embeddings").exists()
    other = small.FakeEmbedder(weights="other")
    evaluate(world, other, tmp_path / "d", cache=cache)
    assert len(other.items) == 6 + 18


def test_a_file_is_known_by_its_bytes(world, tmp_path):
    cache = Cache(tmp_path, small.FakeEmbedder())
    paths = [world / name / "videos" / "v1.mp4" for name in NAMES]
    items = [Item(str(i), video=str(p)) for i, p in enumerate(paths)]
    assert len({cache.key(item) for item in items}) == 1
    changed = {
        cache.key(items[0]._replace(**{field: value}))
        for field, value in (
            ("id", "x"),
            ("start", 1.0),
            ("text", "x"),
            ("frame_order", "reversed"),
        )
    }
    assert len(changed) == 4 and cache.key(items[0]) in changed


def test_files_are_hashed_once_until_they_change(world, tmp_path, monkeypatch):
    seen = []
    real = media.content_key
    monkeypatch.setattr(media, "content_key", lambda p: seen.append(str(p)) or real(p))
    path = tmp_path / "v.mp4"
    small.write_video(path, 1)
    for _ in range(2):
        cache = Cache(tmp_path / "cache", small.FakeEmbedder())
        cache.learn([str(path), str(tmp_path / "gone.mp4")])
        key = cache.key(Item("a", video=str(path)))
    assert seen.count(str(path)) == 1
    small.write_video(path, 2)
    cache.learn([str(path)])
    assert cache.key(Item("a", video=str(path))) != key and seen.count(str(path)) == 2
    with pytest.raises(media.MediaError, match="no such file"):
        cache.key(Item("a", video=str(tmp_path / "gone.mp4")))


KILLED = """
import os, pathlib, signal, sys
sys.path[:0] = ["tests", "."]
import small_uvrb as small, test_eval_engine as t
from gve_jax.embed import log
class Killed(small.FakeEmbedder):
    def embed(self, items, desc="embed", progress=True):
        if len(self.calls) == 2:
            with open(next(pathlib.Path(sys.argv[2]).glob("embeddings/*/*.vectors")), "ab") as f:
                f.write(b"half a record")  # what a kill in mid-write leaves
            os.kill(os.getpid(), signal.SIGKILL)
        return super().embed(items, desc)
log.PIECE = 5
t.evaluate(sys.argv[1], Killed(), sys.argv[2])
"""  # noqa: E501


def test_a_killed_run_ends_as_if_it_had_not_been(world, tmp_path, monkeypatch):
    monkeypatch.setattr(log, "PIECE", 5)
    whole, rest = small.FakeEmbedder(), small.FakeEmbedder()
    evaluate(world, whole, tmp_path / "whole")
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(world), str(tmp_path / "cut")], cwd=ROOT
    )
    assert done.returncode == -signal.SIGKILL
    assert not (tmp_path / "cut" / "results.json").exists()
    evaluate(world, rest, tmp_path / "cut")
    assert [i.content for i in rest.items] == [i.content for i in whole.items[10:]]
    assert written(tmp_path / "cut") == written(tmp_path / "whole")


def test_five_percent_broken_are_counted_one_by_one(tmp_path):
    root, out = tmp_path / "root", tmp_path / "out"
    folder = small.write_dataset(root, "MSRVTT", 40)
    broken = [folder / "videos" / f"v{i}.mp4" for i in (3, 17)]
    for path in broken:
        path.write_bytes(b"")
    # Two files of the same bytes fail as one content; each is an item of its own.
    with pytest.raises(UserError, match=r"MSRVTT_corpus_3.*empty file.*one of 2: mend"):
        evaluate(root, small.FakeEmbedder(), out, ["MSRVTT"])
    again = small.FakeEmbedder()
    results = evaluate(root, again, out, ["MSRVTT"], allow_missing=True)
    assert again.items == []  # what failed is remembered too
    row = results["datasets"]["MSRVTT"]
    assert row["missing"] == 2 and row["recall@1"] == pytest.approx(38 / 40)
    lines = (out / "missing.jsonl").read_text().splitlines()
    assert [json.loads(x)["id"] for x in lines] == [
        "MSRVTT_corpus_3",
        "MSRVTT_corpus_17",
    ]
    small.write_video(broken[0], 3)
    mended = small.FakeEmbedder()
    results = evaluate(root, mended, out, ["MSRVTT"], allow_missing=True)
    assert [i.id for i in mended.items] == ["MSRVTT_corpus_3"]
    assert results["datasets"]["MSRVTT"]["recall@1"] == pytest.approx(39 / 40)


def test_results_say_what_they_are_of(world, tmp_path):
    config = config_of(world)
    sets = run.read(config, ["MSRVTT"])
    results = run.run(config, sets, small.FakeEmbedder(), tmp_path, "it", "do it")
    found = results["provenance"]
    assert found["encoder"] == "small_uvrb.FakeEmbedder"
    assert (found["checkpoint"], found["command"]) == ("it", "do it")
    assert found["versions"]["jax"] == jax.__version__
    assert found["versions"]["decoder"] == media.DECODER


# Encoders in Python.


def test_an_encoder_in_python(world, tmp_path):
    encoder = stub_encoders.Colours()
    results = evaluate(world, encoder, tmp_path, ["MSRVTT"])
    assert results["contract"]["encoder"] == f"{stub_encoders.__name__}:Colours"
    assert results["contract"]["scale"] == 1.0 and results["contract"]["dim"] == 12
    # Batches of at most three, each of one kind.
    assert sorted(map(len, encoder.batches)) == [3, 3, 3, 3]
    for batch in encoder.batches:
        assert len({video for _, video in batch}) == 1
    sets = run.read(config_of(world), ["MSRVTT"])
    sides = vectors.embed(sets, encoder, tmp_path / "embeddings", False)
    assert sides.stats["embedded"] == 0
    path = sets[0].corpus[2].video
    want = media.read_video(path, 4).pixels.mean((1, 2)).reshape(-1) - 99
    got = sides.corpus["MSRVTT"][2]
    np.testing.assert_allclose(got, want / np.linalg.norm(want), atol=1e-6)
    # Other arguments, other vectors.
    other = stub_encoders.Colours(scale=2.0)
    evaluate(world, other, tmp_path, ["MSRVTT"])
    assert len(other.batches) == 4


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("shape", r"Colours.encode: gave an array of \(3, 5\) for 3 items, not"),
        ("nan", r"Colours.encode: 1 of 3 vectors are zero or not finite, first .* 2"),
    ],
)
def test_what_an_encoder_must_not_give(world, tmp_path, fault, message):
    with pytest.raises(UserError, match=message):
        evaluate(world, stub_encoders.Colours(fault=fault), tmp_path, ["MSRVTT"])


def test_an_encoder_does_not_see_what_cannot_be_read(tmp_path):
    folder = small.write_dataset(tmp_path / "root", "MSRVTT", 4)
    (folder / "videos" / "v2.mp4").write_bytes(b"no video at all")
    encoder = stub_encoders.Colours()
    results = evaluate(
        tmp_path / "root", encoder, tmp_path / "out", ["MSRVTT"], allow_missing=True
    )
    assert results["datasets"]["MSRVTT"]["missing"] == 1
    assert sum(video for batch in encoder.batches for _, video in batch) == 3


# Precomputed vectors.


@pytest.fixture
def precomputed(world, tmp_path):
    """The vectors of the fake embedder in files, and its results."""
    embedder = small.FakeEmbedder(confused={"v1"})
    results = evaluate(world, embedder, tmp_path / "out")
    sets = run.read(config_of(world), NAMES)
    sides = vectors.embed(sets, embedder, tmp_path / "out" / "embeddings", False)
    for data in sets:
        for side in ("queries", "corpus"):
            folder = tmp_path / "vectors" / data.name / side
            folder.mkdir(parents=True)
            table = getattr(sides, side)[data.name][::-1]
            np.save(folder / "embeddings.npy", table)
            ids = [item.id for item in getattr(data, side)][::-1]
            (folder / "ids.json").write_text(json.dumps(ids))
    return tmp_path / "vectors", results


def test_precomputed_vectors_score_the_same(world, precomputed, tmp_path):
    folder, want = precomputed
    got = evaluate(world, Precomputed(folder), tmp_path / "again")
    for key in ("datasets", "abilities", "complete"):
        assert got[key] == want[key]
    before = got["contract"]
    assert before["encoder"] == "precomputed"
    file = folder / "MSRVTT" / "corpus" / "embeddings.npy"
    np.save(file, np.load(file)[:, ::-1])
    assert Precomputed(folder).contract.to_json() != before
    with pytest.raises(UserError, match="use a checkpoint or an encoder"):
        sets = run.read(config_of(world), NAMES)
        vectors.embed(sets, Precomputed(folder), tmp_path / "x", False)


def test_precomputed_vectors_may_lack_some(world, precomputed, tmp_path):
    folder = precomputed[0]
    place = folder / "MSRVTT" / "corpus"
    np.save(place / "embeddings.npy", np.load(place / "embeddings.npy")[1:])
    ids = json.loads((place / "ids.json").read_text())[1:]
    (place / "ids.json").write_text(json.dumps(ids))
    with pytest.raises(UserError, match=r"'MSRVTT_corpus_5' of its corpus.*no row in"):
        evaluate(world, Precomputed(folder), tmp_path / "again")
    got = evaluate(world, Precomputed(folder), tmp_path / "again", allow_missing=True)
    assert got["datasets"]["MSRVTT"]["missing"] == 1


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("long", r"6 rows are not of length 1, first row 0 of 2"),
        ("nan", r"1 rows are not of length 1, first row 3 of nan"),
        ("ids", r"ids.json: expected a list of 6 ids"),
        ("twice", r"ids.json: 1 ids are there twice"),
        ("unknown", r"1 ids are not of this dataset, one is 'who'"),
        ("width", r"vectors of several lengths: .*8 in .*"),
        ("flat", r"embeddings.npy: float32 \(96,\), expected float \[n, d\]"),
        ("gone", r"--vectors: no file .*embeddings.npy"),
        ("text", r"not as NumPy or JSON"),
    ],
)
def test_faults_of_precomputed_vectors(world, precomputed, tmp_path, fault, message):
    place = precomputed[0] / "CRB-T" / "queries"
    file, names = place / "embeddings.npy", place / "ids.json"
    table, ids = np.load(file), json.loads(names.read_text())
    if fault == "long":
        table = 2 * table
    if fault == "nan":
        table[3] = np.nan
    if fault == "ids":
        ids = ids[1:]
    if fault == "twice":
        ids[1] = ids[0]
    if fault == "unknown":
        ids[2] = "who"
    if fault == "width":
        table = table[:, :8] / np.linalg.norm(table[:, :8], axis=1, keepdims=True)
    if fault == "flat":
        table = table.reshape(-1)
    np.save(file, table)
    names.write_text("[" if fault == "text" else json.dumps(ids))
    if fault == "gone":
        file.unlink()
    with pytest.raises(UserError, match=message):
        evaluate(world, Precomputed(precomputed[0]), tmp_path / "again")
    with pytest.raises(UserError, match="no vectors here"):
        Precomputed(tmp_path / "nowhere")


# The command.


def command(*arguments, devices=1):
    """Starts `python -m eval` on that many CPU devices."""
    flags = (
        f"--xla_force_host_platform_device_count={devices}",
        "--xla_backend_optimization_level=0",  # compiling is what takes the time
    )
    return subprocess.Popen(
        [sys.executable, "-m", "eval", *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, "XLA_FLAGS": " ".join(flags)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_exactly_one_encoder_is_named(world, tmp_path):
    config = f"--config=configs/uvrb_mini.py:{world}", f"--output={tmp_path}"
    process = command(*config, "--checkpoint=x", "--vectors=y")
    _, error = process.communicate(timeout=100)
    assert process.returncode == 2 and "Exactly one of (checkpoint, encoder" in error
    assert "Traceback" not in error and len(error.strip().splitlines()) == 1


def test_an_encoder_by_its_name():
    flags.FLAGS.mark_as_parsed()
    config = config_of("root")
    config.embed.decode_workers = 3
    with flagsaver.flagsaver(
        encoder="tests.stub_encoders:Colours", encoder_args='{"scale": 3.0}'
    ):
        encoder = encoder_flags.encoder_from_flags(config)
        assert encoder_flags.named() == 'tests.stub_encoders:Colours {"scale": 3.0}'
    contract = encoder.contract.to_json()
    assert contract["scale"] == 3.0 and contract["arguments"] == {"scale": 3.0}
    assert encoder.decode.decode_workers == 3


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (dict(encoder="nowhere"), "expected package.module:factory"),
        (dict(encoder="tests.nowhere:It"), "tests.nowhere:It: cannot be imported"),
        (dict(encoder="tests.stub_encoders:It"), "cannot be imported .*'It'"),
        (dict(encoder="tests.stub_encoders:Colours", encoder_args="{"), "not JSON"),
        (dict(encoder="tests.stub_encoders:Colours", encoder_args="[]"), "a JSON obj"),
        (dict(encoder="tests.stub_encoders:Colours", encoder_args='{"x": 1}'), "'x'"),
        (dict(vectors="x", encoder_args="{}"), "are for --encoder"),
    ],
)
def test_encoders_that_cannot_be(values, message):
    flags.FLAGS.mark_as_parsed()
    with (
        flagsaver.flagsaver(**values),
        pytest.raises(UserError, match=message),
    ):
        encoder_flags.encoder_from_flags(config_of("root"))


@pytest.fixture(scope="module")
def hf(tmp_path_factory):
    """A random model of the 2.5 family, with the frames that it is asked for."""
    folder = tmp_path_factory.mktemp("hf")
    save("qwen2_5_vl", folder)
    return folder


SMALL = (
    "--config.eval.bootstrap=50",
    "--config.preprocess.num_frames=4",
    "--config.preprocess.fps=0",
    f"--config.preprocess.min_pixels={56 * 56}",
    f"--config.preprocess.max_pixels={64 * 64}",
    "--config.embed.tokens=256",
    "--config.mesh.fsdp=1",
    "--config.mesh.data=-1",
)


def same_scores(a: pathlib.Path, b: pathlib.Path):
    """Equal results but for how they were asked for; equal rankings, too."""
    first, second = (json.loads((x / "results.json").read_text()) for x in (a, b))
    for results in (first, second):
        del results["provenance"]
    assert first == second
    for name in NAMES:
        rows = [read_rows(x / "rankings" / f"{name}.jsonl") for x in (a, b)]
        for one, two in zip(*rows, strict=True):
            assert one["rank"] == two["rank"]
            assert [t["id"] for t in one["top"]] == [t["id"] for t in two["top"]]


@pytest.mark.slow
def test_two_processes_of_four_devices_evaluate_as_one_device(world, hf, tmp_path):
    arguments = (
        f"--config=configs/uvrb_mini.py:{world}",
        f"--datasets={','.join(NAMES)}",
        f"--checkpoint={hf}",
        *SMALL,
    )
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    together = [
        command(
            *arguments,
            f"--output={tmp_path / 'two'}",
            f"--coordinator=127.0.0.1:{port}",
            "--processes=2",
            f"--process={i}",
            devices=4,
        )
        for i in range(2)
    ]
    outs = [out for out, _ in finish(*together)]
    assert "report: " in outs[0] and "report: " not in outs[1]
    # Each wrote what fell to it, and no content twice.
    segments = list((tmp_path / "two" / "embeddings").glob("*/*.vectors"))
    assert len(segments) == 2
    record = 32 + 4 * 64 + 4
    counts = [(p.stat().st_size - 44) // record for p in segments]
    assert sum(counts) == 6 + 18 and min(counts) > 0
    finish(command(*arguments, f"--output={tmp_path / 'one'}"))
    same_scores(tmp_path / "one", tmp_path / "two")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "preset"),
    [
        ("qwen2_vl", "gme"),
        ("qwen2_vl", "unite"),
        ("qwen2_vl", "vlm2vec-v2"),
        ("qwen2_5_vl", "gve"),
        ("qwen3_vl", "qwen3-vl-embedding"),
    ],
)
def test_every_family_runs_by_its_preset(world, tmp_path, family, preset):
    save(family, tmp_path / "hf")
    finish(
        command(
            f"--config=configs/uvrb_mini.py:{world}",
            f"--datasets={','.join(NAMES)}",
            f"--checkpoint={tmp_path / 'hf'}",
            f"--preset={preset}",
            f"--output={tmp_path / 'out'}",
            *SMALL,
        )
    )
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert results["contract"]["family"] == family
    assert all(row["missing"] == 0 for row in results["datasets"].values())
    assert results["provenance"]["checkpoint"] == str(tmp_path / "hf")
    assert f"--preset={preset}" in results["provenance"]["command"]
