"""Files made from a video: a repaired copy, clips and stills; named by their content.

Encoding uses one thread, as the output of x264 depends on their number: equal videos
and seeds give equal bytes.
"""

import hashlib
import os
import pathlib
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import av
import cv2
import numpy as np

from data_synthesis import draws, video
from data_synthesis.record import Media
from data_synthesis.world.encode import write_bytes, write_video
from gve_jax import media
from gve_jax.media import Limits, MediaError, files
from gve_jax.types import Item

# Frames that a still is chosen from, the sharpest of them.
_CANDIDATES = 5
# A picture shows nothing where 99 of 100 pixels are darker than this, or brighter, or
# where grey levels spread less. The mean would rule out a moon on a night sky.
_DARK, _BRIGHT, _FLAT = 16, 239, 4.0
# Damage that another reading of the same bytes may mend.
_REPAIRABLE = ("truncated", "corrupt", "unreadable", "no_frames")
# Of repaired copies and clips.
_CRF = 20


class Mended(NamedTuple):
    """A repaired copy; `how` is "remuxed" or "encoded", `frames` decoded before it."""

    media: Media
    how: str
    frames: int


def look(root: pathlib.Path, limits, min_shot: float, item: Item) -> tuple | str:
    """A video as it is, or else mended.

    It lives here, and not beside the stage, so that the process that runs it starts
    without Beam.

    Args:
      root: output folder.
      limits: `config.media`.

    Returns:
      (Inspection, `Mended` or None if it had not to be) or "CODE: reason".
    """
    caps = video.media_limits(limits)
    try:
        return video.inspect(item.video, caps, min_shot), None
    except MediaError as e:
        if not limits.repair or e.code not in _REPAIRABLE:
            return f"{e.code}: {e.message}"
        fault = e
    try:
        mended = repair(item.video, root, item.id, caps)
        path = str(root / mended.media.path)
        return video.inspect(path, caps, min_shot), mended
    except MediaError as e:
        return f"{fault.code}: {fault.message}; not repaired: {e.message}"


def cut(root: pathlib.Path, seed: int, clips, limits, known, item: Item) -> tuple | str:
    """The clip, if there can be one, and the stills of a video; here as `look` is.

    Args:
      root: output folder.
      clips, limits: `config.clips` and `config.media`.
      known: id -> (cuts, duration, frames per second) of the video.

    Returns:
      Media, or "CODE: reason".
    """
    caps, (cuts, duration, fps) = video.media_limits(limits), known[item.id]
    where = (item.video, root, item.id, seed)
    try:
        clip = cut_clip(*where, cuts, duration, fps, clips, caps)
        stills = take_stills(*where, duration, clips.frames, caps)
    except MediaError as e:
        return f"{e.code}: {e.message}"
    return (*([clip] if clip else []), *stills)


def cut_clip(
    path: str,
    root: pathlib.Path,
    key: str,
    seed: int,
    cuts: tuple[float, ...],
    duration: float,
    fps: float,
    clips,
    limits: Limits,
) -> Media | None:
    """A clip from inside one shot, or None if no shot is long enough.

    Args:
      root: output folder; the file goes below its "media".
      key: of the record; with `seed` it settles shot, length and start.
      cuts: seconds at which shots begin; the last ends at `duration`.
      clips: `config.clips`.
    """
    longest = min(clips.max_seconds, clips.max_share * duration)
    ends = (*cuts[1:], duration)
    shots = [
        (start, end)
        for start, end in zip(cuts, ends, strict=True)
        if min(end - start, longest) >= clips.min_seconds
    ]
    if not shots:
        return None
    rng = draws.generator(seed, key, "clip")
    # By their length: every moment is as likely to be in a clip.
    weights = np.array([end - start for start, end in shots])
    start, end = shots[rng.choice(len(shots), p=weights / weights.sum())]
    length = rng.uniform(clips.min_seconds, min(longest, end - start))
    begin = rng.uniform(start, end - length)
    rate = max(1, round(fps))
    part = root / "media" / f"{key}.clip.mp4.part"
    part.parent.mkdir(parents=True, exist_ok=True)
    write_video(
        str(part), _resampled(path, begin, begin + length, rate, limits), rate, _CRF
    )
    return _placed(part, root, "clip", ".mp4", begin, begin + length)


