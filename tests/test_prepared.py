"""Corpora: found or missed, prepared once, sampled; and read by number like a list."""

import json
import os
import pickle
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from gve_jax.config import default_config
from gve_jax.contract import TEMPLATE, Contract
from gve_jax.data import corpora, prepared
from gve_jax.data.corpora import load_corpora
from gve_jax.data.prepared import Manifest, Prepared
from gve_jax.data.sources import Listed, digest, group_by_length
from gve_jax.preprocess import Processor, train_tokenizer
from gve_jax.types import Item, Pair, UserError
from tests import tiny

ROWS = 40


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    path = tmp_path_factory.mktemp("video") / "a.mp4"
    tiny.write_video(path)
    return path


@pytest.fixture
def root(tmp_path, video):
    """A WebVid of 40 rows, 2 of which make no pair, and pairs files of a UVRD."""
    folder = tmp_path / "webvid"
    (folder / "data/train/partitions").mkdir(parents=True)
    (folder / "videos/p").mkdir(parents=True)
    rows = [f"{i},http://x,PT1S,p,caption {i}" for i in range(ROWS)]
    table = folder / "data/train/partitions/0.csv"
    header = "videoid,contentUrl,duration,page_dir,name"
    table.write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    for i in range(2, ROWS):
        os.link(video, folder / f"videos/p/{i}.mp4")
    (folder / "videos/p/1.mp4").write_bytes(b"")
    (tmp_path / "uvrd").mkdir()
    Image.new("RGB", (64, 48)).save(tmp_path / "uvrd/n.jpg")
    os.link(video, tmp_path / "uvrd/a.mp4")
    write_uvrd(tmp_path)
    return tmp_path


def write_uvrd(root, count=12):
    rows = [
        {
            "id": f"u{i}",
            "query": {"text": f"{i}" * 5, "instruction": "Their own."},
            "target": {"video": "a.mp4", "start": 0, "end": 1 + i},
            "negatives": [{"image": "gone.jpg"}, {"image": "n.jpg"}, {"text": "no"}],
            "scores": [0.9, 0.3, 0.2, 0.1],
            "source_id": f"s{i}",
            "cluster": f"c{i % 2}",
        }
        for i in range(count)
    ]
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (root / "uvrd/T2V.jsonl").write_text(lines, encoding="utf-8")


def config(root, **changes):
    c = default_config()
    c.data.root = str(root)
    c.data.corpora = {
        "WebVid_T2V": dict(format="webvid", path="webvid", instruction="Find it."),
        "UVRD_T2V": dict(format="pairs", path="uvrd/T2V.jsonl"),
    }
    c.data.nums_negatives = {"UVRD_T2V": 2}
    for key, value in changes.items():
        with c.unlocked():
            c.update_from_flattened_dict({key.replace("__", "."): value})
    return c.data


def load(data, allow_missing=False, seed=0):
    return load_corpora(data, allow_missing=allow_missing, seed=seed)


def test_pairs_come_by_number_as_in_order(root, capsys):
    tasks, missing = load(config(root))
    assert missing == [] and list(tasks) == ["UVRD_T2V", "WebVid_T2V"]
    uvrd, webvid = tasks.values()
    in_order = [
        Pair(
            id=f"webvid:{i}",
            query=Item("", text=f"caption {i}", instruction="Find it."),
            target=Item("", video=str(root / f"webvid/videos/p/{i}.mp4")),
            task="WebVid_T2V",
            source_id=f"webvid:{i}",
        )
        for i in range(2, ROWS)
    ]
    assert list(webvid) == in_order
    rng = np.random.default_rng(0)
    for i in rng.integers(-len(in_order), len(in_order), 200):
        assert webvid[i] == in_order[i]
    with pytest.raises(IndexError):
        webvid[len(in_order)]
    assert pickle.loads(pickle.dumps(webvid))[3] == in_order[3]
    # The same facts as of the pairs in memory.
    for source in tasks.values():
        assert digest(source) == digest(list(source))
        for ours, theirs in zip(source.facts, Listed(list(source)).facts, strict=True):
            np.testing.assert_array_equal(ours, theirs)
    one = uvrd[3]
    assert one.query == Item("", text="33333", instruction="Their own.")
    assert (one.target.start, one.target.end) == (0.0, 4.0)
    assert one.negatives == (Item("", image=str(root / "uvrd/n.jpg")),)
    assert one.scores == (0.9, 0.2) and one.cluster == "c1"
    shown = capsys.readouterr().err
    for line in (
        "WebVid_T2V           raw               all  webvid",
        "WebVid_T2V: 38 pairs of 40 rows",
        "dropped 2: a media file that is missing or empty (first: ",
        "12 hard negatives without a file",
    ):
        assert line in shown
    manifest = Manifest.load(root / "prepared/WebVid_T2V")
    assert (manifest.rows, manifest.pairs) == (40, 38)
    assert manifest.dropped == {"a media file that is missing or empty": 2}


