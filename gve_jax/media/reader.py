"""One video stream, packet by packet and frame by frame, by PyAV."""

import itertools
from collections.abc import Iterable, Iterator
from fractions import Fraction
from typing import NamedTuple

import av
import numpy as np
from av.stream import Discard, Disposition

from gve_jax.media import files
from gve_jax.media.limits import MediaError, Meter

_FALLBACK_RATE = Fraction(25)
_VP8_SHOW_FRAME = 0x10  # RFC 6386, 9.1: bit 4 of the frame tag


class Packets(NamedTuple):
    """The packets of a video in decode order."""

    pts: list[int | None]
    dts: list[int | None]
    keyframe: list[bool]
    shown: list[bool]  # gives a frame that is displayed
    duration: list[int]

    def usable(self) -> bool:
        """Whether the timestamps alone say which frames there are."""
        times = [t for t, shown in zip(self.pts, self.shown, strict=True) if shown]
        return bool(times) and None not in self.pts and len(set(times)) == len(times)


class Turn(NamedTuple):
    """How stored pixels become upright: one of eight ways, to the nearest quarter."""

    transpose: bool = False
    flip_rows: bool = False
    flip_columns: bool = False

    @classmethod
    def of(cls, frame: av.VideoFrame) -> "Turn":
        """From the display matrix: x' = a x + c y, y' = b x + d y."""
        data = frame.side_data.get("DISPLAYMATRIX")
        if data is None:
            return cls()
        a, b, _, c, d = np.frombuffer(bytes(data), np.int32)[:5].tolist()
        if abs(c) > abs(a):
            return cls(True, b < 0, c < 0)
        return cls(False, d < 0, a < 0)

    def apply(self, pixels: np.ndarray) -> np.ndarray:
        if self.transpose:
            pixels = pixels.transpose(1, 0, 2)
        rows, columns = (slice(None, None, -1 if f else 1) for f in self[1:])
        return np.ascontiguousarray(pixels[rows, columns])


