"""The report of a run against numbers counted by hand; hostile texts in it."""

import dataclasses
import importlib
import json
import re
import tempfile
from pathlib import Path

import browser
import numpy as np
import pytest

from data_synthesis import draws, shards
from data_synthesis.config import default_config
from data_synthesis.record import (
    Caption,
    CaptionSet,
    Failure,
    Generation,
    Group,
    Record,
    Score,
    Source,
    Text,
)
from data_synthesis.report import links
from data_synthesis.report import records as reported
from data_synthesis.report.current import current
from data_synthesis.report.gallery import difference, gallery
from data_synthesis.report.write import write_report
from data_synthesis.run import Run, key, open_run, whole_stage_hash
from data_synthesis.shards import Counts, Key
from data_synthesis.stages.links import Link
from data_synthesis.stages.nearest import Nearest
from data_synthesis.tables import File, Mined, Negative, Pair, Ranks, Side, write_pairs
from data_synthesis.world.encode import write_video
from gve_jax.disk import write_json

STAGES = ("ingest", "qc", "decide", "caption", "select", "candidates", "compose",
          "extend", "mine", "examples")  # fmt: skip
EVIL = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>"
MADE = Generation("captioner", "video.v1", "00", "11", attempts=2, tokens_out=7,
                  fingerprint="weights")  # fmt: skip


def record(name: str, raw: str = "the video shows a red ball", share: float = 0.9):
    scores = {
        "text.words": 4.0, "text.alnum": 1.0, "text.special": 0.0, "text.bigram": 0.1,
        "text.word": 0.2, "motion.share": share, "motion.freeze": 0.0,
        "video.declared": 20.0,
    }  # fmt: skip
    return Record(
        draws.identity(name),
        Source("v.mp4", "ab", 9, "mov", "h264", 160, 128, 8.0, 20, 2.5, "CC0", "D"),
        Text(raw, "a red ball", ("prefix",), "en", 0.9),
        name=name,
        scores={key: Score(value) for key, value in scores.items()},
        group=Group(),
    )


def captioned(found: Record, failure: Failure | None = None) -> Record:
    captions = tuple(
        Caption(
            style, f"{found.name} {style}", 20 * int(style), attempt=int(style > "4")
        )
        for style in "12345"
    )
    one = CaptionSet(
        "", captions, "1", {"spatial": 30, "temporal": 60, "other": 10}, "easy",
        "primary", MADE, failure,
    )  # fmt: skip
    return dataclasses.replace(found, caption_sets=(one,))


def pair(name: str, task: str = "T2V", split: str = "train", **fields) -> Pair:
    return Pair(
        draws.identity("pair", name), task, split, Side(text=f"query {name} {EVIL}"),
        Side(video=File("v.mp4", "ab", True)), draws.identity(name), f"source {name}",
        f"cluster {name}", 0.5, **fields,
    )  # fmt: skip


def write(run: Run, stage: str, rows: list, counts: Counts | None = None, kind=Record):
    for shard in range(run.layout.shards):
        rows = sorted(rows, key=lambda row: row.id)
        mine = [r for r in rows if run.layout.shard_of(r.id) == shard]
        own = counts if shard == 0 else Counts()
        shards.write_shard(
            run.layout, made(run, stage), shard, mine, kind,
            counts=(lambda own=own: own) if counts else None,
        )  # fmt: skip