def test_what_is_prepared_is_taken_again_until_its_files_change(root, capsys):
    first, _ = load(config(root))

    def prepares(data):
        capsys.readouterr()
        tasks, _ = load(data)
        lines = capsys.readouterr().err.splitlines()
        return tasks, {line.split()[1][:-1] for line in lines if "prepare " in line}

    same, made = prepares(config(root))
    assert not made
    assert {t: digest(s) for t, s in same.items()} == {
        t: digest(s) for t, s in first.items()
    }
    write_uvrd(root, count=13)
    changed, made = prepares(config(root))
    assert made == {"UVRD_T2V"} and len(changed["UVRD_T2V"]) == 13
    assert digest(changed["UVRD_T2V"]) != digest(first["UVRD_T2V"])
    instruction = {"data__corpora__WebVid_T2V__instruction": "Look."}
    changed, made = prepares(config(root, **instruction))
    assert made == {"WebVid_T2V"}
    assert changed["WebVid_T2V"][0].query.instruction == "Look."
    # Once read, tables may go; media must stay.
    (root / "webvid/data/train/partitions/0.csv").unlink()
    _, made = prepares(config(root, **instruction))
    assert not made
    with pytest.raises(UserError, match="WebVid_T2V not found"):
        load(config(root))  # of another instruction


def test_an_interrupted_preparation_leaves_nothing_half(root, monkeypatch):
    real, calls = prepared.pair_row, []

    def interrupted(*args):
        calls.append(args)
        if len(calls) == 20:  # the first task is done, the second under way
            raise KeyboardInterrupt
        return real(*args)

    monkeypatch.setattr(prepared, "pair_row", interrupted)
    with pytest.raises(KeyboardInterrupt):
        load(config(root))
    assert Manifest.load(root / "prepared/UVRD_T2V").pairs == 12
    assert not (root / "prepared/WebVid_T2V").exists()
    monkeypatch.setattr(prepared, "pair_row", lambda *a: calls.append(a) or real(*a))
    calls.clear()
    tasks, _ = load(config(root))
    assert len(calls) == len(tasks["WebVid_T2V"]) == 38
    assert sorted(p.name for p in (root / "prepared").iterdir()) == [
        ".lock", "UVRD_T2V", "WebVid_T2V",
    ]  # fmt: skip


def test_processes_wait_for_each_other(root):
    """Three at once: one prepares, and all read the same."""
    code = (
        "import sys, pathlib; from tests import test_prepared as t;"
        "tasks, _ = t.load(t.config(pathlib.Path(sys.argv[1])));"
        "t.grouped(tasks, lambda item: 1, 'k', 8);"
        "print({task: t.digest(s) for task, s in tasks.items()})"
    )
    command = [sys.executable, "-c", code, str(root)]
    pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    running = [subprocess.Popen(command, **pipes) for _ in range(3)]
    said = [process.communicate(timeout=120) for process in running]
    assert [process.returncode for process in running] == [0] * 3, said
    assert len({out for out, _ in said}) == 1
    for what in ("prepare WebVid", "prepare UVRD", "measure WebVid", "measure UVRD"):
        assert sum(what in err for _, err in said) == 1


def test_missing_corpora_are_listed_and_may_be_left_out(root, capsys):
    gone = dict(format="vast", path="vast", size=1600, get="VAST's annotations")
    data = config(root, data__corpora__VAST_T2V=gone)
    with pytest.raises(UserError, match=r"VAST_T2V not found.*--allow-missing"):
        load(data)
    shown = capsys.readouterr().err
    assert "VAST_T2V             missing         1,600  vast" in shown
    assert "no annotations there; get: VAST's annotations" in shown
    assert not (root / "prepared").exists()
    tasks, missing = load(data, allow_missing=True)
    assert missing == ["VAST_T2V"] and list(tasks) == ["UVRD_T2V", "WebVid_T2V"]
    # Only those of data.tasks are looked for.
    tasks, missing = load(config(root, data__tasks={"UVRD_T2V": 1.0}))
    assert (list(tasks), missing) == (["UVRD_T2V"], [])
    with pytest.raises(UserError, match="none of the corpora is there"):
        load(config(root / "elsewhere"), allow_missing=True)


def test_samples_are_drawn_by_the_seed(root):
    size = {"data__corpora__WebVid_T2V__size": 20}
    one, again, other = (
        [p.id for p in load(config(root, **size), seed=seed)[0]["WebVid_T2V"]]
        for seed in (1, 1, 2)
    )
    assert one == again != other and len(set(one)) == 20
    assert [int(x.split(":")[1]) for x in one] == sorted(
        int(x.split(":")[1]) for x in one
    )
    size = {"data__corpora__WebVid_T2V__size": 1000}
    assert len(load(config(root, **size))[0]["WebVid_T2V"]) == 38


