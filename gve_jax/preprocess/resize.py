"""Target sizes and the two resizes, as `transformers` does them for Qwen-VL models.

Images go through Pillow's bicubic filter, as its PIL image processor does. Video frames
go through torchvision's antialiased bicubic filter on uint8, as its video processor
does: the same filter with weights of 16 bits instead of 32, so that single values
differ by one level. That kernel is reproduced here exactly.
"""

import functools
import math

import numpy as np
from PIL import Image

from gve_jax.types import UserError

MAX_ASPECT = 200

# Output rows computed by one dense product: wide enough for the matrix library, narrow
# enough that few weights of the band are zero.
_BLOCK = 32


def smart_resize(
    height: int, width: int, min_pixels: int, max_pixels: float, factor: int
) -> tuple[int, int]:
    """The size to which a frame or image is resized (Qwen2-VL's `smart_resize`).

    Both sides become multiples of `factor`, the aspect ratio is kept as closely as that
    allows, and height * width lies within the budget. As in the original, extreme
    aspect ratios may leave the budget: no side gets below `factor`.

    Args:
      height, width: pixels, at least 1.
      min_pixels, max_pixels: the budget of one frame or image, at least 1.
      factor: pixels along each side of a merged unit.

    Raises:
      UserError: one side is more than 200 times the other.
    """
    if max(height, width) > MAX_ASPECT * min(height, width):
        raise UserError(
            f"{width}x{height} pixels: the aspect ratio is above {MAX_ASPECT}; "
            "crop or pad it"
        )
    # Python's round (half to even) is part of the rule.
    new_height = round(height / factor) * factor
    new_width = round(width / factor) * factor
    if new_height * new_width > max_pixels:
        shrink = math.sqrt((height * width) / max_pixels)
        new_height = max(factor, math.floor(height / shrink / factor) * factor)
        new_width = max(factor, math.floor(width / shrink / factor) * factor)
    elif new_height * new_width < min_pixels:
        grow = math.sqrt(min_pixels / (height * width))
        new_height = math.ceil(height * grow / factor) * factor
        new_width = math.ceil(width * grow / factor) * factor
    return new_height, new_width


def frame_budget(
    groups: int, min_pixels: int, max_pixels: int, total_pixels: int
) -> float:
    """The most pixels of a frame of a video, as `fetch_video` of qwen-vl-utils.

    Args:
      groups: temporal groups of the video.
      min_pixels, max_pixels: the budget of any frame.
      total_pixels: the budget of all groups together, which gives way to `min_pixels`;
        0: there is none.
    """
    if not total_pixels:
        return max_pixels
    return min(max_pixels, max(total_pixels / groups, int(min_pixels * 1.05)))


def resize_image(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Pillow's bicubic resize of uint8 [h, w, 3] to uint8 [height, width, 3]."""
    if image.shape[:2] == (height, width):
        return image
    resized = Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC)
    return np.asarray(resized)


def resize_frames(frames: np.ndarray, height: int, width: int) -> np.ndarray:
    """torchvision's antialiased bicubic resize of uint8 frames, bit for bit.

    Args:
      frames: uint8 [n, h, w, 3].

    Returns:
      uint8 [n, height, width, 3].
    """
    n, h, w, _ = frames.shape
    if (h, w) == (height, width):
        return np.ascontiguousarray(frames)
    columns, rows = _bands(w, width), _bands(h, height)
    out = np.empty((n, height, width, 3), np.uint8)
    for frame, result in zip(frames, out, strict=True):
        # Columns first, rounded to whole levels, then rows: the kernel's own order.
        x = frame.transpose(2, 0, 1).reshape(3 * h, w)  # planes: long rows to multiply
        y = np.empty((3 * h, width), np.float32)
        for low, high, first, last, weights in columns:
            y[:, low:high] = _levels(x[:, first:last].astype(weights.dtype) @ weights.T)
        y = y.reshape(3, h, width)
        planes = result.transpose(2, 0, 1)
        for low, high, first, last, weights in rows:
            planes[:, low:high] = _levels(
                weights @ y[:, first:last].astype(weights.dtype, copy=False)
            )
    return out


def _levels(x: np.ndarray) -> np.ndarray:
    """Rounds to whole levels from 0 to 255, in place."""
    x += 0.5
    np.clip(x, 0, 255, out=x)
    return np.floor(x, out=x)


@functools.lru_cache(maxsize=256)
def _bands(src: int, dst: int) -> list[tuple[int, int, int, int, np.ndarray]]:
    """Dense blocks of the band matrix that takes `src` samples to `dst`.

    Each is (first output, end, first input, end, weights [outputs, inputs]). The
    weights are integers over a power of two, so a matrix product is exact in any
    order as long as its type holds the sums: float32 up to 2**24, beyond it (shrinking
    four times and more, where the kernel's precision rises) float64.
    """
    weights, unit = _weights(src, dst)
    largest = 255 * np.abs(weights).sum(axis=1).max() / unit
    weights = weights.astype(np.float32 if largest < 2**24 else np.float64)
    bands = []
    for low in range(0, dst, _BLOCK):
        high = min(low + _BLOCK, dst)
        used = np.flatnonzero(weights[low:high].any(axis=0))
        first, last = int(used[0]), int(used[-1]) + 1
        block = np.ascontiguousarray(weights[low:high, first:last])
        bands.append((low, high, first, last, block))
    return bands


def _weights(src: int, dst: int) -> tuple[np.ndarray, float]:
    """The filter as float64 [dst, src], and the unit that its values are multiples of.

    After ATen's `UpSampleKernel.cpp`: Keys' cubic with a = -0.5 stretched by the scale
    when shrinking, normalised per output, then rounded to int16 at the highest
    precision whose largest weight still fits.
    """
    scale = src / dst
    stretch = max(scale, 1.0)
    support = 2.0 * stretch
    centre = scale * (np.arange(dst) + 0.5)[:, None]  # [dst 1]
    first = np.maximum(np.trunc(centre - support + 0.5), 0)
    last = np.minimum(np.trunc(centre + support + 0.5), src)
    index = np.arange(src)[None, :]
    x = np.abs((index - centre + 0.5) * (1.0 / stretch))
    near = (1.5 * x - 2.5) * x * x + 1
    far = ((-0.5 * x + 2.5) * x - 4) * x + 2
    weights = np.where(x < 1, near, np.where(x < 2, far, 0.0))
    weights[(index < first) | (index >= last)] = 0.0
    weights /= weights.sum(axis=1, keepdims=True)

    precision = 0
    while precision < 22 and int(0.5 + weights.max() * 2 ** (precision + 1)) < 2**15:
        precision += 1
    rounded = np.trunc(weights * 2**precision + np.copysign(0.5, weights))
    return rounded * 2.0**-precision, 2.0**-precision
