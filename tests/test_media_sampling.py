"""Which frames are sampled, and the plan of seeks: pure functions."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gve_jax.media.sampling import (
    Timeline,
    choose,
    decode_plan,
    make_timeline,
    uniform_indices,
)

ticks_lists = st.lists(
    st.integers(-(2**62), 2**62), min_size=1, max_size=60, unique=True
).map(sorted)


@pytest.mark.parametrize("tick", [1, 512, 1001])
@pytest.mark.parametrize("num", [1, 2, 3, 8, 16])
def test_constant_rate_equals_the_rule_of_qwens_reader(num, tick):
    # qwen_vl_utils: torch.linspace(0, total_frames - 1, nframes).round().long()
    for n in range(1, 400):
        got = uniform_indices([7 + i * tick for i in range(n)], num)
        exact = [round(Fraction(i * (n - 1), max(num - 1, 1))) for i in range(num)]
        assert got == exact
        assert num not in (2, 3, 8) or got == list(
            np.linspace(0, n - 1, num).round().astype(int)
        )


def test_milliseconds_of_matroska_do_not_move_the_choice():
    for rate in (24, 25, 30, Fraction(30000, 1001), 60):
        for n in (2, 9, 100, 433):
            ticks = [round(1000 * k / rate) for k in range(n)]
            want = np.linspace(0, n - 1, 8).round().astype(int)
            assert uniform_indices(ticks, 8) == list(want)


@given(ticks_lists, st.integers(2, 12))
def test_chosen_frames_are_the_nearest_in_time(ticks, num):
    got = uniform_indices(ticks, num)
    assert got[0] == 0 and got[-1] == len(ticks) - 1 and got == sorted(got)
    for i, chosen in enumerate(got):
        target = ticks[0] + Fraction(i * (ticks[-1] - ticks[0]), num - 1)
        best = min(abs(t - target) for t in ticks)
        assert abs(ticks[chosen] - target) == best


def test_variable_rate_follows_time_not_frame_numbers():
    # One second at 100 frames/s, then three at 1 frame/s.
    ticks = [*range(100), 100, 200, 300, 400]
    assert uniform_indices(ticks, 5) == [0, 100, 101, 102, 103]


def test_cuts():
    line = Timeline(list(range(100)), Fraction(1, 10), 1)  # 10 s at 10 frames/s
    cut = choose(line, 3, 2.0, 4.1)
    assert cut.indices == [20, 30, 40]  # 4.1 is not in it
    np.testing.assert_allclose(cut.seconds, [2, 3, 4])
    assert cut.duration == pytest.approx(2.1)
    assert choose(line, 2, None, 0.1).indices == [0, 0]
    assert choose(line, 2, 0.1, None).indices == [1, 99]  # 0.1 s exactly, no rounding
    assert choose(line, 2, 9.95, None).indices == [99, 99]  # still on show
    assert choose(line, 2, 10.0, None) is None
    short = choose(line, 4, 5.02, 5.05)  # between two frames: the one on show
    assert short.indices == [50] * 4 and short.duration == pytest.approx(0.03)
    assert choose(line, 2, 8.0, 99.0).duration == pytest.approx(2.0)


def test_timestamps_that_lie_are_replaced_by_the_nominal_rate():
    rate = Fraction(25)
    for times in ([0, 1, None, 3], [0, 1, 1, 2], [5, 6, 0, 1]):
        line = make_timeline(times, [1] * 4, Fraction(1, 90000), rate)
        assert line == Timeline([0, 1, 2, 3], Fraction(1, 25), 1)
    good = make_timeline([0, 40, 90], [0, 0, 0], Fraction(1, 1000), rate)
    assert good == Timeline([0, 40, 90], Fraction(1, 1000), 50)
    single = make_timeline([7], [0], Fraction(1, 1000), rate)
    assert single.last == 40


def gops(count: int, size: int) -> tuple[list[int], list[bool]]:
    return list(range(count * size)), [k % size == 0 for k in range(count * size)]


def test_plan_seeks_only_past_what_it_need_not_decode():
    pts, key = gops(10, 50)
    plan = decode_plan(pts, key, [0, 71, 142, 213, 285, 356, 428, 499])
    assert [s.start for s in plan] == [0, 50, 100, 200, 250, 350, 400, 450]
    # Two targets of one GOP, and a GOP that begins where the decoder stands.
    assert decode_plan(pts, key, [260, 299, 301]) == [(250, (260, 299, 301))]
    # One GOP in all: never a seek.
    assert decode_plan(pts, [True] + [False] * 499, [0, 250, 499]) == [
        (0, (0, 250, 499))
    ]
    assert decode_plan(pts, [True] * 500, [0, 4, 8, 100]) == [
        (0, (0, 4, 8)),
        (100, (100,)),
    ]
    assert decode_plan(pts, key, [3, 3, 3]) == [(0, (3,))]


def test_plan_enters_an_open_gop_from_the_one_before():
    #        decode order:  I0 P3 B1 B2 | I6 B4 B5 P9 ...
    pts = [0, 3, 1, 2, 6, 4, 5, 9, 7, 8]
    key = [True] + [False] * 3 + [True] + [False] * 5
    assert decode_plan(pts, key, [5], seek_cost=0)[0].start == 0  # B4 leans on P3
    assert decode_plan(pts, key, [8], seek_cost=0)[0].start == 4


@given(
    st.lists(st.booleans(), min_size=1, max_size=80),
    st.randoms(use_true_random=False),
    st.integers(0, 10),
)
def test_every_plan_can_decode_its_targets(keyframe, random, seek_cost):
    n = len(keyframe)
    pts = list(range(n))
    for k in range(0, n - 3, 3):  # local reordering, as B-frames do
        block = pts[k : k + 3]
        random.shuffle(block)
        pts[k : k + 3] = block
    targets = sorted(random.sample(range(n), min(n, 8)), key=pts.__getitem__)
    plan = decode_plan(pts, keyframe, targets, seek_cost)
    assert [t for s in plan for t in s.targets] == targets
    end = 0
    for i, segment in enumerate(plan):
        assert segment.start == 0 or keyframe[segment.start]
        if pts == sorted(pts) and i > 0:
            assert segment.start > end + seek_cost  # nothing decoded twice
        for t in segment.targets:
            # On the way there is a keyframe that the target is not shown before.
            way = range(segment.start, t + 1)
            assert 0 in way or any(keyframe[k] and pts[k] <= pts[t] for k in way)
            end = max(end, t)
