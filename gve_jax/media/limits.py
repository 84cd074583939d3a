"""What hostile or broken media may cost, and the one error they end in."""

import dataclasses
import time
from collections.abc import Iterator
from contextlib import contextmanager

from gve_jax.types import UserError


class MediaError(UserError):
    """A file that is refused or cannot be read.

    Attributes:
      path: the file.
      code: short and stable, for counting: "not_found", "not_a_file", "empty",
        "unknown_format", "no_video", "no_frames", "unreadable", "truncated",
        "corrupt", "bad_cut", "too_many_pixels", "too_many_frames", "too_large",
        "too_slow".
      message: what is wrong and what to do, one line.
    """

    def __init__(self, path: object, code: str, message: str):
        # All three go to Exception.args, so that the error survives pickling.
        super().__init__(str(path), code, message)
        self.path, self.code, self.message = str(path), code, message

    def __str__(self) -> str:
        return f"{self.path}: {self.message}"


@dataclasses.dataclass(frozen=True)
class Limits:
    """Caps on one file. Each one that is passed raises MediaError.

    Attributes:
      max_pixels: of one video frame, by header and as decoded (default 8K UHD).
      max_image_pixels: of one image, by header.
      max_frames: decoded to read one video. Planned seeks keep long videos under it.
      max_packets: scanned in one video (default: nine hours at 60 frames a second).
      max_bytes: of the returned frames.
      max_seconds: of wall time for one file.
      max_damage: share of the frames that may fail to decode; the sample then comes
        from the others.
    """

    max_pixels: int = 7680 * 4320
    max_image_pixels: int = 64_000_000
    max_frames: int = 36_000
    max_packets: int = 2_000_000
    max_bytes: int = 1 << 30
    max_seconds: float = 120.0
    max_damage: float = 0.05


class Meter:
    """Counts the work spent on one file and stops it at the limits."""

    def __init__(self, path: str, limits: Limits):
        self.path, self.limits = path, limits
        self.deadline = time.monotonic() + limits.max_seconds
        self.packets = self.frames = 0

    def start_pass(self) -> None:
        """Each pass over the file has its own counts; the clock runs on."""
        self.packets = self.frames = 0

    def check_time(self) -> None:
        if time.monotonic() > self.deadline:
            raise MediaError(
                self.path,
                "too_slow",
                f"reading took over {self.limits.max_seconds:g} s; cut the file or "
                "raise Limits.max_seconds",
            )

    def scanned(self) -> None:
        """One packet read."""
        self.packets += 1
        self.check_time()
        if self.packets > self.limits.max_packets:
            raise MediaError(
                self.path,
                "too_many_frames",
                f"over {self.limits.max_packets} packets; cut the file or raise "
                "Limits.max_packets",
            )

    def decoding(self) -> None:
        """One frame about to be decoded."""
        self.frames += 1
        self.check_time()
        if self.frames > self.limits.max_frames:
            raise MediaError(
                self.path,
                "too_many_frames",
                f"over {self.limits.max_frames} frames to decode; re-encode it with "
                "more keyframes, cut it or raise Limits.max_frames",
            )

    def check_pixels(self, width: int, height: int, cap: int, field: str) -> None:
        if width * height > cap:
            raise MediaError(
                self.path,
                "too_many_pixels",
                f"{width}x{height} pixels, {cap} are allowed; scale it down or raise "
                f"Limits.{field}",
            )

    def check_output(self, num_frames: int, width: int, height: int) -> None:
        size = num_frames * width * height * 3
        if size > self.limits.max_bytes:
            raise MediaError(
                self.path,
                "too_large",
                f"{num_frames} frames of {width}x{height} take {size} bytes, "
                f"{self.limits.max_bytes} are allowed; ask for fewer frames or raise "
                "Limits.max_bytes",
            )


@contextmanager
def only_media_errors(path: str, meter: Meter) -> Iterator[None]:
    """Turns whatever a decoder raises on a bad file into MediaError.

    FFmpeg and Pillow raise open-ended sets of types on hostile bytes (struct.error,
    SyntaxError, IndexError, ...), so this border names no types: one bad file among
    millions must be counted and left out, not end the run.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as e:
        meter.check_time()  # a read that was broken off at the deadline
        # FFmpeg's errors repeat the path and a number of no use.
        text = getattr(e, "strerror", None) or str(e)
        reason = " ".join(text.split()) or "no reason given"
        raise MediaError(
            path, "unreadable", f"cannot be decoded ({type(e).__name__}: {reason})"
        ) from e
