"""Runs: on other runners, killed, on a full disk, changed, tried again."""

import contextlib
import json
import os
import pathlib
import re
import resource
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from data_synthesis import audit, draws, pipelines, prompts, retry, shards
from data_synthesis.config import default_config
from data_synthesis.record import CaptionSet, Failure, Generation, Record, Source, Text
from data_synthesis.run import Run, open_run
from data_synthesis.shards import Key
from data_synthesis.stages import caption, ingest
from data_synthesis.tables import File, Mined, Pair, Side

ROOT = pathlib.Path(__file__).parents[1]
IN_MEMORY = pipelines.beam_options([])
# What differs between runs, by design: times, logs, what the report says of them.
APART = ("timings", "logs", "report.json", "report.html", "run.json", ".lock")


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> pathlib.Path:
    """Ten rendered scenes with their truth, a copy, and a file that is cut off."""
    root = tmp_path_factory.mktemp("world")
    scenes = audit.videos(10)
    audit.render(scenes, root)
    rows = [
        {"id": v.id, "video": f"videos/{v.id}.mp4",
         "text": f"a coloured shape of scene {i} moves along"}
        for i, v in enumerate(scenes)
    ]  # fmt: skip
    whole = (root / rows[0]["video"]).read_bytes()
    (root / "videos" / "copy.mp4").write_bytes(whole)
    (root / "videos" / "cut.mp4").write_bytes(whole[: len(whole) // 2])
    text = "another text of a shape that moves"
    rows += [{"id": n, "video": f"videos/{n}.mp4", "text": text + n}
             for n in ("copy", "cut")]  # fmt: skip
    (root / "raw.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return root


def command(world: pathlib.Path, output: pathlib.Path, *more: str) -> list[str]:
    return [
        sys.executable, "-m", "data_synthesis",
        f"--config=configs/synthesis_world.py:{world}",
        f"--input={world}/raw.jsonl", f"--output={output}", "--config.shard_size=4",
        *more,
    ]  # fmt: skip


def finish(arguments: list[str], **options) -> subprocess.CompletedProcess:
    return subprocess.run(
        arguments, cwd=ROOT, capture_output=True, text=True, check=False, timeout=500,
        **options,
    )  # fmt: skip


def files(root: pathlib.Path) -> dict[str, bytes]:
    """What must be equal, by name."""
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file() and path.relative_to(root).parts[0] not in APART
    }


@pytest.fixture(scope="module")
def clean(world, tmp_path_factory) -> dict[str, bytes]:
    """The files of a run of one process that nothing happened to."""
    output = tmp_path_factory.mktemp("clean") / "out"
    ended = finish(command(world, output))
    assert ended.returncode == 0, ended.stderr[-2000:]
    return files(output)


def differences(one: dict[str, bytes], two: dict[str, bytes]) -> list[str]:
    return sorted(n for n in one.keys() | two.keys() if one.get(n) != two.get(n))


@pytest.mark.slow
def test_processes_change_no_byte(world, clean, tmp_path):
    ended = finish(command(world, tmp_path / "out", "--processes=2"))
    assert ended.returncode == 0, ended.stderr[-2000:]
    assert "qc: 3/3 shards" in ended.stderr
    assert differences(files(tmp_path / "out"), clean) == []
    assert any(n.startswith("pairs/") for n in clean)
    # Again: all is there.
    again = finish(command(world, tmp_path / "out"))
    lines = [x for x in again.stdout.splitlines() if not x.startswith("report")]
    assert lines and all(line.endswith("there already") for line in lines)


@pytest.mark.slow
def test_a_dask_cluster_changes_no_byte(world, clean, tmp_path):
    distributed = pytest.importorskip("distributed")
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, dashboard_address=None,
        env={"PYTHONPATH": str(ROOT)},
    ) as cluster:  # fmt: skip
        address = cluster.scheduler_address
        more = ("--runner=DaskRunner", f"--dask_client_address={address}")
        ended = finish(command(world, tmp_path / "out", *more))
    assert ended.returncode == 0, ended.stderr[-2000:]
    assert "qc: 3/3 shards" in ended.stderr
    assert differences(files(tmp_path / "out"), clean) == []


@pytest.mark.slow
def test_killed_at_any_moment_a_run_goes_on(world, clean, tmp_path):
    # At manifests, not at seconds: those depend on what else the machine does.
    total = sum(bool(re.fullmatch(r"\w+/\d{5}\.json", name)) for name in clean)
    rng = np.random.default_rng(int(time.time()))
    kills = 0
    for number in sorted(rng.integers(1, 0.9 * total, 5)):
        victim = subprocess.Popen(
            command(world, tmp_path / "out"), cwd=ROOT, start_new_session=True,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        while victim.poll() is None:
            if len(list((tmp_path / "out").glob("*/?????.json"))) >= number:
                break
            time.sleep(0.05)
        time.sleep(rng.uniform(0, 0.5))
        os.killpg(victim.pid, signal.SIGKILL)
        kills += victim.wait() == -signal.SIGKILL
    assert kills == 5
    ended = finish(command(world, tmp_path / "out"))
    assert ended.returncode == 0, ended.stderr[-2000:]
    assert differences(files(tmp_path / "out"), clean) == []
    assert not list((tmp_path / "out").rglob("*.part"))


def test_dask_runs_both_kinds_of_stages(world, tmp_path, capfd):
    distributed = pytest.importorskip("distributed")
    config = default_config()
    config.shard_size = 4
    tables = []
    with distributed.LocalCluster(
        n_workers=1, processes=False, dashboard_address=None
    ) as cluster:
        address = f"--dask_client_address={cluster.scheduler_address}"
        dask = pipelines.beam_options(["--runner=DaskRunner", address])
        for name, options in (("dask", dask), ("memory", IN_MEMORY)):
            run = open_run(config, world / "raw.jsonl", tmp_path / name, False)
            assert pipelines.run(ingest.work(run), options) == 3
            table = run.layout.table
            tables.append([table("ingest", s).read_bytes() for s in range(3)])
        with contextlib.suppress(ValueError):  # Beam leaves its client open
            while True:
                distributed.default_client().close()
    assert tables[0] == tables[1]
    assert capfd.readouterr().err.count("ingest: 3/3 shards") == 2


@pytest.mark.parametrize(
    "options",
    [
        "--runner=FlinkRunner --flink_master=host:1 --environment_type=LOOPBACK",
        "--runner=SparkRunner --spark_master_url=spark://host:1",
        "--runner=DataflowRunner --project=p --region=r --temp_location=gs://b/t",
    ],
)
def test_options_of_other_runners_are_passed_on(options):
    found = pipelines.beam_options(options.split()).get_all_options()
    assert found["runner"] == options.split()[0].partition("=")[2]
    for option in options.split():
        name, _, value = option.lstrip("-").partition("=")
        assert found[name] == value


def test_a_full_disk_ends_in_one_line_and_the_run_goes_on(world, tmp_path):
    full = finish(
        command(world, tmp_path / "out", "--stages=ingest"),
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000)),
    )
    assert full.returncode == 1
    (line,) = [x for x in full.stderr.splitlines() if "error" in x.lower()]
    assert line.startswith("error: ") and "too large" in line
    assert "Traceback" not in full.stderr
    assert not list((tmp_path / "out").rglob("*.part"))
    ended = finish(command(world, tmp_path / "out", "--stages=ingest"))
    assert ended.returncode == 0 and "in 12, kept 12" in ended.stdout


