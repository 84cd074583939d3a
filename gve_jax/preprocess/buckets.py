"""The few shapes that batches are padded to, and the padding.

A bucket fixes every array shape of a batch, and so the compiled program it runs in.
Media of the sizes named in `exact_grids` get buckets without padding, in which windows
and groups are mostly plain reshapes; all others share buckets with index arrays.
"""

import itertools
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from gve_jax.preprocess.geometry import QWEN2_5_VL, Geometry, Grid
from gve_jax.preprocess.patches import layout
from gve_jax.types import Encoded, EncoderInputs, UserError, VisionInputs

Lengths = tuple[tuple[int, ...], tuple[int, ...]]  # of windows and of frames


class Bucket(NamedTuple):
    """The shapes of a batch but for its rows. All 0 but `tokens`: no media. `windows`
    and `window_size` are 0 for towers without windows."""

    tokens: int
    patches: int = 0
    windows: int = 0
    window_size: int = 0  # patches a window is padded to
    groups: int = 0
    group_size: int = 0  # patches a temporal group is padded to
    # (window lengths, frame lengths) if all items with media have just these.
    exact: Lengths | None = None

    @classmethod
    def of_lengths(
        cls, tokens: int, windows: tuple[int, ...], frames: tuple[int, ...]
    ) -> "Bucket":
        """Of media that have just these windows and frames, in patches."""
        return cls(
            tokens=tokens,
            patches=sum(frames),
            windows=len(windows),
            window_size=max(windows, default=0),
            groups=len(frames),
            group_size=max(frames),
            exact=(windows, frames),
        )


class Buckets:
    """Chooses buckets and pads to them. Immutable; safe to share."""

    def __init__(
        self,
        token_buckets: Iterable[int],
        patch_buckets: Iterable[int],
        exact_grids: Iterable[Grid] = (),
        geometry: Geometry = QWEN2_5_VL,
    ):
        """Raises UserError for sizes that cannot be.

        Args:
          token_buckets, patch_buckets: allowed lengths; the largest is the limit.
          exact_grids: (groups, rows, columns) in patches of media with a bucket of
            their own, also for a video and an image of such grids together.
          geometry: of the vision tower.
        """
        self._tokens = _ascending(token_buckets, "preprocess.token_buckets")
        self._patches = _ascending(patch_buckets, "preprocess.patch_buckets")
        self._window_area = geometry.window_area
        self._exact: dict[Lengths, Bucket] = {}
        merge = geometry.merge_size
        grids = [tuple(int(n) for n in grid) for grid in exact_grids]
        for grid in grids:
            if len(grid) != 3 or min(grid) < 1 or any(n % merge for n in grid[1:]):
                raise UserError(
                    f"preprocess.exact_grids: {grid} is not (groups, rows, columns) "
                    f"with rows and columns in multiples of {merge}"
                )
        images = [grid for grid in grids if grid[0] == 1]
        for media in [*((g,) for g in grids), *itertools.product(grids, images)]:
            layouts = [layout(grid, geometry) for grid in media]
            windows = np.concatenate([x.window_lengths for x in layouts]).tolist()
            frames = np.concatenate([x.frame_lengths for x in layouts]).tolist()
            key = tuple(windows), tuple(frames)
            self._exact[key] = Bucket.of_lengths(0, *key)

    @property
    def exact(self) -> list[Lengths]:
        """(window lengths, frame lengths) of the media of `exact_grids`."""
        return list(self._exact)

    def check(self, tokens: int, patches: int, lengths: tuple) -> None:
        """Raises UserError if an item of these sizes has no bucket."""
        if tokens > self._tokens[-1]:
            raise UserError(
                f"{tokens} tokens, above the largest of preprocess.token_buckets, "
                f"{self._tokens[-1]}: add a larger one or lower preprocess.max_tokens"
            )
        if patches > self._patches[-1] and lengths not in self._exact:
            raise UserError(
                f"{patches} patches, above the largest of preprocess.patch_buckets, "
                f"{self._patches[-1]}: add a larger one or lower preprocess.max_pixels"
            )

    def of(self, item: Encoded) -> Bucket:
        """The smallest bucket for `item`. Raises UserError if there is none."""
        lengths = lengths_of(item)
        self.check(len(item.tokens), len(item.patches), lengths)
        tokens = _round_up(len(item.tokens), self._tokens)
        if not len(item.patches):
            return Bucket(tokens)
        exact = self._exact.get(lengths)
        if exact is not None:
            return exact._replace(tokens=tokens)
        windows, frames = lengths
        return self._general(
            tokens, len(item.patches), len(windows), len(frames), max(frames)
        )

    def join(self, buckets: Iterable[Bucket]) -> Bucket:
        """The smallest bucket that holds items of all of `buckets`."""
        buckets = list(buckets)
        tokens = max(b.tokens for b in buckets)
        visual = {b._replace(tokens=tokens) for b in buckets if b.patches}
        if not visual:
            return Bucket(tokens)
        if len(visual) == 1:
            return visual.pop()
        patches = max(b.patches for b in visual)
        if patches > self._patches[-1]:
            raise UserError(
                f"a batch mixes media of {patches} patches with others, and "
                f"preprocess.patch_buckets ends at {self._patches[-1]}: add a larger"
            )
        return self._general(
            tokens,
            patches,
            max(b.windows for b in visual),
            max(b.groups for b in visual),
            max(b.group_size for b in visual),
        )

    def _general(
        self, tokens: int, patches: int, windows: int, groups: int, group_size: int
    ) -> Bucket:
        patches = _round_up(patches, self._patches)
        # A share of the patches, so that 4 equal groups of a full bucket fit exactly.
        size = patches
        while size // 2 >= group_size:
            size //= 2
        return Bucket(
            tokens=tokens,
            patches=patches,
            windows=windows and power_of_two(windows),
            window_size=self._window_area,
            groups=power_of_two(groups),
            group_size=size,
        )


