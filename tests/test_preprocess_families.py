"""Whole items of Qwen2-VL, Qwen2.5-VL and Qwen3-VL, on the real Qwen vocabulary,
against the chat templates, processors and position rules of transformers."""

import dataclasses
import types

import numpy as np
import pytest
import qwen_vocab
import torch
from PIL import Image
from qwen_chat import TEMPLATES, conversation
from transformers import (
    AutoTokenizer,
    vision_utils,
)
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import (
    Qwen2VLImageProcessorPil,
)
from transformers.models.qwen3_vl.processing_qwen3_vl import Qwen3VLProcessor
from transformers.video_utils import VideoMetadata

from gve_jax import media, presets
from gve_jax.preprocess import Geometry, Processor, load_tokenizer
from gve_jax.preprocess.prompt import PromptTemplate
from gve_jax.types import Item
from tests.model_witness import FAMILIES, index_models
from tests.tiny import write_video

GEOMETRY = {
    "qwen2_vl": Geometry(window_size=0, tokens_per_second=0),
    "qwen2_5_vl": Geometry(tokens_per_second=2),
    "qwen3_vl": Geometry(
        patch_size=16, window_size=0, tokens_per_second=0, extents=True
    ),
}
# Since 5.10 transformers leaves the template's own pair around all groups of a video.
WRAPPED = "<|vision_start|>{groups}<|vision_end|>"
SMALL = dict(min_pixels=4 * 784, max_pixels=12 * 784, total_pixels=0)
SMALL |= dict(image_min_pixels=0, image_max_pixels=0, num_frames=5, fps=0.0)
CONTRACTS = {
    family: dataclasses.replace(presets.PRESETS[name], **SMALL)
    for family, name in presets.OF_FAMILY.items()
}
CONTRACTS["qwen3_vl"] = dataclasses.replace(CONTRACTS["qwen3_vl"], video=WRAPPED)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("qwen")
    qwen_vocab.tokenizer_json(folder)
    load_tokenizer(folder).save(folder)  # adds tokenizer_config.json
    return folder


@pytest.fixture(scope="module")
def tokenizer(folder):
    return load_tokenizer(folder)


@pytest.fixture(scope="module")
def reference(folder):
    return AutoTokenizer.from_pretrained(folder)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("media")
    write_video(folder / "v.mp4", frames=29, size=96)
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (150, 60, 3), dtype=np.uint8)
    Image.fromarray(image).save(folder / "i.png")
    return folder


def make(tokenizer, family, **changes):
    return Processor(
        tokenizer,
        dataclasses.replace(CONTRACTS[family], **changes),
        token_buckets=(64, 128, 256, 512),
        patch_buckets=(64, 256),
        geometry=GEOMETRY[family],
    )


def qwen3_processor(reference):
    """Their processor without its media parts, which need torchvision."""
    processor = object.__new__(Qwen3VLProcessor)
    processor.tokenizer = reference
    for name in ("image_token", "video_token", "vision_start", "vision_end"):
        pad = name.replace("token", "pad")
        attribute = name if name.endswith("token") else f"{name}_token"
        setattr(processor, attribute, f"<|{pad}|>")
    parts = types.SimpleNamespace(merge_size=2, temporal_patch_size=2)
    processor.image_processor = processor.video_processor = parts
    return processor


