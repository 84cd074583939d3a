"""Items to fixed-shape arrays: from files and text to all that the model sees."""

import os
from collections.abc import Callable, Iterable, Sequence

import numpy as np
import PIL
import threadpoolctl

from gve_jax import media
from gve_jax.contract import Contract
from gve_jax.preprocess import buckets
from gve_jax.preprocess.buckets import Bucket, Buckets
from gve_jax.preprocess.cache import FrameCache
from gve_jax.preprocess.patches import (
    PATCH_DIM,
    TEMPORAL,
    UNIT,
    Grid,
    grid_of,
    layout,
    patchify,
)
from gve_jax.preprocess.positions import Placed, mrope_positions, seconds_per_grid
from gve_jax.preprocess.prompt import PromptTemplate
from gve_jax.preprocess.resize import PATCH, resize_frames, resize_image, smart_resize
from gve_jax.preprocess.tokenizer import Tokenizer
from gve_jax.types import Encoded, EncoderInputs, Frames, Item, UserError


class Processor:
    """Encodes items, names their buckets and pads batches of them.

    Safe to share between threads and to pickle. Making one sets NumPy's BLAS to one
    thread in this process. `truncated` maps the ids of items whose
    text was cut to fit `max_tokens` to the number of tokens cut.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        contract: Contract,
        *,
        token_buckets: Iterable[int],
        patch_buckets: Iterable[int],
        exact_grids: Iterable[Grid] = (),
        tokens_per_second: float = 2,
        window_size: int = 112,
        cache_dir: str | os.PathLike = "",
    ):
        """Arguments as the keys of `config.preprocess` and `config.model.vision`.

        Raises:
          UserError: a setting cannot be, or the tokenizer lacks a special token.
        """
        if contract.time not in ("real", "nominal"):
            raise UserError(
                f"preprocess.time is {contract.time!r}: it must be 'real' or 'nominal'"
            )
        if not 1 <= contract.min_pixels <= contract.max_pixels:
            raise UserError(
                f"preprocess.min_pixels is {contract.min_pixels}: it must be at least "
                f"1 and at most max_pixels, {contract.max_pixels}"
            )
        # The products of resizing are tiny: BLAS threads would spend thirty times
        # their work waiting for each other, for the readers and for XLA.
        threadpoolctl.threadpool_limits(1, user_api="blas")
        self.tokenizer = tokenizer
        self.contract = contract
        self.truncated: dict[str, int] = {}
        self._prompt = PromptTemplate(tokenizer, contract)
        self._buckets = Buckets(token_buckets, patch_buckets, exact_grids, window_size)
        self._tokens_per_second = tokens_per_second
        self._window_size = window_size
        self._cache = FrameCache(cache_dir)

    def encode(
        self, item: Item, augment: Callable[[np.ndarray], np.ndarray] | None = None
    ) -> Encoded:
        """Decodes, resizes, cuts into patches, tokenises and places one item.

        `augment` maps the resized frames of each medium, uint8 [n, h, w, 3], to others
        of that shape: for training.

        Raises:
          media.MediaError: a file is refused or cannot be read.
          UserError: the item is empty, too long or of a forbidden shape; names it.
        """
        try:
            return self._encode(item, augment)
        except media.MediaError:
            raise
        except UserError as e:
            raise UserError(f"item {item.id!r}: {e}") from e

    def _encode(self, item: Item, augment) -> Encoded:
        if not (item.text or item.image or item.video):
            raise UserError("it has neither text nor image nor video")
        frames = []  # of each medium, in the order of the template
        seconds = []
        if item.video:
            video = self._video(item)
            frames.append(video.pixels)
            n = len(video.pixels)
            seconds.append(seconds_per_grid(n, video.duration, self.contract.time))
        if item.image:
            frames.append(self._image(item.image).pixels)
            seconds.append(None)
        if augment:
            frames = [augment(f) for f in frames]
        grids = [grid_of(f) for f in frames]
        layouts = [layout(grid, self._window_size) for grid in grids]
        units = [len(x.order) for x in layouts]

        prompt = self._prompt.fill(
            item.text or "",
            item.instruction,
            video_tokens=units[0] if item.video else 0,
            image_tokens=units[-1] if item.image else 0,
        )
        windows = _join([x.window_lengths for x in layouts])
        groups = _join([x.frame_lengths for x in layouts])
        self._buckets.check(
            len(prompt.tokens),
            sum(units) * UNIT,
            (tuple(windows.tolist()), tuple(groups.tolist())),
        )
        if prompt.cut:
            self.truncated[item.id] = prompt.cut

        starts = [s for s in (prompt.video_start, prompt.image_start) if s >= 0]
        visual_index = np.full(len(prompt.tokens), -1, np.int32)
        done = 0
        for start, x in zip(starts, layouts, strict=True):
            # Placeholders are in raster order, patches in window order.
            visual_index[start : start + len(x.place)] = x.place + done
            done += len(x.place)
        placed = [Placed(*p) for p in zip(starts, grids, seconds, strict=True)]
        return Encoded(
            tokens=np.asarray(prompt.tokens, np.int32),
            positions=mrope_positions(
                len(prompt.tokens), placed, self._tokens_per_second
            ),
            visual_index=visual_index,
            patches=_join(
                [patchify(f, self._window_size) for f in frames],
                np.zeros((0, PATCH_DIM), np.uint8),
            ),
            coords=_join([x.coords for x in layouts], np.zeros((0, 2), np.int32)),
            window_lengths=windows,
            frame_lengths=groups,
        )

    def token_bound(self, item: Item) -> int:
        """The most tokens that `encode` can give for an item, whose media stay unread:
        those of its text, and the pixel budget's for each medium."""
        c = self.contract
        budget = c.max_pixels // (UNIT * PATCH**2)
        pairs = -(-c.num_frames // TEMPORAL)
        prompt = self._prompt.fill(
            item.text or "",
            item.instruction,
            video_tokens=pairs * budget if item.video else 0,
            image_tokens=budget if item.image else 0,
        )
        return len(prompt.tokens)

    def bucket(self, encoded: Encoded) -> Bucket:
        """The key of the item's shapes: items of equal keys share one program."""
        return self._buckets.of(encoded)

    def join(self, keys: Iterable[Bucket]) -> Bucket:
        """The bucket for a batch of items of different keys."""
        return self._buckets.join(keys)

    def collate(
        self,
        encoded: Sequence[Encoded],
        batch_size: int | None = None,
        bucket: Bucket | None = None,
    ) -> EncoderInputs:
        """Pads items to one bucket and stacks them.

        Args:
          encoded: at least one item.
          batch_size: rows of the result, at least as many as items; the rest are
            padding rows. None: one row per item.
          bucket: one that holds them all, from `bucket` or `join`; None: the smallest.

        Returns:
          A batch; see `buckets.collate` on its padding.
        """
        if bucket is None:
            bucket = self.join(self.bucket(e) for e in encoded)
        rows = len(encoded) if batch_size is None else batch_size
        if rows < len(encoded):
            raise ValueError(f"{len(encoded)} items for a batch of {rows}")
        return buckets.collate(encoded, bucket, rows)

    def _video(self, item: Item) -> Frames:
        c = self.contract

        def key() -> tuple:
            content = media.content_key(item.video)
            cut = (item.start, item.end)
            rule = (c.num_frames, c.frame_rule, c.min_pixels, c.max_pixels)
            return ("video", content, *cut, *rule, media.DECODER)

        def make() -> Frames:
            frames = media.read_video(item.video, c.num_frames, item.start, item.end)
            size = self._size(frames.pixels, item.video)
            return frames._replace(pixels=resize_frames(frames.pixels, *size))

        return self._cache.get(key, make)

    def _image(self, path: str) -> Frames:
        c = self.contract

        def key() -> tuple:
            decoder = f"pillow-{PIL.__version__}"
            budget = (c.min_pixels, c.max_pixels)
            return ("image", media.content_key(path), *budget, decoder)

        def make() -> Frames:
            image = media.read_image(path)
            size = self._size(image[None], path)
            return Frames(resize_image(image, *size)[None], np.zeros(1), 0.0)

        return self._cache.get(key, make)

    def _size(self, pixels: np.ndarray, path: str) -> tuple[int, int]:
        height, width = pixels.shape[1:3]
        c = self.contract
        try:
            return smart_resize(height, width, c.min_pixels, c.max_pixels)
        except UserError as e:
            raise UserError(f"{path}: {e}") from None


def _join(arrays: list[np.ndarray], empty: np.ndarray | None = None) -> np.ndarray:
    if len(arrays) == 1:
        return arrays[0]
    if not arrays:
        return np.zeros(0, np.int32) if empty is None else empty
    return np.concatenate(arrays)
