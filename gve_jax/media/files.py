"""What a file is, by its first bytes, before any decoder sees it."""

import functools
import hashlib
import os
import stat
from collections.abc import Iterator
from typing import BinaryIO

from gve_jax.media.limits import MediaError

# Demuxer (FFmpeg's name) -> extension list for messages. The sniffed demuxer is
# forced, so playlists and other text formats that open further files cannot run.
VIDEO = "video"
IMAGE = "image"
_HEAD = 1024
_MAX_BOXES = 10_000
_ISO_BOXES = {b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"pnot", b"styp"}
_STILL_BRANDS = {b"avif", b"avis", b"heic", b"heix", b"heim", b"heis", b"mif1", b"msf1"}
_PREFIXES: tuple[tuple[bytes, str, str], ...] = (
    (b"\x1a\x45\xdf\xa3", VIDEO, "matroska,webm"),
    (b"\x00\x00\x01\xba", VIDEO, "mpeg"),
    (b"\x00\x00\x01\xb3", VIDEO, "mpegvideo"),
    (b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", VIDEO, "asf"),
    (b"FLV\x01", VIDEO, "flv"),
    (b"OggS", VIDEO, "ogg"),
    (b"\xff\xd8\xff", IMAGE, "JPEG"),
    (b"\x89PNG\r\n\x1a\n", IMAGE, "PNG"),
    (b"GIF87a", IMAGE, "GIF"),
    (b"GIF89a", IMAGE, "GIF"),
    (b"BM", IMAGE, "BMP"),
    (b"II*\x00", IMAGE, "TIFF"),
    (b"MM\x00*", IMAGE, "TIFF"),
    (b"P5", IMAGE, "PPM"),
    (b"P6", IMAGE, "PPM"),
    (b"ID3", "audio", ""),
    (b"fLaC", "audio", ""),
)


def _is_transport_stream(head: bytes) -> bool:
    """188-byte packets, or 192 with a 4-byte time code before each."""
    return any(
        len(head) > first + 2 * size
        and all(head[first + i * size] == 0x47 for i in range(3))
        for first, size in ((0, 188), (4, 192))
    )


def classify(head: bytes) -> tuple[str, str]:
    """Kind and format by magic bytes.

    Returns:
      ("video", FFmpeg demuxer), ("image", Pillow format), ("audio", "") or
      ("unknown", "").
    """
    if head[4:8] in _ISO_BOXES:
        if head[4:8] == b"ftyp" and head[8:12] in _STILL_BRANDS:
            return IMAGE, "AVIF"
        return VIDEO, "mov"
    if head[:4] == b"RIFF":
        form = {b"AVI ": (VIDEO, "avi"), b"WEBP": (IMAGE, "WEBP")}
        return form.get(head[8:12], ("audio", ""))
    for magic, kind, name in _PREFIXES:
        if head.startswith(magic):
            return kind, name
    if _is_transport_stream(head):
        return VIDEO, "mpegts"
    return "unknown", ""


def _matroska_size(head: bytes) -> int:
    """End of the first segment by its header, 0 if unknown (live streams)."""
    at = 4  # after the EBML identifier
    for name in (None, b"\x18\x53\x80\x67"):
        if name is not None:
            if head[at : at + 4] != name:
                return 0
            at += 4
        if at >= len(head) or not head[at]:
            return 0
        width = 9 - head[at].bit_length()
        field = int.from_bytes(head[at : at + width], "big")
        unknown = (1 << 7 * width) - 1
        value = field & unknown
        if value == unknown:
            return 0
        at += width + value
    return at


def _iso_boxes(f: BinaryIO) -> Iterator[tuple[bytes, int]]:
    """Type and end of each top-level box that an MP4 or MOV file announces."""
    at = 0
    for _ in range(_MAX_BOXES):
        f.seek(at)
        head = f.read(16)
        if len(head) < 8 or not head[4:8].isalnum():
            return
        size = int.from_bytes(head[:4], "big")
        if size == 1:  # 64-bit size follows
            size = int.from_bytes(head[8:16], "big")
        if size < 8:  # 0: up to the end of the file
            return
        at += size
        yield head[4:8], at


def has_index(path: str, size: int) -> bool:
    """Whether an MP4 or MOV file holds its index (moov) whole."""
    with open(path, "rb") as f:
        return any(box == b"moov" and end <= size for box, end in _iso_boxes(f))


def declared_size(path: str, name: str) -> int:
    """Bytes that a container says it has, 0 where it does not say.

    A file shorter than that was cut off. (A longer one has something appended.)
    """
    with open(path, "rb") as f:
        if name == "mov":
            return max((end for _, end in _iso_boxes(f)), default=0)
        head = f.read(_HEAD)
    if name == "matroska,webm":
        return _matroska_size(head)
    if name == "avi":
        return 8 + int.from_bytes(head[4:8], "little")
    return 0


def inspect(path: str | os.PathLike) -> tuple[str, str, str, int]:
    """Checks that a path is a media file.

    Returns:
      Absolute path, kind ("video" or "image"), format (of `classify`), size in bytes.
      The path is absolute so that no decoder can take it for a URL or an option.

    Raises:
      MediaError: missing, not a regular file (a pipe would block), empty, or of no
        known format.
    """
    path = os.fspath(path)
    try:
        full = os.path.abspath(path)
        info = os.stat(full)
        if not stat.S_ISREG(info.st_mode):
            raise MediaError(path, "not_a_file", "not a regular file")
        if info.st_size == 0:
            raise MediaError(path, "empty", "the file is empty; fetch it again")
        with open(full, "rb") as f:
            head = f.read(_HEAD)
    except FileNotFoundError:
        raise MediaError(path, "not_found", "no such file") from None
    except (OSError, ValueError) as e:
        raise MediaError(path, "unreadable", f"cannot be opened ({e})") from e
    kind, name = classify(head)
    if kind == "audio":
        raise MediaError(path, "no_video", "an audio file: there is nothing to see")
    if kind == "unknown":
        raise MediaError(
            path,
            "unknown_format",
            f"neither a video nor an image by its first bytes {head[:8]!r} (mp4, mov, "
            "mkv, webm, avi, mpeg, ts, wmv, flv, ogg; jpeg, png, gif, webp, avif, bmp, "
            "tiff, pgm)",
        )
    return full, kind, name, info.st_size


@functools.lru_cache(maxsize=1 << 16)
def _sha256(path: str, size: int, mtime_ns: int) -> str:
    with open(path, "rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def content_key(path: str | os.PathLike) -> str:
    """SHA-256 (hex) of a file's bytes: the same for equal files under any name.

    Remembered per (path, size, modification time), so asking again costs a `stat`.

    Raises:
      MediaError: the file cannot be read.
    """
    try:
        full = os.path.realpath(path)
        info = os.stat(full)
        return _sha256(full, info.st_size, info.st_mtime_ns)
    except FileNotFoundError:
        raise MediaError(path, "not_found", "no such file") from None
    except (OSError, ValueError) as e:
        raise MediaError(path, "unreadable", f"cannot be opened ({e})") from e