def test_a_folder_that_cannot_be_written_ends_in_one_line(world):
    ended = finish(command(world, pathlib.Path("/proc/synthesis")))
    assert ended.returncode == 1 and "Traceback" not in ended.stderr
    assert ended.stderr.startswith("error: --output: ") and "/proc" in ended.stderr


def test_what_interrupted_writers_left_is_removed(tmp_path):
    left = ["qc/00000.parquet.7.part", "timings/qc/00000.json.7.part", "run.json.part",
            "media/ab.clip.mp4.part", "pairs/validation/T2V.jsonl.part"]  # fmt: skip
    for name in (*left, "qc/00000.parquet"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    shards.remove_parts(tmp_path)
    assert list(files(tmp_path)) == ["qc/00000.parquet"]


def begun(root: pathlib.Path, **caption_config) -> Run:
    (root / "raw.jsonl").write_text("{}\n")
    config = default_config()
    config.caption.update(caption_config)
    return open_run(config, root / "raw.jsonl", root / "out", True)


def put(run: Run, stage: str, rows: list, kind: type = Record) -> None:
    rows = sorted(rows, key=lambda row: row.id)
    shards.write_shard(run.layout, Key(stage, 1, "", {}), 0, rows, kind)


def test_captions_under_another_prompt_are_made_anew(tmp_path, monkeypatch):
    (tmp_path / "truth.jsonl").write_text("")
    run = begun(tmp_path, truth=str(tmp_path / "truth.jsonl"))
    put(run, "assets", [])
    assert pipelines.run(caption.work(run), IN_MEMORY) == 1
    assert pipelines.run(caption.work(run), IN_MEMORY) == 0
    load = prompts.load
    monkeypatch.setattr(
        prompts, "load", lambda kind: load(kind)._replace(sha256=f"other {kind}")
    )
    assert pipelines.run(caption.work(run), IN_MEMORY) == 1
    monkeypatch.undo()
    warmer = begun(tmp_path, truth=str(tmp_path / "truth.jsonl"), temperature=1.0)
    assert pipelines.run(caption.work(warmer), IN_MEMORY) == 1
    # What rows do not follow from changes nothing.
    more = {"temperature": 1.0, "concurrency": 2}
    other = begun(tmp_path, truth=str(tmp_path / "truth.jsonl"), **more)
    assert pipelines.run(caption.work(other), IN_MEMORY) == 0


def record(name: str) -> Record:
    return Record(draws.identity(name), Source("v.mp4"), Text("t"), name=name)


def failure(code: str, request: str) -> Failure:
    return Failure((code,), "no", 3, request, "requests/caption/00000.jsonl")


def caption_set(media: str, failed: Failure | None) -> CaptionSet:
    made = Generation("c", "p", "0", "1")
    return CaptionSet(media, (), "", {}, "", "", made, failed)


def test_failures_are_forgotten_by_their_code(tmp_path, capsys):
    run = begun(tmp_path)

    def again() -> None:
        put(run, "qc", [record("a").leave("error", "qc", "truncated"), record("b")])
        put(run, "decide", [record("c").leave("drop", "decide", "title")])
        sets = (caption_set("", None), caption_set("11", failure("refusal", "still")))
        put(run, "caption", [
            # One ended, one lost a still, one had ended before.
            Record(**vars(record("d")) | {
                "caption_sets": (caption_set("", failure("blocked", "whole")),)
            }).leave("error", "caption", "blocked"),
            Record(**vars(record("e")) | {"caption_sets": sets}),
            record("a").leave("error", "qc", "truncated"),
        ])  # fmt: skip
        side = Side(video=File("v.mp4", "ab"))
        pair = Pair(
            draws.identity("p"), "TI2V", "train", side, side, "r", "s", "c", 0.5
        )
        put(run, "compose", [
            pair.leave("error", "compose", "bad_json", failure=failure("bad_json", "q"))
        ], Pair)  # fmt: skip
        put(run, "probes", [])
        put(run, "mine", [Mined("0", "T2V", "train", "unreadable")], Mined)
        for stage, requests in (("caption", ("whole", "still", "good")),
                                ("compose", ("q",))):  # fmt: skip
            path = run.layout.root / "requests" / stage / "00000.jsonl"
            path.parent.mkdir(parents=True, exist_ok=True)
            rows = [{"key": r, "id": r, "outcome": "success"} for r in requests]
            path.write_text("".join(json.dumps(row) + "\n" for row in rows))

    def gone() -> set[str]:
        stages = ("qc", "decide", "caption", "compose", "probes", "mine")
        return {s for s in stages if not run.layout.manifest(s, 0).exists()}

    def known(stage: str) -> list[str]:
        path = run.layout.root / "requests" / stage / "00000.jsonl"
        return [json.loads(line)["id"] for line in path.read_text().splitlines()]

    again()
    assert retry.forget(run, ["no_such_code"]) == {} and gone() == set()
    assert retry.forget(run, ["truncated"]) == {"qc": 1} and gone() == {"qc"}
    again()
    assert retry.forget(run, ["refusal"]) == {"caption": 1}
    assert known("caption") == ["whole", "good"]
    again()
    found = retry.forget(run, ["all"])
    assert found == {"caption": 2, "compose": 1, "mine": 1, "qc": 1}
    assert gone() == {"qc", "caption", "compose", "probes", "mine"}
    assert known("caption") == ["good"] and known("compose") == []
    assert "tried again: caption 2, compose 1" in capsys.readouterr().err
