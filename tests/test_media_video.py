"""Sampled frames against the whole decode, over containers, codecs and oddities."""

from fractions import Fraction

import av
import numpy as np
import pytest
from media_files import (
    barcode,
    decode_all,
    read_barcode,
    read_barcodes,
    write_video,
)
from PIL import Image

from gve_jax import media
from gve_jax.media import video as video_module

OPEN_GOP = {"x264-params": "open-gop=1:scenecut=0"}
ALT_REF = {"auto-alt-ref": "1", "lag-in-frames": "10", "deadline": "good"}
# File -> (settings, whether the planned way is taken).
FILES = {
    **{
        f"h264_g{gop}_b{b}.{suffix}": (dict(gop=gop, bframes=b), True)
        for suffix, gop, b in [
            ("mp4", 1, 0), ("mp4", 3, 2), ("mp4", 12, 0), ("mp4", 12, 2),
            ("mp4", 99, 2), ("mov", 12, 2), ("mkv", 1, 0), ("mkv", 3, 2),
            ("mkv", 12, 2), ("mkv", 99, 0), ("avi", 12, 0),
        ]
    },
    "h264_bframes.avi": (dict(gop=12, bframes=2), False),
    "open_gop.mp4": (dict(gop=10, bframes=3, options=OPEN_GOP), True),
    "open_gop.mkv": (dict(gop=10, bframes=3, options=OPEN_GOP), True),
    # Keyframe marks from which decoding does not give pictures at once.
    "intra_refresh.mp4": (
        dict(gop=20, options={"x264-params": "intra-refresh=1"}), False,
    ),
    "fragments.mp4": (
        dict(gop=10, bframes=2, muxer={"movflags": "frag_keyframe+empty_moov"}), True,
    ),
    "hevc.mp4": (
        dict(codec="libx265", gop=10, bframes=3,
             options={"x265-params": "log-level=none"}), True,
    ),
    "ten_bit.mp4": (dict(pix_fmt="yuv420p10le"), True),
    "mpeg4.avi": (dict(codec="mpeg4", gop=10), True),
    "mpeg4_bframes.mp4": (dict(codec="mpeg4", gop=10, bframes=2), True),
    "mjpeg.avi": (dict(codec="mjpeg", pix_fmt="yuvj420p"), True),
    "mjpeg.mov": (dict(codec="mjpeg", pix_fmt="yuvj420p"), True),
    "vp8.webm": (dict(codec="libvpx", gop=20, options=ALT_REF), True),
    "vp9.webm": (dict(codec="libvpx-vp9", gop=20, options=ALT_REF), True),
    "mpeg2.mpg": (dict(codec="mpeg2video", gop=10, bframes=2), False),
    "h264.ts": (dict(gop=10, bframes=2, format="mpegts"), False),
    "h264.flv": (dict(gop=10, bframes=2), False),
    "wmv2.wmv": (dict(codec="wmv2", gop=10), False),
}  # fmt: skip


def linspace(n: int, num: int) -> list[int]:
    return np.linspace(0, n - 1, num).round().astype(int).tolist()


@pytest.mark.parametrize("name", FILES)
def test_equals_the_whole_decode(name, tmp_path, monkeypatch):
    settings, planned = FILES[name]
    path = write_video(tmp_path / name, 80, **settings)
    _, frames = decode_all(path)
    assert len(frames) == 80
    ways = []
    sequential = video_module._sequential
    monkeypatch.setattr(
        video_module, "_sequential", lambda *a: ways.append(1) or sequential(*a)
    )
    for num in (8, 3, 1):
        sample = media.read_video(path, num)
        assert sample.pixels.shape == (num, 48, 64, 3)
        assert sample.pixels.dtype == np.uint8
        for got, k in zip(sample.pixels, linspace(80, num), strict=True):
            np.testing.assert_array_equal(got, frames[k])
        np.testing.assert_allclose(
            sample.seconds, np.array(linspace(80, num)) / 25, atol=1e-3
        )
        assert sample.duration == pytest.approx(3.2, abs=2e-3)
    assert bool(ways) != planned
    if settings.get("codec") != "mpeg2video":  # its bit rate is too low for the bars
        assert read_barcodes(media.read_video(path).pixels) == linspace(80, 8)
    info = media.probe(path)
    assert (info.width, info.height, info.num_frames) == (64, 48, 80)
    assert info.fps == pytest.approx(25, abs=0.1) and not info.has_audio


