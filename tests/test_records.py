"""Items and pairs files: what they mean, and that every fault is named."""

import json

import pytest

from gve_jax.data.records import pair_row, read_items, read_pairs, row_pair
from gve_jax.types import Item, UserError


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "a.mp4").write_bytes(b"x")
    (tmp_path / "b.jpg").write_bytes(b"x")
    return tmp_path


def write(folder, *rows):
    path = folder / "rows.jsonl"
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_items(folder):
    path = write(
        folder,
        {"id": "1", "text": "a cat"},
        {"id": "2", "video": "a.mp4", "start": 1, "end": 2.5, "instruction": "Find."},
        "",
        {"id": "3", "image": "b.jpg", "text": "", "video": None},
    )
    first, second, third = read_items(path)
    assert first == Item("1", text="a cat")
    assert second.video == str(folder / "a.mp4")
    assert (second.start, second.end, second.instruction) == (1.0, 2.5, "Find.")
    assert third == Item("3", image=str(folder / "b.jpg"))


def test_pairs_of_both_forms(folder):
    path = write(
        folder,
        {"video": "a.mp4", "text": "a cat", "instruction": "Find."},
        {
            "id": "x",
            "query": {"text": "q"},
            "target": {"image": "b.jpg"},
            "negatives": [{"text": "n"}],
            "task": "T2I",
            "source_id": "s",
        },
    )
    short, full = read_pairs(path)
    assert short.query == Item("", text="a cat", instruction="Find.")
    assert short.target == Item("", video=str(folder / "a.mp4"))
    assert (short.id, short.task) == ("rows:1", "rows")
    assert full.negatives == (Item("", text="n"),)
    assert (full.id, full.task, full.source_id) == ("x", "T2I", "s")


@pytest.mark.parametrize(
    "row, message",
    [
        ("{", "rows.jsonl:1: not JSON"),
        ("[1]", "expected a JSON object"),
        ({"text": "no id"}, "no id"),
        ({"id": "1"}, "no content"),
        ({"id": "1", "txt": "a"}, "unknown field 'txt'"),
        ({"id": "1", "text": 3}, "text must be a string"),
        ({"id": "1", "video": "gone.mp4"}, "gone.mp4 does not exist"),
        ({"id": "1", "text": "a", "start": 1}, "need a video"),
        ({"id": "1", "video": "a.mp4", "start": -1}, "seconds >= 0"),
        ({"id": "1", "video": "a.mp4", "start": 2, "end": 2}, "not after start"),
    ],
)
def test_bad_items_are_named(folder, row, message):
    with pytest.raises(UserError, match=message):
        read_items(write(folder, row))


@pytest.mark.parametrize(
    "row, message",
    [
        ({"video": "a.mp4"}, "no text"),
        ({"text": "alone"}, "no video or image"),
        ({"query": {"text": "a"}}, "no target"),
        ({"query": {"text": "a"}, "target": {}}, "target.*no content"),
        ({"query": {"text": "a"}, "target": {"text": "b"}, "x": 1}, "unknown field"),
        (
            {"query": {"text": "a"}, "target": {"text": "b"}, "negatives": "n"},
            "must be a list",
        ),
    ],
)
def test_bad_pairs_are_named(folder, row, message):
    with pytest.raises(UserError, match=message):
        read_pairs(write(folder, row))


def test_missing_empty_and_repeating_files(folder):
    with pytest.raises(UserError, match="no such file"):
        read_items(folder / "none.jsonl")
    with pytest.raises(UserError, match="holds no rows"):
        read_items(write(folder, ""))
    row = {"id": "1", "text": "a"}
    with pytest.raises(UserError, match="'1' occurs twice"):
        read_items(write(folder, row, row))


def test_scores_belong_to_the_target_and_each_negative(folder):
    row = {
        "query": {"text": "q"},
        "target": {"text": "t"},
        "negatives": [{"text": "n"}],
    }
    (pair,) = read_pairs(write(folder, row | {"scores": [0.9, 0]}))
    assert pair.scores == (0.9, 0.0)
    (pair,) = read_pairs(write(folder, row))
    assert pair.scores == ()
    for bad in ([0.9], [0.9, 0.1, 0.2], [0.9, "0.1"], [0.9, True], 0.9, {"a": 1}):
        with pytest.raises(UserError, match="scores must be 2 numbers"):
            read_pairs(write(folder, row | {"scores": bad}))


def test_rows_written_are_read_back(folder):
    path = write(
        folder,
        {
            "id": "x",
            "query": {"text": "q", "image": "b.jpg", "instruction": "Find."},
            "target": {"id": "t", "video": "a.mp4", "start": 0, "end": 2.5},
            "negatives": [{"text": "n"}, {"video": "a.mp4"}],
            "source_id": "s",
            "cluster": "c",
            "scores": [0.9, 0.5, 0.25],
        },
        {"video": "a.mp4", "text": "short"},
    )
    pairs = read_pairs(path)
    prefix = f"{folder}/"
    rows = [json.loads(json.dumps(pair_row(p, relative(prefix)))) for p in pairs]
    assert prefix not in json.dumps(rows)
    assert [row_pair(row, lambda name: prefix + name) for row in rows] == pairs
    assert read_pairs(write(folder, *rows)) == pairs


def relative(prefix):
    return lambda path: path.removeprefix(prefix)