class Reader:
    """One video stream, opened by `open`, closed by `close`; for one thread."""

    def __init__(self, path: str, full: str, demuxer: str, size: int, meter: Meter):
        self.path, self.full, self.demuxer, self.size = path, full, demuxer, size
        self.meter = meter
        self.damage = 0  # frames lost to errors so far
        self.disordered = False  # frames came out against their timestamps
        self._container = None

    def _check_size(self) -> None:
        declared = files.declared_size(self.full, self.demuxer)
        if self.size < declared * (1 - self.meter.limits.max_damage):
            raise MediaError(
                self.path,
                "truncated",
                f"cut off: {self.size} of {declared} bytes are here; fetch it again",
            )

    def open(self) -> None:
        """Opens the file, again from its start if it is open.

        Raises:
          MediaError: cut off, no video stream, or over the limits by its header.
        """
        self.close()
        self._check_size()
        limits = self.meter.limits
        cap = {"max_pixels": str(limits.max_pixels)}
        self.meter.start_pass()
        # The demuxer is forced to the sniffed one; the white lists hold for whatever
        # it may open. As a container option max_pixels would do nothing: `options`
        # go to the probing decoders, the codec context below to ours.
        demuxer = self.demuxer.split(",")[0]
        allowed = {"format_whitelist": demuxer, "protocol_whitelist": "file,pipe"}
        try:
            self._container = av.open(
                self.full,
                format=demuxer,
                options=cap,
                container_options=allowed,
                metadata_errors="replace",
                timeout=limits.max_seconds,
            )
        except av.InvalidDataError as e:
            if demuxer != "mov" or files.has_index(self.full, self.size):
                raise
            raise MediaError(
                self.path,
                "truncated",
                "its index (moov) is missing or cut off, the file was not finished; "
                "fetch it again",
            ) from e
        self.stream = self._pick_stream()
        for other in self._container.streams:
            if other is not self.stream:
                other.discard = Discard.all
        context = self.stream.codec_context
        if context is None:
            raise MediaError(self.path, "no_video", "no decoder for its video codec")
        context.options = context.options | cap
        context.thread_type = "SLICE"
        self.meter.check_pixels(
            context.width, context.height, limits.max_pixels, "max_pixels"
        )

    def _pick_stream(self) -> av.VideoStream:
        streams = [
            s
            for s in self._container.streams.video
            if not s.disposition & (Disposition.attached_pic | Disposition.still_image)
        ]
        if not streams:
            raise MediaError(self.path, "no_video", "no video stream in it")
        best = self._container.streams.best("video")
        return best if best in streams else streams[0]

    def close(self) -> None:
        if self._container is not None:
            self._container.close()
            self._container = None

    @property
    def rate(self) -> Fraction:
        """Nominal frames a second."""
        for rate in (self.stream.average_rate, self.stream.guessed_rate):
            if rate and rate > 0:
                return rate
        return _FALLBACK_RATE

    @property
    def pts_are_guesses(self) -> bool:
        """AVI stores decode times only. With B-frames FFmpeg's guess at the
        presentation times permutes them: right as a set, wrong frame by frame."""
        return self.demuxer == "avi" and self.stream.codec_context.has_b_frames

    @property
    def has_audio(self) -> bool:
        return bool(self._container.streams.audio)

    def _demux(self) -> Iterator[av.Packet]:
        """Packets with content. A read error ends the file and counts as damage."""
        try:
            for packet in self._container.demux(self.stream):
                self.meter.scanned()
                # Empty packets are AVI's "same picture again" and PyAV's own end
                # mark; the decoder would take either for the end.
                if packet.size:
                    yield packet
        except av.EOFError:
            return
        except av.FFmpegError:
            self.meter.check_time()
            self.damage += 1

    def _decode(self, packets: Iterable[av.Packet]) -> Iterator[av.VideoFrame]:
        """Sound frames in presentation order; the others count as damage."""
        last = None
        for packet in itertools.chain(packets, [None]):
            self.meter.decoding()
            try:
                frames = self.stream.codec_context.decode(packet)
            except av.EOFError:
                return
            except av.FFmpegError:
                self.damage += 1
                continue
            for frame in frames:
                if frame.is_corrupt:
                    self.damage += 1
                    continue
                if frame.pts is None or (last is not None and frame.pts <= last):
                    self.disordered = True
                last = frame.pts
                yield frame

    def frames(self) -> Iterator[av.VideoFrame]:
        """All sound frames, from the start of the file."""
        self.open()
        self.damage = 0
        return self._decode(self._demux())

    def packets(self) -> Packets:
        """Reads the packets without decoding them."""
        table = Packets([], [], [], [], [])
        for _ in self.scan(table):
            pass
        return table

    def scan(self, table: Packets) -> Iterator[None]:
        """Adds the packets to a table, one by one."""
        hidden_frames = self.stream.codec_context.name == "vp8"
        for packet in self._demux():
            hidden = hidden_frames and not bytes(packet)[0] & _VP8_SHOW_FRAME
            self.damage += packet.is_corrupt
            table.pts.append(packet.pts)
            table.dts.append(packet.dts)
            table.keyframe.append(packet.is_keyframe)
            table.shown.append(not hidden and not packet.is_discard)
            table.duration.append(packet.duration or 0)
            yield

    def frames_from(self, table: Packets, start: int) -> Iterator[av.VideoFrame]:
        """Frames decoded from the packet `start`, or from an earlier keyframe."""
        # By pts where the index is in presentation time, else by dts.
        for time in (table.pts[start], table.dts[start]):
            if time is None:
                continue
            self._container.seek(time, stream=self.stream)
            packets = self._demux()
            first = next(packets, None)
            if first is None or first.pts not in table.pts:
                continue
            landed = table.pts.index(first.pts)
            if landed <= start and (landed == 0 or table.keyframe[landed]):
                return self._decode(itertools.chain([first], packets))
        self.open()
        return self._decode(self._demux())

    def lost_samples(self) -> int:
        """How many samples an MP4 index names beyond the end of the file."""
        if self.demuxer != "mov":
            return 0
        return sum(e.pos + e.size > self.size for e in self.stream.index_entries)

    def check_damage(self, sound: int, lost: int) -> None:
        """Refuses a file that lost more of its frames than Limits.max_damage."""
        bad = self.damage + lost
        if sound == 0:
            code, fault = "no_frames", "no frame of it can be decoded"
        elif bad <= self.meter.limits.max_damage * (bad + sound):
            return
        else:
            code = "truncated" if lost else "corrupt"
            fault = f"{bad} of its {bad + sound} frames are lost"
        raise MediaError(self.path, code, f"{fault}; fetch or encode it again")

    def to_rgb(self, frame: av.VideoFrame, like: np.ndarray | None) -> np.ndarray:
        """uint8 [h, w, 3], upright, of the size of `like` if given.

        swscale brings 10-bit and other formats to 8-bit RGB. Pixels stay as stored:
        no sample aspect ratio, no tone mapping, as in the readers that Qwen uses.
        """
        self.meter.check_pixels(
            frame.width, frame.height, self.meter.limits.max_pixels, "max_pixels"
        )
        turn = Turn.of(frame)
        width, height = frame.width, frame.height
        if like is not None:  # the size may change within a stream
            height, width = like.shape[1::-1] if turn.transpose else like.shape[:2]
        pixels = frame.to_ndarray(format="rgb24", width=width, height=height, threads=1)
        return turn.apply(pixels)
