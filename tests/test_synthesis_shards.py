"""Records, shards and pipelines of the synthesis workflow; `ingest`."""

import dataclasses
import json
import pathlib

import pyarrow.parquet as pq
import pytest

from data_synthesis import draws, pipelines, shards
from data_synthesis import record as records
from data_synthesis.config import default_config
from data_synthesis.record import Caption, CaptionSet, Generation, Record, Source, Text
from data_synthesis.run import Stage, mapped, open_run
from data_synthesis.shards import Counts, Key, Layout
from data_synthesis.stages import ingest
from gve_jax.types import UserError

IN_MEMORY = pipelines.beam_options([])


def full_record() -> Record:
    caption = Caption("1", "A red ball rolls.", 4, 1.5, 0.25, False, ("short",), 2)
    made = Generation("groundtruth", "p", "00", "11", "{}", 7, 2, 10, 20, True)
    return Record(
        "ab" * 16,
        Source("a/b.mp4", "0f" * 32, 12, "mov", "h264", 16, 9, 29.97, 3, 0.1),
        Text("raw é", "rectified", ("nfc",), "en", 0.5),
        scores={"z": records.Score(1.0, "m", "1"), "a": records.Score(-0.5)},
        hashes=("0" * 16,),
        cuts=(0.0, 1.5),
        media=(records.Media("clip", "media/x.mp4", "22", 0.5, 2.5),),
        caption_sets=(
            CaptionSet("", (caption,), "", {"spatial": 40, "temporal": 60}, "easy",
                       "primary", made),
            CaptionSet("22", (), "", {}, "", "", made),
        ),
    )  # fmt: skip


def test_a_record_is_read_as_it_was_written(tmp_path):
    left = full_record().leave("drop", "qc", "b", "a", detail="x" * 5000)
    rows = [full_record(), left, Record("0" * 32, Source(""), Text(""))]
    assert records.write_table(tmp_path / "t", Record, rows) == 3
    read = list(records.read_table(tmp_path / "t", Record))
    assert read == rows
    assert read[1].decision.reasons == ("a", "b")
    assert len(read[1].decision.detail) == 2048


def test_the_schema_file_is_that_of_the_classes():
    text = records.SCHEMA_FILE.read_text(encoding="utf-8")
    assert json.loads(text) == records.json_schema(Record)


def test_a_row_that_does_not_fit_is_refused(tmp_path):
    wrong = dataclasses.replace(full_record(), hashes=(3,))
    with pytest.raises(ValueError, match="hashes/0"):
        records.write_table(tmp_path / "t", Record, [wrong])


def test_older_tables_read_with_defaults(tmp_path):
    records.write_table(tmp_path / "new", Record, [full_record()])
    table = pq.read_table(tmp_path / "new").drop_columns(["cuts", "frames_sha256"])
    pq.write_table(table, tmp_path / "old")
    (read,) = records.read_table(tmp_path / "old", Record)
    assert read == dataclasses.replace(full_record(), cuts=())


def test_a_table_of_something_else_is_refused(tmp_path):
    records.write_table(tmp_path / "t", Source, [Source("x")])
    with pytest.raises(UserError, match="not a table of Record"):
        list(records.read_table(tmp_path / "t", Record))
    (tmp_path / "t").write_bytes(b"no parquet")
    with pytest.raises(UserError, match="not a table of Record"):
        list(records.read_table(tmp_path / "t", Record))


def test_draws_depend_on_what_they_are_for():
    same = {draws.uniform(1, "a", "x") for _ in range(3)}
    others = {
        draws.uniform(2, "a", "x"), draws.uniform(1, "b", "x"),
        draws.uniform(1, "a", "y"), draws.uniform(1, "a", "x", 1),
    }  # fmt: skip
    assert len(same) == 1 and len(same | others) == 5
    many = [draws.uniform(0, str(i), "u") for i in range(4000)]
    assert abs(sum(many) / 4000 - 0.5) < 0.02 and 0 <= min(many) < max(many) < 1


