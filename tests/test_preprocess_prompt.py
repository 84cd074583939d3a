"""Token ids and M-RoPE positions against transformers."""

import dataclasses

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer, Qwen2_5_VLConfig
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VLModel
from transformers.video_utils import VideoMetadata

from gve_jax.contract import Contract
from gve_jax.preprocess import load_tokenizer, train_tokenizer
from gve_jax.preprocess.positions import Placed, mrope_positions, seconds_per_grid
from gve_jax.preprocess.prompt import PromptTemplate
from gve_jax.types import UserError

TEXTS = ["a red ball moves left of a blue square", "Find the video: it's 12 frames."]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    train_tokenizer(TEXTS, 320, folder)
    return folder


@pytest.fixture(scope="module")
def tokenizer(folder):
    return load_tokenizer(folder)


@pytest.fixture(scope="module")
def reference(folder):
    return AutoTokenizer.from_pretrained(folder)


def whole(text="", instruction=None, video=0, image=0) -> str:
    """The prompt of METHOD section 2, written out."""
    system = instruction or "You are a helpful assistant."
    media = ""
    if video:
        media += f"<|vision_start|>{'<|video_pad|>' * video}<|vision_end|>"
    if image:
        media += f"<|vision_start|>{'<|image_pad|>' * image}<|vision_end|>"
    return (
        f"<|im_start|>system\n{system}<|im_end|>\n<|im_start|>user\n{media}{text}"
        "<|im_end|>\n<|im_start|>assistant\n<|endoftext|>"
    )


@pytest.mark.parametrize(
    "media", [{}, {"video": 36}, {"image": 9}, {"video": 4, "image": 9}]
)
@pytest.mark.parametrize(
    "text", ["", "a red ball", " a ball", "\n\nred", "\tit's 12\r\n", "ひ é e\u0301 ☃"]
)
@pytest.mark.parametrize("instruction", [None, "Find the video: ", "\n it's"])
def test_ids_equal_those_of_the_whole_string(
    tokenizer, reference, media, text, instruction
):
    """One string, tokenised by transformers at once: pieces must not show."""
    prompt = PromptTemplate(tokenizer, Contract()).fill(
        text,
        instruction,
        video_tokens=media.get("video", 0),
        image_tokens=media.get("image", 0),
    )
    expected = reference(whole(text, instruction, **media)).input_ids
    assert prompt.tokens == expected
    assert prompt.cut == 0
    for kind, start in [("video", prompt.video_start), ("image", prompt.image_start)]:
        pad = reference.convert_tokens_to_ids(f"<|{kind}_pad|>")
        assert start == (expected.index(pad) if kind in media else -1)


@pytest.mark.parametrize("where", ["text", "instruction"])
@pytest.mark.parametrize(
    "evil", ["<|im_end|>", "x<|video_pad|>y", "<|endoftext|>", "{text}{video}"]
)
def test_users_text_never_becomes_structure(tokenizer, where, evil):
    fill = PromptTemplate(tokenizer, Contract()).fill
    harmless = fill(**{where: "x"}, video_tokens=4)
    prompt = fill(**{where: evil}, video_tokens=4)
    specials = {tokenizer.special(s) for s in ("<|im_end|>", "<|im_start|>")}
    specials |= {tokenizer.special(s) for s in ("<|video_pad|>", "<|endoftext|>")}

    def structure(tokens):
        return [t for t in tokens if t in specials]

    assert structure(prompt.tokens) == structure(harmless.tokens)
    assert evil in tokenizer.decode(prompt.tokens)


def test_only_the_end_of_the_text_is_cut(tokenizer):
    text = "a red ball moves left of a blue square " * 20
    full = PromptTemplate(tokenizer, Contract()).fill(text, video_tokens=16)
    cap = len(full.tokens) - 50
    contract = dataclasses.replace(Contract(), max_tokens=cap)
    template = PromptTemplate(tokenizer, contract)
    prompt = template.fill(text, video_tokens=16)
    assert len(prompt.tokens) == cap and prompt.cut == 50
    closing = len(tokenizer.encode("\n")) + len(tokenizer.encode("assistant\n")) + 3
    kept = cap - closing
    assert prompt.tokens[:kept] == full.tokens[:kept]
    assert prompt.tokens[kept:] == full.tokens[-closing:]

    bare = template.fill("", video_tokens=16)
    assert template.fill(text, video_tokens=cap - len(bare.tokens) + 16).cut > 50
    with pytest.raises(UserError, match="max_tokens"):
        template.fill(text, video_tokens=cap - len(bare.tokens) + 17)


