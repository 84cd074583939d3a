"""Sources: what is known of pairs unread, what is held out, what is a change."""

import numpy as np
import pytest

from gve_jax.data.sources import (
    Listed,
    Subset,
    digest,
    group_by_length,
    hold_out,
    join_small,
)
from gve_jax.types import Item, Pair, UserError


def pair(i, scene=None, task="T", **changes):
    item = Item("", text=f"query {i}")
    target = Item("", text=f"target {i}")
    return Pair(f"{task}{i}", item, target, task=task, source_id=scene)._replace(
        **changes
    )


def scenes(source):
    return {p.source_id for p in source}


@pytest.mark.parametrize("count", [1, 7, 30, 1000])
def test_held_out_scenes_train_no_task(count):
    rng = np.random.default_rng(0)
    # Two tasks of the same scenes, the pairs of a scene being many, and one of others.
    tasks = {
        "A": [pair(i, f"s{rng.integers(80)}", "A") for i in range(400)],
        "B": [pair(i, f"s{rng.integers(80)}", "B") for i in range(150)],
        "C": [pair(i, f"c{i}", "C") for i in range(60)],
        "D": [pair(i, f"d{i}", "D") for i in range(9)],
    }
    train, held = hold_out(tasks, count, seed=1)
    apart = set.union(*map(scenes, held.values()))
    for task, pairs in tasks.items():
        assert not scenes(train[task]) & apart
        assert len(held[task]) >= min(count, len(pairs) // 10)
        assert len(held[task]) <= count
        kept = {p.id for p in train[task]}
        assert [p.id for p in train[task]] == [p.id for p in pairs if p.id in kept]
        # Only pairs of scenes that are held out somewhere are gone.
        every = {p.id for p in pairs if p.source_id not in apart}
        gone = {p.id for p in pairs} - kept
        assert kept <= every and len(gone) < len(pairs) / 3
    if count >= 30:  # then nothing is cut from those held out
        assert {p.id for p in train["C"]} | {p.id for p in held["C"]} == {
            p.id for p in tasks["C"]
        }
    again = hold_out(tasks, count, seed=1)
    other = hold_out(tasks, count, seed=2)
    for task in tasks:
        assert list(again[1][task]) == list(held[task])
    assert [list(other[1][t]) for t in tasks] != [list(held[t]) for t in tasks]


def test_nothing_is_held_out_by_default():
    tasks = {"A": [pair(i, "s") for i in range(50)]}
    train, held = hold_out(tasks, 0, seed=1)
    assert list(train["A"]) == tasks["A"] and not len(held["A"])
    with pytest.raises(UserError, match="no pair of task A"):
        hold_out(tasks, 1, seed=1)


def test_pairs_without_a_source_go_by_their_files():
    def media(i, query, target):
        return pair(i)._replace(query=Item("", **query), target=Item("", **target))

    text = {"text": "x"}
    to_video = [media(i, text, {"video": f"/a/{i}.mp4"}) for i in range(40)]
    to_text = [media(i, {"video": f"/b/{i}.mp4"}, text) for i in range(40)]
    train, held = hold_out({"T2V": to_video, "V2T": to_text}, 2, seed=0)
    files = [p.target.video.rsplit("/")[-1] for p in held["T2V"]]
    assert [p.query.video.rsplit("/")[-1] for p in held["V2T"]] == files
    trained = {p.query.video.rsplit("/")[-1] for p in train["V2T"]}
    assert len(files) == 2 and not trained & set(files)


def test_a_digest_sees_content_and_order_but_no_folders():
    video = Item("", video="/a/x.mp4", start=1.0)
    pairs = [pair(0), pair(1, target=video, negatives=(video,), scores=(0.5, 0.4))]
    same = digest(pairs)
    assert digest(tuple(pairs)) == digest(Listed(pairs)) == same
    assert digest(Subset([pair(9), *pairs], np.array([1, 2]))) == same
    moved = video._replace(video="/b/x.mp4")
    assert digest([pairs[0], pairs[1]._replace(target=moved)]) == same
    for change in (
        dict(id="y"),
        dict(target=video._replace(start=2.0)),
        dict(target=video._replace(video="/a/y.mp4")),
        dict(query=pairs[1].query._replace(instruction="Find.")),
        dict(negatives=()),
        dict(scores=(0.5, 0.3)),
        dict(source_id="s"),
    ):
        assert digest([pairs[0], pairs[1]._replace(**change)]) != same, change
    assert digest(pairs[::-1]) != same


def test_a_subset_of_a_subset():
    pairs = [pair(i, negatives=(Item("", text="n"),) * (i % 3)) for i in range(9)]
    inner = Subset(pairs, np.array([8, 6, 4, 2]))
    source = Subset(inner, np.array([3, 1]))
    assert list(source) == [pairs[2], pairs[6]]
    np.testing.assert_array_equal(source.facts.negatives, [2, 0])
    bounds = source.bounds(np.arange(2), lambda item: len(item.text), "")
    np.testing.assert_array_equal(bounds, [[7, 8, 1, 1], [7, 8, 0, 0]])
    with pytest.raises(IndexError):
        source[2]


def test_classes_join_in_order():
    classes = {3: [5], 1: [0, 1], 2: [2], 4: [6, 7]}
    joined = join_small(classes, 2)
    assert [(keys, rows.tolist()) for keys, rows in joined] == [
        ([1], [0, 1]), ([2, 3], [2, 5]), ([4], [6, 7]),
    ]  # fmt: skip
    ((keys, rows),) = join_small({1: [0, 1], 2: [2]}, 2)
    assert (keys, rows.tolist()) == ([1, 2], [0, 1, 2])


class Unread(Listed):
    """A source that knows its lengths, and whose pairs must not be read."""

    def __getitem__(self, row):
        raise AssertionError("a pair was read")

    def bounds(self, rows, token_bound, key):
        assert key == "k"
        return np.stack([rows % 50, rows % 7], axis=1).astype(np.int32)


def test_grouping_reads_no_pair():
    source = Unread([pair(i) for i in range(5000)])
    groups = group_by_length(
        {"T": source},
        token_bound=None,
        token_buckets=(10, 20, 40),
        weights={},
        batch_size=8,
        batch_sizes={},
        num_negatives=0,
        nums_negatives={},
        bound_key="k",
    )
    # By hand: queries of 0-10, 11-20 and, the last bucket taking all longer, 21-49.
    assert [(g.name, len(g.pairs)) for g in groups] == [
        ("T/10x10", 1100), ("T/20x10", 1000), ("T/40x10", 2900),
    ]  # fmt: skip
    assert sum(g.weight for g in groups) == pytest.approx(1)
