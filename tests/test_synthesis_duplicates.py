"""Copies among the raw videos, and of the benchmark's videos."""

import json
import pathlib
import shutil

import numpy as np
import pytest

from data_synthesis import draws, pipelines, shards
from data_synthesis.config import default_config
from data_synthesis.run import Run, open_run
from data_synthesis.stages import benchmark, embed, groups, ingest, links, qc
from data_synthesis.stages import decide as deciding
from data_synthesis.world.encode import write_video
from gve_jax.types import UserError

IN_MEMORY = pipelines.beam_options([])
STAGES = (ingest, benchmark, qc, links, groups, embed, deciding)


def moving(seed: int, frames: int = 12) -> list[np.ndarray]:
    """A patterned square that crosses a patterned ground, 160 x 128."""
    rng = np.random.default_rng(seed)
    ground = np.kron(rng.integers(60, 200, (8, 10, 3)), np.ones((16, 16, 1)))
    square = np.kron(rng.integers(0, 256, (6, 6, 3)), np.ones((8, 8, 1)))
    out = []
    for i in range(frames):
        frame = ground.astype(np.uint8)
        frame[40:88, 4 + 8 * i : 52 + 8 * i] = square
        out.append(frame)
    return out


def video(path: pathlib.Path, seed: int, **options) -> pathlib.Path:
    frames = moving(seed)
    if options.pop("mirrored", False):
        frames = [np.ascontiguousarray(f[:, ::-1]) for f in frames]
    write_video(str(path), frames, **options)
    return path


def write_raw(root: pathlib.Path, texts: dict[str, tuple[str, str]]) -> pathlib.Path:
    path = root / "raw.jsonl"
    rows = [{"id": n, "video": v, "text": t} for n, (v, t) in texts.items()]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def write_benchmark(root: pathlib.Path, files: list[pathlib.Path]) -> None:
    """A folder in UVRB's layout, with one dataset of these videos."""
    folder = root / "MSRVTT"
    (folder / "jsonl").mkdir(parents=True)
    (folder / "videos").mkdir()
    for file in files:
        shutil.copy(file, folder / "videos")
    rows = {
        "corpus": [{"id": f"c{i}", "video": f.name} for i, f in enumerate(files)],
        "queries": [{"id": "q0", "text": "something"}],
        "instances": [{"qid": "q0", "pos": ["c0"]}],
    }
    for name, found in rows.items():
        text = "".join(json.dumps(row) + "\n" for row in found)
        (folder / "jsonl" / f"{name}.jsonl").write_text(text)


def run_stages(raw: pathlib.Path, output: pathlib.Path, **duplicates) -> Run:
    config = default_config()
    config.shard_size = 4
    config.motion.preset = "noise_free"
    config.duplicates.update(duplicates)
    run = open_run(config, raw, output, True)
    for stage in STAGES:
        pipelines.run(stage.work(run), IN_MEMORY)
    return run


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    """Raw videos, and a benchmark that four of them repeat."""
    root = tmp_path_factory.mktemp("raw")
    for seed, name in enumerate(("same", "coarse", "mirror", "own", "apart")):
        video(root / f"{name}.mp4", seed)
    # Nearer to the raw video than to the benchmark's; it goes with its cluster.
    video(root / "coarser.mp4", 1, crf=30)
    texts = {
        path.stem: (path.name, f"a patterned square called {path.stem} slides along")
        for path in sorted(root.glob("*.mp4"))
    }
    other = tmp_path_factory.mktemp("benchmark")
    (other / "broken.mp4").write_bytes((root / "own.mp4").read_bytes()[:500])
    write_benchmark(
        other / "UVRB",
        [
            shutil.copy(root / "same.mp4", other / "other_name.mp4"),
            video(other / "re_encoded.mp4", 1, crf=38),
            video(other / "mirrored.mp4", 2, mirrored=True),
            video(other / "unrelated.mp4", 99),
            other / "broken.mp4",
        ],
    )
    return write_raw(root, texts), str(other / "UVRB")


def test_a_video_of_the_benchmark_ends_the_run(raw, tmp_path):
    with pytest.raises(UserError) as error:
        run_stages(raw[0], tmp_path / "out", benchmark=raw[1])
    message = str(error.value)
    assert "3 raw records repeat" in message or "4 raw records repeat" in message
    for name in ("same", "coarse", "mirror"):
        assert f"{name!r} repeats MSRVTT/videos/" in message
    assert "'own'" not in message and "'apart'" not in message

    # Waived, they are dropped; the benchmark is not decoded again.
    run = run_stages(raw[0], tmp_path / "out", benchmark=raw[1], waive=True)
    assert pipelines.run(benchmark.work(run), IN_MEMORY) == 0
    rows = {r.name: r for r in shards.read_stage(run.layout, "decide")}
    hit = {n for n, r in rows.items() if "benchmark" in r.decision.reasons}
    assert hit == {"same", "coarse", "coarser", "mirror"}
    assert rows["same"].group.benchmark == "MSRVTT/videos/other_name.mp4"
    assert rows["mirror"].group.benchmark == "MSRVTT/videos/mirrored.mp4"
    assert rows["own"].alive and rows["apart"].alive
    counts = shards.stage_counts(run.layout, "benchmark")
    assert (counts.entered, counts.kept, counts.errors) == (5, 4, 1)


def test_a_benchmark_that_is_not_whole_is_refused(raw, tmp_path):
    config = default_config()
    config.duplicates.benchmark = str(tmp_path / "copy")
    run = open_run(config, raw[0], tmp_path / "out", True)
    (tmp_path / "copy").mkdir()
    with pytest.raises(UserError, match="no dataset in"):
        benchmark.work(run)
    shutil.copytree(raw[1], tmp_path / "copy", dirs_exist_ok=True)
    assert len(benchmark.media(run)) == 5
    (tmp_path / "copy" / "MSRVTT" / "videos" / "mirrored.mp4").unlink()
    with pytest.raises(UserError, match=r"mirrored\.mp4 is not there"):
        benchmark.work(run)


def test_a_copy_with_a_useless_text_does_not_stand_for_the_others(tmp_path):
    file = video(tmp_path / "v.mp4", 0)
    digest = shards.file_sha256(file)
    bad, good = "Episode 12 (official)", "a patterned square slides over a wall"
    own = draws.identity(digest, "good", good)
    names = (f"bad{i}" for i in range(1000))
    name = next(n for n in names if draws.identity(digest, n, bad) < own)
    texts = {"good": ("v.mp4", good), name: ("v.mp4", bad)}
    run = run_stages(write_raw(tmp_path, texts), tmp_path / "out")
    rows = {r.name: r for r in shards.read_stage(run.layout, "decide")}
    assert rows["good"].alive
    assert rows["good"].group.cluster == rows[name].group.cluster == rows[name].id
    assert {"duplicate_bytes", "title"} <= set(rows[name].decision.reasons)