# Stages of these tests; module functions, as Beam pickles them.
HALVE = Stage("halve", ("begin",), ("seed",))


def begin(root: pathlib.Path, number: int = 60, size: int = 3):
    """A run whose stage "begin" holds `number` records."""
    config = default_config()
    config.shard_size = -(-number // size)
    lines = "".join(json.dumps({"id": str(i)}) + "\n" for i in range(number))
    (root / "raw.jsonl").write_text(lines)
    run = open_run(config, root / "raw.jsonl", root / "out", False)
    rows = [
        Record(draws.identity(i), Source(""), Text("t"), name=str(i))
        for i in range(number)
    ]
    for shard in range(run.layout.shards):
        mine = [r for r in rows if run.layout.shard_of(r.id) == shard]
        # A record that left before.
        mine.append(Record("f" * 32, Source(""), Text("")).leave("error", "x", "bad"))
        shards.write_shard(run.layout, Key("begin", 1, "", {}), shard, mine)
    return run


def halve(rows, context):
    for row in rows:
        low = draws.uniform(context.run.config.seed, row.id, "halve") < 0.5
        yield row.leave("drop", "halve", "low") if low else row


def test_a_stage_gives_one_record_for_each_and_counts_them(tmp_path):
    run = begin(tmp_path)
    assert pipelines.run(mapped(run, HALVE, halve), IN_MEMORY) == 3
    counts = shards.stage_counts(run.layout, "halve")
    assert counts.entered == 60 and counts.errors == 0
    assert counts.reasons == {"low": counts.dropped} and 15 < counts.dropped < 45
    before = list(shards.read_stage(run.layout, "begin"))
    after = list(shards.read_stage(run.layout, "halve"))
    assert [r.id for r in after] == [r.id for r in before]
    assert [r for r in after if r.decision.stage == "x"] == [
        r for r in before if not r.alive
    ]


@pytest.mark.parametrize("fault", ["table", "manifest", "config", "input", "version"])
def test_only_what_does_not_fit_is_made_again(tmp_path, fault):
    run = begin(tmp_path)
    pipelines.run(mapped(run, HALVE, halve), IN_MEMORY)
    assert pipelines.run(mapped(run, HALVE, halve), IN_MEMORY) == 0
    layout, stage, expected = run.layout, HALVE, 1
    kept = {s: layout.table("halve", s).read_bytes() for s in range(3)}
    if fault == "table":
        layout.table("halve", 1).write_bytes(kept[1][:-1])
    elif fault == "manifest":
        layout.manifest("halve", 1).write_text("{")
    elif fault == "config":
        config = default_config()
        config.shard_size, config.seed = run.config.shard_size, 1
        with pytest.raises(UserError, match="seed: 42 there, 1 now"):
            open_run(config, run.input, layout.root, False)
        run, expected = open_run(config, run.input, layout.root, True), 3
    elif fault == "input":
        rows = list(records.read_table(layout.table("begin", 1), Record))[1:]
        shards.write_shard(layout, Key("begin", 1, "", {}), 1, rows)
    else:
        stage, expected = HALVE._replace(version=2), 3
    assert pipelines.run(mapped(run, stage, halve), IN_MEMORY) == expected
    if fault in ("table", "manifest"):
        assert kept == {s: layout.table("halve", s).read_bytes() for s in range(3)}


def stop(rows, context):
    for n, row in enumerate(rows):
        if context.shard == 1 and n == 3:
            raise OSError("the disk is full")
        yield row


def lose(rows, context):
    yield from list(rows)[1:]


def test_a_shard_that_fails_leaves_nothing_and_says_why(tmp_path):
    run = begin(tmp_path)
    with pytest.raises(UserError, match="stage halve: the disk is full"):
        pipelines.run(mapped(run, HALVE, stop), IN_MEMORY)
    assert not run.layout.manifest("halve", 1).exists()
    assert not list(run.layout.root.glob("halve/*.part"))
    assert not run.layout.table("halve", 1).exists()
    with pytest.raises(UserError, match="fewer records out than in"):
        pipelines.run(mapped(run, HALVE, lose), IN_MEMORY)


def nothing(layout, key, shard):
    pass


def test_a_runner_that_loses_its_outputs_is_noticed(tmp_path):
    run = begin(tmp_path)
    work = mapped(run, HALVE, halve)._replace(run=nothing)
    with pytest.raises(UserError, match="3 of 3 shards are not there"):
        pipelines.run(work, IN_MEMORY)


def test_progress_counts_what_is_made_anew(tmp_path, monkeypatch):
    run, seen = begin(tmp_path), []

    class Line:
        def __init__(self, *args, done):
            seen.append(done)

        __enter__ = lambda self: self  # noqa: E731
        __exit__ = lambda self, *error: None  # noqa: E731

        def advance(self, number):
            seen.append(number)

    monkeypatch.setattr(pipelines, "ProgressLine", Line)
    rows = [list(records.read_table(run.layout.table("begin", s), Record))
            for s in range(3)]  # fmt: skip
    with pipelines._progress(run.layout, "begin", [0, 2]):  # these are out of date
        shards.write_shard(run.layout, Key("begin", 2, "", {}), 2, rows[2])
    assert (seen[0], sum(seen)) == (1, 2)


def test_counts_must_add_up():
    total = Counts(3, 1, 1, 1, {"a": 2}) + Counts(1, 0, 1, 0, {"a": 1, "b": 1})
    assert total == Counts(4, 1, 2, 1, {"a": 3, "b": 1})
    with pytest.raises(RuntimeError, match="lost"):
        Counts(3, 1, 1, 0).check("here")


def test_two_runs_do_not_write_one_folder(tmp_path):
    with (
        shards.only_run(tmp_path),
        pytest.raises(UserError, match="another run"),
        shards.only_run(tmp_path),
    ):
        pass


@pytest.mark.parametrize("option", ["--fo=1", "-v", "output=x", "--runer=DaskRunner"])
def test_unknown_options_are_refused(option):
    with pytest.raises(UserError, match="neither ours nor Beam's"):
        pipelines.beam_options([option])
    pipelines.beam_options(["--runner=FnApiRunner", "--direct_num_workers=2"])


def raw(root: pathlib.Path, lines: list) -> pathlib.Path:
    root.mkdir(exist_ok=True)
    for i in range(12):
        (root / f"v{i}.mp4").write_bytes(bytes([i]) * (10 + i))
    path = root / "raw.jsonl"
    path.write_text("".join((x if isinstance(x, str) else json.dumps(x)) + "\n"
                            for x in lines), encoding="utf-8")  # fmt: skip
    return path


def good(i: int, **more) -> dict:
    return {"id": f"r{i}", "video": f"v{i}.mp4", "text": f"text {i}"} | more


def ingested(path, output, size=4, **config) -> tuple[Layout, list[Record]]:
    c = default_config()
    c.shard_size = size
    c.ingest.update(config)
    run = open_run(c, path, output, False)
    pipelines.run(ingest.work(run), IN_MEMORY)
    return run.layout, list(shards.read_stage(run.layout, "ingest"))


def test_ingest_does_not_depend_on_the_order_of_lines(tmp_path):
    lines = [good(i) for i in range(12)]
    path = raw(tmp_path / "in", lines)
    layout, rows = ingested(path, tmp_path / "a")
    path = raw(tmp_path / "in2", lines[::-1] + lines[:4])
    again, _ = ingested(path, tmp_path / "b", size=6)
    assert again.shards == layout.shards == 3
    for shard in range(3):
        tables = {x.table("ingest", shard).read_bytes() for x in (layout, again)}
        assert len(tables) == 1
    assert {r.name for r in rows} == {f"r{i}" for i in range(12)}
    assert all(r.source.bytes == 10 + int(r.name[1:]) for r in rows)
    repeated = [
        json.loads(p.read_text())["extra"]["repeated_lines"]
        for p in (tmp_path / "b" / "ingest").glob("*.json")
    ]
    assert sum(repeated) == 4


def test_faulty_lines_become_errors(tmp_path):
    outside = tmp_path / "secret.mp4"
    outside.write_bytes(b"s")
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "link.mp4").symlink_to(outside)
    lines = [
        good(0),
        "{",
        "[]",
        {"id": "a", "video": "v1.mp4"},
        {"id": 3, "video": "v1.mp4", "text": "x"},
        good(1, video="none.mp4"),
        good(2, video="../secret.mp4"),
        good(3, video=str(outside)),
        good(4, video="link.mp4"),
        good(5, video="https://example.com/a.mp4"),
        good(6, video="concat:v1.mp4|v2.mp4"),
        good(7, license="CC0"),
        good(7, video="v\0.mp4"),
    ]
    layout, rows = ingested(
        raw(tmp_path / "in", lines), tmp_path / "out", license="x", dataset="d"
    )
    assert len(rows) == len(lines)
    reasons = sorted((r.name, *r.decision.reasons) for r in rows if not r.alive)
    assert reasons == sorted([
        *[("", "bad_line")] * 4, ("r1", "not_found"), ("r2", "outside_roots"),
        ("r3", "outside_roots"), ("r4", "outside_roots"), ("r5", "url"),
        ("r6", "not_found"), ("r7", "not_found"),
    ])  # fmt: skip
    assert {(r.source.license, r.source.dataset) for r in rows if r.alive} == {
        ("x", "d"), ("CC0", "d")
    }  # fmt: skip
    counts = shards.stage_counts(layout, "ingest")
    assert (counts.entered, counts.kept, counts.errors) == (13, 2, 11)