def expanded(text, family, reference, video=None, image=None, metadata=None):
    """Their prompt with placeholders for grids, as their processors write them."""
    if family == "qwen3_vl":
        processor = qwen3_processor(reference)
        videos = {"video_grid_thw": np.array([video]), "video_metadata": [metadata]}
        images = {"image_grid_thw": np.array([image])}
        (text,), _ = processor.get_text_with_replacements(
            [text],
            [processor.replace_image_token(images, 0)] if image else [],
            [processor.replace_video_token(videos, 0)] if video else [],
        )
        return text
    for pad, grid in (("<|video_pad|>", video), ("<|image_pad|>", image)):
        if grid:
            text = text.replace(pad, pad * (np.prod(grid) // 4))
    return text


TEXTS = [
    "",
    "a red ball",
    " 你好，世界！视频检索",
    "\n\nHello, world!\n",
    "\tit's 12\r\n",
]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    "kinds", [(), ("video",), ("image",), ("video", "image")], ids="-".join
)
@pytest.mark.parametrize("instruction", [None, "Find the video that fits."])
def test_prompts_equal_those_of_the_chat_templates(
    tokenizer, reference, family, kinds, instruction
):
    contract = CONTRACTS[family]
    system = instruction or contract.default_instruction
    times = [0.25, 1.35, 12.05] if family == "qwen3_vl" and "video" in kinds else []
    grids = {}
    if "video" in kinds:
        grids["video"] = (3, 4, 6)
        # At 20 frames a second these indices are those times.
        grids["metadata"] = VideoMetadata(
            total_num_frames=300, fps=20.0, frames_indices=[0, 10, 20, 34, 241, 241]
        )
    if "image" in kinds:
        grids["image"] = (1, 4, 4)
    for text in TEXTS:
        theirs = reference.apply_chat_template(
            conversation(text, system, kinds),
            chat_template=TEMPLATES[family],
            add_generation_prompt=True,
            tokenize=False,
        )
        expected = reference(
            expanded(theirs, family, reference, **grids) + "<|endoftext|>"
        ).input_ids
        got = PromptTemplate(tokenizer, contract).fill(
            text,
            instruction,
            video_tokens=18 if "video" in kinds else 0,
            image_tokens=4 if "image" in kinds else 0,
            times=times,
        )
        assert got.tokens == expected
        assert got.tokens[-1] == 151643
        for starts, pad in ((got.video_starts, 151656), (got.image_starts, 151655)):
            runs = [i for i, t in enumerate(expected) if t == pad != expected[i - 1]]
            assert starts == runs


def test_qwen2_templates_have_the_default_system_sentence(tokenizer, reference):
    for family in ("qwen2_vl", "qwen2_5_vl"):
        theirs = reference.apply_chat_template(
            conversation("a red ball"),
            chat_template=TEMPLATES[family],
            add_generation_prompt=True,
            tokenize=False,
        )
        got = PromptTemplate(tokenizer, CONTRACTS[family]).fill("a red ball")
        assert got.tokens == reference(theirs + "<|endoftext|>").input_ids


@pytest.fixture(scope="module")
def models():
    made = index_models()
    made["qwen2_5_vl"].config.vision_config.tokens_per_second = 2
    return made


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("video", [None, "v.mp4"])
@pytest.mark.parametrize("image", [None, "i.png"])
@pytest.mark.parametrize("time", ["real", "nominal"])
def test_items_equal_transformers(
    tokenizer, reference, models, files, family, video, image, time
):
    """29 frames at 8 a second; 5 of them, so that the last group is half a repeat."""
    p = make(tokenizer, family, time=time)
    paths = dict(video=video and str(files / video), image=image and str(files / image))
    got = p.encode(Item(id="it", text="a red ball", **paths))
    geometry = GEOMETRY[family]
    side = geometry.factor
    indices = [0, 7, 14, 21, 28]
    fps = 8.0
    if time == "nominal":
        indices, fps = [0, 1, 2, 3, 4], 1.0
    grids = {}
    if video:
        # The largest square of whole units within the budget.
        n = 2 * int((12 * 784) ** 0.5 // side)
        grids["video"] = (3, n, n)
        grids["metadata"] = VideoMetadata(
            total_num_frames=29, fps=fps, frames_indices=list(indices)
        )
    if image:
        images = Qwen2VLImageProcessorPil(
            size={"shortest_edge": 4 * 784, "longest_edge": 12 * 784},
            patch_size=geometry.patch_size,
        )
        with Image.open(files / image) as picture:
            pixels = images([picture], return_tensors="np")
        grids["image"] = tuple(pixels["image_grid_thw"][0].tolist())

    shown = [kind for kind in ("video", "image") if grids.get(kind)]
    theirs = reference.apply_chat_template(
        conversation("a red ball", CONTRACTS[family].default_instruction, shown),
        chat_template=TEMPLATES[family],
        add_generation_prompt=True,
        tokenize=False,
    )
    ids = reference(expanded(theirs, family, reference, **grids) + "<|endoftext|>")
    assert got.tokens.tolist() == ids.input_ids

    types_ = np.select([got.tokens == 151655, got.tokens == 151656], [1, 2], 0)
    # Of the (whole) video, as the processor of Qwen2.5-VL tells it.
    seconds = 2 / grids["metadata"].sampled_fps if video else None
    if time == "nominal":
        seconds = 2.0
    tensors = {k: torch.tensor([grids[k]]) if k in shown else None for k in paths}
    positions, _ = models[family].get_rope_index(
        torch.from_numpy(got.tokens[None]),
        torch.from_numpy(types_[None]),
        image_grid_thw=tensors["image"],
        video_grid_thw=tensors["video"],
        second_per_grid_ts=torch.tensor([seconds]) if video else None,
    )
    np.testing.assert_array_equal(got.positions, positions[:, 0].numpy())

    # Through `visual_index`, units come in the order of their placeholders.
    order = got.visual_index[got.visual_index >= 0]
    assert sorted(order) == list(range(len(got.patches) // 4))
    assert ((got.visual_index >= 0) == (types_ > 0)).all()
    if not shown:
        assert got.patches.shape == (0, geometry.patch_dim)
        return
    thw = torch.tensor([grids[kind] for kind in shown])
    coords = got.coords.reshape(-1, 4, 2)[order].reshape(-1, 2)
    np.testing.assert_array_equal(coords, vision_utils.get_vision_position_ids(thw, 2))
    lengths = np.diff(vision_utils.get_vision_cu_seqlens(thw).numpy())
    np.testing.assert_array_equal(got.frame_lengths, lengths)
    if geometry.extents:
        extents = np.repeat(thw[:, 1:].numpy(), thw.prod(1).numpy(), axis=0)
        np.testing.assert_array_equal(got.extents, extents)
    else:
        assert got.extents is None
    if not geometry.window_size:
        assert (np.diff(order) == 1).all() and not len(got.window_lengths)
    if image:
        rows = got.patches.reshape(-1, 4 * geometry.patch_dim)[order]
        rows = rows[-np.prod(grids["image"]) // 4 :].reshape(-1, 3, side**2 // 2)
        mean, std = np.array(images.image_mean), np.array(images.image_std)
        normal = (rows / 255 - mean[:, None]) / std[:, None]
        np.testing.assert_allclose(
            normal.reshape(-1, geometry.patch_dim), pixels["pixel_values"], atol=1e-6
        )


@pytest.mark.parametrize("family", ["qwen2_vl", "qwen3_vl"])
def test_batches_without_windows(tokenizer, files, family):
    p = make(tokenizer, family)
    video, image = str(files / "v.mp4"), str(files / "i.png")
    items = [
        p.encode(Item("a", text="x", video=video, image=image)),
        p.encode(Item("b", text="x", image=image)),
        p.encode(Item("c", text="x")),
    ]
    batch = p.collate(items, batch_size=4)
    vision = batch.vision
    assert vision.window_lengths is None
    assert vision.window_index is None and vision.window_slot is None
    bucket = p.join(p.bucket(e) for e in items)
    assert bucket.windows == bucket.window_size == 0
    assert vision.patches.shape == (4, bucket.patches, GEOMETRY[family].patch_dim)
    for row, e in enumerate(items):
        n = len(e.patches)
        np.testing.assert_array_equal(vision.patches[row, :n], e.patches)
        used = vision.frame_lengths[row]
        assert used[used > 0].tolist() == e.frame_lengths.tolist()
        if family == "qwen3_vl":
            np.testing.assert_array_equal(vision.extents[row, :n], e.extents)
            assert (vision.extents[row, n:] == 1).all()
    if family == "qwen3_vl":
        assert vision.extents.shape == (4, bucket.patches, 2)
    else:
        assert vision.extents is None


@pytest.mark.parametrize("family", ["qwen2_vl", "qwen3_vl"])
def test_recurring_grids_need_no_padding(tokenizer, files, family):
    """Without windows, two groups of frames of one size are a plain reshape."""
    p = make(tokenizer, family)
    video = p.encode(Item("a", video=str(files / "v.mp4")))
    frame = int(video.coords.max()) + 1
    p = Processor(
        tokenizer,
        CONTRACTS[family],
        token_buckets=(256,),
        patch_buckets=(8,),
        exact_grids=((3, frame, frame),),
        geometry=GEOMETRY[family],
    )
    vision = p.collate([video], batch_size=2).vision
    assert vision.patches.shape[1] == len(video.patches)
    assert vision.frame_index is None and vision.window_lengths is None
    assert (vision.frame_lengths == frame**2).all()


def test_preset_of_qwen3_leaves_the_outer_pair_out(tokenizer):
    """As transformers 4.57 wrote a video: the rest equals what 5.24 writes."""
    preset = presets.PRESETS["qwen3-vl-embedding"]
    wrapped = dataclasses.replace(preset, video=WRAPPED)
    args = dict(video_tokens=8, times=[0.5, 2.5])
    ours = PromptTemplate(tokenizer, preset).fill("a", **args)
    theirs = PromptTemplate(tokenizer, wrapped).fill("a", **args)
    text = tokenizer.decode(theirs.tokens)
    outer = text.replace("<|vision_start|><0.5", "<0.5").replace(
        "<|vision_end|><|vision_end|>", "<|vision_end|>"
    )
    assert tokenizer.decode(ours.tokens) == outer != text


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("fps", [0.0, 4.0])
def test_token_bound_holds(tokenizer, files, family, fps):
    video, image = str(files / "v.mp4"), str(files / "i.png")
    for total in (0, 3 * 4 * 1024):
        p = make(tokenizer, family, fps=fps, total_pixels=total, num_frames=12)
        item = Item("a", text="a red ball", video=video, image=image)
        assert len(p.encode(item).tokens) <= p.token_bound(item)


def test_media_are_placed_in_the_order_of_the_template(tokenizer, models, files):
    template = "{system}<|im_start|>{image}{text}{video}<|im_end|>"
    p = make(tokenizer, "qwen2_5_vl", template=template)
    paths = dict(video=str(files / "v.mp4"), image=str(files / "i.png"))
    e = p.encode(Item("a", text="x", **paths))
    kinds = np.select([e.tokens == 151655, e.tokens == 151656], [1, 2], 0)
    assert np.argmax(kinds == 1) < np.argmax(kinds == 2)
    rows, columns = e.coords[-e.frame_lengths[-1] :].max(0) + 1
    positions, _ = models["qwen2_5_vl"].get_rope_index(
        torch.from_numpy(e.tokens[None]),
        torch.from_numpy(kinds[None]),
        image_grid_thw=torch.tensor([[1, rows, columns]]),
        video_grid_thw=torch.tensor([[3, 6, 6]]),
        second_per_grid_ts=torch.tensor([2 * 29 / 8 / 5]),
    )
    np.testing.assert_array_equal(e.positions, positions[:, 0].numpy())
    # Patches stay video first; the index says which is whose.
    assert e.visual_index[kinds == 1].min() == 27
    assert e.visual_index[kinds == 2].max() == 26


def test_times_of_a_cut_count_from_its_start(tokenizer, files):
    p = make(tokenizer, "qwen3_vl", num_frames=2)
    e = p.encode(Item("a", video=str(files / "v.mp4"), start=1.0, end=2.01))
    assert "<0.5 seconds>" in tokenizer.decode(e.tokens)


def test_sequential_positions_take_media_for_text(tokenizer, files):
    p = make(tokenizer, "qwen2_vl", positions="sequential")
    e = p.encode(Item("a", text="x", video=str(files / "v.mp4")))
    expected = np.tile(np.arange(len(e.tokens)), (3, 1))
    np.testing.assert_array_equal(e.positions, expected)


def test_frames_at_a_rate(tokenizer, files):
    """29 frames at 8 a second are 3.6 s: at 2 a second 7 frames, made even."""
    p = make(tokenizer, "qwen3_vl", fps=2.0, min_frames=2, num_frames=64)
    video = str(files / "v.mp4")
    assert len(p.encode(Item("a", video=video)).frame_lengths) == 3
    cut = p.encode(Item("a", video=video, start=1.0, end=2.0))
    assert len(cut.frame_lengths) == 1
    few = make(tokenizer, "qwen3_vl", fps=2.0, min_frames=2, num_frames=4)
    assert len(few.encode(Item("a", video=video)).frame_lengths) == 2


def test_total_budget_shrinks_frames(tokenizer, files):
    plain = make(tokenizer, "qwen3_vl", num_frames=6)
    small = make(tokenizer, "qwen3_vl", num_frames=6, total_pixels=3 * 4 * 1024)
    item = Item("a", video=str(files / "v.mp4"))
    assert plain.encode(item).frame_lengths.tolist() == [36] * 3
    assert small.encode(item).frame_lengths.tolist() == [16] * 3


def test_images_may_have_a_budget_of_their_own(tokenizer, files):
    p = make(
        tokenizer, "qwen2_vl", image_min_pixels=40 * 784, image_max_pixels=60 * 784
    )
    image = p.encode(Item("a", image=str(files / "i.png")))
    assert 40 <= len(image.patches) // 4 <= 60
    video = p.encode(Item("a", video=str(files / "v.mp4")))
    assert video.frame_lengths.tolist() == [36] * 3


# (frames, frames a second, fps, least, most, answer) of qwen-vl-utils 0.0.14.
@pytest.mark.parametrize(
    "total, rate, fps, least, most, expected",
    [
        (250, 25.0, 1.0, 4, 64, 10),
        (200, 25.0, 1.0, 4, 32, 8),
        (10000, 25.0, 1.0, 4, 64, 64),
        (40, 10.0, 1.0, 4, 64, 4),
        (7, 10.0, 1.0, 4, 64, 4),
        (3, 10.0, 1.0, 4, 64, 2),
        (77, 30.0, 2.0, 4, 768, 4),
        (2997, 30000 / 1001, 1.0, 4, 768, 98),
        (2, 25.0, 1.0, 4, 64, 2),
        (5, 1.0, 2.0, 4, 64, 4),
    ],
)
def test_number_of_frames_is_that_of_qwen(total, rate, fps, least, most, expected):
    rule = dict(fps=fps, least=least, most=most, multiple=2)
    assert media.frames_at(total, total / rate, **rule) == expected
    assert media.frames_at(1, 1 / rate, **rule) == 2  # which qwen-vl-utils refuses
