"""Hostile, broken and strange files: each ends in one MediaError, soon."""

import os
import pickle
import subprocess
import sys
import time
import wave
from concurrent.futures import ThreadPoolExecutor

import av
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from media_files import barcode, read_barcodes, write_video
from PIL import Image

from gve_jax import media
from gve_jax.types import UserError

VIDEO_HEADS = [
    b"\x00\x00\x00\x18ftypisom",
    b"\x1a\x45\xdf\xa3",
    b"RIFF\x40\x00\x00\x00AVI ",
    b"OggS",
    b"FLV\x01\x05",
    b"\x00\x00\x01\xba",
    b"\x00\x00\x01\xb3",
    b"\x30\x26\xb2\x75\x8e\x66\xcf\x11",
]


def refused(path, read=media.read_video, **arguments) -> str:
    with pytest.raises(media.MediaError) as e:
        read(path, **arguments)
    assert str(e.value).startswith(f"{path}: ") and "\n" not in str(e.value)
    return e.value.code


def test_playlists_in_disguise_never_open_a_sibling(tmp_path):
    victim = write_video(tmp_path / "private.mp4", 4)
    concat = "ffconcat version 1.0\nfile private.mp4\n"
    playlist = (
        "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nprivate.mp4\n#EXT-X-ENDLIST\n"
    )
    for name, text in {
        "a.mp4": concat, "a.ffconcat": concat, "a.m3u8": playlist, "b.mp4": playlist,
        "a.sdp": "v=0\nc=IN IP4 127.0.0.1\nm=video 5004 RTP/AVP 96\n",
        "a.svg": "<svg xmlns='http://www.w3.org/2000/svg'/>",
        "a.eps": "%!PS-Adobe-3.0 EPSF-3.0\n",
    }.items():  # fmt: skip
        path = tmp_path / name
        path.write_text(text)
        assert refused(path) == "unknown_format"
        assert refused(path, media.probe) == "unknown_format"
        assert refused(path, media.read_image) == "unknown_format"
    # The attack is real: unguarded, PyAV decodes the sibling.
    with av.open(str(tmp_path / "a.ffconcat"), options={"safe": "0"}) as container:
        assert next(container.decode(video=0)).width == 64
    assert read_barcodes(media.read_video(victim, 2).pixels) == [0, 3]


def test_magic_bytes_before_a_playlist_do_not_help(tmp_path):
    write_video(tmp_path / "private.mp4", 4)
    playlist = b"\n#EXTM3U\n#EXTINF:1,\nprivate.mp4\n#EXT-X-ENDLIST\n"
    for head in VIDEO_HEADS:
        path = tmp_path / "p.mp4"
        path.write_bytes(head + playlist)
        assert refused(path) in {"unreadable", "truncated", "no_video", "no_frames"}


def test_urls_options_and_special_files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("http://127.0.0.1:9/a.mp4", "concat:a|b", "pipe:0", "-i", "\x00"):
        assert refused(name) in {"not_found", "unreadable"}
    write_video(tmp_path / "plain.mp4", 3).rename(tmp_path / "concat:odd|name.mp4")
    assert len(media.read_video("concat:odd|name.mp4", 2).pixels) == 2
    os.mkfifo(tmp_path / "fifo.mp4")  # opening it would wait for ever
    assert refused(tmp_path / "fifo.mp4") == "not_a_file"
    assert refused(tmp_path) == "not_a_file"
    assert refused("/dev/zero") == "not_a_file"


def test_empty_missing_and_audio_files(tmp_path):
    (tmp_path / "empty.mp4").touch()
    assert refused(tmp_path / "empty.mp4") == "empty"
    assert refused(tmp_path / "none.mp4", media.read_image) == "not_found"
    assert refused(tmp_path / "none.mp4", media.content_key) == "not_found"
    with wave.open(str(tmp_path / "a.wav"), "wb") as f:
        f.setparams((1, 2, 8000, 0, "NONE", ""))
        f.writeframes(bytes(1600))
    assert refused(tmp_path / "a.wav") == "no_video"
    for name in ("sound.m4a", "sound.mkv"):
        with av.open(str(tmp_path / name), "w", format=None) as out:
            stream = out.add_stream("aac", rate=16000, layout="mono")
            tone = av.AudioFrame.from_ndarray(
                np.zeros((1, 1024), np.float32), format="fltp", layout="mono"
            )
            tone.rate = 16000
            out.mux(stream.encode(tone))
            out.mux(stream.encode(None))
        assert refused(tmp_path / name) == "no_video"
        assert refused(tmp_path / name, media.probe) == "no_video"