def test_decodes_only_the_gops_of_the_sample(tmp_path, monkeypatch):
    path = write_video(tmp_path / "long.mp4", 800, gop=20, bframes=2)
    fed = []
    decoding = media.limits.Meter.decoding
    monkeypatch.setattr(
        media.limits.Meter, "decoding", lambda self: fed.append(1) or decoding(self)
    )
    assert read_barcodes(media.read_video(path).pixels) == linspace(800, 8)
    assert len(fed) <= 8 * 24
    # So the cap on decoded frames does not refuse long videos.
    limits = media.Limits(max_frames=200)
    assert len(media.read_video(path, limits=limits).pixels) == 8
    with pytest.raises(media.MediaError, match="to decode") as e:
        media.read_video(path, limits=media.Limits(max_frames=20))
    assert e.value.code == "too_many_frames"


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "webm"])
def test_variable_frame_rate(suffix, tmp_path):
    times = [*range(0, 1000, 20), 1000, 2000, 3000, 4000]  # milliseconds
    path = write_video(
        tmp_path / f"vfr.{suffix}",
        len(times),
        times=times,
        time_base=Fraction(1, 1000),
        codec="libvpx" if suffix == "webm" else "libx264",
        bframes=0 if suffix == "webm" else 2,
        options={"lag-in-frames": "0"} if suffix == "webm" else {},
    )
    sample = media.read_video(path, 5)
    assert read_barcodes(sample.pixels) == [0, 50, 51, 52, 53]
    np.testing.assert_allclose(sample.seconds, [0, 1, 2, 3, 4], atol=1e-3)


@pytest.mark.parametrize("bframes", [0, 2])
@pytest.mark.parametrize("first", [-10, 1000])
def test_edit_lists_and_late_starts(first, bframes, tmp_path):
    # A start before zero becomes an edit list in MP4: those frames are not shown.
    path = write_video(
        tmp_path / "shifted.mp4", 40, times=list(range(first, first + 40)),
        bframes=bframes,
    )  # fmt: skip
    hidden = max(0, -first)
    sample = media.read_video(path)
    want = [hidden + k for k in linspace(40 - hidden, 8)]
    assert read_barcodes(sample.pixels) == want
    assert sample.seconds[0] == 0
    assert sample.seconds[-1] == pytest.approx((39 - hidden) / 25)
    assert media.probe(path).num_frames == 40 - hidden


def test_cut_in_seconds_from_the_first_frame(tmp_path):
    path = write_video(tmp_path / "a.mp4", 100, times=list(range(50, 150)), bframes=2)
    sample = media.read_video(path, 3, start=1.0, end=2.0)
    assert read_barcodes(sample.pixels) == [25, 37, 49]
    np.testing.assert_allclose(sample.seconds, [1.0, 37 / 25, 49 / 25])
    assert sample.duration == pytest.approx(1.0)
    for start, end in [(4.0, None), (2.0, 2.0), (3.0, 1.0), (-1.0, None)]:
        with pytest.raises(media.MediaError) as e:
            media.read_video(path, start=start, end=end)
        assert e.value.code == "bad_cut" and str(path) in str(e.value)
    with pytest.raises(media.MediaError):
        media.read_video(path, start=float("nan"))


@pytest.mark.parametrize("num", [1, 2, 5])
def test_short_videos_repeat_frames(num, tmp_path):
    sample = media.read_video(write_video(tmp_path / "short.mp4", num))
    assert read_barcodes(sample.pixels) == linspace(num, 8)
    assert sample.duration == pytest.approx(num / 25)


# Stored pixels of an upright picture for each display matrix: (rotation counter-
# clockwise, then mirrored left to right) -> how the picture lies in the file.
@pytest.mark.parametrize("degrees", [0, 90, 180, 270])
@pytest.mark.parametrize("mirrored", [False, True])
def test_display_matrix_makes_frames_upright(degrees, mirrored, tmp_path):
    path = write_video(
        tmp_path / "turned.mp4", 4, rotation=(degrees, mirrored),
        turn=-degrees // 90, scale=2,
    )  # fmt: skip
    sample = media.read_video(path, 4)
    upright = sample.pixels[:, :, ::-1] if mirrored else sample.pixels
    assert upright.shape == (4, 96, 128, 3)
    assert read_barcodes(upright) == [0, 1, 2, 3]
    info = media.probe(path)
    assert (info.width, info.height) == (128, 96)