def lengths_of(item: Encoded) -> Lengths:
    return tuple(item.window_lengths.tolist()), tuple(item.frame_lengths.tolist())


def collate(items: Sequence[Encoded], bucket: Bucket, rows: int) -> EncoderInputs:
    """Pads items to the shapes of `bucket`, and their number to `rows`.

    Args:
      items: at least one, of one geometry.
      bucket: holds each of them.
      rows: at least as many as items.

    Padding rows and the padding of rows are zeros with `visual_index` -1; a padding row
    has length 1. Padded windows and groups have length 0, and attention over them must
    stay finite; in an exact bucket all rows have its lengths, so none is 0.
    """
    tokens = np.zeros((rows, bucket.tokens), np.int32)
    lengths = np.ones(rows, np.int32)
    positions = np.zeros((rows, 3, bucket.tokens), np.int32)
    for i, item in enumerate(items):
        n = len(item.tokens)
        tokens[i, :n] = item.tokens
        lengths[i] = n
        positions[i, :, :n] = item.positions
    if not bucket.patches:
        return EncoderInputs(tokens, lengths, positions)

    visual_index = np.full((rows, bucket.tokens), -1, np.int32)
    patch_dim = items[0].patches.shape[1]
    patches = np.empty((rows, bucket.patches, patch_dim), np.uint8)
    coords = np.zeros((rows, bucket.patches, 2), np.int32)
    windows = np.zeros((rows, bucket.windows), np.int32)
    frames = np.zeros((rows, bucket.groups), np.int32)
    for i, item in enumerate(items):
        n = len(item.patches)
        visual_index[i, : len(item.tokens)] = item.visual_index
        patches[i, :n] = item.patches
        patches[i, n:] = 0
        coords[i, :n] = item.coords
        windows[i, : len(item.window_lengths)] = item.window_lengths
        frames[i, : len(item.frame_lengths)] = item.frame_lengths
    patches[len(items) :] = 0
    if bucket.exact:
        windows[:], frames[:] = bucket.exact

    p = bucket.patches
    parts = {}
    if bucket.windows:
        parts["window_lengths"] = windows
        if not _regular(bucket.exact and bucket.exact[0]):
            index, slot = _indices(windows, bucket.window_size, p)
            parts |= {"window_index": index, "window_slot": slot}
    if not _regular(bucket.exact and bucket.exact[1]):
        index, slot = _indices(frames, bucket.group_size, p)
        parts |= {"frame_index": index, "frame_slot": slot}
    if items[0].extents is not None:
        parts["extents"] = extents = np.ones((rows, p, 2), np.int32)
        for i, item in enumerate(items):
            extents[i, : len(item.extents)] = item.extents
    vision = VisionInputs(patches, coords, frames, **parts)
    return EncoderInputs(tokens, lengths, positions, visual_index, vision)


def _regular(lengths: tuple[int, ...] | None) -> bool:
    return lengths is not None and len(set(lengths)) == 1


def _indices(lengths: np.ndarray, size: int, p: int) -> tuple[np.ndarray, np.ndarray]:
    """Where segments of consecutive patches lie in slots of `size`, and back.

    Args:
      lengths: int32 [b, n], patches of each segment, at most `size`, summing to at
        most `p` in each row.

    Returns:
      index int32 [b, n, size] -> p and slot int32 [b, p] -> n * size; 0 in padding.
    """
    b, n = lengths.shape
    starts = np.cumsum(lengths, axis=1, dtype=np.int32) - lengths
    offset = np.arange(size, dtype=np.int32)
    used = offset < lengths[:, :, None]
    index = np.where(used, starts[:, :, None] + offset, 0).astype(np.int32)
    slot = np.zeros((b, p), np.int32)
    row, place = np.nonzero(used.reshape(b, n * size))
    slot[row, index.reshape(b, n * size)[row, place]] = place
    return index, slot


def _ascending(sizes: Iterable[int], name: str) -> tuple[int, ...]:
    sizes = tuple(int(n) for n in sizes)
    if not sizes or sizes[0] < 1 or list(sizes) != sorted(set(sizes)):
        raise UserError(f"{name} is {sizes}: it must rise from at least 1")
    return sizes


def _round_up(n: int, sizes: tuple[int, ...]) -> int:
    return next(size for size in sizes if size >= n)


def power_of_two(n: int) -> int:
    """The least one that is not below n."""
    return 1 << (n - 1).bit_length()
