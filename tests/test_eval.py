"""The benchmark as a whole: abilities, protocol, resuming, results, report."""

import json
import subprocess
import sys

import numpy as np
import pytest
import small_uvrb as small

from configs import uvrb_mini
from eval import loaders, run, uvrb
from gve_jax.types import UserError


def _config(root, **changes):
    config = uvrb_mini.get_config(str(root))
    config.eval.bootstrap = 200
    for key, value in changes.items():
        config.eval[key] = value
    return config


def _evaluate(root, embedder, output, names=(), **changes):
    config = _config(root, **changes)
    sets = run.read(config, loaders.names(names))
    return run.run(config, sets, embedder, output, "runs/demo")


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """All sixteen datasets, three queries each, over few videos that they share."""
    root = tmp_path_factory.mktemp("uvrb")
    for name, facts in uvrb.DATASETS.items():
        small.write_dataset(root, name, 3, facts.query_modality)
    return root


def test_the_whole_benchmark(world, tmp_path):
    embedder = small.FakeEmbedder(confused={"v1"})
    results = _evaluate(world, embedder, tmp_path)
    assert results == json.loads((tmp_path / "results.json").read_text())
    assert list(results["datasets"]) == list(uvrb.DATASETS)
    assert set(results["datasets"]["CMRB"]) == {
        *("metric", "score", "low", "high", "recall@1", "recall@5", "recall@10"),
        *("ndcg@10", "mrr", "median_rank", "num_queries", "num_corpus", "missing"),
        *("effective", "bounds", "ties", "chance"),
    }
    assert results["contract"] == embedder.contract.to_json()
    assert results["complete"] is True
    right = results["datasets"]["VDC-O"]
    # Two of three are found; the third has a vector of its own.
    assert right["score"] >= 2 / 3 and right["num_queries"] == 3
    assert right["chance"] == pytest.approx(1 / 3)
    assert results["datasets"]["CMRB"]["chance"] == 1  # ten of three
    mean = np.mean([r["score"] for r in results["datasets"].values()])
    assert results["dataset_average"] == pytest.approx(mean)
    low, high = results["ability_intervals"]["ability_average"]
    assert low <= results["ability_average"] <= high
    assert (tmp_path / "missing.jsonl").read_text() == ""

    rows = [
        json.loads(line)
        for line in (tmp_path / "rankings" / "VDC-O.jsonl").read_text().splitlines()
    ]
    assert [r["query"] for r in rows] == [f"VDC-O_query_{i}" for i in range(3)]
    assert rows[0]["rank"] == 1
    assert rows[0]["top"][0] == {"id": "VDC-O_corpus_0", "score": 1.0}
    assert len(rows[0]["top"]) == 3


def test_each_distinct_content_is_embedded_once(world, tmp_path):
    embedder = small.FakeEmbedder()
    _evaluate(world, embedder, tmp_path)
    # Three videos of equal bytes in sixteen folders; queries differ by instruction.
    assert sum(item.instruction is None for item in embedder.items) == 3
    instructions = {(d.instruction, d.query_modality) for d in uvrb.DATASETS.values()}
    queries = [item for item in embedder.items if item.instruction]
    assert len(queries) == 3 * len(instructions)


def test_a_second_run_embeds_nothing_and_repeats_every_byte(world, tmp_path):
    _evaluate(world, small.FakeEmbedder(), tmp_path)
    files = ["results.json", "report.html", "report/MS-TV.html", "rankings/MS-TV.jsonl"]
    before = [(tmp_path / f).read_bytes() for f in files]
    again = small.FakeEmbedder()
    _evaluate(world, again, tmp_path)
    assert again.items == []
    assert [(tmp_path / f).read_bytes() for f in files] == before


def test_an_interrupted_run_goes_on(world, tmp_path, monkeypatch):
    monkeypatch.setattr("gve_jax.embed.log.PIECE", 4)
    whole = _evaluate(world, small.FakeEmbedder(), tmp_path / "whole", ["MSRVTT"])

    class Interrupted(small.FakeEmbedder):
        def embed(self, items, desc="embed", progress=True):
            if self.calls:
                raise KeyboardInterrupt
            return super().embed(items, desc)

    first, second = Interrupted(), small.FakeEmbedder()
    with pytest.raises(KeyboardInterrupt):
        _evaluate(world, first, tmp_path / "cut", ["MSRVTT"])
    assert not (tmp_path / "cut" / "results.json").exists()
    assert _evaluate(world, second, tmp_path / "cut", ["MSRVTT"]) == whole
    assert len(first.items) == 4 and len(second.items) == 2


