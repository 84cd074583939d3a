"""Motion, shots, hashes, clips, stills and repair, on videos whose truth is known."""

from fractions import Fraction

import av
import cv2
import numpy as np
import pytest
from media_files import decode_all, read_barcode
from media_files import write_video as write_barcodes
from ml_collections import ConfigDict

from data_synthesis import assets, hashes, motion, video
from data_synthesis.config import default_config
from data_synthesis.world.encode import write_video
from gve_jax import media
from gve_jax.media import Limits, MediaError
from gve_jax.types import Item

LIMITS = Limits()
SHARE = default_config().motion.min_share


def texture(seed: int, height: int, width: int, cells: int = 12) -> np.ndarray:
    """uint8 [h, w]: smooth random grey."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(40, 216, (cells, round(cells * width / height)))
    size = (width, height)
    return cv2.resize(coarse.astype(np.uint8), size, interpolation=cv2.INTER_CUBIC)


def sliding(
    height: int, speed: float, size: float, number: int = 9
) -> list[np.ndarray]:
    """A textured square crosses a textured ground; in parts of the height."""
    width = height * 16 // 9
    ground, thing = texture(0, height, width), texture(1, height, height, 20)
    side, out = round(size * height), []
    for i in range(9):
        x, y = round((0.1 + speed * i) * height), height // 3
        frame = ground.copy()
        frame[y : y + side, x : x + side] = thing[:side, :side]
        out.append(frame)
    return out


def flat(height: int, value=110) -> np.ndarray:
    return np.full((height, height * 16 // 9), value, np.uint8)


@pytest.mark.parametrize("height", [144, 224, 360])
def test_what_does_not_move_scores_below(height):
    rng = np.random.default_rng(0)
    ground = texture(0, height, height * 16 // 9)

    def clipped(frame):
        return np.clip(frame, 0, 255).astype(np.uint8)

    still = {
        "static": [ground] * 9,
        "noise": [clipped(flat(height) + rng.normal(0, 6, flat(height).shape))
                  for _ in range(9)],
        "noisy picture": [clipped(ground + rng.normal(0, 6, ground.shape))
                          for _ in range(9)],
        "flicker": [clipped(ground * (1.0 if i % 2 else 0.8)) for i in range(9)],
        "noisy flicker": [
            clipped(ground * (1.0 if i % 2 else 0.8) + rng.normal(0, 4, ground.shape))
            for i in range(9)
        ],
        "fade": [clipped(ground * (1 - 0.1 * i)) for i in range(9)],
        "brighter": [clipped(ground * 0.5 + 10.0 * i) for i in range(9)],
    }  # fmt: skip
    for name, frames in still.items():
        found = motion.measure(frames).share_above("default")
        assert found == 0, name
    assert motion.measure(still["static"]).freeze == 1.0


@pytest.mark.parametrize("height", [144, 224, 360])
def test_what_moves_scores_above(height):
    for speed, size in ((0.02, 0.25), (0.08, 0.25), (0.15, 0.4)):
        found = motion.measure(sliding(height, speed, size))
        assert found.share_above("default") >= SHARE, (speed, size)
        assert found.freeze == 0.0
    pan = [texture(0, height, 3 * height)[:, round(0.02 * height) * i :][:, :height]
           for i in range(9)]  # fmt: skip
    assert motion.measure(pan).share_above("default") == 1.0


def test_one_motion_scores_the_same_at_any_size():
    means = [motion.measure(sliding(h, 0.06, 0.3)).mean for h in (135, 180, 270, 540)]
    assert np.ptp(means) < 0.2 * np.mean(means)
    flows = [motion.measure(sliding(h, 0.06, 0.3)).flow for h in (180, 540)]
    assert flows[0] == pytest.approx(flows[1], rel=0.25)


def test_small_things_count_where_there_is_no_noise():
    found = motion.measure(sliding(224, 0.05, 0.08))
    assert found.share_above("noise_free") > found.share_above("default")
    assert motion.measure([flat(90)]).freeze == 1.0


def colour(frames: list[np.ndarray]) -> list[np.ndarray]:
    return [np.repeat(f[..., None], 3, 2) for f in frames]


def scene(seed: int, number: int, shift: int = 4) -> list[np.ndarray]:
    """uint8 [144, 192, 3] frames that pan over a picture of their own."""
    wide = texture(seed, 144, 192 + shift * number + 8)
    tint = np.random.default_rng(seed).uniform(0.3, 1.0, 3)
    frames = colour([wide[:, i * shift : i * shift + 192] for i in range(number)])
    return [np.round(frame * tint).astype(np.uint8) for frame in frames]


def test_shots_begin_where_videos_were_spliced(tmp_path):
    path = tmp_path / "spliced.mp4"
    write_video(str(path), scene(1, 24) + scene(2, 16) + scene(3, 20), fps=8)
    found = video.inspect(str(path), LIMITS, 0.6)
    assert found.cuts == pytest.approx((0.0, 3.0, 5.0), abs=0.13)
    assert found.num_frames == found.declared == 60 and found.fps == 8
    write_video(str(tmp_path / "one.mp4"), scene(1, 24), fps=8)
    assert video.inspect(str(tmp_path / "one.mp4"), LIMITS, 0.6).cuts == (0.0,)


def apart(one: tuple[str, ...], two: tuple[str, ...]) -> float:
    first, second = hashes.table([hashes.pack(one), hashes.pack(two)])
    return float(hashes.distances(first, second))


def test_distance_is_the_mean_of_differing_bits():
    rng = np.random.default_rng(0)
    one, two = (rng.integers(0, 2, (8, 64)) for _ in range(2))
    table = hashes.table([np.packbits(bits).tobytes() for bits in (one, two)])
    expected = [0, np.mean(np.sum(one != two, 1))]
    assert hashes.distances(table[0], table).tolist() == expected
    assert apart(("00000000000000ff",) * 8, ("0" * 16,) * 8) == 8


def test_hashes_of_copies_are_near(tmp_path):
    def look(name: str, frames, **options):
        write_video(str(tmp_path / name), frames, fps=8, **options)
        return video.inspect(str(tmp_path / name), LIMITS, 0.6)

    frames = scene(1, 24)
    own = look("own.mp4", frames)
    small = [cv2.resize(f, (128, 96), interpolation=cv2.INTER_AREA) for f in frames]
    turned = [np.ascontiguousarray(f[:, ::-1]) for f in frames]
    coarse, half = look("coarse.mp4", frames, crf=40), look("half.mp4", small)
    mirror, other = look("mirror.mp4", turned), look("other.mp4", scene(7, 24))
    for copy in (coarse, half):
        assert apart(own.hashes, copy.hashes) <= 4
        assert set(hashes.bands(own.hashes)) & set(hashes.bands(copy.hashes))
    assert apart(own.hashes, mirror.hashes) > 16
    assert apart(own.mirrored, mirror.hashes) <= 4
    assert apart(own.hashes, other.hashes) > 16
    assert own.frames_sha256 != coarse.frames_sha256
    # The same frames in another container are the same frames.
    with (
        av.open(str(tmp_path / "own.mp4")) as a,
        av.open(str(tmp_path / "own.mkv"), "w") as b,
    ):
        stream = b.add_stream_from_template(a.streams.video[0])
        for packet in a.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                b.mux(packet)
    again = video.inspect(str(tmp_path / "own.mkv"), LIMITS, 0.6)
    assert again.frames_sha256 == own.frames_sha256


def test_the_hash_is_that_of_its_definition():
    """pHash by the DCT's own sum, in NumPy."""
    picture = texture(3, 32, 32)
    n = np.arange(32)
    basis = np.cos(np.pi * (2 * n[None] + 1) * np.arange(8)[:, None] / 64)
    low = (basis @ picture.astype(float) @ basis.T).ravel()
    bits = low > np.median(low[1:])
    # The first row and column are scaled by less than the others: it moves no sign.
    scale = np.outer(*[[np.sqrt(1 / 2), *[1] * 7]] * 2).ravel()
    bits = low * scale > np.median((low * scale)[1:])
    assert hashes.phash(picture) == int("".join(str(int(b)) for b in bits), 2)
    assert list(hashes.bands(("0" * 16, "f" * 16))) == []


