"""Grouping and loading of pairs: homogeneous, seeded, resumable, complete."""

import collections
import json

import jax
import numpy as np
import pytest

from gve_jax import build
from gve_jax.data.loader import EpochDraw, PairLoader, content_id
from gve_jax.data.sources import Group, group_by_length, load_tasks
from gve_jax.types import Item, Pair, UserError
from tests import tiny


def pair(i, query_length, target_length=1, task="T"):
    return Pair(
        id=f"{task}{i}",
        query=Item("", text="x" * query_length),
        target=Item("", text="y" * target_length),
        task=task,
    )


def group(tasks, **changes):
    arguments = dict(
        token_bound=lambda item: len(item.text),
        token_buckets=(10, 20, 40),
        weights={},
        batch_size=2,
        batch_sizes={},
        num_negatives=0,
        nums_negatives={},
    )
    return group_by_length(tasks, **{**arguments, **changes})


def test_groups_hold_one_length_class():
    pairs = [pair(i, n) for i, n in enumerate([5, 15, 35, 8, 18, 33])]
    groups = group({"T": pairs})
    assert [g.name for g in groups] == ["T/10x10", "T/20x10", "T/40x10"]
    assert [len(g.pairs) for g in groups] == [2, 2, 2]
    np.testing.assert_allclose([g.weight for g in groups], 1 / 3)


def test_small_classes_join_the_longer_one():
    pairs = [pair(i, n) for i, n in enumerate([5, 15, 15, 35])]
    groups = group({"T": pairs})
    assert [(g.name, len(g.pairs)) for g in groups] == [("T/40x10", 4)]
    pairs += [pair(9, 36)]
    assert [g.name for g in group({"T": pairs})] == ["T/20x10", "T/40x10"]
    # At 60 % of all batches each, there is room for one class.
    assert [g.name for g in group({"T": pairs}, min_share=0.6)] == ["T/40x10"]


def test_weights_are_shares_of_tasks():
    tasks = {"A": [pair(i, 5) for i in range(6)], "B": [pair(i, 5) for i in range(2)]}
    assert [g.weight for g in group(tasks)] == [0.75, 0.25]
    assert [g.weight for g in group(tasks, weights={"A": 1, "B": 3})] == [0.25, 0.75]
    assert group(tasks, batch_sizes={"A": 4})[0].batch_size == 4
    with pytest.raises(UserError, match="above 0"):
        group(tasks, weights={"A": 1, "B": 0})
    with pytest.raises(UserError, match="task B has 2 pairs"):
        group(tasks, batch_size=3)


def test_an_epoch_is_pure_follows_its_weights_and_goes_on_behind_the_last():
    draw = EpochDraw([0.7, 0.3], [5, 0], 4000, seed=1, epoch=0)
    drawn = [draw[i] for i in range(len(draw))]
    again = EpochDraw([0.7, 0.3], [5, 0], 4000, seed=1, epoch=0)
    assert drawn == [again[i] for i in range(4000)]
    share = np.mean([g == 0 for g, _ in drawn])
    assert abs(share - 0.7) < 4 * np.sqrt(0.21 / 4000)
    for g, offset in ((0, 5), (1, 0)):  # every task's own batches come one by one
        own = [index for chosen, index in drawn if chosen == g]
        assert own == list(range(offset, offset + draw.counts[g]))
    other = EpochDraw([0.7, 0.3], [5, 0], 4000, seed=1, epoch=1)
    assert drawn != [other[i] for i in range(4000)]


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    folder = tiny.write_pairs(tmp_path_factory.mktemp("pairs"))
    config = tiny.config(folder, data__num_negatives=1)
    tasks = load_tasks(config.data.pairs)
    texts = [p.query.text for pairs in tasks.values() for p in pairs]
    tokenizer = build.make_tokenizer(config, texts)
    model_config, _, _ = build.make_model(config, tokenizer)
    contract = build.make_contract(config, model_config)
    processor = build.make_processor(config, tokenizer, contract, model_config)
    groups = group(
        tasks,
        token_bound=processor.token_bound,
        token_buckets=(64, 128),
        batch_size=4,
        num_negatives=1,
    )
    return groups, processor


def unstarted(parts, tmp_path, seed=0, prefetch=2, **options):
    groups, processor = parts
    return PairLoader(
        groups, processor, seed=seed, prefetch=prefetch, workers=2,
        failures_path=tmp_path / "failures.jsonl", **options,
    )  # fmt: skip


