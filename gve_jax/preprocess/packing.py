"""Items packed into rows of one size, for inference.

Linear layers, most of the work, run over packed tokens without padding between items;
only attention gathers each item into a row of its own. What items of one row share is
computed once: the tokens that all of them begin with, and media that several of them
show. The few shapes are settled here, so that programs are compiled once.
"""

import math
from collections.abc import Hashable, Sequence
from typing import NamedTuple

import numpy as np

from gve_jax.preprocess.buckets import (
    Bucket,
    Lengths,
    collate,
    lengths_of,
    power_of_two,
)
from gve_jax.preprocess.geometry import Geometry
from gve_jax.types import Encoded, EncoderInputs, Segments

_SHORTEST = 64  # tokens of the rows of attention
# Rows of attention, temporal groups and windows there are room for, over what full ones
# would need. More is padding in attention, less leaves linear layers padded.
_SLACK = 1.5


class Shape(NamedTuple):
    """The shapes of a packed row."""

    bucket: Bucket
    segments: int
    length: int  # tokens of a row of attention


class Kind(NamedTuple):
    """Items of one kind are packed together."""

    length: int
    group_size: int  # patches; 0: no media
    exact: Lengths | None = None  # of media that all have just these


class Packed(NamedTuple):
    """A row: several items as one."""

    names: list[Hashable]  # of the items, as `add` was given them
    encoded: Encoded
    segments: list[np.ndarray]  # places of each item's tokens
    kind: Kind
    shape: Shape  # the smallest that holds it


