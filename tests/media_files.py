"""Video fixtures whose frames say which they are, rendered by PyAV."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np

BLOCK, COLUMNS, ROWS = 16, 4, 3
WIDTH, HEIGHT = BLOCK * COLUMNS, BLOCK * ROWS


def barcode(number: int, scale: int = 1) -> np.ndarray:
    """uint8 [48, 64, 3] (times `scale`): `number` in twelve black or white blocks."""
    bits = (number >> np.arange(COLUMNS * ROWS)) & 1
    grey = np.where(bits, 225, 30).astype(np.uint8).reshape(ROWS, COLUMNS)
    image = np.kron(grey, np.ones((BLOCK * scale, BLOCK * scale), np.uint8))
    return np.repeat(image[..., None], 3, axis=2)


def read_barcode(pixels: np.ndarray) -> int:
    """The number in an upright frame [h, w, 3], whatever the compression did to it."""
    height, width = pixels.shape[:2]
    blocks = pixels.reshape(ROWS, height // ROWS, COLUMNS, width // COLUMNS, 3)
    bits = blocks.mean((1, 3, 4)).ravel() > 128
    return int((bits << np.arange(COLUMNS * ROWS)).sum())


def read_barcodes(pixels: np.ndarray) -> list[int]:
    return [read_barcode(p) for p in pixels]


def write_video(
    path: Path,
    num: int,
    *,
    codec: str = "libx264",
    times: list[int] | None = None,
    time_base: Fraction = Fraction(1, 25),
    rate: Fraction | int = 25,
    gop: int = 12,
    bframes: int = 0,
    pix_fmt: str = "yuv420p",
    options: dict[str, str] | None = None,
    rotation: tuple[int, bool] | None = None,
    turn: int = 0,
    scale: int = 1,
    format: str | None = None,
    muxer: dict[str, str] | None = None,
    audio: bool = False,
) -> Path:
    """Writes frames with barcodes 0..num-1 at `times` (ticks of `time_base`).

    `rotation` is (degrees, mirrored) of the display matrix; the pixels are stored
    turned by `turn` quarters.
    """
    times = list(range(num)) if times is None else times
    with av.open(str(path), "w", format=format, options=muxer or {}) as out:
        stream = out.add_stream(codec, rate=rate, options=options or {})
        first = np.rot90(barcode(0, scale), turn)
        stream.height, stream.width = first.shape[:2]
        stream.pix_fmt = pix_fmt
        stream.time_base = stream.codec_context.time_base = time_base
        stream.codec_context.gop_size = gop
        stream.codec_context.max_b_frames = bframes
        if rotation is not None:
            stream.set_display_rotation(rotation[0], hflip=rotation[1])
        sound = out.add_stream("aac", rate=16000, layout="mono") if audio else None
        if sound is not None:
            for i in range(16):
                tone = av.AudioFrame.from_ndarray(
                    np.zeros((1, 1024), np.float32), format="fltp", layout="mono"
                )
                tone.rate, tone.pts = 16000, i * 1024
                out.mux(sound.encode(tone))
            out.mux(sound.encode(None))
        for k in range(num):
            pixels = np.ascontiguousarray(np.rot90(barcode(k, scale), turn))
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = times[k], time_base
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    return path


def decode_some(path: Path, numbers: set[int]) -> dict[int, np.ndarray]:
    """The frames of these numbers in output order, by the same plain loop."""
    with av.open(str(path)) as container:
        return {
            k: frame.to_ndarray(format="rgb24")
            for k, frame in enumerate(container.decode(video=0))
            if k in numbers
        }


def decode_all(path: Path) -> tuple[list[int | None], list[np.ndarray]]:
    """The witness: every frame in output order, by PyAV's own plain loop."""
    with av.open(str(path)) as container:
        frames = list(container.decode(video=0))
        return [f.pts for f in frames], [f.to_ndarray(format="rgb24") for f in frames]