def test_header_that_lies_about_the_number_of_frames(tmp_path):
    path = write_video(tmp_path / "lie.avi", 60)
    data = bytearray(path.read_bytes())
    frames_in_avih, frames_in_strh = data.index(b"avih") + 24, data.index(b"strh") + 40
    for at in (frames_in_avih, frames_in_strh):
        assert int.from_bytes(data[at : at + 4], "little") == 60
        data[at : at + 4] = (9000).to_bytes(4, "little")
    path.write_bytes(data)
    with av.open(str(path)) as container:
        assert container.streams.video[0].frames == 9000
    assert read_barcodes(media.read_video(path).pixels) == linspace(60, 8)
    assert media.probe(path).num_frames == 60


def test_timestamps_that_start_again(tmp_path):
    # Two recordings joined byte by byte: the second one's clock starts over.
    one = write_video(tmp_path / "one.ts", 30, format="mpegts")
    two = write_video(tmp_path / "two.ts", 30, format="mpegts")
    path = tmp_path / "joined.ts"
    path.write_bytes(one.read_bytes() + two.read_bytes())
    pts, frames = decode_all(path)
    assert len(frames) == 60 and pts != sorted(pts)
    sample = media.read_video(path)
    numbers = read_barcodes(sample.pixels)
    assert numbers == [k % 30 for k in linspace(60, 8)]
    np.testing.assert_allclose(sample.seconds, np.array(linspace(60, 8)) / 25)


def test_size_that_changes_within_a_stream(tmp_path):
    small = write_video(tmp_path / "s.ts", 20, format="mpegts")
    large = write_video(
        tmp_path / "l.ts", 20, format="mpegts", scale=2, times=list(range(20, 40))
    )
    path = tmp_path / "both.ts"
    path.write_bytes(small.read_bytes() + large.read_bytes())
    sample = media.read_video(path, 4)
    assert sample.pixels.shape == (4, 48, 64, 3)
    assert read_barcodes(sample.pixels) == [0, 13, 26 - 20, 39 - 20]


def test_sound_beside_the_video(tmp_path):
    path = write_video(tmp_path / "sound.mp4", 20, audio=True)
    assert media.probe(path).has_audio
    assert read_barcodes(media.read_video(path, 2).pixels) == [0, 19]


def test_full_range_greys_keep_their_levels(tmp_path):
    path = write_video(tmp_path / "full.mov", 2, codec="mjpeg", pix_fmt="yuvj420p")
    pixels = media.read_video(path, 1).pixels[0]
    assert abs(pixels.astype(int) - barcode(0)).max() <= 3


@pytest.mark.parametrize("suffix", ["gif", "webp", "png"])
def test_animations_by_their_durations(suffix, tmp_path):
    path = tmp_path / f"a.{suffix}"
    images = [Image.fromarray(barcode(k)) for k in range(1, 5)]
    durations = [100, 100, 100, 900]
    images[0].save(
        path, save_all=True, append_images=images[1:], duration=durations,
        **({"lossless": True} if suffix == "webp" else {}),
    )  # fmt: skip
    sample = media.read_video(path, 4)
    assert read_barcodes(sample.pixels) == [1, 2, 3, 4]
    np.testing.assert_allclose(sample.seconds, [0, 0.1, 0.2, 0.3])
    assert sample.duration == pytest.approx(1.2)
    info = media.probe(path)
    assert (info.num_frames, info.width, info.height) == (4, 64, 48)


def test_a_still_image_is_a_video_of_one_frame(tmp_path):
    Image.fromarray(barcode(9)).save(tmp_path / "still.png")
    sample = media.read_video(tmp_path / "still.png")
    assert read_barcodes(sample.pixels) == [9] * 8
    assert read_barcode(media.read_image(tmp_path / "still.png")) == 9