def test_roots_may_lie_elsewhere(tmp_path):
    other = tmp_path / "videos"
    path = raw(other, [])
    listed = tmp_path / "raw.jsonl"
    listed.write_text(json.dumps(good(0, video="videos/v0.mp4")) + "\n")
    _, (row,) = ingested(listed, tmp_path / "out", roots=(str(other),))
    assert row.alive and path.exists()
    with pytest.raises(UserError, match="no folder"):
        ingested(listed, tmp_path / "out2", roots=("/no/such",))


def test_a_replaced_video_is_ingested_again(tmp_path):
    path = raw(tmp_path / "in", [good(i) for i in range(4)])
    _, rows = ingested(path, tmp_path / "out")
    (tmp_path / "in" / "v2.mp4").write_bytes(b"other")
    _, again = ingested(path, tmp_path / "out")
    assert {r.source.sha256 for r in again} != {r.source.sha256 for r in rows}


@pytest.mark.parametrize("content", [None, "", "\n \n"])
def test_no_input_is_refused(tmp_path, content):
    path = tmp_path / "raw.jsonl"
    if content is not None:
        path.write_text(content)
    with pytest.raises(UserError, match="--input"):
        open_run(default_config(), path, tmp_path / "out", False)
    assert not (tmp_path / "out" / "run.json").exists()


@pytest.mark.slow
def test_two_processes_write_the_same_bytes(tmp_path):
    path = raw(tmp_path / "in", [good(i) for i in range(12)])
    ingested(path, tmp_path / "one")
    c = default_config()
    c.shard_size = 4
    run = open_run(c, path, tmp_path / "two", False)
    options = pipelines.beam_options(
        ["--direct_running_mode=multi_processing", "--direct_num_workers=2"]
    )
    pipelines.run(ingest.work(run), options)
    for shard in range(run.layout.shards):
        for suffix in ("parquet", "json"):
            name = f"ingest/{shard:05d}.{suffix}"
            one, two = (tmp_path / x / name for x in ("one", "two"))
            assert one.read_bytes() == two.read_bytes()
