"""The whole way from files to padded batches."""

import dataclasses
import pickle
import threading

import av
import numpy as np
import pytest
from PIL import Image
from transformers import AutoTokenizer
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import (
    Qwen2VLImageProcessorPil,
)

from gve_jax import media
from gve_jax.contract import Contract
from gve_jax.preprocess import (
    Geometry,
    Processor,
    cache,
    load_tokenizer,
    train_tokenizer,
)
from gve_jax.preprocess.order import shuffled
from gve_jax.types import Frames, Item, UserError

TEXTS = ["a red ball moves left of a blue square", "Find the video: it's 12 frames."]
CONTRACT = Contract(min_pixels=9 * 784, max_pixels=9 * 784, max_tokens=300)
BIG = dataclasses.replace(CONTRACT, max_tokens=512)
SIZES = dict(
    token_buckets=(32, 64, 128, 512),
    patch_buckets=(128, 256, 512, 1024),
    exact_grids=((1, 6, 6), (4, 6, 6), (4, 12, 12)),
)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    train_tokenizer(TEXTS, 320, folder)
    return load_tokenizer(folder), folder


@pytest.fixture(scope="module")
def make(tokenizer):
    def make(contract=CONTRACT, **kwargs):
        return Processor(tokenizer[0], contract, **{**SIZES, **kwargs})

    return make