def take_stills(
    path: str,
    root: pathlib.Path,
    key: str,
    seed: int,
    duration: float,
    number: int,
    limits: Limits,
) -> list[Media]:
    """One still from each of `number` equal parts: the sharpest of five seeded frames.

    Parts that only hold nearly black, white or plain frames give none.
    """
    stills = []
    for part in range(number):
        begin, end = duration * part / number, duration * (part + 1) / number
        rng = draws.generator(seed, key, "still", part)
        start = begin + rng.uniform(0, (end - begin) / (2 * _CANDIDATES))
        try:
            frames = media.read_video(path, _CANDIDATES, start, end, limits)
        except MediaError as e:
            if e.code == "bad_cut":  # the duration is a guess: nothing is left there
                continue
            raise
        scored = [(_sharpness(pixels), -i) for i, pixels in enumerate(frames.pixels)]
        best, place = max(scored)
        if best <= 0:
            continue
        image = cv2.cvtColor(frames.pixels[-place], cv2.COLOR_RGB2BGR)
        ok, data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 90])
        if not ok:
            raise RuntimeError(f"{path}: cv2 could not encode a still {image.shape}")
        file = root / "media" / f"{key}.{part}.jpg.part"
        file.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(str(file), data.tobytes())
        at = float(frames.seconds[-place])
        still = _placed(file, root, "frame", ".jpg", at, at)
        # A picture that stands for long is one still, not three.
        if still.sha256 not in {s.sha256 for s in stills}:
            stills.append(still)
    return stills


def repair(path: str, root: pathlib.Path, key: str, limits: Limits) -> Mended:
    """A copy that decodes.

    First the packets are copied into a new file, with new timestamps where they lack;
    then, if that does not decode either, what decodes is encoded anew.

    Raises:
      MediaError: neither gives a file with as many frames as decode now.
    """
    lenient = Limits(
        max_pixels=limits.max_pixels, max_seconds=limits.max_seconds, max_damage=1.0
    )
    before = sum(1 for _ in media.stream_video(path, 64, lenient))
    if not before:
        raise MediaError(path, "no_frames", "no frame of it can be decoded")
    part = root / "media" / f"{key}.repair.mp4.part"
    part.parent.mkdir(parents=True, exist_ok=True)
    for how, make in (("remuxed", _remux), ("encoded", _encode)):
        try:
            make(path, part, lenient)
            times = [t for t, _ in media.stream_video(part, 64, limits)]
        except (MediaError, av.FFmpegError, ValueError):
            part.unlink(missing_ok=True)
            continue
        if len(times) >= before:
            copy = _placed(part, root, "video", ".mp4", 0.0, times[-1])
            return Mended(copy, how, before)
        part.unlink()
    raise MediaError(path, "unrepaired", "neither copying nor encoding it helps")


def _remux(path: str, part: pathlib.Path, limits: Limits) -> None:
    full, _, demuxer, _ = files.inspect(path)
    name = demuxer.split(",")[0]
    allowed = {"format_whitelist": name, "protocol_whitelist": "file,pipe"}
    with (
        av.open(
            full,
            format=name,
            options={"fflags": "+genpts+discardcorrupt"},
            container_options=allowed,
            metadata_errors="replace",
            timeout=limits.max_seconds,
        ) as source,
        av.open(str(part), "w", format="mp4", options={"fflags": "+bitexact"}) as out,
    ):
        stream = out.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(source.streams.video[0]):
            if packet.size and packet.dts is not None:
                packet.stream = stream
                out.mux(packet)


def _encode(path: str, part: pathlib.Path, limits: Limits) -> None:
    rate = max(1, round(media.probe(path, limits).fps))
    write_video(str(part), _even(f for _, f in media.stream_video(path, limits=limits)),
                rate, _CRF)  # fmt: skip


def _resampled(
    path: str, start: float, end: float, rate: int, limits: Limits
) -> Iterator[np.ndarray]:
    """Frames of a part at a constant rate: at each time the one then on show."""

    def frames() -> Iterator[np.ndarray]:
        number, shown = 0, None
        for seconds, frame in media.stream_video(path, limits=limits):
            while shown is not None and start + number / rate < min(seconds, end):
                yield shown
                number += 1
            if seconds >= end:
                return
            shown = frame
        while start + number / rate < end:
            yield shown
            number += 1

    return _even(frames())


def _even(frames: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    """H.264 with 4:2:0 colour takes even sides: an odd last row or column goes."""
    for frame in frames:
        height, width = frame.shape[:2]
        yield np.ascontiguousarray(frame[: height // 2 * 2, : width // 2 * 2])


def _sharpness(pixels: np.ndarray) -> float:
    """Variance of the Laplacian; -1 for a picture that shows nothing."""
    grey = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)
    low, high = np.percentile(grey, (1, 99))
    if high <= _DARK or low >= _BRIGHT or grey.std() < _FLAT:
        return -1.0
    return float(cv2.Laplacian(grey, cv2.CV_64F).var())


def _placed(
    part: pathlib.Path, root: pathlib.Path, role: str, suffix: str, start, end
) -> Media:
    """Moves a finished file to its name."""
    with open(part, "rb") as f:
        digest = hashlib.file_digest(f, "sha256").hexdigest()
    name = pathlib.PurePosixPath("media", digest[:2], digest + suffix)
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    os.replace(part, root / name)
    return Media(role, str(name), digest, float(start), float(end))
