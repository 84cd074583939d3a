"""Images and animated images to upright RGB, by Pillow."""

import os
from collections.abc import Iterator
from fractions import Fraction

import numpy as np
from PIL import Image

from gve_jax.media import files
from gve_jax.media.limits import Limits, MediaError, Meter, only_media_errors
from gve_jax.media.sampling import Timeline

# The same bound for whoever opens images beside this module; Pillow checks it too
# where it opens images inside of images. Never raised here, only lowered.
Image.MAX_IMAGE_PIXELS = min(
    Image.MAX_IMAGE_PIXELS or Limits.max_image_pixels, Limits.max_image_pixels
)
_ANIMATED = ("GIF", "PNG", "WEBP", "AVIF")
_ORIENTATION_TAG = 0x0112
# EXIF orientation -> how to make it upright.
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# Browsers show frames of no or next to no duration this long.
_DEFAULT_FRAME_MS = 100
_SHORTEST_FRAME_MS = 11


def _to_rgb(image: Image.Image) -> Image.Image:
    """8-bit RGB; transparency over white, 16-bit grey by its high byte.

    Colour profiles are not applied: Qwen's processors do not either.
    """
    if image.mode.startswith("I"):  # 16-bit grey, in 16 or 32 bits
        grey = np.asarray(image).astype(np.int64).clip(0, 65535) >> 8
        return Image.fromarray(grey.astype(np.uint8), "L").convert("RGB")
    if image.mode == "F":
        raise ValueError("float pixels have no agreed range; save it with 8 bits")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, image).convert("RGB")
    return image.convert("RGB")


def _orientation(image: Image.Image) -> int:
    try:
        return image.getexif().get(_ORIENTATION_TAG, 1)
    except Exception:  # broken metadata of any sort; the pixels are fine
        return 1


def _open(full: str, name: str, meter: Meter, limits: Limits) -> Image.Image:
    # The sniffed format only: none of Pillow's that run programs or read scripts.
    image = Image.open(full, formats=(name,))
    meter.check_pixels(*image.size, limits.max_image_pixels, "max_image_pixels")
    return image


def read_image(path: str | os.PathLike, limits: Limits | None = None) -> np.ndarray:
    """Reads an image; of an animation its first frame.

    Args:
      path: JPEG, PNG, GIF, WebP, AVIF, BMP, TIFF or PGM/PPM, by its first bytes.
      limits: caps on size.

    Returns:
      uint8 [height, width, 3], RGB, upright by its EXIF orientation. Transparent
      parts lie on white; CMYK and palettes are converted; 16-bit grey keeps its high
      byte.

    Raises:
      MediaError: not an image, damaged or truncated, or over the limits.
    """
    limits = limits or Limits()
    path = os.fspath(path)
    full, kind, name, _ = files.inspect(path)
    if kind != files.IMAGE:
        raise MediaError(path, "unknown_format", "a video where an image is due")
    meter = Meter(path, limits)
    with only_media_errors(path, meter), _open(full, name, meter, limits) as image:
        image.load()
        rgb = _to_rgb(image)
        turn = _UPRIGHT.get(_orientation(image))
        return np.array(rgb if turn is None else rgb.transpose(turn))


class Animation:
    """An animated image, or a still one as a video of one frame."""

    def __init__(self, full: str, name: str, meter: Meter):
        self._meter = meter
        self._image = _open(full, name, meter, meter.limits)
        self._name = name
        self._turn = _UPRIGHT.get(_orientation(self._image))
        self.codec = name.lower()

    @property
    def num_frames(self) -> int:
        return self._image.n_frames if self._name in _ANIMATED else 1

    def close(self) -> None:
        self._image.close()

    def _frames(self) -> Iterator[Image.Image]:
        self._meter.start_pass()
        for i in range(self.num_frames):
            self._meter.decoding()
            self._image.seek(i)
            self._image.load()  # WebP knows a frame's duration only then
            yield self._image

    def timeline(self) -> Timeline:
        """Milliseconds; frames without a duration are shown as browsers show them."""
        ticks, now, shown = [], 0, _DEFAULT_FRAME_MS
        for image in self._frames():
            ticks.append(now)
            shown = round(image.info.get("duration") or 0)
            if shown < _SHORTEST_FRAME_MS:
                shown = _DEFAULT_FRAME_MS
            now += shown
        return Timeline(ticks, Fraction(1, 1000), shown)

    def size(self) -> tuple[int, int]:
        """Upright width and height."""
        width, height = self._image.size
        sideways = _orientation(self._image) in (5, 6, 7, 8)
        return (height, width) if sideways else (width, height)

    def read(self, indices: list[int]) -> np.ndarray:
        """uint8 [n, h, w, 3] of the frames at `indices`."""
        wanted, found = set(indices), {}
        for i, image in enumerate(self._frames()):
            if i in wanted:
                rgb = _to_rgb(image)
                found[i] = np.array(
                    rgb if self._turn is None else rgb.transpose(self._turn)
                )
            if len(found) == len(wanted):
                break
        return np.stack([found[i] for i in indices])
