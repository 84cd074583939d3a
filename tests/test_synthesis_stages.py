"""Quality control of the stages on made videos, by the real commands of a run."""

import dataclasses
import json
import pathlib

import numpy as np
import pytest

from data_synthesis import pipelines, shards
from data_synthesis.config import default_config
from data_synthesis.record import Record, Score, Source, Text
from data_synthesis.run import open_run
from data_synthesis.stages import decide, embed, groups, ingest, links, nearest, qc
from data_synthesis.thresholds import inconsistent, unfit
from data_synthesis.world.encode import write_video

IN_MEMORY = pipelines.beam_options([])
SIDE = 160


def moving(seed: int, frames: int = 16, still: bool = False) -> list[np.ndarray]:
    """A textured square that crosses a textured ground."""
    rng = np.random.default_rng(seed)
    ground = np.kron(rng.integers(60, 200, (10, 10, 3)), np.ones((16, 16, 1)))
    square = np.kron(rng.integers(0, 256, (6, 6, 3)), np.ones((8, 8, 1)))
    out = []
    for i in range(frames):
        frame = ground.astype(np.uint8).copy()
        x = 4 if still else 4 + 6 * i
        frame[40:88, x : x + 48] = square
        out.append(frame)
    return out


@pytest.fixture(scope="module")
def decided(tmp_path_factory):
    root = tmp_path_factory.mktemp("raw")
    rows = []

    def add(name: str, text: str, frames=None, data: bytes | None = None):
        path = root / f"{name}.mp4"
        if data is not None:
            path.write_bytes(data)
        else:
            write_video(str(path), frames)
        rows.append({"id": name, "video": path.name, "text": text})

    add("good", "a patterned square slides over a wall", moving(1))
    add("other", "another square of many colours drifts away", moving(2))
    add("copy", "the very same file under another name", data=_bytes(root, "good"))
    write_video(str(root / "again.mp4"), moving(1), crf=34)
    rows.append(
        {"id": "again", "video": "again.mp4", "text": "a coarser copy of the file"}
    )
    add("mirror", "a mirrored copy of it", [f[:, ::-1].copy() for f in moving(1)])
    add("static", "a square that does not move at all", moving(3, still=True))
    add("title", "Episode 12 (official)", moving(4))
    add("shared1", "one text for two videos of squares", moving(5))
    add("shared2", "One text, for two videos of squares!", moving(6))
    add("short", "five frames of a moving square", moving(7, 5))
    add("empty", "a video of no bytes at all", data=b"")
    add("cut", "a file that was cut in the middle", data=_bytes(root, "other")[:900])
    add("text", "a text file with a video's name", data=b"ffconcat version 1.0\n")
    (root / "raw.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    config = default_config()
    config.shard_size = 7
    run = open_run(config, root / "raw.jsonl", root / "out", False)
    for stage in (ingest, qc, links, groups, embed, nearest, decide):
        pipelines.run(stage.work(run), IN_MEMORY)
    return run, {r.name: r for r in shards.read_stage(run.layout, "decide")}


def _bytes(root: pathlib.Path, name: str) -> bytes:
    return (root / f"{name}.mp4").read_bytes()


@pytest.mark.parametrize(
    ("name", "outcome", "reasons"),
    [
        ("other", "keep", set()),
        ("static", "drop", {"static", "frozen"}),
        ("title", "drop", {"title", "too_short"}),
        ("shared1", "drop", {"shared_text"}),
        ("shared2", "drop", {"shared_text"}),
        ("short", "drop", {"few_frames"}),
        ("empty", "error", {"empty"}),
        ("cut", "error", {"truncated"}),
        ("text", "error", {"unknown_format"}),
    ],
)
def test_each_fault_has_its_code(decided, name, outcome, reasons):
    decision = decided[1][name].decision
    assert (decision.outcome, set(decision.reasons)) == (outcome, reasons)


def test_of_copies_one_is_kept(decided):
    copies = [decided[1][n] for n in ("good", "copy", "again", "mirror")]
    first = min(r.id for r in copies)
    assert {r.group.cluster for r in copies} == {first}
    assert [r.id for r in copies if r.alive] == [first]
    for record in copies:
        if record.id != first:
            (reason,) = record.decision.reasons
            assert reason == f"duplicate_{record.group.duplicate}"


def test_what_is_described(decided):
    record = decided[1]["other"]
    assert (record.source.width, record.source.height) == (SIDE, SIDE)
    assert record.source.num_frames == 16 and record.source.codec == "h264"
    assert record.source.duration == pytest.approx(2.0)
    assert record.text.rectified and record.text.lang == "en"
    assert record.scores["motion.share"].value > 0.9
    assert record.cuts == (0.0,) and len(record.hashes) == 8


def test_counts_of_all_stages_add_up(decided):
    run, rows = decided
    counts = {
        s: shards.stage_counts(run.layout, s)
        for s in ("ingest", "qc", "groups", "embed", "decide")
    }
    assert counts["ingest"].entered == len(rows)
    for before, after in zip(list(counts)[:-1], list(counts)[1:], strict=True):
        assert counts[after].entered == counts[before].kept
    assert counts["qc"].errors == 3


def test_thresholds_change_without_decoding(decided, tmp_path):
    run, _ = decided
    config = default_config()
    config.shard_size, config.text.max_videos = 7, 2
    changed = open_run(config, run.input, run.layout.root, True)
    assert pipelines.run(qc.work(changed), IN_MEMORY) == 0
    assert pipelines.run(links.work(changed), IN_MEMORY) == 0
    for stage in (embed, nearest):
        pipelines.run(stage.work(changed), IN_MEMORY)
    assert pipelines.run(decide.work(changed), IN_MEMORY) == run.layout.shards
    rows = {r.name: r for r in shards.read_stage(run.layout, "decide")}
    assert rows["shared1"].alive and rows["shared2"].alive
    # For the tests that share the run.
    pipelines.run(decide.work(open_run(run.config, run.input, run.layout.root, True)),
                  IN_MEMORY)  # fmt: skip


def test_an_embedder_that_tells_nothing_drops_nothing(decided):
    run, _ = decided
    config = run.config.consistency
    rng = np.random.default_rng(0)

    def unit(n, d=64):
        x = rng.normal(size=(n, d))
        return x / np.linalg.norm(x, axis=1, keepdims=True)

    texts = unit(400)
    near = texts + 0.5 * unit(400)
    found = embed.calibration(texts, near, config)
    assert found["filter"] and found["auroc"] > 0.999
    shuffled = np.sum(texts * np.roll(near, 1, 0), 1)
    assert found["tau"] == pytest.approx(np.percentile(shuffled, 99))
    found = embed.calibration(texts, unit(400), config)
    assert not found["filter"] and abs(found["auroc"] - 0.5) < 0.05
    assert not embed.calibration(texts[:40], near[:40], config)["filter"]


def test_auroc_counts_ties_as_half():
    config = default_config().consistency
    same = np.tile([[1.0, 0.0]], (60, 1))
    assert embed.calibration(same, same, config)["auroc"] == 0.5


def test_a_text_matches_if_it_beats_shuffled_ones():
    row = Record("a" * 32, Source(""), Text(""), scores={"match.video": Score(0.3)})
    calibration = {"filter": True, "tau": 0.4}
    assert inconsistent(row, calibration)
    assert not inconsistent(row, calibration | {"tau": 0.2})
    assert not inconsistent(row, calibration | {"filter": False})
    assert not inconsistent(dataclasses.replace(row, scores={}), calibration)


def test_noise_free_motion_takes_less(decided):
    record = decided[1]["other"]
    config = default_config()
    scores = record.scores | {
        "motion.share": Score(0.1),
        "motion.share_noise_free": Score(0.3),
    }
    record = dataclasses.replace(record, scores=scores)
    assert "static" in unfit(record, config)
    config.motion.preset = "noise_free"
    assert "static" not in unfit(record, config)