def write_video(path, height, width, frames, rate=25):
    rng = np.random.default_rng(frames)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=rate)
        stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
        base = rng.integers(0, 200, (height // 8, width // 8, 3), dtype=np.uint8)
        base = base.repeat(8, 0).repeat(8, 1)
        for i in range(frames):
            image = av.VideoFrame.from_ndarray(base + np.uint8(i), format="rgb24")
            container.mux(stream.encode(image))
        container.mux(stream.encode())


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("media")
    write_video(folder / "square.mp4", 96, 96, 50)
    write_video(folder / "wide.mp4", 64, 160, 50)
    write_video(folder / "one.mp4", 96, 96, 1)
    rng = np.random.default_rng(0)
    for name, shape in [("square.png", (96, 96, 3)), ("tall.png", (150, 60, 3))]:
        image = rng.integers(0, 256, shape, dtype=np.uint8)
        Image.fromarray(image).save(folder / name)
    return folder


def item(files, text="a red ball", video=None, image=None, **kwargs):
    return Item(
        id="it",
        text=text,
        video=video and str(files / video),
        image=image and str(files / image),
        **kwargs,
    )


@pytest.mark.parametrize("image", ["square.png", "tall.png"])
def test_image_and_text_equal_transformers(make, tokenizer, files, image):
    images = Qwen2VLImageProcessorPil(
        size={"shortest_edge": 9 * 784, "longest_edge": 9 * 784}
    )
    with Image.open(files / image) as picture:
        expected = images([picture], return_tensors="np")
    pads = "<|image_pad|>" * (expected["image_grid_thw"].prod() // 4)
    ids = AutoTokenizer.from_pretrained(tokenizer[1])(
        "<|im_start|>system\nFind it.<|im_end|>\n<|im_start|>user\n<|vision_start|>"
        f"{pads}<|vision_end|>a red ball<|im_end|>\n<|im_start|>assistant\n"
        "<|endoftext|>"
    ).input_ids
    got = make().encode(item(files, image=image, instruction="Find it."))
    np.testing.assert_array_equal(got.tokens, ids)
    pixels = got.patches.reshape(-1, 3, 392) / 255
    mean = np.array(images.image_mean)[:, None]
    std = np.array(images.image_std)[:, None]
    units = ((pixels - mean) / std).reshape(-1, 4 * 1176)
    # Through `visual_index`, units come back into raster order.
    raster = units[got.visual_index[got.visual_index >= 0]].reshape(-1, 1176)
    np.testing.assert_allclose(raster, expected["pixel_values"], atol=1e-6, rtol=0)


def test_mixed_item_is_video_then_image(make, files):
    p = make()
    both = p.encode(item(files, video="square.mp4", image="tall.png"))
    video = p.encode(item(files, video="square.mp4"))
    image = p.encode(item(files, image="tall.png"))
    v, i = len(video.patches), len(image.patches)
    np.testing.assert_array_equal(both.patches[:v], video.patches)
    np.testing.assert_array_equal(both.patches[v:], image.patches)
    np.testing.assert_array_equal(both.coords[v:], image.coords)
    order = both.visual_index[both.visual_index >= 0]
    expected = video.visual_index[video.visual_index >= 0]
    np.testing.assert_array_equal(order[: v // 4], expected)
    expected = image.visual_index[image.visual_index >= 0] + v // 4
    np.testing.assert_array_equal(order[v // 4 :], expected)
    assert both.frame_lengths.sum() == both.window_lengths.sum() == v + i
    starts = np.flatnonzero(both.visual_index >= 0)
    pads = both.tokens[starts[[0, -1]]]
    assert pads.tolist() == [
        p.tokenizer.special("<|video_pad|>"),
        p.tokenizer.special("<|image_pad|>"),
    ]


def test_time_is_real_or_nominal(make, files):
    def steps(contract, **kwargs):
        e = make(contract).encode(item(files, **kwargs))
        first = np.flatnonzero(e.visual_index >= 0)
        temporal = e.positions[0, first]
        return np.unique(temporal - temporal[0]).tolist()

    # 50 frames at 25/s are 2 s: 8 samples give groups 0.5 s apart, one position each.
    assert steps(CONTRACT, video="square.mp4") == [0, 1, 2, 3]
    nominal = dataclasses.replace(CONTRACT, time="nominal")
    assert steps(nominal, video="square.mp4") == [0, 4, 8, 12]
    # A cut of 1 s: 0.25 s a group. A single frame: no time passes.
    assert steps(CONTRACT, video="square.mp4", start=0.5, end=1.46) == [0, 1]
    assert steps(CONTRACT, video="one.mp4") == [0]


def test_too_long_text_is_cut_and_counted(make, files):
    p = make(dataclasses.replace(CONTRACT, max_tokens=128))
    e = p.encode(item(files, text="a red ball " * 100, video="square.mp4"))
    assert len(e.tokens) == 128
    assert p.truncated["it"] > 100
    assert p.encode(item(files, text="a")) and list(p.truncated) == ["it"]


def check_layout(lengths, index, slot, size, patches):
    """Padded windows or groups hold the right patches, and give them back."""
    rows = np.arange(len(lengths))[:, None]
    ids = np.broadcast_to(np.arange(patches), (len(lengths), patches))
    real = ids < lengths.sum(1, keepdims=True)
    if index is None:
        assert (lengths == lengths[0, 0]).all()
        assert lengths.shape[1] * lengths[0, 0] == patches
        return
    assert index.shape == (*lengths.shape, size)
    # In order, each real patch once.
    used = np.arange(size) < lengths[:, :, None]
    for row in range(len(lengths)):
        np.testing.assert_array_equal(index[row][used[row]], ids[row][real[row]])
    assert (index[~used] == 0).all()
    flat = index.reshape(len(lengths), -1)
    np.testing.assert_array_equal(flat[rows, slot][real], ids[real])
    assert (slot[~real] == 0).all()


@pytest.mark.parametrize(
    "media_of_rows",
    [
        [{}],
        [{"video": "square.mp4"}] * 2,
        [{"image": "square.png"}],
        [{"video": "square.mp4", "image": "square.png"}] * 2,
        [{"video": "wide.mp4"}, {"video": "wide.mp4"}],
        [{"image": "tall.png"}],
        [{"video": "square.mp4"}, {}, {"image": "square.png"}],
        [{"video": "wide.mp4", "image": "tall.png"}, {"image": "square.png"}, {}],
    ],
)
@pytest.mark.parametrize("units", [9, 36])  # 36: several windows a frame, ragged
def test_collated_batch_holds_the_items(make, files, media_of_rows, units):
    p = make(dataclasses.replace(BIG, min_pixels=units * 784, max_pixels=units * 784))
    encoded = [p.encode(item(files, **kinds)) for kinds in media_of_rows]
    bucket = p.join(p.bucket(e) for e in encoded)
    batch = p.collate(encoded, batch_size=len(encoded) + 2)
    rows = len(encoded) + 2
    assert batch.tokens.shape == (rows, bucket.tokens)
    assert batch.lengths.tolist() == [*(len(e.tokens) for e in encoded), 1, 1]
    for row, e in enumerate(encoded):
        n = len(e.tokens)
        np.testing.assert_array_equal(batch.tokens[row, :n], e.tokens)
        np.testing.assert_array_equal(batch.positions[row, :, :n], e.positions)
    if not any(media_of_rows):
        assert batch.visual_index is None and batch.vision is None
        return
    vision = batch.vision
    assert vision.patches.shape == (rows, bucket.patches, 1176)
    for row, e in enumerate(encoded):
        n = len(e.patches)
        np.testing.assert_array_equal(
            batch.visual_index[row, : len(e.tokens)], e.visual_index
        )
        assert (batch.visual_index[row, len(e.tokens) :] == -1).all()
        np.testing.assert_array_equal(vision.patches[row, :n], e.patches)
        np.testing.assert_array_equal(vision.coords[row, :n], e.coords)
        if n:
            windows, frames = vision.window_lengths[row], vision.frame_lengths[row]
            assert windows[windows > 0].tolist() == e.window_lengths.tolist()
            assert frames[frames > 0].tolist() == e.frame_lengths.tolist()
    assert (batch.visual_index[len(encoded) :] == -1).all()
    check_layout(
        vision.window_lengths,
        vision.window_index,
        vision.window_slot,
        bucket.window_size,
        bucket.patches,
    )
    check_layout(
        vision.frame_lengths,
        vision.frame_index,
        vision.frame_slot,
        bucket.group_size,
        bucket.patches,
    )


def test_exact_grids_need_no_padding_and_no_indices(make, files):
    p = make()
    for kinds, patches in [
        ({"video": "square.mp4"}, 144),
        ({"image": "square.png"}, 36),
        ({"video": "square.mp4", "image": "square.png"}, 180),
    ]:
        e = p.encode(item(files, **kinds))
        vision = p.collate([e], batch_size=3).vision
        assert vision.patches.shape[1] == len(e.patches) == patches
        assert vision.window_index is None and vision.frame_index is None
        assert (vision.window_lengths == 36).all()  # of padding rows as well


def test_shapes_are_those_of_the_bucket_alone(make, files):
    """Equal keys, equal shapes: otherwise a program would be compiled anew."""
    p = make()
    shapes = {}
    for kinds in [
        {"video": "wide.mp4"},
        {"video": "square.mp4"},
        {"image": "tall.png"},
        {"video": "wide.mp4", "image": "square.png"},
        {"video": "square.mp4", "image": "tall.png"},
        {},
    ]:
        for text in ("a", "a red ball " * 3, "a red ball " * 9):
            e = p.encode(item(files, text=text, **kinds))
            batch = p.collate([e], batch_size=2)
            vision = [None if x is None else x.shape for x in batch.vision or ()]
            shape = (batch.tokens.shape, tuple(vision))
            assert shapes.setdefault(p.bucket(e), shape) == shape
    assert len(shapes) > 4


def test_items_beyond_the_buckets_are_named(make, files):
    with pytest.raises(UserError, match=r"item 'it'.*token_buckets"):
        make(token_buckets=(32,)).encode(item(files, video="square.mp4"))
    with pytest.raises(UserError, match=r"item 'it'.*patch_buckets"):
        make(patch_buckets=(48,)).encode(item(files, video="wide.mp4"))
    with pytest.raises(UserError, match=r"item 'it'.*neither"):
        make().encode(Item(id="it", text=""))
    with pytest.raises(media.MediaError, match="absent"):
        make().encode(item(files, video="absent.mp4"))
    Image.new("RGB", (1, 300)).save(files / "line.png")
    with pytest.raises(UserError, match=r"line\.png.*aspect ratio"):
        make().encode(item(files, image="line.png"))


@pytest.mark.parametrize(
    "setting",
    [
        {"token_buckets": ()},
        {"token_buckets": (64, 32)},
        {"patch_buckets": (0, 64)},
        {"exact_grids": ((4, 5, 6),)},
        {"contract": dataclasses.replace(CONTRACT, time="imaginary")},
        {"contract": dataclasses.replace(CONTRACT, positions="random")},
        {"contract": dataclasses.replace(CONTRACT, min_pixels=10**6)},
        {"contract": dataclasses.replace(CONTRACT, image_min_pixels=10**6)},
        {"contract": dataclasses.replace(CONTRACT, num_frames=0)},
        {"contract": dataclasses.replace(CONTRACT, fps=-1.0)},
        {"contract": dataclasses.replace(CONTRACT, fps=1.0, min_frames=9)},
    ],
)
def test_impossible_settings_are_refused(make, setting):
    with pytest.raises(UserError):
        make(**setting)


# The frame cache.


@pytest.fixture
def reads(monkeypatch):
    """Counts decodings."""
    counts = {"video": 0, "image": 0}

    def counted(kind, function):
        def read(*args, **kwargs):
            counts[kind] += 1
            return function(*args, **kwargs)

        return read

    monkeypatch.setattr(media, "read_video", counted("video", media.read_video))
    monkeypatch.setattr(media, "read_image", counted("image", media.read_image))
    return counts


def equal(a, b):
    return all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))


def test_cached_frames_are_decoded_once(make, files, tmp_path, reads):
    both = item(files, video="square.mp4", image="tall.png")
    plain = make().encode(both)
    first = make(cache_dir=tmp_path).encode(both)
    again = pickle.loads(pickle.dumps(make(cache_dir=tmp_path))).encode(both)
    assert equal(plain, first) and equal(first, again)
    assert reads == {"video": 2, "image": 2}
    # Another name for the same bytes; then all that changes the frames.
    copy = tmp_path / "copy.mp4"
    copy.write_bytes((files / "square.mp4").read_bytes())
    make(cache_dir=tmp_path).encode(Item("c", video=str(copy)))
    assert reads["video"] == 2
    for count, (contract, cut) in enumerate(
        [
            (CONTRACT, {"start": 1.0}),
            (CONTRACT, {"end": 1.0}),
            (dataclasses.replace(CONTRACT, num_frames=4), {}),
            (dataclasses.replace(CONTRACT, fps=4.0), {}),
            (dataclasses.replace(CONTRACT, fps=4.0, min_frames=4), {}),
            (dataclasses.replace(CONTRACT, min_pixels=4 * 784), {}),
            (dataclasses.replace(CONTRACT, total_pixels=9 * 784), {}),
        ]
    ):
        make(contract, cache_dir=tmp_path).encode(Item("c", video=str(copy), **cut))
        assert reads["video"] == 3 + count


def test_cached_images_are_of_one_budget_and_tower(make, files, tmp_path, reads):
    image = item(files, image="tall.png")
    own = dict(image_min_pixels=16 * 784, image_max_pixels=16 * 784)
    raster = Geometry(patch_size=16, window_size=0)
    for count, (contract, geometry, side) in enumerate(
        [
            (CONTRACT, Geometry(), 14),
            (dataclasses.replace(CONTRACT, **own), Geometry(), 14),
            (CONTRACT, raster, 16),
        ]
    ):
        p = make(contract, cache_dir=tmp_path, geometry=geometry)
        assert p.encode(image).patches.shape[1] == 6 * side**2
        p.encode(image)
        assert reads["image"] == count + 1


@pytest.mark.parametrize("damage", ["empty", "short", "flipped", "long", "header"])
def test_damaged_cache_files_are_made_anew(make, files, tmp_path, reads, damage):
    it = item(files, video="square.mp4")
    good = make(cache_dir=tmp_path).encode(it)
    (path,) = tmp_path.glob("*/*.frames")
    whole = path.read_bytes()
    middle = len(whole) // 2
    bad = {
        "empty": b"",
        "short": whole[:-7],
        "flipped": whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :],
        "long": whole + b"x",
        "header": whole[:20] + bytes([whole[20] ^ 1]) + whole[21:],
    }[damage]
    path.write_bytes(bad)
    assert equal(make(cache_dir=tmp_path).encode(it), good)
    assert reads["video"] == 2
    assert path.read_bytes() == whole
    assert not list(tmp_path.glob("*/*.tmp"))


def test_cache_is_whole_under_concurrent_writers(tmp_path):
    frames = Frames(np.ones((2, 28, 28, 3), np.uint8), np.arange(2.0), 0.25)
    kept = cache.FrameCache(tmp_path)
    results = []

    def work():
        for i in range(20):
            results.append(kept.get(lambda i=i: ("k", i % 3), lambda: frames))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 80
    assert all(equal(r, frames) for r in results)
    assert len(list(tmp_path.glob("*/*"))) == 3


def test_failed_decoding_leaves_nothing(make, files, tmp_path):
    (files / "text.mp4").write_text("no video")
    with pytest.raises(media.MediaError):
        make(cache_dir=tmp_path).encode(item(files, video="text.mp4"))
    assert not list(tmp_path.glob("*/*"))


def test_unwritable_cache_is_named(make, files, tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    with pytest.raises(UserError, match=r"preprocess\.cache_dir"):
        make(cache_dir=blocked).encode(item(files, video="square.mp4"))


@pytest.mark.parametrize(
    "order, rows",
    [
        ("reversed", [7, 6, 5, 4, 3, 2, 1, 0]),
        ("shuffled", [4, 0, 6, 7, 2, 1, 5, 3]),  # of 8 frames, on every machine
        ("single", [4] * 8),
    ],
)
def test_frames_out_of_order(make, files, tmp_path, reads, order, rows):
    both = item(files, video="square.mp4", image="tall.png", start=0.5)
    seen = []
    make().encode(both, lambda frames: seen.append(frames) or frames)
    assert len(np.unique(seen[0].reshape(8, -1), axis=0)) == 8
    # By hand: the pixels permuted, times and all else as before.
    by_hand = make().encode(both, lambda x: x[rows] if len(x) == 8 else x)
    moved = both._replace(frame_order=order)
    assert moved.content != both.content
    assert equal(make().encode(moved), by_hand)
    assert not equal(by_hand, make().encode(both))
    # One file in the cache serves all orders, whichever came first.
    reads["video"] = 0
    kept = make(cache_dir=tmp_path)
    for it in (moved, both, moved):
        assert equal(kept.encode(it), make().encode(it))
    assert reads["video"] == 3 + 1 and len(list(tmp_path.glob("*/*.frames"))) == 2


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 7, 8, 16, 48, 200])
def test_shuffled_frames_keep_no_order(n):
    order = shuffled(n).tolist()
    assert sorted(order) == list(range(n))
    wrong = sum(a > b for i, a in enumerate(order) for b in order[i:])
    assert n == 1 or wrong > 0
    assert n < 4 or 0.4 <= wrong / (n * (n - 1) / 2) <= 0.6


def test_an_unknown_frame_order_is_refused(make, files):
    wrong = item(files, video="square.mp4", frame_order="backwards")
    with pytest.raises(UserError, match="item 'it': frame_order is 'backwards'"):
        make().encode(wrong)
