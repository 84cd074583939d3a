"""`assets` and `caption` on a small world, and the audit of captioners."""

import json
import os
import pathlib
import random
import signal
import subprocess
import sys
import threading

import pytest

from data_synthesis import audit, claims, draws, pipelines, prompts, shards
from data_synthesis.captioners import choice, http
from data_synthesis.captioners.groundtruth import GroundTruth
from data_synthesis.captioners.templates import of_video
from data_synthesis.config import default_config
from data_synthesis.record import Caption, Record, Source, Text
from data_synthesis.rectify import words_of
from data_synthesis.run import open_run
from data_synthesis.shards import Key
from data_synthesis.stages import assets, caption
from data_synthesis.validation import STYLES
from data_synthesis.world.jobs import Job, run_job
from data_synthesis.world.scene import Video, sample_scene, stream
from gve_jax import media
from gve_jax.types import UserError
from tests.stub_server import CUT, HANG, OK, RESET, Server, serving
from tests.test_synthesis_validation import GOOD

IN_MEMORY = pipelines.beam_options([])
NUMBER, SHARDS = 6, 2


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Videos, their truth and raw.jsonl; one of them is no video any more."""
    folder = tmp_path_factory.mktemp("world")
    videos = [
        Video(f"v{i}", "train", "t", tuple(
            sample_scene(stream(1, "stage", i, k), "train") for k in range(1 + (i == 2))
        ))
        for i in range(NUMBER)
    ]  # fmt: skip
    for video in videos:
        run_job(Job(1, video, str(folder / f"{video.id}.mp4")))
    (folder / "v5.mp4").write_bytes((folder / "v5.mp4").read_bytes()[:400])
    rows = [json.dumps(video.to_json()) for video in videos]
    (folder / "truth.jsonl").write_text("\n".join(rows) + "\n")
    rows = [{"id": v.id, "video": f"{v.id}.mp4", "text": "A shape."} for v in videos]
    (folder / "raw.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    return folder, videos


def config_of(world, **changes):
    config = default_config()
    config.shard_size = NUMBER // SHARDS
    config.caption.truth = str(world[0] / "truth.jsonl")
    config.caption.update(changes)
    return config


def begin(world, output, order=1, **changes):
    """A run with what `decide` would leave."""
    folder, videos = world
    run = open_run(config_of(world, **changes), folder / "raw.jsonl", output, True)
    rows = []
    for video in videos[::order]:
        path = folder / f"{video.id}.mp4"
        record = Record(
            draws.identity(video.id),
            Source(path.name, shards.file_sha256(path), fps=8.0,
                   duration=video.seconds),
            Text("A shape.", "A shape."),
            name=video.id,
            cuts=tuple(start for start, _ in video.spans()),
        )  # fmt: skip
        rows.append(record)
    rows.append(Record("f" * 32, Source(""), Text("")).leave("drop", "decide", "small"))
    for shard in range(run.layout.shards):
        mine = [r for r in rows if run.layout.shard_of(r.id) == shard]
        mine.sort(key=lambda r: r.id)
        shards.write_shard(run.layout, Key("decide", 1, "", {}), shard, mine)
    return run


def with_assets(done, world, output, **changes):
    """Another run, with the rows and files of `assets`."""
    config, raw = config_of(world, **changes), world[0] / "raw.jsonl"
    run = open_run(config, raw, output, True)
    if not (output / "media").exists():
        (output / "media").symlink_to(done.layout.root / "media")
    for shard in range(run.layout.shards):
        rows = list(shards.read_table(done.layout.table("assets", shard), Record))
        shards.write_shard(run.layout, Key("assets", 1, "", {}), shard, rows)
    return run


def work(run, *stages):
    return [pipelines.run(stage.work(run), IN_MEMORY) for stage in stages]


def tables(run, stage):
    return [run.layout.table(stage, s).read_bytes() for s in range(run.layout.shards)]


@pytest.fixture(scope="module")
def done(world, tmp_path_factory):
    run = begin(world, tmp_path_factory.mktemp("run") / "out")
    work(run, assets, caption)
    return run


def test_assets_are_cut_from_what_is_kept(done, world):
    rows = {r.name: r for r in shards.read_stage(done.layout, "assets")}
    counts = shards.stage_counts(done.layout, "assets")
    assert (counts.entered, counts.kept, counts.errors) == (NUMBER, NUMBER - 1, 1)
    assert rows["v5"].decision.outcome == "error" and rows["v5"].media == ()
    for video in world[1][:5]:
        made = rows[video.id].media
        assert [m.role for m in made].count("frame") == 3
        clips = [m for m in made if m.role == "clip"]
        for one in made:
            path = done.layout.root / one.path
            assert shards.file_sha256(path) == one.sha256
        for clip in clips:
            length = clip.end - clip.start
            assert 2 <= length <= 0.6 * video.seconds + 1e-6
            info = media.probe(done.layout.root / clip.path)
            assert abs(info.duration - length) < 0.3
            (inside,) = [s for s in video.spans() if s[0] <= clip.start < s[1]]
            assert clip.end <= inside[1] + 1e-6
        if any(end - start >= 2 / 0.6 for start, end in video.spans()):
            assert clips


def test_captions_fill_the_records(done):
    counts = shards.stage_counts(done.layout, "caption")
    assert (counts.entered, counts.kept) == (NUMBER - 1, NUMBER - 1)
    for record in shards.read_stage(done.layout, "caption"):
        if not record.alive:
            assert record.caption_sets == ()
            continue
        first, *stills = record.caption_sets
        frames = [m.sha256 for m in record.media if m.role == "frame"]
        assert first.media == "" and [s.media for s in stills] == frames
        assert sum(first.profile.values()) == 100 and stills[0].profile == {}
        assert record.scores["caption.failed_frames"].value == 0
        for found in record.caption_sets:
            assert [c.style for c in found.captions] == list(STYLES)
            assert found.selected in STYLES and found.failure is None
            assert all(c.valid and c.words == len(words_of(c.text)) and c.score is None
                       for c in found.captions)  # fmt: skip
            kind = "frame" if found.media else "video"
            assert found.generation.prompt_sha256 == prompts.load(kind).sha256
            assert found.generation.captioner_id == "groundtruth"


def test_rows_do_not_depend_on_order_or_on_an_earlier_run(done, world, tmp_path):
    again = begin(world, tmp_path / "out", order=-1)
    assert work(again, assets, caption) == [SHARDS, SHARDS]
    for stage in ("assets", "caption"):
        assert tables(again, stage) == tables(done, stage)
    before = tables(again, "caption")
    for s in range(SHARDS):
        again.layout.manifest("caption", s).unlink()
    work(again, caption)
    assert tables(again, "caption") == before
    timing = again.layout.timing("requests.caption", 0)
    paid = json.loads(timing.read_text())
    assert paid["asked"] == 0 and paid["hits"] > 0


def test_a_changed_prompt_asks_anew(done, world, tmp_path, monkeypatch):
    run = with_assets(done, world, tmp_path / "out", frames=False)
    work(run, caption)
    assert work(run, caption) == [0]
    changed = prompts.load("video")._replace(user="New {raw_caption}", sha256="00")
    real = prompts.load
    monkeypatch.setattr(
        prompts, "load", lambda kind: changed if kind == "video" else real(kind)
    )
    assert work(run, caption) == [SHARDS]
    paid = [
        json.loads(run.layout.timing("requests.caption", s).read_text())
        for s in range(SHARDS)
    ]
    assert sum(p["asked"] for p in paid) == NUMBER - 1
    assert sum(p["hits"] for p in paid) == 0
    (row, *_) = [r for r in shards.read_stage(run.layout, "caption") if r.caption_sets]
    assert row.caption_sets[0].generation.prompt_sha256 == "00"


def test_no_record_is_lost_to_faults(done, world, tmp_path):
    faults = {"bad_json": 0.1, "truncated_json": 0.1, "duplicate_keys": 0.1,
              "prose": 0.05, "refusal": 0.1, "cut_off": 0.05, "429": 0.1,
              "hang": 0.05, "empty": 0.05}  # fmt: skip
    faulty = {"captioner": "fake", "faults": json.dumps(faults)}
    run = with_assets(done, world, tmp_path / "out", **faulty)
    work(run, caption)
    with choice.opened(run.config) as fake:
        tries = fake.tries
    asked = 4 * (NUMBER - 1)
    assert asked < tries <= 6 * 5 * asked
    counts = shards.stage_counts(run.layout, "caption")
    assert counts.entered == NUMBER - 1 == counts.kept + counts.errors
    sets = [s for r in shards.read_stage(run.layout, "caption") for s in r.caption_sets]
    assert len(sets) == asked
    assert max(s.generation.attempts for s in sets) > 1
    assert all(bool(s.selected) == (s.failure is None) for s in sets)
    first = tables(run, "caption")
    other = with_assets(done, world, tmp_path / "two", **faulty)
    work(other, caption)
    assert tables(other, "caption") == first


def test_a_server_that_misbehaves_loses_nothing(done, world, tmp_path, monkeypatch):
    monkeypatch.setattr(http, "_wait", lambda state: 0.0)
    bad = [
        (429, {"Retry-After": "0"}, b"busy"), (500, {}, b""), HANG, CUT, RESET,
        (200, {}, b'{"choices"'),
    ]  # fmt: skip
    texts = ["no json", json.dumps(GOOD)[:-9], json.dumps(GOOD | {"1": "Short."})]
    rng, lock = random.Random(3), threading.Lock()

    def answer(body):
        with lock:
            return rng.choice(texts) if rng.random() < 0.2 else json.dumps(GOOD)

    script = [rng.choice(bad) if rng.random() < 0.3 else OK for _ in range(400)]
    server = Server(answer, script)
    asked = 4 * (NUMBER - 1)
    with serving(server) as url:
        run = with_assets(
            done, world, tmp_path / "out", captioner="http", url=url, model="m",
            deadline=2.0, key_variable="NONE_SUCH",
        )  # fmt: skip
        try:
            work(run, caption)
            tries = len(server.bodies)
            sets = [
                s
                for record in shards.read_stage(run.layout, "caption")
                for s in record.caption_sets
            ]
            for s in range(SHARDS):
                run.layout.manifest("caption", s).unlink()
            work(run, caption)
        finally:
            choice.close()
    assert asked < tries <= 6 * 4 * asked
    counts = shards.stage_counts(run.layout, "caption")
    assert counts.entered == NUMBER - 1 == counts.kept + counts.errors
    good = [s for s in sets if s.failure is None]
    assert len(sets) == asked and len(good) > 0.7 * asked
    assert all(c.text == GOOD[c.style] for s in good for c in s.captions)
    # The second time only what had failed was asked.
    paid = [
        json.loads(run.layout.timing("requests.caption", s).read_text())
        for s in range(SHARDS)
    ]
    assert sum(p["asked"] for p in paid) <= 4 * (len(sets) - len(good))
    assert sum(p["hits"] for p in paid) >= len(good)


def test_failures_end_videos_and_cost_stills(done, world, tmp_path):
    faulty = {"captioner": "fake", "faults": '{"blocked": 0.4}'}
    run = with_assets(done, world, tmp_path / "out", **faulty)
    work(run, caption)
    failed, lost = 0, 0
    for record in shards.read_stage(run.layout, "caption"):
        if not record.caption_sets:
            continue
        first, *stills = record.caption_sets
        failed += first.failure is not None
        assert record.alive == (first.failure is None)
        if first.failure:
            assert record.decision.stage == "caption"
            assert record.decision.outcome == "error"
            assert record.decision.reasons == ("blocked",)
            raw = (run.layout.root / first.failure.raw).read_text()
            assert first.failure.request in raw
        mine = sum(s.failure is not None for s in stills)
        assert record.scores["caption.failed_frames"].value == mine
        lost += mine
    assert 0 < failed < NUMBER - 1 and lost > 0


def test_captioners_that_cannot_be_end_the_stage(done, world, tmp_path):
    run = with_assets(done, world, tmp_path / "out", truth="none.jsonl")
    with pytest.raises(UserError, match=r"config\.caption\.truth='none"):
        caption.work(run)
    run = with_assets(done, world, tmp_path / "out", profile_mode="x")
    with pytest.raises(UserError, match="profile_mode"):
        caption.work(run)


def test_selection_is_weighted_and_local():
    captions = [Caption(style, "t", 1) for style in STYLES]
    chosen = [caption.select(1, str(i), captions) for i in range(3000)]
    total = sum(caption.WEIGHTS.values())
    for style, weight in caption.WEIGHTS.items():
        assert abs(chosen.count(style) / 3000 - weight / total) < 0.03
    without = [caption.select(1, str(i), captions[1:]) for i in range(3000)]
    assert all(a in ("1", b) for a, b in zip(chosen, without, strict=True))
    assert caption.select(1, "a", []) == ""


KILLED = """
import json, os, pathlib, signal, sys
from data_synthesis import run as runs, pipelines
from data_synthesis.captioners import groundtruth
from data_synthesis.config import default_config
from data_synthesis.stages import caption

