"""The records that cross module borders. NumPy-side: this file never imports jax.

NamedTuples of arrays are pytrees, so the same records travel through `jax.jit`.
Shape letters: b items, l tokens, p patches, w windows, s patches a window, g temporal
groups (two frames each), f patches a group, k hard negatives an item.
"""

from typing import NamedTuple

import numpy as np


class UserError(Exception):
    """A fault the user can mend: shown as one line on stderr, exit code 1.

    The message names the file, field or flag, the value found and the remedy.
    """


class Item(NamedTuple):
    """Something to embed: any mix of text, one image and one video.

    Paths are absolute (readers resolve them against the file that names them).
    `start` and `end` cut the video, in seconds from its first frame. `instruction`
    is the task sentence of a query; None means the neutral system sentence.
    `frame_order` puts the sampled frames of the video out of their order ("reversed",
    "shuffled" or "single", see `gve_jax.preprocess.order`); for probes, never in files.
    """

    id: str
    text: str | None = None
    image: str | None = None
    video: str | None = None
    start: float | None = None
    end: float | None = None
    instruction: str | None = None
    frame_order: str | None = None

    @property
    def content(self) -> tuple:
        """All that decides the embedding: equal contents embed equally."""
        return tuple(self[1:])

    @property
    def kind(self) -> int:
        """Its modalities: 1 for text, 2 for an image, 4 for a video, summed."""
        parts = (self.text, self.image, self.video)
        return sum(1 << i for i, part in enumerate(parts) if part)


class Pair(NamedTuple):
    """A training pair.

    `source_id` names the scene both sides come from, so that two pairs of one scene are
    never negatives of each other. Pairs of one `cluster` are hard to tell apart, and
    make hard batches. `scores` are a teacher's cosines of the query with the target
    and with each of the negatives, in this order.
    """

    id: str
    query: Item
    target: Item
    negatives: tuple[Item, ...] = ()
    task: str = "pairs"
    source_id: str | None = None
    cluster: str | None = None
    scores: tuple[float, ...] = ()


class Frames(NamedTuple):
    """Decoded frames of one video, in presentation order."""

    pixels: np.ndarray  # uint8 [n, height, width, 3], RGB, upright
    seconds: np.ndarray  # float64 [n], presentation time since the first frame
    duration: float  # seconds of the (cut) video, last frame's display included


class Encoded(NamedTuple):
    """One item after the processor, not yet padded.

    Patches are uint8 (normalisation happens on the device) and in window order, or in
    frame order for towers without windows. `coords` are (row, column) of each patch in
    its frame, `extents` (rows, columns) of that frame.
    """

    tokens: np.ndarray  # int32 [l]
    positions: np.ndarray  # int32 [3, l]: temporal, height, width (M-RoPE)
    visual_index: np.ndarray  # int32 [l]: merged unit at this token, -1 for text
    patches: np.ndarray  # uint8 [p, patch_dim]; p = 0 for text
    coords: np.ndarray  # int32 [p, 2]
    window_lengths: np.ndarray  # int32 [w]: patches of each window, summing to p
    frame_lengths: np.ndarray  # int32 [g]: patches of each temporal group
    extents: np.ndarray | None = None  # int32 [p, 2]; as in VisionInputs


class VisionInputs(NamedTuple):
    """The visual side of a padded batch.

    Attention runs on temporal groups [b*g, f] and, in towers that have them, on windows
    [b*w, s]. Where a layout is regular (p == w*s with every window full) its two index
    arrays are None and a reshape does; else `*_index` gathers patches into slots and
    `*_slot` gathers back. Indices of padding point to 0; the lengths say what counts.
    """

    patches: np.ndarray  # uint8 [b, p, patch_dim]
    coords: np.ndarray  # int32 [b, p, 2]
    frame_lengths: np.ndarray  # int32 [b, g]
    frame_index: np.ndarray | None = None  # int32 [b, g, f] -> p
    frame_slot: np.ndarray | None = None  # int32 [b, p] -> g*f
    window_lengths: np.ndarray | None = None  # int32 [b, w]; None: no windows
    window_index: np.ndarray | None = None  # int32 [b, w, s] -> p
    window_slot: np.ndarray | None = None  # int32 [b, p] -> w*s
    # int32 [b, p, 2], rows and columns of each patch's frame (1 in padding), for towers
    # with learned positions, which are interpolated to that size; else None.
    extents: np.ndarray | None = None


class Segments(NamedTuple):
    """The items of packed rows: s of them in each row, of up to m tokens.

    Everything but attention runs over the tokens as they are packed; attention gathers
    each item's tokens into a row of its own. Tokens that several items begin with are
    packed once, and all of these items' rows point to them.
    """

    index: np.ndarray  # int32 [b, s, m] -> l; 0 in padding
    slot: np.ndarray  # int32 [b, l] -> s*m; 0 in padding
    lengths: np.ndarray  # int32 [b, s]; 0: there is no item


class EncoderInputs(NamedTuple):
    """A padded batch: all the model sees. Tokens are padded on the right, so causal
    attention alone keeps padding out; the pooled token is an item's last. A row is one
    item, or several where there are `segments`."""

    tokens: np.ndarray  # int32 [b, l]
    lengths: np.ndarray  # int32 [b], at least 1
    positions: np.ndarray  # int32 [b, 3, l]
    visual_index: np.ndarray | None = None  # int32 [b, l]: 0..p/4-1, -1 for text
    vision: VisionInputs | None = None
    segments: Segments | None = None


class PairBatch(NamedTuple):
    """A task-homogeneous training batch of bucketed sides.

    The ids are 31-bit hashes: equal ids mark pairs that must not repel each other. The
    kinds are sums of 1 (text), 2 (image) and 4 (video). `scores` are the teacher's, NaN
    where there are none.
    """

    query: EncoderInputs
    target: EncoderInputs
    negatives: EncoderInputs | None  # b*k rows, the k of pair 0 first
    source_ids: np.ndarray  # int32 [b]
    query_ids: np.ndarray  # int32 [b], of the query's content
    target_ids: np.ndarray  # int32 [b], of the target's content
    negative_ids: np.ndarray | None = None  # int32 [b*k], -1 where a slot is unused
    target_kinds: np.ndarray | None = None  # int32 [b]
    negative_kinds: np.ndarray | None = None  # int32 [b*k]
    scores: np.ndarray | None = None  # float32 [b, 1 + k]
