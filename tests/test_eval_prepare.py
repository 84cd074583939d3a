"""`python -m eval.prepare`: what a check finds, remembers and writes."""

import hashlib
import json
import pathlib
import shutil
import subprocess
import sys

import dying_decoder
import pytest
import small_uvrb as small

from eval import loaders, manifest
from eval.sources.template import write as write_template
from gve_jax.types import UserError

ROOT = pathlib.Path(__file__).parents[1]


@pytest.fixture(scope="module")
def checked_once(tmp_path_factory):
    """A folder of two datasets with every fault there is, checked."""
    root = tmp_path_factory.mktemp("root")
    folder = small.write_dataset(root, "CRB-S", 6)
    (folder / "videos" / "v1.mp4").write_bytes(b"")
    whole = (folder / "videos" / "v2.mp4").read_bytes()
    (folder / "videos" / "v2.mp4").write_bytes(whole[: len(whole) // 2])
    (folder / "videos" / "v3.mp4").unlink()
    # Equal bytes under two ids: a link, named with its folder.
    (folder / "videos" / "v4.mp4").unlink()
    (folder / "videos" / "v4.mp4").symlink_to(folder / "videos" / "v0.mp4")
    path = folder / "jsonl" / "corpus.jsonl"
    path.write_text(path.read_text().replace('"v4.mp4"', '"videos/v4.mp4"'))
    queries = folder / "jsonl" / "queries.jsonl"
    queries.write_text(queries.read_text().replace("v5 is", "v0 is"))
    small.write_dataset(root, "MS-TI", 2, "text+image")
    (root / "MS-TI" / "images" / "q0.png").write_bytes(b"no image")
    return root, manifest.check(root, ["CRB-S", "MS-TI"], 2)


def test_check_finds_what_is_missing_broken_or_equal(checked_once):
    _, checked = checked_once
    row = checked.datasets["CRB-S"]
    faults = {f["path"]: f["fault"].split(":")[0] for f in row["faults"]}
    assert faults == {
        "CRB-S/videos/v1.mp4": "empty",
        "CRB-S/videos/v2.mp4": "truncated",
        "CRB-S/videos/v3.mp4": "missing",
    }
    assert (row["num_media"], row["missing"], row["broken"]) == (6, 1, 2)
    assert row["equal_corpus"] == [["CRB-S_corpus_0", "CRB-S_corpus_4"]]
    assert row["equal_queries"] == [["CRB-S_query_0", "CRB-S_query_5"]]
    assert row["mean_query_words"] == 6.0  # "v0 is what I look for"
    assert row["mean_duration_s"] == 1.0  # eight frames at eight a second
    assert row["differences"] == (
        "6 queries, expected 1000, 6 corpus items, expected 1000, "
        "mean_query_words 6.0, expected 115.0, mean_duration_s 1.0, expected 14.4"
    )
    images = checked.datasets["MS-TI"]
    assert [f["path"] for f in images["faults"]] == ["MS-TI/images/q0.png"]
    assert images["missing"] == 0 and images["broken"] == 1


def test_the_manifest_has_hashes_sizes_and_durations(checked_once):
    root, checked = checked_once
    written = json.loads((root / "manifest.json").read_text())
    assert written["datasets"] == checked.datasets
    files = written["datasets"]["CRB-S"]["files"]
    path = root / "CRB-S" / "videos" / "v5.mp4"
    content = path.read_bytes()
    assert files["CRB-S/videos/v5.mp4"] == {
        "bytes": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
        "seconds": 1.0,
    }
    table = (root / "CRB-S" / "jsonl" / "queries.jsonl").read_bytes()
    assert files["CRB-S/jsonl/queries.jsonl"] == {
        "bytes": len(table),
        "sha256": hashlib.sha256(table).hexdigest(),
    }
    assert "CRB-S/videos/v3.mp4" not in files


def _no_decoding(files, _):
    assert not files, "a file was read again"
    return iter(())


def test_a_second_check_reads_nothing_and_names_changes(
    checked_once, tmp_path, monkeypatch
):
    root = tmp_path / "root"
    shutil.copytree(checked_once[0], root, symlinks=True)
    link = root / "CRB-S" / "videos" / "v4.mp4"
    link.unlink()
    shutil.copy(root / "CRB-S" / "videos" / "v0.mp4", link)
    manifest.check(root, ["CRB-S", "MS-TI"], 1)
    # As if killed while it wrote: the last line is cut.
    memory = root / "checked.jsonl"
    memory.write_text(memory.read_text() + '{"file": ["')
    with monkeypatch.context() as patch:
        patch.setattr(manifest, "_run", _no_decoding)
        again = manifest.check(root, ["CRB-S", "MS-TI"], 1)
    assert not again.changed and not again.vanished
    small.write_video(root / "CRB-S" / "videos" / "v5.mp4", 77)
    (root / "MS-TI" / "videos" / "v1.mp4").unlink()
    third = manifest.check(root, ["CRB-S", "MS-TI"], 1)
    assert third.changed == ["CRB-S/videos/v5.mp4"]
    assert third.vanished == ["MS-TI/videos/v1.mp4"]
    # A part of the datasets leaves what is known of the others.
    manifest.check(root, ["MS-TI"], 1)
    assert json.loads((root / "manifest.json").read_text())["datasets"].keys() == {
        "CRB-S",
        "MS-TI",
    }


def test_a_decoder_that_dies_costs_one_file(tmp_path, monkeypatch):
    files = []
    for i in range(3):
        path = tmp_path / str(i)
        path.write_bytes(b"" if i == 1 else b"x")
        files.append(manifest.File(str(path), "video", i != 1, 0))
    monkeypatch.setattr(manifest, "_inspect", dying_decoder.inspect)
    states = dict(manifest._run(files, 1))
    assert states.keys() == set(files)
    died = [file.path for file, s in states.items() if s.fault.startswith("lost")]
    assert died == [files[1].path]


def test_a_dataset_that_cannot_be_read_does_not_stop_the_others(tmp_path):
    small.write_dataset(tmp_path, "CRB-S", 1)
    (tmp_path / "CRB-S" / "jsonl" / "corpus.jsonl").write_text("{")
    small.write_dataset(tmp_path, "CRB-T", 1)
    checked = manifest.check(tmp_path, ["CRB-S", "CRB-T"], 1)
    assert "corpus.jsonl:1: not JSON" in checked.datasets["CRB-S"]["faults"][0]["fault"]
    assert checked.datasets["CRB-T"]["faults"] == []


def test_the_template_is_a_dataset(tmp_path):
    folder = tmp_path / "MySet"
    write_template(folder)
    data = loaders.load(str(tmp_path), "MySet")
    assert data.facts.query_modality == "text" and data.published_size
    assert [p.tolist() for p in data.positives] == [[0], [1, 2]]
    assert len(data.missing) == 3
    for i, name in enumerate(("first", "second", "third")):
        small.write_video(folder / "videos" / f"{name}.mp4", i)
    assert not loaders.load(str(tmp_path), "MySet").missing
    with pytest.raises(UserError, match="is not empty"):
        write_template(folder)
    with pytest.raises(UserError, match="MSRVTT is a dataset of UVRB"):
        write_template(tmp_path / "MSRVTT")


def _prepare(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "eval.prepare", *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_the_command_builds_and_checks(tmp_path):
    release, root = tmp_path / "CaReBench", tmp_path / "root"
    release.mkdir()
    row = {"caption": "all", "spatial_caption": "a red cup", "temporal_caption": "t"}
    rows = [row | {"video": f"v_{i}.mp4"} for i in range(2)]
    (release / "metadata.json").write_text(json.dumps(rows))
    small.write_video(release / "videos" / "v_0.mp4", 0)
    (release / "videos.zip").write_bytes(b"packed")
    build = ("build", "--source=carebench", f"--input={release}", f"--output={root}")
    done = _prepare(*build, "--datasets=CRB-S")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[:3] == [
        "CRB-S: 2 queries, 2 corpus items, 1 media missing",
        "  2 queries, expected 1000, 2 corpus items, expected 1000",
        "  missing: videos/v_1.mp4: the release has no v_1.mp4",
    ]
    assert "still packed in the release: videos.zip" in done.stdout
    done = _prepare("check", f"--root={root}", "--workers=1")
    assert done.returncode == 1
    [error] = [x for x in done.stderr.splitlines() if x.startswith("error:")]
    assert "1 missing or broken, the first is CRB-S/videos/v_1.mp4 (missing)" in error
    assert f"{root}/manifest.json lists them" in error
    head, line, *_ = done.stdout.splitlines()
    assert head.split()[:5] == ["dataset", "queries", "corpus", "words", "seconds"]
    assert line.split()[:10] == [
        "CRB-S", "2", "2", "3.0", "1.0", "2", "1", "0", "1/0", "0.00",
    ]  # fmt: skip
    small.write_video(release / "videos" / "v_1.mp4", 1)
    assert _prepare(*build).returncode == 0
    done = _prepare("check", f"--root={root}", "--datasets=CRB-S", "--workers=1")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ((), 2, "usage: python -m eval.prepare build|check|template"),
        (("build", "--source=msrvtt"), 2, "--input"),
        (
            ("build", "--source=lovr", "--input=a", "--output=b", "--datasets=LoVR-TH"),
            1,
            "lovr cannot give LoVR-TH: where the release has the themes is not known",
        ),
    ],
)  # fmt: skip
def test_user_errors(arguments, code, message):
    done = _prepare(*arguments)
    assert done.returncode == code and message in done.stderr
    assert "Traceback" not in done.stderr
