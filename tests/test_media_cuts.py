"""Many cuts in one pass: each as `read_video` gives it alone, to the last bit."""

import numpy as np
import pytest
from media_files import barcode, decode_all, read_barcodes, write_video
from PIL import Image
from test_media_video import FILES

from gve_jax import media
from gve_jax.media import Limits, MediaError

CUTS = [
    (None, None), (0.0, 1.0), (0.5, 1.5), (1.0, 2.04), (1.5, 1.51), (2.0, 3.2),
    (3.1, 9.0), (4.0, 5.0),
]  # fmt: skip


def drain(iterator):
    return sum(1 for _ in iterator)


def alone(path, num, start, end, limits=None):
    try:
        return media.read_video(path, num, start, end, limits)
    except MediaError as e:
        return e


def together(path, cuts, num, look):
    seen = []

    def fit(pixels, total):
        seen.append(total)
        return pixels

    with media.LongVideo(path) as video:
        drain(video.scan())
        if look or video.line is None:
            assert drain(video.look(16)) > 0
        found = dict(filter(None, video.read(cuts, num, fit)))
    assert found.keys() == set(range(len(cuts)))
    return [found[i] for i in range(len(cuts))], seen


def assert_same(found, wanted):
    if isinstance(wanted, MediaError):
        assert isinstance(found, MediaError) and str(found) == str(wanted)
        return
    np.testing.assert_array_equal(found.pixels, wanted.pixels)
    np.testing.assert_array_equal(found.seconds, wanted.seconds)
    assert found.duration == wanted.duration


@pytest.mark.parametrize("name", FILES)
def test_every_cut_equals_the_one_read_alone(name, tmp_path):
    path = write_video(tmp_path / name, 80, **FILES[name][0])
    look = len(name) % 2 == 0
    found, fitted = together(path, CUTS, 4, look)
    for cut, sample in zip(CUTS, found, strict=True):
        assert_same(sample, alone(path, 4, *cut))
    # What several samples hold is brought to size once.
    assert set(fitted) == {4} and len(fitted) < 4 * (len(CUTS) - 1)


def test_the_number_of_frames_may_be_a_rule(tmp_path):
    path = write_video(tmp_path / "a.mp4", 80, gop=10, bframes=2)
    rule = lambda frames, seconds: 2 * round(1 + seconds)  # noqa: E731
    found, fitted = together(path, CUTS[:4], rule, True)
    for cut, sample in zip(CUTS, found, strict=False):
        assert_same(sample, alone(path, rule, *cut))
    assert set(fitted) == {8, 4}


@pytest.mark.parametrize("look", [False, True])
def test_turned_and_of_changing_size(look, tmp_path):
    turned = write_video(tmp_path / "t.mp4", 30, rotation=(90, True), turn=1)
    small = write_video(tmp_path / "s.ts", 20, format="mpegts")
    large = write_video(
        tmp_path / "l.ts", 20, format="mpegts", scale=2, times=list(range(20, 40))
    )
    both = tmp_path / "both.ts"
    both.write_bytes(small.read_bytes() + large.read_bytes())
    for path in (turned, both):
        cuts = [(None, None), (0.0, 0.5), (0.4, 1.2), (0.9, 1.5)]
        found, _ = together(path, cuts, 4, look)
        for cut, sample in zip(cuts, found, strict=True):
            assert_same(sample, alone(path, 4, *cut))
    assert {s.pixels.shape for s in found} == {(4, 48, 64, 3), (4, 96, 128, 3)}


@pytest.mark.parametrize("look", [False, True])
def test_damage_is_decided_for_each_cut(look, tmp_path):
    """Frames of one GOP are lost: the cuts beside it are those of a sound file."""
    path = write_video(tmp_path / "a.mkv", 400, gop=10)
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 60] = bytes(60)
    path.write_bytes(data)
    cuts = [(None, None), *((s, s + 4.0) for s in np.arange(0.0, 12, 2))]
    lenient = Limits(max_damage=0.5)
    with media.LongVideo(path, lenient) as video:
        drain(video.scan())
        if look:
            assert 300 < drain(video.look(16)) < 400
        found = dict(filter(None, video.read(cuts, 4, lambda pixels, _: pixels)))
    for i, cut in enumerate(cuts):
        assert_same(found[i], alone(path, 4, *cut, lenient))


def test_when_the_frames_of_a_look_are_shown(tmp_path):
    for name in ("h264_g12_b2.mp4", "h264.ts", "h264_bframes.avi"):
        path = write_video(tmp_path / name, 80, **FILES[name][0])
        with media.LongVideo(path) as video:
            drain(video.scan())
            small = list(video.look(24))
            times = video.seconds(range(80))
            assert video.line.duration == media.read_video(path).duration
        np.testing.assert_allclose(times, np.arange(80) / 25, atol=1e-3)
        assert small[0].shape == (24, 32, 3)
        assert read_barcodes(np.stack(small)) == list(range(80))
        # A cut that begins at such a time begins with that frame.
        sample = media.read_video(path, 1, times[37], None)
        np.testing.assert_array_equal(sample.pixels[0], decode_all(path)[1][37])


def test_what_cannot_be_read(tmp_path):
    (tmp_path / "junk.mp4").write_bytes(b"\0\0\0\x18ftypmp42" + bytes(90))
    with pytest.raises(MediaError):
        drain(media.LongVideo(tmp_path / "junk.mp4").scan())
    Image.fromarray(barcode(3)).save(tmp_path / "a.png")
    with pytest.raises(MediaError, match="an image where a video"):
        media.LongVideo(tmp_path / "a.png")