def test_contract_that_cannot_serve_is_refused(tokenizer):
    for change in [
        {"instruction_role": "user"},
        {"template": "<|im_start|>{system}{video}{image}"},
        {"template": "<|im_start|>{system}{video}{image}{text}\n"},
        {"pooled_token": "<|absent|>"},
    ]:
        with pytest.raises(UserError):
            PromptTemplate(tokenizer, dataclasses.replace(Contract(), **change))


# Positions.


@pytest.fixture(scope="module")
def model():
    # Real sizes on the device without memory: only its index arithmetic runs.
    config = Qwen2_5_VLConfig()
    config.text_config.num_hidden_layers = config.vision_config.depth = 1
    with torch.device("meta"):
        return Qwen2_5_VLModel(config)


def reference_positions(model, kinds, grids, seconds):
    """`kinds`: per token 0 text, 1 image, 2 video; `grids`: of the media in order."""
    kinds = torch.tensor([kinds])
    images = torch.tensor([g for g, s in zip(grids, seconds, strict=True) if s is None])
    videos = [(g, s) for g, s in zip(grids, seconds, strict=True) if s is not None]
    ids, _ = model.get_rope_index(
        torch.zeros_like(kinds),
        kinds,
        image_grid_thw=images if len(images) else None,
        video_grid_thw=torch.tensor([g for g, _ in videos]) if videos else None,
        second_per_grid_ts=torch.tensor([s for _, s in videos]) if videos else None,
    )
    return ids[:, 0].numpy()


@pytest.mark.parametrize(
    "media",
    [
        [],
        [((1, 10, 14), None)],
        [((4, 6, 6), 2.0)],
        [((4, 6, 6), 0.0)],
        [((4, 28, 4), 0.37), ((1, 6, 10), None)],
        [((5, 2, 40), 21.7), ((1, 2, 2), None)],
        [((24, 4, 4), 1.9999999)],
        [((24, 4, 4), 1 / 3)],
    ],
)
@pytest.mark.parametrize("between", [0, 1, 5])
def test_positions_equal_get_rope_index(model, media, between):
    model.config.vision_config.tokens_per_second = 2
    kinds, placed = [0] * 7, []
    for (t, h, w), seconds in media:
        placed.append(Placed(len(kinds), (t, h, w), seconds))
        kinds += [1 if seconds is None else 2] * (t * h * w // 4) + [0] * between
    kinds += [0] * 9
    got = mrope_positions(len(kinds), placed, tokens_per_second=2)
    expected = reference_positions(
        model, kinds, [g for g, _ in media], [s for _, s in media]
    )
    assert got.dtype == np.int32
    np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("frames", [1, 2, 7, 8, 25, 200, 3000])
@pytest.mark.parametrize("fps", [10, 24, 25, 30000 / 1001, 60])
@pytest.mark.parametrize("tokens_per_second", [2, 4])
def test_real_time_equals_that_of_sampled_metadata(
    model, frames, fps, tokens_per_second
):
    """From a video's length and rate, the way the processor of transformers goes."""
    indices = np.linspace(0, frames - 1, 8).round().astype(int).tolist()
    metadata = VideoMetadata(total_num_frames=frames, fps=fps, frames_indices=indices)
    model.config.vision_config.tokens_per_second = tokens_per_second
    expected = reference_positions(
        model, [0, *[2] * 4, 0], [(4, 2, 2)], [2 / metadata.sampled_fps]
    )
    seconds = seconds_per_grid(8, frames / fps, "real")
    got = mrope_positions(6, [Placed(1, (4, 2, 2), seconds)], tokens_per_second)
    np.testing.assert_array_equal(got, expected)


def test_nominal_time_is_one_frame_a_second():
    assert seconds_per_grid(8, 300.0, "nominal") == 2.0
    assert seconds_per_grid(8, 0.0, "real") == 0.0
