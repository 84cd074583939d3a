"""Real clips: sampled as the whole decode says, and stable under re-encoding."""

import numpy as np
import pytest
import real_clips
from media_files import decode_some

from gve_jax import media

# Name -> frames, frames a second, width, height, sound.
FACTS = {
    "bikes": (250, 25, 640, 272, False),
    "bigbuckbunny": (132, 25, 1280, 720, True),
    "carphone": (120, 30000 / 1001, 176, 144, False),
    "carphone_distorted": (120, 30000 / 1001, 176, 144, False),
}


@pytest.mark.parametrize("name", FACTS)
def test_real_clip_equals_its_whole_decode(name, tmp_path):
    count, fps, width, height, sound = FACTS[name]
    path = real_clips.path(name, tmp_path)
    info = media.probe(path)
    assert (info.num_frames, info.width, info.height) == (count, width, height)
    assert info.has_audio == sound and info.codec == "h264"
    assert info.fps == pytest.approx(fps, rel=1e-3)
    sample = media.read_video(path)
    want = np.linspace(0, count - 1, 8).round().astype(int)
    np.testing.assert_allclose(sample.seconds, want / fps, atol=1e-3)
    cut = media.read_video(path, 4, start=1.0, end=3.0)
    inside = [k for k in range(count) if 1.0 <= round(k / fps, 6) < 3.0]
    want_cut = inside[0] + np.linspace(0, len(inside) - 1, 4).round().astype(int)
    frames = decode_some(path, {*want, *want_cut})
    for got, k in zip(sample.pixels, want, strict=True):
        np.testing.assert_array_equal(got, frames[k])
    for got, k in zip(cut.pixels, want_cut, strict=True):
        np.testing.assert_array_equal(got, frames[k])


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_re_encoded_twin_gives_nearly_the_same_frames(suffix, tmp_path):
    path = real_clips.path("carphone", tmp_path)
    twin = real_clips.twin(path, tmp_path / f"twin.{suffix}", crf=20, gop=30)
    assert media.content_key(path) != media.content_key(twin)
    a, b = media.read_video(path), media.read_video(twin)
    np.testing.assert_allclose(a.seconds, b.seconds, atol=2e-3)
    apart = np.abs(a.pixels.astype(int) - b.pixels).mean((1, 2, 3))
    others = np.abs(a.pixels[:-1].astype(int) - b.pixels[1:]).mean((1, 2, 3))
    assert apart.max() < 4 < others.min()
