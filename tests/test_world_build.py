"""The world on disk: layout, determinism, resumption, noise, the command."""

import hashlib
import json
import os
import pathlib
import subprocess
import sys

import av
import numpy as np
import pytest

from data_synthesis.world import build, jobs, raw, tasks
from eval.uvrb import DATASETS
from gve_jax.types import UserError

SEED, VIDEOS = 0, 40
ROOT = pathlib.Path(__file__).parents[1]


def lines(path) -> list[dict]:
    return [json.loads(line) for line in pathlib.Path(path).read_text().splitlines()]


def hashes(folder) -> dict[str, str]:
    return {
        str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(pathlib.Path(folder).rglob("*"))
        if p.is_file()
    }


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> pathlib.Path:
    folder = tmp_path_factory.mktemp("world") / "w"
    build.build(str(folder), SEED, VIDEOS, 1)
    return folder


def test_bytes_do_not_depend_on_processes_or_interruptions(
    world, tmp_path, monkeypatch
):
    other = tmp_path / "w"
    run_job, count = jobs.run_job, 0

    def dies_early(job):
        nonlocal count
        count += 1
        if count > 25:
            raise KeyboardInterrupt
        return run_job(job)

    monkeypatch.setattr(jobs, "run_job", dies_early)
    with pytest.raises(KeyboardInterrupt):
        build.build(str(other), SEED, VIDEOS, 1)
    assert not (other / "world.json").exists()
    with pytest.raises(UserError, match="seed"):
        build.build(str(other), SEED + 1, VIDEOS, 1)
    begun = {p: p.stat().st_mtime_ns for p in other.rglob("*.mp4")}
    assert len(begun) >= 20
    monkeypatch.undo()
    # The rest by two processes.
    build.build(str(other), SEED, VIDEOS, 2)
    assert hashes(other) == hashes(world)
    assert all(p.stat().st_mtime_ns == begun[p] for p in begun)
    assert not list(other.rglob("*.part"))


def test_a_second_build_returns_the_manifest_at_once(world, monkeypatch):
    monkeypatch.setattr(build, "make_plan", None)  # nothing may be planned
    manifest = build.build(str(world), SEED, VIDEOS, 1)
    assert manifest == json.loads((world / "world.json").read_text())
    for name, digest in manifest["files"].items():
        one = hashlib.sha256((world / name).read_bytes()).digest()
        assert hashlib.sha256(one).hexdigest() == digest


@pytest.mark.parametrize(
    "seed, videos, processes, word",
    [(1, 40, 1, "seed"), (0, 41, 1, "videos"), (0, 3, 1, "videos"), (0, 40, 0, "proc")],
)
def test_other_arguments_are_refused(world, seed, videos, processes, word):
    with pytest.raises(UserError, match=word):
        build.build(str(world), seed, videos, processes)