def test_sides_are_swapped(root):
    swap = {"data__corpora__UVRD_T2V__swap": True}
    swap |= {"data__corpora__UVRD_T2V__instruction": "Describe."}
    pair = load(config(root, **swap))[0]["UVRD_T2V"][0]
    assert pair.query.video == str(root / "uvrd/a.mp4")
    assert pair.query.instruction == "Describe."
    assert pair.target == Item("", text="00000")
    assert pair.negatives == () and pair.scores == (0.9,)  # of the two sides


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"data__tasks": {"X": 1.0}}, "names 'X', which data.corpora lacks"),
        ({"data__corpora__WebVid_T2V__format": "x"}, "format is 'x': use one of"),
        ({"data__corpora__WebVid_T2V__vidoe": "x"}, "vidoe: webvid has no such option"),
        ({"data__corpora__WebVid_T2V__path": ""}, "WebVid_T2V.path is empty"),
        ({"data__root": ""}, "data.root is empty"),
    ],
)
def test_wrong_corpora_are_named(root, changes, message):
    with pytest.raises(UserError, match=message):
        load(config(root, **changes))


def test_a_corpus_without_a_pair_is_an_error(root):
    for path in (root / "webvid/videos/p").iterdir():
        path.unlink()
    with pytest.raises(UserError, match=r"0\.mp4: none of 40 rows.*missing or empty"):
        load(config(root))
    table = root / "webvid/data/train/partitions/0.csv"
    table.write_text("videoid,caption\n1,a cat\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"0\.csv:2: none of 1 rows.*no name"):
        load(config(root))


def test_a_moved_root_needs_no_preparation(root):
    before = load(config(root))[0]["WebVid_T2V"]
    moved = root.with_name("moved")
    root.rename(moved)
    after = load(config(moved))[0]["WebVid_T2V"]
    assert after[0].target.video == str(moved / "webvid/videos/p/2.mp4")
    assert digest(after) == digest(before)


def test_prepared_pairs_are_encoded(root):
    tasks, _ = load(config(root))
    texts = [TEMPLATE, *(p.query.text for p in tasks["WebVid_T2V"])]
    contract = Contract(num_frames=4, min_pixels=56 * 56, max_pixels=56 * 56)
    processor = Processor(
        train_tokenizer(texts, 300),
        contract,
        token_buckets=(64, 128, 256),
        patch_buckets=(1024,),
    )
    groups = grouped(tasks, processor.token_bound, "k", batch_size=8)
    for group in groups:
        pair = group.pairs[1]
        for item, most in (
            (pair.query, group.query_tokens),
            (pair.target, group.target_tokens),
        ):
            assert len(processor.encode(item).tokens) <= most


def grouped(tasks, token_bound, key, batch_size):
    return group_by_length(
        tasks,
        token_bound=token_bound,
        token_buckets=(64, 128, 256),
        weights={},
        batch_size=batch_size,
        batch_sizes={},
        num_negatives=1,
        nums_negatives={},
        bound_key=key,
    )


def test_token_bounds_are_remembered(root):
    size = {"data__corpora__WebVid_T2V__size": 20}
    data = config(root, **size)
    asked = []

    def bound(item):
        asked.append(item)
        return 100 if item.image else len(item.text or "")

    tasks, _ = load(data)
    few = [g._replace(pairs=None) for g in grouped(tasks, bound, "k", 8)]
    # One negative is left of each pair of UVRD.
    assert len(asked) == 20 * 2 + 12 * 3
    assert {g.target_tokens for g in few if g.task == "UVRD_T2V"} == {128}
    # Another process finds them, also where it needs more.
    asked.clear()
    again = grouped(load(data)[0], bound, "k", 8)
    assert [g._replace(pairs=None) for g in again] == few and not asked
    grouped(load(config(root))[0], bound, "k", 8)
    assert len(asked) == 18 * 2
    grouped(load(config(root))[0], bound, "other", 8)
    assert len(asked) == 18 * 2 + 38 * 2 + 12 * 3


def test_large_sources_are_grouped_without_a_pair(tmp_path, monkeypatch):
    """Grouping 200,000 prepared pairs, their bounds known, reads and builds none."""
    count = 200_000
    rows = (
        Pair(f"{i}", Item("", text="q" * (1 + i % 90)), Item("", text="t"))
        for i in range(count)
    )
    corpus = corpora.Corpus(tmp_path, tmp_path / "m", 0)
    prepared.prepare(
        rows, corpus, tmp_path / "p", task="T", instruction="", swap=False,
        made_by={}, total_bytes=0,
    )  # fmt: skip
    source = Prepared(tmp_path / "p", tmp_path, "T")
    first = grouped({"T": source}, lambda item: len(item.text), "k", 1024)

    def never(*args):
        raise AssertionError("a pair was built")

    monkeypatch.setattr(prepared, "row_pair", never)
    source = Prepared(tmp_path / "p", tmp_path, "T")
    groups = grouped({"T": source}, never, "k", 1024)
    assert [len(g.pairs) for g in groups] == [len(g.pairs) for g in first]
    monkeypatch.undo()
    short, long = groups
    assert len(short.pairs) + len(long.pairs) == count
    assert len(long.pairs[7].query.text) > 64 >= len(short.pairs[7].query.text)