def test_a_cover_picture_is_no_video(tmp_path):
    path = tmp_path / "song.mp4"
    with av.open(str(path), "w") as out:
        sound = out.add_stream("aac", rate=16000, layout="mono")
        cover = out.add_stream("png")
        cover.width, cover.height, cover.pix_fmt = 64, 48, "rgb24"
        cover.disposition = av.stream.Disposition.attached_pic
        tone = av.AudioFrame.from_ndarray(
            np.zeros((1, 1024), np.float32), format="fltp", layout="mono"
        )
        tone.rate = 16000
        out.mux(sound.encode(tone))
        out.mux(sound.encode(None))
        picture = av.VideoFrame.from_ndarray(barcode(5), format="rgb24")
        picture.pts = 0
        out.mux(cover.encode(picture))
        out.mux(cover.encode(None))
    assert refused(path) == "no_video"


def test_pixel_bomb_by_header_and_by_stream(tmp_path):
    # Flat frames compress to nothing; only the pixel count gives them away.
    path = write_video(tmp_path / "big.mp4", 2, scale=16)
    assert refused(path, limits=media.Limits(max_pixels=100_000)) == "too_many_pixels"
    # A small header before large pictures: the cap is the decoder's own option.
    small = write_video(tmp_path / "small.ts", 30, format="mpegts")
    large = write_video(
        tmp_path / "large.ts", 30, format="mpegts", scale=8, times=list(range(30, 60))
    )
    path = tmp_path / "grows.ts"
    path.write_bytes(small.read_bytes() + large.read_bytes())
    assert len(media.read_video(path).pixels) == 8
    assert refused(path, limits=media.Limits(max_pixels=10_000)) == "corrupt"


def test_caps_on_frames_bytes_and_time(tmp_path):
    path = write_video(tmp_path / "one_gop.mp4", 300, gop=999)
    limits = media.Limits(max_frames=100)
    assert refused(path, limits=limits) == "too_many_frames"
    assert refused(path, limits=media.Limits(max_packets=200)) == "too_many_frames"
    assert refused(path, limits=media.Limits(max_bytes=10_000)) == "too_large"
    assert refused(path, num_frames=10**6) == "too_large"
    began = time.monotonic()
    assert refused(path, limits=media.Limits(max_seconds=0.0)) == "too_slow"
    assert time.monotonic() - began < 5
    gif = tmp_path / "long.gif"
    images = [Image.new("L", (8, 8), k) for k in range(40)]
    images[0].save(gif, save_all=True, append_images=images[1:])
    assert refused(gif, limits=media.Limits(max_frames=20)) == "too_many_frames"


def test_cut_off_files(tmp_path):
    def cut(path, share):
        data = path.read_bytes()
        path.write_bytes(data[: int(len(data) * share)])
        return path

    late = write_video(tmp_path / "index_last.mp4", 60)
    assert refused(cut(late, 0.6)) == "truncated"
    faststart = {"muxer": {"movflags": "faststart"}, "gop": 10}
    early = write_video(tmp_path / "index_first.mp4", 60, **faststart)
    assert refused(cut(early, 0.9)) == "truncated"
    for suffix in ("mkv", "avi"):
        path = write_video(tmp_path / f"a.{suffix}", 60)
        assert refused(cut(path, 0.7)) == "truncated"
    # A last frame lost is within Limits.max_damage: the others are sampled.
    path = write_video(tmp_path / "tail.mp4", 60, **faststart)
    path.write_bytes(path.read_bytes()[:-4])
    numbers = read_barcodes(media.read_video(path).pixels)
    assert numbers == np.linspace(0, 58, 8).round().astype(int).tolist()
    assert refused(path, limits=media.Limits(max_damage=0.0)) == "truncated"
    # Streams without a declared length: what is there.
    path = cut(write_video(tmp_path / "a.ts", 60, format="mpegts"), 0.6)
    assert read_barcodes(media.read_video(path).pixels)[0] == 0


def test_damaged_frames_are_left_out_and_counted(tmp_path):
    path = write_video(tmp_path / "a.mp4", 100, codec="mjpeg", pix_fmt="yuvj420p")
    with av.open(str(path)) as container:
        packets = [(p.pos, p.size) for p in container.demux(video=0) if p.size]
    data = bytearray(path.read_bytes())
    for k in (0, 57):  # the first frame, and one that is sampled
        pos, size = packets[k]
        data[pos : pos + size] = bytes(size)
    path.write_bytes(data)
    # From 1 to 99 in steps of 14; 57 is lost, 56 and 58 are as near.
    want = [1, 15, 29, 43, 58, 71, 85, 99]
    assert read_barcodes(media.read_video(path).pixels) == want
    limits = media.Limits(max_damage=0.01)
    assert refused(path, limits=limits) == "corrupt"