def made(run: Run, stage: str) -> Key:
    module = importlib.import_module(f"data_synthesis.stages.{stage}")
    return key(run, module.STAGE, {})


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Run:
    root = tmp_path_factory.mktemp("raw")
    frames = [np.full((128, 160, 3), 9 * i, np.uint8) for i in range(20)]
    write_video(str(root / "v.mp4"), frames)
    (root / "raw.jsonl").write_text("{}\n" * 10)
    config = default_config()
    config.shard_size = 5
    run = open_run(config, root / "raw.jsonl", root / "out", False)
    kept = [captioned(record(f"kept{i}", f"{EVIL} a red ball")) for i in range(5)]
    title = record("title").leave("drop", "decide", "title", "too_short")
    both = record("both", share=0.19).leave("drop", "decide", "title", "static")
    still = record("still", share=0.0).leave("drop", "decide", "static")
    lost = record(EVIL).leave("error", "qc", "truncated", detail=EVIL)
    lost = dataclasses.replace(lost, source=Source("gone.mp4", dataset="D"))
    failure = Failure(("blocked",), "no", 3, "request", "requests/x.jsonl")
    failed = captioned(record("failed"), failure).leave("error", "caption", "blocked")
    rows = [*kept, title, both, still, lost, failed]
    write(run, "ingest", [], Counts(10, 10))
    write(run, "qc", [], Counts(10, 9, 0, 1, {"truncated": 1}))
    write(run, "decide", [], Counts(9, 6, 3, 0, {"static": 2, "title": 2}))
    write(run, "caption", [], Counts(6, 5, 0, 1, {"blocked": 1}))
    write(run, "select", rows, Counts(5, 5))
    one, two, three = (r.id for r in rows[:3])
    write(run, "links", [
        Link(two, "near", one, distance=2.5), Link(two, "bytes", one),
        Link(three, "near", one, distance=7.0), Link(three, "near", two, distance=8.0),
        Link(two, "cut", "band 0.f00f", number=7),
    ], kind=Link)  # fmt: skip
    write(run, "texts", [
        Link(three, "across", one), Link(one, "cut", "across 1.f00f", number=5)
    ], kind=Link)  # fmt: skip
    write(run, "nearest", [Nearest(kept[3].id, one, 0.995)], kind=Nearest)
    (run.layout.root / "embed").mkdir()
    off = {"filter": False, "why": "no embedder"}
    write_json(run.layout.root / "embed" / "calibration.json", off)
    pairs = [
        pair("a"), pair("b"), pair("c", split="validation"),
        pair("d", "TI2V", ranks=Ranks(1, 3, 4, 100)),
        pair("e", "TI2V", ranks=Ranks(4, 3, 4, 100)).leave(
            "drop", "compose", "not_compositional"
        ),
        # One source in two splits: what the report must find.
        dataclasses.replace(pair("f", split="validation"), source="source a"),
    ]  # fmt: skip
    for stage in ("candidates", "compose", "extend"):
        for shard in range(run.layout.shards):
            mine = [p for p in pairs if run.layout.shard_of(p.id) == shard]
            write_pairs(run.layout, made(run, stage), shard, mine)
    negatives = tuple(
        Negative(Side(), f"record {i}", i + 1, 0.5 - i / 10, 0.1 + i / 10)
        for i in range(3)
    )
    mined = [
        Mined(pairs[0].id, "T2V", "train", "mined", 0.6, 1, "p", "c", negatives),
        Mined(pairs[1].id, "T2V", "train", "weak_positive"),
    ]
    write(run, "mine", mined, kind=Mined)
    return run


@pytest.fixture(scope="module")
def written(run) -> tuple[dict, str]:
    path = write_report(run, STAGES, "python -m data_synthesis --config=c.py")
    report = json.loads((run.layout.root / "report.json").read_text())
    return report, path.read_text(encoding="utf-8")


def test_the_funnel_is_that_of_the_manifests(written):
    report, _ = written
    assert report["stages"]["qc"] == {
        "in": 10, "kept": 9, "dropped": 0, "errors": 1, "reasons": {"truncated": 1}
    }  # fmt: skip
    assert report["unfinished"] == {"examples": 0}
    assert report["reconciled"] == {
        # What the stages lost between them would be named here.
        "in": 10, "kept": 5, "dropped": 3, "errors": 2,
        "faults": [f"{a} keeps 5, {b} gets 6" for a, b in
                   (("candidates", "compose"), ("compose", "extend"))],
    }  # fmt: skip
    assert report["sources"] == {"D": {"in": 10, "kept": 5, "dropped": 3, "errors": 2}}


def test_sources_lose_records_at_stages(written):
    assert written[0]["sources_by_stage"] == {
        "D": {
            "qc": {"in": 10, "kept": 9, "dropped": 0, "errors": 1},
            "decide": {"in": 9, "kept": 6, "dropped": 3, "errors": 0},
            "caption": {"in": 6, "kept": 5, "dropped": 0, "errors": 1},
        }
    }