root, raw, config, most = sys.argv[1:]
real, count = groundtruth.GroundTruth._answer, 0

def answer(self, request):
    global count
    count += 1
    if count > int(most):
        os.kill(os.getpid(), signal.SIGKILL)
    return real(self, request)

groundtruth.GroundTruth._answer = answer
c = default_config()
c.update(json.loads(config))
run = runs.open_run(c, pathlib.Path(raw), pathlib.Path(root), True)
pipelines.run(caption.work(run), pipelines.beam_options([]))
"""


@pytest.mark.slow
def test_a_killed_shard_asks_only_what_was_under_way(done, world, tmp_path):
    run = with_assets(done, world, tmp_path / "out")
    config = json.dumps({"shard_size": run.config.shard_size,
                         "caption": {"truth": run.config.caption.truth}})  # fmt: skip
    command = [sys.executable, "-c", KILLED, str(run.layout.root),
               str(world[0] / "raw.jsonl"), config]  # fmt: skip
    env = os.environ | {"PYTHONPATH": str(pathlib.Path(__file__).parents[1])}
    for most in (3, 4):
        ended = subprocess.run([*command, str(most)], env=env)
        assert ended.returncode == -signal.SIGKILL
    work(run, caption)
    assert tables(run, "caption") == tables(done, "caption")
    paid = [
        json.loads(run.layout.timing("requests.caption", s).read_text())
        for s in range(SHARDS)
    ]
    # Seven came before; those of a shard that was done by then are not looked up again.
    assert sum(p["asked"] for p in paid) <= 4 * (NUMBER - 1) - 4


# --- the audit ---


def test_claims_are_found_in_words():
    told = claims.told(
        "Two objects are on a beach. A small striped red star drifts left and then "
        "spins. After that, it grows. The camera pans right. A gray skyline rises. "
        "The blue ring fades away after the star shrinks."
    )
    assert told["object"] == {"star", "ring"}
    assert told["colour"] == {("star", "red"), ("ring", "blue")}
    assert told["count"] == {2}
    assert told["direction"] == {("star", "left")}
    assert told["order"] == {
        (("star", "left"), ("star", "spin")),
        (("star", "spin"), ("star", "grow")),
        (("star", "shrink"), ("ring", "vanish")),
    }


def test_claims_of_others_words():
    told = claims.told("A green box slides across to the right; the box is alone.")
    assert told["direction"] == {("square", "right")}
    assert claims.told("No other object is around.")["count"] == {1}
    assert claims.told("A planet with a thin ring hangs there.")["object"] == set()


def test_the_truth_passes_and_untruth_does_not():
    videos = audit.videos(40)
    shares = {"spatial": 0.3, "temporal": 0.6, "other": 0.1}
    texts = [
        tuple(of_video(v, shares, i % 5, stream(2, "a", i)).values())
        for i, v in enumerate(videos)
    ]
    found = audit.score(videos, texts)
    for fact, tally in found.items():
        assert tally.there > 0, fact
        assert tally.precision > 0.99 and tally.recall > 0.99, (fact, tally)
    baseline = json.loads(
        (pathlib.Path(audit.__file__).parent / "audit_baseline.json").read_text()
    )["facts"]
    assert audit.regressions(found, baseline) == []
    # Another scene's captions: hardly anything of them holds.
    shifted = audit.score(videos, texts[1:] + texts[:1])
    assert max(shifted[f].precision for f in ("colour", "direction", "order")) < 0.3
    # Two colours are swapped everywhere, and every tenth scene has no captions.
    swapped = [
        tuple(t.replace("red", "\0").replace("blue", "red").replace("\0", "blue")
              for t in one) if i % 10 else ()
        for i, one in enumerate(texts)
    ]  # fmt: skip
    worse = audit.score(videos, swapped)
    assert worse["colour"].precision < 0.95 and worse["object"].recall < 0.95
    assert worse["object"].precision > 0.99
    fallen = audit.regressions(worse, baseline)
    assert any(line.startswith("precision of colour") for line in fallen)
    assert any(line.startswith("recall of object") for line in fallen)
    assert not any(line.startswith("precision of object") for line in fallen)


def test_the_audit_asks_a_captioner_without_a_given_caption(world, tmp_path):
    videos = audit.videos(2)
    audit.render(videos, tmp_path)
    captioner, config = GroundTruth(tmp_path / "truth.jsonl"), config_of(world)
    answers = audit.captions_of(captioner, videos, tmp_path, config)
    assert all(a.failure is None and len(a.value) == 5 for a in answers)
    assert audit.videos(2) == videos and audit.videos(3)[:2] == videos