def test_vectors_of_other_weights_or_items_are_not_reused(tmp_path):
    root, out = tmp_path / "root", tmp_path / "out"
    folder = small.write_dataset(root, "CRB-T", 3)
    _evaluate(root, small.FakeEmbedder(), out, ["CRB-T"])
    other = small.FakeEmbedder(weights="other")
    _evaluate(root, other, out, ["CRB-T"])
    assert len(other.items) == 6
    # The bytes of one video change: it is embedded anew, and nothing else.
    small.write_video(folder / "videos" / "v0.mp4", seed=77)
    third = small.FakeEmbedder(weights="other")
    _evaluate(root, third, out, ["CRB-T"])
    assert [i.id for i in third.items] == ["CRB-T_corpus_0"]


def test_a_part_of_the_benchmark(world, tmp_path):
    whole = _evaluate(world, small.FakeEmbedder(), tmp_path)
    part = _evaluate(world, small.FakeEmbedder(), tmp_path, ["CRB-S", "VDC-O"])
    assert part["complete"] is False
    assert part["dataset_average"] is None and part["ability_average"] is None
    assert part["abilities"]["FG"] is None
    assert part["abilities"]["S"] == whole["abilities"]["S"]
    assert part["ability_intervals"]["S"] == whole["ability_intervals"]["S"]
    names = sorted(p.stem for p in (tmp_path / "rankings").iterdir())
    assert names == ["CRB-S", "VDC-O"]  # none of an earlier run


def test_an_absent_video_is_refused_before_anything_is_written(tmp_path):
    root = tmp_path / "root"
    folder = small.write_dataset(root, "MSRVTT", 3)
    (folder / "videos" / "v1.mp4").unlink()
    with pytest.raises(UserError, match=r"corpus.jsonl:2: no file .*v1.mp4 \(1 miss"):
        _evaluate(root, small.FakeEmbedder(), tmp_path / "out", ["MSRVTT"])
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("fault", ["absent", "unreadable"])
def test_missing_media_can_be_counted_as_wrong(tmp_path, fault):
    root, out = tmp_path / "root", tmp_path / "out"
    folder = small.write_dataset(root, "MSRVTT", 3)
    video = folder / "videos" / "v1.mp4"
    video.unlink() if fault == "absent" else video.write_bytes(b"")
    if fault == "unreadable":
        with pytest.raises(UserError, match=r"MSRVTT_corpus_1.*\(empty file\), one of"):
            _evaluate(root, small.FakeEmbedder(), out, ["MSRVTT"])
        assert not (out / "results.json").exists()
    results = _evaluate(root, small.FakeEmbedder(), out, ["MSRVTT"], allow_missing=True)
    row = results["datasets"]["MSRVTT"]
    # Ten places for three videos: a lost one must not be found even so.
    assert row["missing"] == 1 and row["recall@10"] == pytest.approx(2 / 3)
    listed = json.loads((out / "missing.jsonl").read_text())
    assert listed["id"] == "MSRVTT_corpus_1" and listed["side"] == "corpus"
    page = (out / "report" / "MSRVTT.html").read_text()
    assert "1 item could not be embedded" in page and listed["reason"] in page


def test_counts_are_compared_only_where_asked(world, tmp_path, capsys):
    run.read(_config(world, check_counts=True), ["CRB-S"])
    warning = "CRB-S: 3 queries, expected 1000, 3 corpus items, expected 1000"
    assert warning in capsys.readouterr().err
    run.read(_config(world), ["CRB-S"])
    assert capsys.readouterr().err == ""


def test_intervals_need_resamples(world):
    with pytest.raises(UserError, match=r"config.eval.bootstrap: 0, expected"):
        run.read(_config(world, bootstrap=0), ["CRB-S"])


def test_the_root_must_be_named():
    config = _config("x")
    config.eval.root = None
    with pytest.raises(UserError, match=r"config.eval.root: not set"):
        run.read(config, ["MSRVTT"])


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--checkpoint=x", "--output=y"], 2, "--config"),
        (["--config=configs/uvrb.py", "--nonsense=1"], 2, "nonsense"),
        (["--config=configs/uvrb.py", "--config.eval.nonsense=1"], 2, "nonsense"),
        (
            ["--config=configs/uvrb_mini.py:nowhere", "--checkpoint=x", "--output=y"],
            1,
            "no folder 'nowhere'",
        ),
    ],
)
def test_the_command_fails_with_one_line(arguments, code, message):
    done = subprocess.run(
        [sys.executable, "-m", "eval", *arguments], capture_output=True, text=True
    )
    assert done.returncode == code
    assert message in done.stderr and "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
