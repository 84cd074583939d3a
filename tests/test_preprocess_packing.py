"""Packed rows hold just the items that went in, in shapes of few kinds."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gve_jax.preprocess import Geometry, Packer, collate_packed
from gve_jax.preprocess.patches import layout
from gve_jax.preprocess.positions import Placed, mrope_positions
from gve_jax.types import Encoded

WINDOWS, NO_WINDOWS = Geometry(), Geometry(16, 2, 2, 0, 0, True)


def make(tokens, grids=(), geometry=WINDOWS, seed=0):
    """An item with media of these grids before the last tokens."""
    rng = np.random.default_rng(seed)
    layouts = [layout(grid, geometry) for grid in grids]
    head = max(1, len(tokens) - 3) if grids else len(tokens)
    ids, visual, placed, done = list(tokens[:head]), [-1] * head, [], 0
    for grid, x in zip(grids, layouts, strict=True):
        placed.append(Placed(len(ids), grid, 1.0 if grid[0] > 1 else None))
        ids += [9999] * len(x.place)
        visual += (x.place + done).tolist()
        done += len(x.place)
    ids += tokens[head:]
    visual += [-1] * (len(ids) - len(visual))
    patches = rng.integers(0, 256, (done * 4, geometry.patch_dim), np.uint8)
    join = lambda name, empty: np.concatenate(  # noqa: E731
        [empty, *(getattr(x, name) for x in layouts)]
    ).astype(np.int32)
    none = np.zeros(0, np.int32)
    coords = join("coords", np.zeros((0, 2)))
    return Encoded(
        np.array(ids, np.int32),
        mrope_positions(len(ids), placed, geometry),
        np.array(visual, np.int32),
        patches,
        coords,
        join("window_lengths", none),
        join("frame_lengths", none),
        np.ones_like(coords) if geometry.extents else None,
    )


def unpack(inputs, row, segment):
    """(tokens, positions, patches in the order of the tokens) of one item."""
    n = inputs.segments.lengths[row, segment]
    places = inputs.segments.index[row, segment, :n]
    units = inputs.visual_index[row, places] if inputs.vision else np.full(n, -1)
    patches = None
    if inputs.vision is not None:
        patches = inputs.vision.patches[row].reshape(
            -1, 4, inputs.vision.patches.shape[-1]
        )
        patches = patches[units[units >= 0]]
    return inputs.tokens[row, places], inputs.positions[row][:, places], patches


def check(packer, items, rows):
    """Every item lies in one place, whole, and every token's state comes from a slot
    that sees what it should."""
    found = {}
    for row in rows:
        inputs = collate_packed([row], 2)
        segments = inputs.segments
        assert (segments.lengths[1] == 0).all()
        for s, name in enumerate(row.names):
            item = items[name]
            tokens, positions, patches = unpack(inputs, 0, s)
            np.testing.assert_array_equal(tokens, item.tokens)
            np.testing.assert_array_equal(positions, item.positions)
            if len(item.patches):
                order = item.visual_index[item.visual_index >= 0]
                want = item.patches.reshape(-1, 4, item.patches.shape[1])[order]
                np.testing.assert_array_equal(patches, want)
            assert name not in found
            found[name] = row
        # slot undoes index
        flat = segments.index[0].reshape(-1)
        used = np.unique(np.concatenate(row.segments))
        np.testing.assert_array_equal(flat[segments.slot[0, used]], used)
        np.testing.assert_array_equal(used, np.arange(len(row.encoded.tokens)))
        if inputs.vision is not None:
            frames = inputs.vision.frame_lengths[0]
            assert frames.sum() >= len(row.encoded.patches)
    assert found.keys() == set(range(len(items)))
    return rows


def pack(items, geometry=WINDOWS, tokens=512, media=None, exact=()):
    packer = Packer(geometry, tokens, 64, exact)
    rows = []
    for i, item in enumerate(items):
        rows += packer.add(i, item, media[i] if media else None)
    return check(packer, items, rows + packer.flush())


words = st.lists(st.integers(0, 3), min_size=1, max_size=150)
side = st.sampled_from([2, 4, 6, 10])
grids = st.lists(st.tuples(st.integers(1, 4), side, side), max_size=2)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(words, grids), min_size=1, max_size=12), st.booleans())
def test_any_items(parts, windows):
    geometry = WINDOWS if windows else NO_WINDOWS
    pack([make(t, g, geometry, i) for i, (t, g) in enumerate(parts)], geometry)


def test_what_all_begin_with_is_packed_once():
    head = list(range(100, 120))
    items = [make([*head, i, i + 1]) for i in range(10)]
    (row,) = pack(items)
    assert len(row.encoded.tokens) == 20 + 10 * 2
    # Alone, an item shares nothing, and a whole item is never a head.
    (row,) = pack([make(head), make(head[:5])])
    assert len(row.encoded.tokens) == 4 + 16 + 1


def test_media_are_never_part_of_the_head():
    items = [make([1, 2, 3, 4, 5], [(2, 4, 4)], seed=s) for s in (0, 1)]
    (row,) = pack(items)
    assert len(row.encoded.tokens) == 2 + 2 * (8 + 3)


def test_equal_media_are_packed_once():
    items = [make([1, 2, 3, 4 + i], [(2, 4, 4)]) for i in range(4)]
    (row,) = pack(items, media=["a", "a", None, "a"])
    assert len(row.encoded.patches) == 2 * 32
    (row,) = pack(items, media=["a"] * 4)
    assert len(row.encoded.patches) == 32


def test_rows_are_nearly_full_and_of_few_shapes():
    rng = np.random.default_rng(0)
    items = [
        make(rng.integers(0, 9, rng.integers(20, 40)).tolist(), [(4, 8, 8)], seed=i)
        for i in range(64)
    ]
    rows = pack(items, tokens=2048)
    full = rows[:-1]
    assert len({row.shape for row in full}) == 1
    used = sum(len(row.encoded.tokens) for row in full)
    assert used > 0.9 * sum(row.shape.bucket.tokens for row in full)


def test_the_last_row_is_small():
    (row,) = pack([make([1, 2, 3])], tokens=8192)
    assert row.shape.bucket.tokens == 128


def test_long_items_get_rows_of_their_own():
    rows = pack([make([1] * 900), make([2] * 10), make([3] * 900)], tokens=256)
    assert sorted(row.shape.bucket.tokens for row in rows) == [64, 1024, 1024]


def test_many_small_frames_still_fit():
    pack([make([1], [(60, 2, 2)]), make([1], [(1, 10, 10), (30, 2, 4)])], tokens=64)


@pytest.mark.parametrize("grid", [(4, 8, 8), (4, 6, 6), (2, 10, 6)])
def test_exact_grids_need_no_index_where_they_are_regular(grid):
    x = layout(grid, WINDOWS)
    lengths = (tuple(x.window_lengths.tolist()), tuple(x.frame_lengths.tolist()))
    items = [make([i, 2, 3], [grid], seed=i) for i in range(9)]
    for row in pack(items, exact=[lengths]):
        vision = collate_packed([row], 1).vision
        assert vision.frame_index is None
        assert (vision.window_index is None) == (len(set(lengths[0])) == 1)