def test_filters_come_one_after_the_other(written):
    filters = written[0]["stages"]["decide"]["filters"]
    assert filters["text"] == {
        "in": 9, "kept": 7, "dropped": 2, "hold": 2, "alone": 1
    }  # fmt: skip
    assert filters["motion"] == {
        "in": 7, "kept": 6, "dropped": 1, "hold": 2, "alone": 1
    }  # fmt: skip
    assert filters["consistency"]["kept"] == 6
    assert {"codes": ["static", "title"], "records": 1} in written[0]["together"]


def test_what_if_thresholds_moved(written):
    (static,) = (t for t in written[0]["thresholds"] if t["code"] == "static")
    # 0.19 and 0.0 are beyond 0.2; the former would pass 0.16, but has another reason.
    assert sum(static["beyond"]) == 2 and sum(static["counts"]) == 9
    assert static["kept_if"] == {"-20%": 6, "now": 6, "+20%": 6}
    assert not any(t["code"] == "inconsistent" for t in written[0]["thresholds"])


def test_captions_pairs_and_negatives(written):
    report = written[0]
    captions = report["captions"]
    assert captions["sets"] == {"video": 6, "video failed": 1}
    assert captions["by_attempt"] == {
        "0": {"valid": 20, "captions": 20}, "1": {"valid": 5, "captions": 5}
    }  # fmt: skip
    assert captions["made_by"][0]["fingerprint"] == "weights"
    assert captions["failures"] == {"blocked": 1}
    assert captions["profile"] == {"other": 10, "spatial": 30, "temporal": 60}
    assert captions["words"][0]["quantiles"] == [20] * 5
    pairs = report["pairs"]
    assert pairs["tasks"]["T2V"]["kept"] == 4
    assert pairs["splits"] == {
        "train": {"T2V": 2, "TI2V": 1}, "validation": {"T2V": 2}
    }  # fmt: skip
    assert pairs["leaks"] == {"cluster": 0, "source": 1}
    assert pairs["needed"] == {"TI2V": {"both": 1, "either": 1}}
    negatives = pairs["negatives"]
    assert negatives["number"] == 3 and negatives["distinct"] == 3
    assert [w["margin"] for w in negatives["worst"]] == pytest.approx([0.1, 0.2, 0.3])
    assert all(w["query"].startswith("query a") for w in negatives["worst"])
    assert negatives["outcomes"] == {"T2V": {"mined": 1, "weak_positive": 1}}


def test_copies_are_counted_and_shown_beside_what_they_repeat(run):
    assert links.report(run, ["qc"]) == {}
    assert links.report(run, ["links", "texts"]) == {
        "records": {"across": 1, "bytes": 1, "near": 2},
        "cut": 2, "not_compared": 12,
    }  # fmt: skip
    kept = [r for r in shards.read_stage(run.layout, "select") if r.alive]
    kept.sort(key=lambda r: r.name)
    samples = {"dropped/duplicate_near": kept[1:4], "kept": kept[4:]}
    shown = gallery(run, "select", samples)
    found = shown["dropped/duplicate_near"]
    assert [one.like.name for one in found] == ["kept0"] * 3
    assert [one.how for one in found] == [
        "equal bytes", "near, distance 7.0", "cosine 0.9950"
    ]  # fmt: skip
    assert all(one.picture.uri == one.like.uri != "" for one in found)  # of one file
    assert shown["kept"][0].like is None


def test_dead_letters_and_the_command_that_tries_again(written, run):
    report, page = written
    found = {(d["stage"], d["code"]): d["number"] for d in report["dead_letters"]}
    assert found == {("caption", "blocked"): 1, ("qc", "truncated"): 1}
    assert "--config=c.py --retry_failed=blocked,truncated" in page
    lines = (run.layout.root / "dead_letters.jsonl").read_text().splitlines()
    (letter,) = (x for x in map(json.loads, lines) if x["stage"] == "caption")
    assert letter["attempts"] == 3 and letter["raw"] == "requests/x.jsonl"


def test_nothing_of_the_input_is_markup(written):
    page = written[1]
    assert "<script" not in page and "<img src=x" not in page
    assert "&lt;script&gt;" in page
    # It fetches nothing: pictures are in it.
    assert not re.search(r"(?:src|href)=[\"'](?!data:|#)", page)
    assert page.count("data:image/jpeg;base64,") >= 8