def loader(parts, tmp_path, steps=12, **options):
    """In its first epoch, in which tasks come by their size."""
    found = unstarted(parts, tmp_path, **options)
    weights = collections.Counter()
    for one in parts[0]:
        weights[one.task] += one.weight
    found.begin(0, steps, weights)
    return found


def equal(a, b):
    assert a.group == b.group
    jax.tree.map(np.testing.assert_array_equal, a.inputs, b.inputs)


def test_batches_are_homogeneous_and_every_pair_comes_once_an_epoch(parts, tmp_path):
    groups, _ = parts
    seen = collections.defaultdict(list)
    for batch in loader(parts, tmp_path, steps=40):
        inputs = batch.inputs
        assert len(inputs.query_ids) == batch.num_pairs == 4
        assert (inputs.negatives is not None) == batch.group.startswith("T2V")
        both = zip(inputs.query_ids.tolist(), inputs.target_ids.tolist(), strict=True)
        seen[batch.group] += both
    assert set(seen) == {g.name for g in groups}
    for g in groups:
        expected = {(content_id(p.query), content_id(p.target)) for p in g.pairs}
        first_epoch = seen[g.name][: len(g.pairs) // 4 * 4]
        assert len(set(first_epoch)) == len(first_epoch)
        assert set(first_epoch) <= expected


def test_clustered_batches_stay_within_a_cluster(parts, tmp_path):
    groups, processor = parts
    pairs = next(g for g in groups if g.name.startswith("T2V")).pairs
    colours = [p._replace(cluster=p.query.text.split()[1]) for p in pairs]
    by_colour = {content_id(p.query): p.cluster for p in colours}
    one = Group("T2V", "T2V", tuple(colours), 4, 0, 1.0, 64, 64, clustered=True)
    batches = list(loader(([one], processor), tmp_path, steps=12))
    clusters = [
        {by_colour[i] for i in batch.inputs.query_ids.tolist()} for batch in batches
    ]
    # Two wordings put a colour's name in two places: "a red", "something red".
    assert all(len(names) == 1 for names in clusters)
    assert len(set.union(*clusters)) > 3


def test_shifts_change_media_alone_and_repeat(parts, tmp_path):
    plain, one, two = (
        list(loader(parts, tmp_path, steps=6, shift=shift)) for shift in (0, 5, 5)
    )
    for a, b, c in zip(plain, one, two, strict=True):
        equal(b, c)
        np.testing.assert_array_equal(a.inputs.query.tokens, b.inputs.query.tokens)
        if a.group.startswith("T2V"):
            before, after = (x.inputs.target.vision.patches for x in (a, b))
            assert before.shape == after.shape and (before != after).any()


def test_a_share_of_the_batches_is_clustered():
    pairs = [pair(i, 5)._replace(cluster=f"c{i % 2}") for i in range(8)]
    groups = group({"T": pairs}, cluster_share=0.25)
    assert [(g.clustered, g.weight) for g in groups] == [(False, 0.75), (True, 0.25)]
    plain = group({"T": [pair(i, 5) for i in range(8)]}, cluster_share=0.25)
    assert [g.clustered for g in plain] == [False]


def test_hard_negatives_count_for_length_and_by_task():
    pairs = [pair(i, 5) for i in range(4)]
    longer = (Item("", text="z" * 5), Item("", text="z" * 30))
    pairs = [p._replace(negatives=longer) for p in pairs]
    for base, by_task, used, length in (
        (0, {}, 0, 10),
        (1, {}, 1, 10),
        (0, {"T": 2}, 2, 40),
        (2, {"T": 1}, 1, 10),
        (9, {}, 2, 40),
    ):
        (one,) = group({"T": pairs}, num_negatives=base, nums_negatives=by_task)
        assert (one.num_negatives, one.target_tokens) == (used, length)


def test_order_depends_on_the_seed_alone(parts, tmp_path):
    first = list(loader(parts, tmp_path))
    for a, b in zip(first, loader(parts, tmp_path, prefetch=1), strict=True):
        equal(a, b)
    other = list(loader(parts, tmp_path, seed=1))
    same = [
        np.array_equal(a.inputs.query_ids, b.inputs.query_ids)
        for a, b in zip(first, other, strict=True)
    ]
    assert not all(same)


def test_a_restored_loader_goes_on_exactly(parts, tmp_path):
    whole = list(loader(parts, tmp_path))
    half = loader(parts, tmp_path)
    for _ in range(5):
        next(half)
    state = half.get_state()
    resumed = unstarted(parts, tmp_path)
    resumed.set_state(json.loads(json.dumps(state)))
    rest = list(resumed)
    assert len(rest) == 7
    for a, b in zip(whole[5:], rest, strict=True):
        equal(a, b)


def test_epochs_go_on_within_each_group_and_resume(parts, tmp_path):
    """Also when the second epoch is resumed, whose weights nothing recomputes."""

    def epochs(found, *numbers):
        batches = []
        for number in numbers:
            weights = {"T2V": 0.9, "T2T": 0.1} if number else {"T2V": 0.2, "T2T": 0.8}
            drawn = found.begin(number, 10, weights)
            batches.append(list(found))
            counts = collections.Counter(batch.task for batch in batches[-1])
            assert drawn == {task: counts[task] for task in weights}
        return batches

    whole = unstarted(parts, tmp_path)
    first, second = epochs(whole, 0, 1)
    seen = collections.defaultdict(list)
    for batch in first + second:
        seen[batch.group] += batch.inputs.query_ids.tolist()
    for group in parts[0]:  # a pass over a group is not broken by the border
        size = len(group.pairs) // 4 * 4
        passes = [seen[group.name][i : i + size] for i in range(0, size * 2, size)]
        for ids in passes:
            assert len(ids) < size or len(set(ids)) == len(set(passes[0]))
    half = unstarted(parts, tmp_path)
    half.begin(0, 10, {"T2V": 0.2, "T2T": 0.8})
    list(half)
    half.begin(1, 10, {"T2V": 0.9, "T2T": 0.1})
    for _ in range(4):
        next(half)
    resumed = unstarted(parts, tmp_path)
    resumed.set_state(json.loads(json.dumps(half.get_state())))
    for a, b in zip(second[4:], resumed, strict=True):
        equal(a, b)
    (third,) = epochs(resumed, 2)
    for a, b in zip(third, epochs(whole, 2)[0], strict=True):
        equal(a, b)


def test_processes_share_a_batch(parts, tmp_path):
    whole = list(loader(parts, tmp_path))
    halves = [
        list(
            loader(
                parts,
                tmp_path,
                rows=lambda n, i=i: np.arange(n // 2 * i, n // 2 * (i + 1)),
            )
        )
        for i in (0, 1)
    ]
    for batch, *two in zip(whole, *halves, strict=True):
        joined = jax.tree.map(
            lambda a, b: np.concatenate([a, b]), *[h.inputs for h in two]
        )
        jax.tree.map(np.testing.assert_array_equal, batch.inputs, joined)


def test_what_only_some_losses_read(parts, tmp_path):
    groups, processor = parts
    videos = next(g for g in groups if g.name.startswith("T2V"))
    pairs = [p._replace(scores=(0.5, 0.25)) for p in list(videos.pairs)[:3]]
    pairs.append(videos.pairs[3])
    one = Group("T2V", "T2V", tuple(pairs), 4, 2, 1.0, 64, 64)
    batch = next(loader(([one], processor), tmp_path, extras=("kinds", "scores")))
    assert batch.inputs.target_kinds.tolist() == [4] * 4
    assert batch.inputs.negative_kinds.tolist() == [4, 0] * 4
    scores = batch.inputs.scores[np.argsort(np.isnan(batch.inputs.scores[:, 0]))]
    np.testing.assert_array_equal(scores, [[0.5, 0.25, 0]] * 3 + [[np.nan] * 3])
    assert Item("", text="a", video="v").kind == 5 and Item("", image="i").kind == 2


def test_pairs_without_negatives_get_masked_slots(parts, tmp_path):
    groups, processor = parts
    videos = next(g for g in groups if g.name.startswith("T2V"))
    mixed = [
        videos.pairs[0],
        *(p._replace(negatives=()) for p in list(videos.pairs)[1:4]),
    ]
    one = Group("T2V", "T2V", tuple(mixed), 4, 1, 1.0, 64, 64)
    batch = next(loader(([one], processor), tmp_path, steps=1))
    ids = batch.inputs.negative_ids
    assert sorted(ids >= 0) == [False, False, False, True]