class Packer:
    """Collects items into rows. Not for several threads."""

    def __init__(
        self,
        geometry: Geometry,
        tokens: int,
        group_size: int,
        exact: Sequence[Lengths] = (),
    ):
        """Made by `Processor.packer`.

        Args:
          geometry: of the vision tower.
          tokens: of a full row; longer items get longer rows of their own.
          group_size: patches of the largest temporal group that is common.
          exact: (window lengths, frame lengths) of media worth shapes of their own.
        """
        self._geometry = geometry
        self._tokens = power_of_two(tokens)
        self._group_size = group_size
        self._exact = frozenset(exact)
        self._open: dict[Kind, _Open] = {}

    def add(
        self, name: Hashable, item: Encoded, media: Hashable = None
    ) -> list[Packed]:
        """Takes an item; returns the row that it no longer fitted into, if any.

        Args:
          name: given back with the row.
          item: from `Processor.encode`.
          media: items of equal `media`, not None, show the same.
        """
        kind = self._kind(item)
        done = []
        row = self._open.get(kind)
        if row is not None and not self._fits(kind, row.with_item(item, media)[1]):
            done.append(self._close(kind))
            row = None
        if row is None:
            row = self._open[kind] = _Open(self._geometry)
        row.add(name, item, media)
        return done

    def flush(self) -> list[Packed]:
        """The rows that are not full."""
        return [self._close(kind) for kind in list(self._open)]

    def _close(self, kind: Kind) -> Packed:
        row = self._open.pop(kind)
        return Packed(row.names, *row.merged(), kind, self._smallest(kind, row.sizes))

    def _fits(self, kind: Kind, sizes: "_Sizes") -> bool:
        return _holds(self._shape(kind, max(self._tokens, kind.length)), sizes)

    def _kind(self, item: Encoded) -> Kind:
        length = max(_SHORTEST, power_of_two(len(item.tokens)))
        if not len(item.patches):
            return Kind(length, 0)
        lengths = lengths_of(item)
        if lengths in self._exact:
            return Kind(length, max(lengths[1]), lengths)
        largest, size = max(lengths[1]), self._group_size
        while size < largest:
            size *= 2
        while size // 2 >= largest:
            size //= 2
        return Kind(length, size)

    def _smallest(self, kind: Kind, sizes: "_Sizes") -> Shape:
        """A fourth of the full size, or a fourth of that, ..., that holds a row."""
        tokens = max(self._tokens, kind.length)
        while not _holds(self._shape(kind, tokens), sizes):
            tokens *= 2  # one item with more frames or windows than usual
        while tokens // 4 >= kind.length:
            if not _holds(self._shape(kind, tokens // 4), sizes):
                break
            tokens //= 4
        return self._shape(kind, tokens)

    def _shape(self, kind: Kind, tokens: int) -> Shape:
        segments = max(1, math.ceil(_SLACK * tokens / kind.length))
        if not kind.group_size:
            return Shape(Bucket(tokens), segments, kind.length)
        if kind.exact is not None:
            segments = max(1, tokens // kind.length)
            lengths = (x * segments for x in kind.exact)
            return Shape(Bucket.of_lengths(tokens, *lengths), segments, kind.length)
        area = self._geometry.window_area
        patches = tokens * self._geometry.unit
        slots = _SLACK * patches
        return Shape(
            Bucket(
                tokens,
                patches,
                math.ceil(slots / area) if area else 0,
                area,
                math.ceil(slots / kind.group_size),
                kind.group_size,
            ),
            segments,
            kind.length,
        )


class _Sizes(NamedTuple):
    """What a row takes."""

    items: int
    tokens: int
    patches: int
    windows: int
    groups: int


def _holds(shape: Shape, sizes: _Sizes) -> bool:
    b = shape.bucket
    return all(
        used <= room
        for used, room in zip(
            sizes,
            (shape.segments, b.tokens, b.patches, b.windows, b.groups),
            strict=True,
        )
    )


class _Open:
    """A row that is being filled."""

    def __init__(self, geometry: Geometry):
        self._unit = geometry.unit
        self.names: list[Hashable] = []
        self._items: list[Encoded] = []
        self._media: list[Hashable] = []
        self._head = 0  # tokens that all items begin with
        self._shown: dict[Hashable, None] = {}
        self.sizes = _Sizes(0, 0, 0, 0, 0)

    def with_item(self, item: Encoded, media: Hashable) -> tuple[int, _Sizes]:
        """(tokens that all items begin with, sizes) if the item were added."""
        head = self._head_with(item)
        return head, self._grown(item, media, head)

    def add(self, name: Hashable, item: Encoded, media: Hashable) -> None:
        self._head, self.sizes = self.with_item(item, media)
        self.names.append(name)
        self._items.append(item)
        self._media.append(media)
        if media is not None and len(item.patches):
            self._shown[media] = None

    def _head_with(self, item: Encoded) -> int:
        if not self._items:
            return 0
        first = self._items[0]
        most = self._head if len(self._items) > 1 else len(first.tokens) - 1
        most = min(most, len(item.tokens) - 1)
        same = (first.tokens[:most] == item.tokens[:most]) & (
            (first.visual_index[:most] < 0) & (item.visual_index[:most] < 0)
        )
        return most if same.all() else int(np.argmin(same))

    def _grown(self, item: Encoded, media: Hashable, head: int) -> _Sizes:
        s = self.sizes
        # Of each item the tokens behind the head; the head once.
        shared = len(self._items) * self._head - (self._head if self._items else 0)
        whole = s.tokens + shared + len(item.tokens)
        tokens = whole - len(self._items) * head
        if media is not None and media in self._shown:
            return _Sizes(s.items + 1, tokens, *s[2:])
        return _Sizes(
            s.items + 1,
            tokens,
            s.patches + len(item.patches),
            s.windows + len(item.window_lengths),
            s.groups + len(item.frame_lengths),
        )

    def merged(self) -> tuple[Encoded, list[np.ndarray]]:
        """(the row as one item, places of each item's tokens)."""
        head, at, units = self._head, self._head, 0
        first_unit: dict[Hashable, int] = {}
        parts, places, visual = [], [], []
        for item, media in zip(self._items, self._media, strict=True):
            key = object() if media is None else media
            fresh = key not in first_unit
            if fresh:
                first_unit[key] = units
                parts.append(item)
                units += len(item.patches) // self._unit
            seen = item.visual_index
            visual.append(np.where(seen >= 0, seen + first_unit[key], -1)[head:])
            own = len(item.tokens) - head
            places.append(np.concatenate([np.arange(head), np.arange(at, at + own)]))
            at += own
        items, first = self._items, self._items[0]
        extents = None
        if first.extents is not None:
            extents = np.concatenate([p.extents for p in parts])
        encoded = Encoded(
            np.concatenate([first.tokens[:head], *(x.tokens[head:] for x in items)]),
            np.concatenate(
                [first.positions[:, :head], *(x.positions[:, head:] for x in items)],
                axis=1,
            ),
            np.concatenate([np.full(head, -1), *visual]).astype(np.int32),
            np.concatenate([p.patches for p in parts]),
            np.concatenate([p.coords for p in parts]),
            np.concatenate([p.window_lengths for p in parts]),
            np.concatenate([p.frame_lengths for p in parts]),
            extents,
        )
        return encoded, places


def collate_packed(rows: Sequence[Packed], count: int) -> EncoderInputs:
    """Rows of one kind as a batch, padded to the largest of their shapes.

    Args:
      rows: at least one.
      count: rows of the batch, at least as many; the rest are padding.

    Returns:
      A batch with `segments`; the items of row i are in its first segments.
    """
    shape = max(row.shape for row in rows)
    inputs = collate([row.encoded for row in rows], shape.bucket, count)
    lengths = np.zeros((count, shape.segments), np.int32)
    index = np.zeros((count, shape.segments, shape.length), np.int32)
    slot = np.zeros((count, shape.bucket.tokens), np.int32)
    for i, row in enumerate(rows):
        # Backwards: of the rows that share tokens, the first gives their states.
        for s in reversed(range(len(row.segments))):
            places = row.segments[s]
            n = lengths[i, s] = len(places)
            index[i, s, :n] = places
            slot[i, places] = s * shape.length + np.arange(n)
    return inputs._replace(segments=Segments(index, slot, lengths))