def clip_config(**changes) -> ConfigDict:
    config = default_config().clips
    config.update({"min_seconds": 1.0, "max_seconds": 3.0} | changes)
    return config


def test_clips_lie_in_one_shot_and_are_short(tmp_path):
    path = tmp_path / "v.mp4"
    write_video(str(path), scene(1, 24) + scene(2, 24) + scene(3, 6), fps=8)
    cuts, duration = (0.0, 3.0, 6.0), 6.75
    starts = set()
    for seed in range(12):
        where = (str(path), tmp_path, "key", seed)
        clip = assets.cut_clip(*where, cuts, duration, 8.0, clip_config(), LIMITS)
        assert clip.end - clip.start <= 0.6 * duration
        assert 1.0 <= clip.end - clip.start <= 3.0
        shot = max(c for c in cuts if c <= clip.start)
        assert shot in (0.0, 3.0) and clip.end <= shot + 3.0
        found = media.probe(tmp_path / clip.path)
        assert found.duration == pytest.approx(clip.end - clip.start, abs=0.13)
        starts.add(shot)
    assert starts == {0.0, 3.0}
    assert assets.cut_clip(*where, cuts, duration, 8.0, clip_config(), LIMITS) == clip
    short = clip_config(min_seconds=5.0)
    assert assets.cut_clip(*where, cuts, duration, 8.0, short, LIMITS) is None
    assert not list((tmp_path / "media").glob("*.part"))


