"""Items to fixed-shape arrays: from files and text to all that the model sees."""

import functools
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
from gve_jax.preprocess.geometry import QWEN2_5_VL, Geometry, Grid
from gve_jax.preprocess.order import reorder
from gve_jax.preprocess.packing import Packer
from gve_jax.preprocess.patches import grid_of, layout, patchify
from gve_jax.preprocess.positions import (
    Placed,
    group_times,
    mrope_positions,
    seconds_per_grid,
)
from gve_jax.preprocess.prompt import PromptTemplate
from gve_jax.preprocess.resize import (
    frame_budget,
    resize_frames,
    resize_image,
    smart_resize,
)
from gve_jax.preprocess.tokenizer import Tokenizer
from gve_jax.types import Encoded, EncoderInputs, Frames, Item, UserError

_LATE = 99999.9  # seconds: no time of a video is longer in writing


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
        geometry: Geometry = QWEN2_5_VL,
        cache_dir: str | os.PathLike = "",
    ):
        """Arguments as the keys of `config.preprocess`; `geometry` is the model's.

        Raises:
          UserError: a setting cannot be, or the tokenizer lacks a special token.
        """
        self.contract = contract
        self._check()
        # The products of resizing are tiny: BLAS threads would spend thirty times
        # their work waiting for each other, for the readers and for XLA.
        threadpoolctl.threadpool_limits(1, user_api="blas")
        self.tokenizer = tokenizer
        self.truncated: dict[str, int] = {}
        self._prompt = PromptTemplate(tokenizer, contract)
        self._buckets = Buckets(token_buckets, patch_buckets, exact_grids, geometry)
        self.geometry = geometry
        # Of a video: how many, or a function of the frames and seconds there are.
        self.num_frames: int | Callable[[int, float], int] = contract.num_frames
        if contract.fps:
            self.num_frames = functools.partial(
                media.frames_at,
                fps=contract.fps,
                least=contract.min_frames,
                most=contract.num_frames,
                multiple=geometry.temporal_patch_size,
            )
        self._cache = FrameCache(cache_dir)

    def _check(self) -> None:
        c = self.contract
        for name, options in (
            ("time", ("real", "nominal")),
            ("positions", ("mrope", "sequential")),
        ):
            value = getattr(c, name)
            if value not in options:
                raise UserError(f"preprocess.{name} is {value!r}, not one of {options}")
        if c.fps < 0:
            raise UserError(f"preprocess.fps is {c.fps}: it must be at least 0")
        least_image, most_image = self._image_budget()
        for low, value, high, limit in (
            ("min_frames", c.min_frames if c.fps else 1, "num_frames", c.num_frames),
            ("min_pixels", c.min_pixels, "max_pixels", c.max_pixels),
            ("image_min_pixels", least_image, "image_max_pixels", most_image),
        ):
            if not 1 <= value <= limit:
                raise UserError(
                    f"preprocess.{low} is {value}: it must be at least 1 and at most "
                    f"{high}, {limit}"
                )

    def encode(
        self,
        item: Item,
        augment: Callable[[np.ndarray], np.ndarray] | None = None,
        video: Frames | None = None,
    ) -> Encoded:
        """Decodes, resizes, cuts into patches, tokenises and places one item.

        `augment` maps the resized frames of each medium, uint8 [n, h, w, 3], to others
        of that shape: for training. `video` are the frames of the item's video, where
        they are at hand: as many as `num_frames` says, brought to size by `fit`.

        Raises:
          media.MediaError: a file is refused or cannot be read.
          UserError: the item is empty, too long or of a forbidden shape; names it.
        """
        try:
            return self._encode(item, augment, video)
        except media.MediaError:
            raise
        except UserError as e:
            raise UserError(f"item {item.id!r}: {e}") from e

    def try_encode(self, item: Item) -> Encoded | str:
        """`encode`, or the reason why it cannot: for work that other items go on."""
        try:
            return self.encode(item)
        except UserError as e:
            return str(e)

    def _encode(self, item: Item, augment, video: Frames | None) -> Encoded:
        if not (item.text or item.image or item.video):
            raise UserError("it has neither text nor image nor video")
        geometry = self.geometry
        frames = []  # of each medium
        seconds = []
        times: list[float] = []  # of the video's groups, where the contract names them
        if item.video:
            video = self._video(item) if video is None else video
            frames.append(video.pixels)
            n, c = len(video.pixels), self.contract
            seconds.append(seconds_per_grid(n, video.duration, c.time, geometry))
            if c.video_group:
                times = group_times(video.seconds, c.time, geometry)
        if item.image:
            frames.append(self._image(item.image).pixels)
            seconds.append(None)
        if augment:
            frames = [augment(f) for f in frames]
        grids = [grid_of(f, geometry) for f in frames]
        layouts = [layout(grid, geometry) for grid in grids]
        units = [len(x.order) for x in layouts]

        prompt = self._prompt.fill(
            item.text or "",
            item.instruction,
            video_tokens=units[0] if item.video else 0,
            image_tokens=units[-1] if item.image else 0,
            times=times,
        )
        windows = _join([x.window_lengths for x in layouts])
        groups = _join([x.frame_lengths for x in layouts])
        self._buckets.check(
            len(prompt.tokens),
            sum(units) * geometry.unit,
            (tuple(windows.tolist()), tuple(groups.tolist())),
        )
        if prompt.cut:
            self.truncated[item.id] = prompt.cut

        visual_index = np.full(len(prompt.tokens), -1, np.int32)
        placed = []
        done = 0
        starts = [s for s in (prompt.video_starts, prompt.image_starts) if s]
        for parts, grid, x, step in zip(starts, grids, layouts, seconds, strict=True):
            # Placeholders are in raster order, patches in window order. A part is the
            # whole medium, or one group of a video.
            for start, place in zip(parts, np.split(x.place, len(parts)), strict=True):
                visual_index[start : start + len(place)] = place + done
                placed.append(Placed(start, (grid[0] // len(parts), *grid[1:]), step))
            done += len(x.place)
        extents = None
        if geometry.extents:
            extents = _join(
                [np.tile(np.int32(g[1:]), (np.prod(g), 1)) for g in grids],
                np.zeros((0, 2), np.int32),
            )
        if self.contract.positions == "sequential":
            placed = []
        return Encoded(
            tokens=np.asarray(prompt.tokens, np.int32),
            positions=mrope_positions(len(prompt.tokens), sorted(placed), geometry),
            visual_index=visual_index,
            patches=_join(
                [patchify(f, geometry) for f in frames],
                np.zeros((0, geometry.patch_dim), np.uint8),
            ),
            coords=_join([x.coords for x in layouts], np.zeros((0, 2), np.int32)),
            window_lengths=windows,
            frame_lengths=groups,
            extents=extents,
        )

    def token_bound(self, item: Item) -> int:
        """The most tokens that `encode` can give for an item, whose media stay unread:
        those of its text, and the pixel budget's for each medium."""
        c = self.contract
        area = self.geometry.factor**2
        groups = -(-c.num_frames // self.geometry.temporal_patch_size)
        pixels = groups * c.max_pixels
        if c.total_pixels:
            pixels = min(pixels, max(c.total_pixels, int(1.05 * groups * c.min_pixels)))
        # One token for each group and for the image, and then what they may take: the
        # whole may be more than is allowed, of which `encode` complains if it is so.
        prompt = self._prompt.fill(
            item.text or "",
            item.instruction,
            video_tokens=groups if item.video else 0,
            image_tokens=1 if item.image else 0,
            times=[_LATE] * groups if item.video and c.video_group else (),
        )
        bound = len(prompt.tokens)
        if item.video:
            bound += pixels // area - groups
        if item.image:
            bound += self._image_budget()[1] // area - 1
        return min(bound, c.max_tokens)

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

    def packer(self, tokens: int) -> Packer:
        """Packs items of this processor into rows of `tokens` tokens."""
        size = self.contract.max_pixels // self.geometry.patch_size**2
        return Packer(self.geometry, tokens, size, self._buckets.exact)

    def fit(self, pixels: np.ndarray, total: int, path: str) -> np.ndarray:
        """Brings frames of a video to the size that it is encoded at.

        Args:
          pixels: uint8 [n, h, w, 3]: all frames of a sample, or some.
          total: frames of the sample, whose budget they share.
          path: of the video, for errors.

        Raises:
          UserError: it is too long and thin.
        """
        c = self.contract
        groups = -(-total // self.geometry.temporal_patch_size)
        most = frame_budget(groups, c.min_pixels, c.max_pixels, c.total_pixels)
        return resize_frames(pixels, *self._size(pixels, path, c.min_pixels, most))

    def _video(self, item: Item) -> Frames:
        c, geometry = self.contract, self.geometry

        def key() -> tuple:
            content = media.content_key(item.video)
            cut = (item.start, item.end)
            rule = (c.num_frames, c.fps, c.min_frames, c.frame_rule)
            budget = (c.min_pixels, c.max_pixels, c.total_pixels, geometry.factor)
            return ("video", content, *cut, *rule, *budget, media.DECODER)

        def make() -> Frames:
            frames = media.read_video(item.video, self.num_frames, item.start, item.end)
            fitted = self.fit(frames.pixels, len(frames.pixels), item.video)
            return frames._replace(pixels=fitted)

        # After the cache, which holds one order of each video.
        return reorder(self._cache.get(key, make), item.frame_order)

    def _image(self, path: str) -> Frames:
        budget = self._image_budget()

        def key() -> tuple:
            decoder = f"pillow-{PIL.__version__}"
            content = media.content_key(path)
            return ("image", content, *budget, self.geometry.factor, decoder)

        def make() -> Frames:
            image = media.read_image(path)
            size = self._size(image[None], path, *budget)
            return Frames(resize_image(image, *size)[None], np.zeros(1), 0.0)

        return self._cache.get(key, make)

    def _image_budget(self) -> tuple[int, int]:
        c = self.contract
        return c.image_min_pixels or c.min_pixels, c.image_max_pixels or c.max_pixels

    def _size(
        self, pixels: np.ndarray, path: str, least: int, most: float
    ) -> tuple[int, int]:
        try:
            return smart_resize(*pixels.shape[1:3], least, most, self.geometry.factor)
        except UserError as e:
            raise UserError(f"{path}: {e}") from None


def _join(arrays: list[np.ndarray], empty: np.ndarray | None = None) -> np.ndarray:
    if len(arrays) == 1:
        return arrays[0]
    if not arrays:
        return np.zeros(0, np.int32) if empty is None else empty
    return np.concatenate(arrays)