def test_strange_folders_are_refused(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a/mine.txt").write_text("keep me")
    with pytest.raises(UserError, match="not empty"):
        build.build(str(tmp_path / "a"), 0, 40, 1)
    assert [p.name for p in (tmp_path / "a").iterdir()] == ["mine.txt"]
    (tmp_path / "b").mkdir()
    (tmp_path / "b/world.json").write_text("{oops")
    with pytest.raises(UserError, match="not a world's manifest"):
        build.build(str(tmp_path / "b"), 0, 40, 1)
    with pytest.raises(UserError, match="is a file"):
        build.build(str(tmp_path / "a/mine.txt"), 0, 40, 1)


def test_training_pairs(world):
    truth = {r["id"]: r for r in lines(world / "truth.jsonl")}
    seen = set()
    for task in tasks.TASKS:
        rows = lines(world / f"train/{task}.jsonl")
        assert rows, task
        assert len({r["id"] for r in rows}) == len(rows)
        for row in rows:
            assert row["task"] == task
            # A caption carries it even where it is the target; media sought do not.
            asks = row["target" if task in ("V2T", "I2T") else "query"]
            assert asks["instruction"]
            for side in (row["query"], row["target"], *row.get("negatives", ())):
                for kind in ("image", "video"):
                    if kind in side:
                        assert (world / "train" / side[kind]).stat().st_size > 0
                assert side.keys() & {"text", "image", "video"}
            if task in ("V2T", "I2T"):
                assert "instruction" not in row["query"]
                for foil in row["negatives"]:
                    assert foil["instruction"] == asks["instruction"]
                    assert foil["text"] != asks["text"]
            else:
                for side in (row["target"], *row.get("negatives", ())):
                    assert "instruction" not in side
            assert truth[row["source_id"]]["split"] == "train"
            letters = {"text": "T", "image": "I", "video": "V"}
            given = [
                "".join(letters[k] for k in letters if k in row[side])
                for side in ("query", "target")
            ]
            assert "2".join(given) == task
            seen.add(asks["instruction"])
    # Every kind of query of the benchmark is practised under its own instruction.
    assert {d.instruction for d in DATASETS.values()} <= seen


def test_composed_negatives_are_not_their_target(world):
    for task in ("TI2V", "TV2V", "TI2I"):
        for row in lines(world / f"train/{task}.jsonl"):
            target = row["target"]
            kind = "image" if task == "TI2I" else "video"
            assert len(row["negatives"]) == 2
            assert all(n[kind] != target[kind] for n in row["negatives"])


def test_uvrb_layout(world):
    names = {p.name for p in (world / "uvrb_mini").iterdir()}
    assert names == set(DATASETS)
    for name, facts in DATASETS.items():
        folder = world / "uvrb_mini" / name
        corpus = lines(folder / "jsonl/corpus.jsonl")
        queries = lines(folder / "jsonl/queries.jsonl")
        instances = lines(folder / "jsonl/instances.jsonl")
        ids = {r["id"] for r in corpus}
        assert len(ids) == len(corpus) and len({r["video"] for r in corpus}) == len(ids)
        assert {q["id"] for q in queries} == {i["qid"] for i in instances}
        assert len(queries) >= 8
        for row in corpus:
            assert set(row) == {"id", "video"} and (folder / row["video"]).is_file()
        for row in instances:
            assert row["pos"] and set(row["pos"]) <= ids
            assert set(row) <= {"qid", "pos", "candidates"}
            if name.startswith("MS-"):
                assert len(set(row["candidates"])) == 10
                assert len(set(row["candidates"]) & set(row["pos"])) == 1
                assert set(row["candidates"]) <= ids
            else:
                assert "candidates" not in row
        for row in queries:
            modality = facts.query_modality
            assert ("text" in row) == ("text" in modality)
            assert ("image" in row) == ("image" in modality)
            assert ("video" in row) == ("video" in modality)
            if "image" in row:
                assert (folder / "images" / row["image"]).is_file()
            if "video" in row:
                assert (folder / row["video"]).is_file()
        texts = [q["text"] for q in queries if "text" in q]
        if not name.startswith("MS-"):
            assert len(set(texts)) == len(texts)  # equal texts are one query


@pytest.mark.parametrize(
    "names",
    [
        ("MSRVTT", "MSRVTT-I2V"),
        ("CRB-G", "CRB-S", "CRB-T"),
        ("VDC-O", "VDC-D"),
        ("LoVR-V", "LoVR-C2V"),
        ("MS-TI", "MS-TV"),
    ],
)
def test_datasets_share_their_videos(world, names):
    found = [
        [
            (world / "uvrb_mini" / name / r["video"]).read_bytes()
            for r in lines(world / f"uvrb_mini/{name}/jsonl/corpus.jsonl")
        ]
        for name in names
    ]
    assert all(f == found[0] for f in found)
    assert len(set(found[0])) == len(found[0])  # no two videos of a corpus are one


def test_test_media_are_not_training_media(world):
    train = set(hashes(world / "train").values())
    assert not train & set(hashes(world / "uvrb_mini").values())


def test_truth_tells_every_video(world):
    rows = lines(world / "truth.jsonl")
    assert len({r["id"] for r in rows}) == len(rows)
    combinations = {"train": set(), "test": set()}
    for row in rows:
        assert (world / row["file"]).exists()
        if row["noise"] in ("truncated", "empty"):
            continue
        with av.open(str(world / row["file"])) as file:
            track = file.streams.video[0]
            seconds = float(track.duration * track.time_base)
        assert seconds == pytest.approx(row["seconds"], abs=0.01)
        for s in row["scenes"]:
            first = next(e["motion"] for e in s["events"] if e["who"] == 0)
            main = s["things"][0]
            combinations[row["split"]].add(
                (main["shape"], main["colour"], first, s["theme"])
            )
    assert not combinations["train"] & combinations["test"]
    assert {r["pool"] for r in rows} >= {"train", "raw", "web", "long", "composed"}


def decoded(path) -> np.ndarray:
    with av.open(str(path)) as file:
        return np.stack([f.to_ndarray(format="rgb24") for f in file.decode(video=0)])


def test_raw_noise_is_what_truth_says(world):
    truth = {r["id"]: r for r in lines(world / "truth.jsonl") if r["pool"] == "raw"}
    records = {r["id"]: r for r in lines(world / "raw/raw.jsonl")}
    assert truth.keys() == records.keys()
    assert {r["noise"] for r in truth.values()} == {"none", *raw.RATES}
    for name, row in truth.items():
        assert set(records[name]) == {"id", "video", "text"}
        path = world / "raw" / records[name]["video"]
        source = world / f"train/videos/{row['source']}.mp4"
        noise = row["noise"]
        if noise == "empty":
            assert path.stat().st_size == 0
        elif noise == "truncated":
            assert 0 < path.stat().st_size < source.stat().st_size
            assert source.read_bytes().startswith(path.read_bytes())
        elif noise == "static":
            frames = decoded(path).astype(int)
            # The encoder refines edges at first; nothing else changes.
            assert np.abs(frames - frames[0]).mean((1, 2, 3)).max() < 1.5
        elif noise == "duplicate":
            first = world / "raw" / records[row["original"]]["video"]
            assert path.read_bytes() == first.read_bytes()
        elif noise == "reencoded":
            assert path.read_bytes() != source.read_bytes()
            assert len(decoded(path)) == len(decoded(source))
        else:
            assert path.read_bytes() == source.read_bytes()
        assert (row["text_of"] == row["source"]) == (
            noise not in ("wrong_text", "title", "tags")
        )


def test_items_for_the_embed_command(world):
    items = lines(world / "items.jsonl")
    assert 20 <= len(items) <= 30 and len({i["id"] for i in items}) == len(items)
    kinds = set()
    for item in items:
        kinds.add(tuple(k for k in ("text", "image", "video") if k in item))
        for kind in ("image", "video"):
            if kind in item:
                assert (world / item[kind]).is_file()
    assert kinds >= {("text",), ("image",), ("video",), ("text", "image")}
    assert ("text", "video") in kinds and any("start" in i for i in items)


def command(*flags: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "data_synthesis.world", *flags],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONWARNINGS": ""},
    )


def test_command_finds_its_world_again(world):
    done = command(f"--output={world}", f"--seed={SEED}", f"--videos={VIDEOS}")
    assert done.returncode == 0, done.stderr
    assert f"train_videos {VIDEOS}" in done.stdout


def test_command_refuses_in_one_line(world, tmp_path):
    done = command(f"--output={world}", "--videos=99")
    assert done.returncode == 1 and "another world" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    done = command(f"--output={tmp_path / 'new'}", "--videos=5")
    assert done.returncode == 1 and "--videos=5" in done.stderr
    assert not (tmp_path / "new").exists()
    assert command("--videos=50").returncode == 2  # no --output
    assert command(f"--output={tmp_path}", "--vidoes=50").returncode == 2


def test_rendering_needs_no_jax():
    code = "import sys, data_synthesis.world.build; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0