def test_the_code_that_made_the_shards_is_named(written, monkeypatch):
    assert written[0]["costs"]["stages"]["qc"]["code"] == [shards.code()]
    assert f'<dt>Code</dt><dd class="mono">{shards.code()}</dd>' in written[1]
    monkeypatch.setenv("PATH", "")  # no git
    assert shards.code.__wrapped__() == "unknown"


def test_changes_since_the_last_report(written, run):
    assert "Changed since the last report" not in written[1]
    config = default_config()
    config.shard_size, config.motion.min_share = 5, 0.5
    other = open_run(config, run.input, run.layout.root, True)
    for _ in range(2):  # written again, it says so again
        text = write_report(other, STAGES, "c").read_text(encoding="utf-8")
        assert "motion.min_share: 0.2 there, 0.5 now" in text


def _id(row) -> str:
    return row.id


def test_what_is_out_of_date_is_not_shown(tmp_path):
    (tmp_path / "raw.jsonl").write_text("{}\n")

    def begun(**motion) -> Run:
        config = default_config()
        config.motion.update(motion)
        return open_run(config, tmp_path / "raw.jsonl", tmp_path / "out", True)

    run, rows = begun(), [record("a"), record("b")]
    stages = {"ingest": (), "qc": ("ingest",), "links": ("qc",), "groups": ("links",)}
    for stage, names in stages.items():
        module = importlib.import_module(f"data_synthesis.stages.{stage}")
        if stage == "qc":  # follows from the shard, others from all
            inputs = shards.input_hashes(run.layout, 0, names)
        else:
            inputs = {name: whole_stage_hash(run, name) for name in names}
        found, kind = ([], Link) if stage == "links" else (rows, Record)
        own = key(run, module.STAGE, inputs)
        shards.write_shard(run.layout, own, 0, sorted(found, key=_id), kind)
    assert current(run, stages) == dict.fromkeys(stages, 1)
    # Another threshold: what follows from it is out of date, the rest is not.
    other = begun(min_share=0.5)
    assert current(other, stages) == {"ingest": 1, "qc": 1, "links": 1, "groups": 0}
    page = write_report(other, stages, "c").read_text(encoding="utf-8")
    assert "groups (0 of 1 shards)" in page and "2 raw records" in page
    # Another input.
    shards.write_shard(run.layout, made(run, "ingest"), 0, rows[:1])
    assert current(run, stages) == {"ingest": 1, "qc": 0, "links": 0, "groups": 0}


def test_a_run_that_has_just_begun(tmp_path):
    (tmp_path / "raw.jsonl").write_text("{}\n")
    run = open_run(default_config(), tmp_path / "raw.jsonl", tmp_path / "out", False)
    page = write_report(run, STAGES, "c").read_text(encoding="utf-8")
    assert "No stage has finished" in page and "Stage caption has not run" in page


def test_differences_of_texts_are_marked_and_escaped():
    found = Record(
        "0" * 32, Source(""), Text("The video shows <b> dogs", "Two <b> dogs")
    )
    assert difference(found) == (
        "<del>The video shows</del> <ins>Two</ins> &lt;b&gt; dogs"
    )


def test_the_nearest_are_those_with_the_smallest_keys():
    rng = np.random.default_rng(0)
    keys = rng.permutation(100).tolist()
    nearest = reported.Nearest(7)
    for value in keys:
        nearest.offer(value, f"row {value}")
    assert nearest.rows() == [f"row {value}" for value in range(7)]


@pytest.mark.skipif(browser.PROGRAM is None, reason="no Chromium")
@pytest.mark.parametrize("width", [1200, 390])
def test_the_page_fits_its_window(written, run, width):
    with tempfile.TemporaryDirectory() as folder:
        tab = browser.Tab(Path(folder))
        try:
            tab.open(run.layout.root / "report.html", width)
            tab.value(
                "document.querySelectorAll('details').forEach(d => d.open = true)"
            )
            assert tab.value("document.documentElement.scrollWidth") <= width
            shown = "[...document.images].every(i => i.complete && i.naturalWidth > 0)"
            assert tab.value(shown)
            assert tab.faults == []
        finally:
            tab.close()