def test_content_key(tmp_path):
    one, two = tmp_path / "one.bin", tmp_path / "two.bin"
    one.write_bytes(b"abc")
    two.write_bytes(b"abc")
    known = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert media.content_key(one) == media.content_key(two) == known
    two.write_bytes(b"abd")
    os.utime(two, ns=(1, 1))
    assert media.content_key(two) != known


def test_errors_are_user_errors_and_survive_pickling():
    error = media.MediaError("a.mp4", "empty", "the file is empty")
    again = pickle.loads(pickle.dumps(error))
    assert isinstance(again, UserError) and str(again) == "a.mp4: the file is empty"
    assert (again.path, again.code) == ("a.mp4", "empty")


def test_threads_and_file_descriptors(tmp_path):
    paths = [
        write_video(tmp_path / f"{i}.{s}", 60 + i, bframes=2)
        for i, s in enumerate(["mp4", "mkv", "avi", "mp4"])
    ]
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(paths[0].read_bytes()[:1500])
    alone = [media.read_video(p).pixels for p in paths]
    before = len(os.listdir("/proc/self/fd"))
    with ThreadPoolExecutor(8) as pool:
        jobs = [pool.submit(media.read_video, paths[k % 4]) for k in range(64)]
        bad = [pool.submit(media.read_video, broken) for _ in range(16)]
        for k, job in enumerate(jobs):
            np.testing.assert_array_equal(job.result().pixels, alone[k % 4])
        assert all(isinstance(b.exception(), media.MediaError) for b in bad)
    assert len(os.listdir("/proc/self/fd")) <= before


def test_neither_jax_nor_torch_is_imported():
    code = "import sys, gve_jax.media; print({'jax', 'torch'} & set(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "set()"


IMAGE_HEADS = [b"RIFF\x40\x00\x00\x00WEBP", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n",
               b"GIF89a", b"BM", b"II*\x00", b"P6 "]  # fmt: skip
hostile = settings(
    max_examples=150,
    deadline=20_000,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
LIMITS = media.Limits(max_seconds=10, max_frames=500, max_pixels=10**6)


def read_all_ways(path):
    """Whatever is in the file: an answer of the promised form, or MediaError."""
    for read in (media.read_video, media.probe, media.read_image):
        try:
            result = read(path, limits=LIMITS)
        except media.MediaError as e:
            assert e.code and "\n" not in str(e)
        else:
            if read is media.read_video:
                assert result.pixels.shape[0] == 8 and result.pixels.dtype == np.uint8
                assert (np.diff(result.seconds) >= 0).all()


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's, about broken EXIF
@hostile
@given(st.sampled_from([b"", *VIDEO_HEADS, *IMAGE_HEADS]), st.binary(max_size=2000))
def test_random_bytes(tmp_path, head, tail):
    path = tmp_path / "random"
    path.write_bytes(head + tail)
    read_all_ways(path)


@pytest.fixture(scope="module")
def sound_files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sound")
    files = [
        write_video(folder / name, 24, gop=6, **settings)
        for name, settings in {
            "a.mp4": dict(bframes=2),
            "f.mp4": dict(muxer={"movflags": "frag_keyframe+empty_moov"}),
            "a.mkv": dict(bframes=2),
            "a.webm": dict(codec="libvpx"),
            "a.avi": dict(codec="mpeg4"),
            "a.ts": dict(format="mpegts"),
            "a.mov": dict(codec="mjpeg", pix_fmt="yuvj420p"),
        }.items()
    ]
    noise = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3), np.uint8)
    images = [Image.fromarray(n) for n in noise]
    for name in ("a.gif", "a.png", "a.webp", "a.jpg", "a.tiff"):
        many = {} if name == "a.jpg" else dict(save_all=True, append_images=images[1:])
        images[0].save(folder / name, **many)
        files.append(folder / name)
    return [f.read_bytes() for f in files]


@pytest.mark.filterwarnings("ignore::UserWarning")
@hostile
@given(st.data())
def test_random_cuts_and_flips(tmp_path, sound_files, data):
    file = bytearray(data.draw(st.sampled_from(sound_files)))
    for _ in range(data.draw(st.integers(0, 6))):
        file[data.draw(st.integers(0, len(file) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path / "mutant"
    path.write_bytes(file[: data.draw(st.integers(0, len(file)))])
    read_all_ways(path)
