"""Images: orientation, modes, damage, limits. The witness is arithmetic or Pillow."""

import numpy as np
import pytest
from media_files import barcode, read_barcode, write_video
from PIL import Image, ImageOps

from gve_jax import media


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(orientation, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "a.jpg"
    Image.fromarray(barcode(2389)).save(path, exif=exif, quality=95)
    got = media.read_image(path)
    with Image.open(path) as image:  # Pillow's own way to do it
        np.testing.assert_array_equal(got, np.asarray(ImageOps.exif_transpose(image)))
    assert got.shape == ((48, 64, 3) if orientation < 5 else (64, 48, 3))
    if orientation < 5:
        assert (read_barcode(got) == 2389) == (orientation == 1)
    np.testing.assert_array_equal(media.read_video(path, 1).pixels[0], got)


def test_broken_exif_does_not_cost_the_image(tmp_path):
    path = tmp_path / "a.jpg"
    Image.fromarray(barcode(77)).save(path, exif=b"Exif\x00\x00nonsense", quality=95)
    assert read_barcode(media.read_image(path)) == 77


def test_transparency_lies_on_white(tmp_path):
    rgba = np.zeros((4, 4, 4), np.uint8)
    rgba[..., 3] = [0, 64, 128, 255]
    want = np.rint(255 * (1 - np.array([0, 64, 128, 255]) / 255))
    for name in ("a.png", "a.webp"):
        Image.fromarray(rgba).save(tmp_path / name, lossless=True)
        got = media.read_image(tmp_path / name)
        np.testing.assert_allclose(got[0, :, 0], want, atol=1)
    grey_alpha = Image.fromarray(rgba[..., 2:], "LA")
    grey_alpha.save(tmp_path / "la.png")
    np.testing.assert_allclose(
        media.read_image(tmp_path / "la.png")[0, :, 0], want, atol=1
    )
    palette = Image.new("P", (2, 1))
    palette.putpalette([10, 20, 30, 200, 100, 50])
    palette.putdata([0, 1])
    palette.save(tmp_path / "p.png", transparency=0)
    assert media.read_image(tmp_path / "p.png").tolist() == [
        [[255, 255, 255], [200, 100, 50]]
    ]


def test_palettes_bits_and_depths(tmp_path):
    palette = Image.new("P", (2, 1))
    palette.putpalette([10, 20, 30, 200, 100, 50])
    palette.putdata([0, 1])
    for name in ("p.gif", "p.bmp", "p.png"):
        palette.save(tmp_path / name)
        got = media.read_image(tmp_path / name)
        assert got.tolist() == [[[10, 20, 30], [200, 100, 50]]]
    Image.new("1", (2, 2), 1).save(tmp_path / "b.png")
    assert (media.read_image(tmp_path / "b.png") == 255).all()
    deep = np.array([[0, 256, 32768, 65535]], np.uint16)
    for name in ("g.png", "g.tiff", "g.pgm"):
        Image.fromarray(deep).save(tmp_path / name)
        got = media.read_image(tmp_path / name)
        assert got.dtype == np.uint8 and got[0, :, 1].tolist() == [0, 1, 128, 255]
    cmyk = Image.new("CMYK", (8, 8), (0, 255, 255, 0))
    cmyk.save(tmp_path / "c.jpg", quality=95)
    red = media.read_image(tmp_path / "c.jpg")[4, 4].astype(int)
    assert abs(red - [255, 0, 0]).max() <= 4
    Image.fromarray(np.ones((2, 2), np.float32)).save(tmp_path / "f.tiff")
    with pytest.raises(media.MediaError, match="float"):
        media.read_image(tmp_path / "f.tiff")


def test_image_that_is_cut_off(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    for name in ("a.jpg", "a.png", "a.webp", "a.gif", "a.bmp"):
        path = tmp_path / name
        Image.fromarray(noise).save(path)
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        with pytest.raises(media.MediaError) as e:
            media.read_image(path)
        assert e.value.code == "unreadable" and str(path) in str(e.value)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_bombs_are_refused_by_their_header(tmp_path):
    path = tmp_path / "bomb.png"
    Image.new("1", (9_000, 9_000)).save(path)
    assert path.stat().st_size < 200_000
    for read in (media.read_image, media.read_video, media.probe):
        with pytest.raises(media.MediaError):
            read(path)
    Image.new("L", (200, 100)).save(path)
    with pytest.raises(media.MediaError, match=r"max_image_pixels") as e:
        media.read_image(path, media.Limits(max_image_pixels=10_000))
    assert e.value.code == "too_many_pixels"
    assert media.Limits().max_image_pixels >= Image.MAX_IMAGE_PIXELS


def test_not_an_image(tmp_path):
    video = write_video(tmp_path / "v.mp4", 2)
    video = video.rename(tmp_path / "v.jpg")
    text = tmp_path / "t.png"
    text.write_text("hello")
    for path in (video, text):
        with pytest.raises(media.MediaError) as e:
            media.read_image(path)
        assert e.value.code == "unknown_format"