def test_a_clip_shows_what_was_on_show(tmp_path):
    """Of a video with a variable rate, by frames that say which they are."""
    times = [0, 25, 30, 31, 32, 60, 90, 95, 100, 125, 150, 151, 152, 175, 199]
    path = write_barcodes(tmp_path / "vfr.mp4", 15, times=times, scale=3)
    clip = assets.cut_clip(
        str(path), tmp_path, "k", 1, (0.0,), 8.0, 8.0, clip_config(), LIMITS
    )
    _, frames = decode_all(tmp_path / clip.path)
    for i, frame in enumerate(frames):
        shown = [k for k, t in enumerate(times) if t / 25 <= clip.start + i / 8 + 1e-6]
        assert read_barcode(frame) == shown[-1]


def test_stills_are_sharp_and_show_something(tmp_path):
    path = tmp_path / "v.mp4"
    sharp = scene(1, 10, shift=0)
    soft = [cv2.GaussianBlur(f, (0, 0), 6) for f in sharp]
    black = [np.zeros_like(f) for f in sharp]
    mixed = [(soft if i // 2 % 2 else sharp)[i] for i in range(10)]
    write_video(str(path), mixed + black + soft, fps=10)
    stills = assets.take_stills(str(path), tmp_path, "k", 0, 3.0, 3, LIMITS)
    assert len(stills) == 2
    first, last = stills
    assert first.start < 1.0 and last.start >= 2.0
    assert round(first.start * 10) // 2 % 2 == 0  # two are sharp, two are not, ...
    image = media.read_image(tmp_path / first.path)
    assert np.abs(image.astype(int) - mixed[0]).mean() < 6
    again = assets.take_stills(str(path), tmp_path, "k", 0, 3.0, 3, LIMITS)
    assert again == stills
    write_video(str(path), black, fps=10)
    assert assets.take_stills(str(path), tmp_path, "k", 0, 1.0, 3, LIMITS) == []
    night = [f.copy() for f in black]
    for frame in night:
        cv2.circle(frame, (60, 60), 20, (250, 250, 230), -1)
        assert frame.mean() < 16
    write_video(str(path), night, fps=10)
    assert assets.take_stills(str(path), tmp_path, "k", 0, 1.0, 3, LIMITS)


def test_equal_stills_are_one(tmp_path):
    path = tmp_path / "v.mp4"
    write_video(str(path), scene(1, 1, shift=0) * 24, fps=8, crf=0)
    assert len(assets.take_stills(str(path), tmp_path, "k", 0, 3.0, 3, LIMITS)) == 1


def frames_of(path) -> int:
    lenient = Limits(max_damage=1.0)
    return sum(1 for _ in media.stream_video(path, 64, lenient))


def test_repair_never_loses_frames(tmp_path):
    whole = write_barcodes(tmp_path / "whole.mkv", 60, gop=10, scale=3)
    data = whole.read_bytes()
    (tmp_path / "cut.mkv").write_bytes(data[: len(data) * 6 // 10])
    rotten = bytearray(
        write_barcodes(tmp_path / "w.mp4", 60, gop=10, scale=3).read_bytes()
    )
    rng = np.random.default_rng(0)
    for place in rng.integers(len(rotten) // 4, len(rotten) // 2, 12):
        rotten[place] ^= 0xFF
    (tmp_path / "rotten.mp4").write_bytes(rotten)
    for name in ("cut.mkv", "rotten.mp4"):
        path = tmp_path / name
        before = frames_of(path)
        assert 0 < before <= 60
        with pytest.raises(MediaError):
            video.inspect(str(path), Limits(max_damage=0.0), 0.6)
        made = assets.repair(str(path), tmp_path, "k", Limits(max_damage=0.0))
        mended = made.media
        assert made.how in ("remuxed", "encoded") and mended.role == "video"
        assert made.frames == before
        after = video.inspect(str(tmp_path / mended.path), Limits(max_damage=0.0), 0.6)
        assert after.num_frames >= before
        assert mended.end == pytest.approx(after.duration, abs=0.2)
    assert not list((tmp_path / "media").glob("*.part"))


def test_what_cannot_be_repaired_says_so(tmp_path):
    data = write_barcodes(tmp_path / "w.mp4", 20, scale=3).read_bytes()
    (tmp_path / "no_index.mp4").write_bytes(data[: data.index(b"moov") - 4])
    item = Item("k", video=str(tmp_path / "no_index.mp4"))
    found = assets.look(tmp_path, default_config().media, 0.6, item)
    assert found.startswith("truncated: ") and "not repaired" in found
    config = default_config().media
    config.repair = False
    assert "repaired" not in assets.look(tmp_path, config, 0.6, item)


def test_missing_timestamps_are_mended(tmp_path):
    """A raw stream in MPEG-TS without its clock: order holds, the rate must do."""
    path = write_barcodes(tmp_path / "v.avi", 30, bframes=2, scale=3)
    found, mended = assets.look(
        tmp_path, default_config().media, 0.6, Item("k", video=str(path))
    )
    assert found.num_frames == 30 and mended is None
    seconds = [t for t, _ in media.stream_video(path)]
    assert seconds == pytest.approx(np.arange(30) / 25, abs=1e-3)


FIXTURES = {
    "variable rate": {"times": [0, 1, 2, 10, 20, 21, 22, 40, 41, 60, 61, 62]},
    "rotated": {"rotation": (90, False), "turn": -1},
    "ten bits": {
        "pix_fmt": "yuv420p10le",
        "codec": "libx265",
        "options": {
            "x265-params": "log-level=none:colorprim=bt2020:transfer=smpte2084"
        },
    },
    "late start": {"times": list(range(40, 52)), "time_base": Fraction(1, 25)},
    "reordered": {"bframes": 2},
}


@pytest.mark.parametrize("name", FIXTURES)
def test_a_stream_gives_the_frames_that_reading_gives(name, tmp_path):
    path = write_barcodes(tmp_path / "v.mp4", 12, scale=3, **FIXTURES[name])
    streamed = list(media.stream_video(path))
    by_time = {round(t, 6): frame for t, frame in streamed}
    read = media.read_video(path, 40)  # of a variable rate not all, some repeatedly
    for seconds, pixels in zip(read.seconds, read.pixels, strict=True):
        np.testing.assert_array_equal(by_time[round(float(seconds), 6)], pixels)
    assert [read_barcode(f) for _, f in streamed] == list(range(12))
    found = video.inspect(str(path), LIMITS, 0.6)
    assert found.num_frames == 12
    assert (found.width, found.height) == (192, 144)  # upright


def test_streamed_frames_are_scaled_to_their_short_side(tmp_path):
    path = write_barcodes(tmp_path / "v.mp4", 5, scale=4)
    shapes = {f.shape for _, f in media.stream_video(path, 96)}
    assert shapes == {(96, 128, 3)}
    assert {f.shape for _, f in media.stream_video(path, 1000)} == {(192, 256, 3)}


def test_a_stream_of_an_animation_and_of_a_still(tmp_path):
    from PIL import Image

    images = [Image.fromarray(np.full((40, 40, 3), 60 * k, np.uint8)) for k in range(4)]
    images[0].save(
        tmp_path / "a.gif", save_all=True, append_images=images[1:], duration=200
    )
    streamed = list(media.stream_video(tmp_path / "a.gif"))
    assert [t for t, _ in streamed] == pytest.approx([0, 0.2, 0.4, 0.6])
    assert [int(f.mean()) for _, f in streamed] == [0, 60, 120, 180]
    images[1].save(tmp_path / "s.png")
    ((seconds, frame),) = media.stream_video(tmp_path / "s.png", 20)
    assert seconds == 0 and frame.shape == (20, 20, 3)


def test_a_file_without_frames_is_refused(tmp_path):
    with av.open(str(tmp_path / "none.mp4"), "w") as out:
        stream = out.add_stream("libx264", rate=25)
        stream.width, stream.height = 64, 64
        out.mux(stream.encode(None))
    with pytest.raises(MediaError):
        list(media.stream_video(tmp_path / "none.mp4"))
    with pytest.raises(MediaError):
        video.inspect(str(tmp_path / "none.mp4"), LIMITS, 0.6)


def test_the_limits_of_a_stream(tmp_path):
    path = write_barcodes(tmp_path / "v.mp4", 30, scale=3)
    with pytest.raises(MediaError) as e:
        list(media.stream_video(path, limits=Limits(max_frames=10)))
    assert e.value.code == "too_many_frames"
    with pytest.raises(MediaError) as e:
        next(media.stream_video(path, limits=Limits(max_pixels=100)))
    assert e.value.code == "too_many_pixels"
    # One that is left early leaves no file open.
    stream = media.stream_video(path)
    next(stream)
    stream.close()
