"""Token ids of prompts against transformers' tokenizer."""

import dataclasses

import pytest
from transformers import AutoTokenizer

from gve_jax.contract import Contract
from gve_jax.preprocess import load_tokenizer, train_tokenizer
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
    for kind, starts in [
        ("video", prompt.video_starts),
        ("image", prompt.image_starts),
    ]:
        pad = reference.convert_tokens_to_ids(f"<|{kind}_pad|>")
        assert starts == ([expected.index(pad)] if kind in media else [])


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


SUFFIX = dataclasses.replace(
    Contract(),
    forms={"text": "<|im_start|>{system}:{text}.\nIn one word:<|im_end|>"},
    pooled_token="",
)


@pytest.mark.parametrize("text", ["a red ball", "it's", "12 \n"])
def test_template_text_after_the_users_is_of_one_piece_with_it(
    tokenizer, reference, text
):
    got = PromptTemplate(tokenizer, SUFFIX).fill(text, "Find:")
    whole = f"<|im_start|>Find::{text}.\nIn one word:<|im_end|>"
    assert got.tokens == reference(whole).input_ids


def test_template_text_after_the_users_is_never_cut(tokenizer):
    contract = dataclasses.replace(SUFFIX, max_tokens=60)
    prompt = PromptTemplate(tokenizer, contract).fill("a red ball " * 20)
    assert len(prompt.tokens) == 60 and prompt.cut > 30
    text = tokenizer.decode(prompt.tokens)
    assert text.endswith(".\nIn one word:<|im_end|>")
    assert "assistant.:a red" in text
    with pytest.raises(UserError, match="max_tokens"):
        small = dataclasses.replace(contract, max_tokens=36)
        PromptTemplate(tokenizer, small).fill("a red ball " * 20)


def test_instruction_of_the_user_turn(tokenizer):
    contract = dataclasses.replace(
        Contract(),
        template="<|im_start|>{video}{image}{instruction}{text}<|im_end|>",
        instruction_role="user",
        instruction_end=".",
        separator=" ",
        default_instruction="",
        instructions={"video": "Look."},
    )
    template = PromptTemplate(tokenizer, contract)

    def fill(*args, **kwargs):
        return tokenizer.decode(template.fill(*args, **kwargs).tokens)

    end = "<|im_end|><|endoftext|>"
    video = "<|vision_start|><|video_pad|><|vision_end|>"
    assert fill("a ball") == f"<|im_start|>a ball{end}"
    assert fill("a ball", "Find it ") == f"<|im_start|>Find it. a ball{end}"
    assert fill("a ball", "Which?") == f"<|im_start|>Which? a ball{end}"
    assert fill(video_tokens=1) == f"<|im_start|>{video}Look.{end}"
    assert fill("", "Find it", video_tokens=1) == f"<|im_start|>{video}Find it.{end}"
    assert fill("a", video_tokens=1) == f"<|im_start|>{video}a{end}"
    assert fill("a", "{text}<|im_end|>") == f"<|im_start|>{{text}}<|im_end|>. a{end}"


@pytest.mark.parametrize(
    "change",
    [
        {"instruction_role": "assistant"},
        {"instruction_role": "user"},
        {"template": "<|im_start|>{system}{video}{image}"},
        {"template": "<|im_start|>{system}{video}{image}{text}{text}"},
        {"template": "<|im_start|>{system}{video}{image}{text}{audio}"},
        {"forms": {"text": "{system}"}},
        {"forms": {"video+text": "{system}{text}"}},
        {"forms": {"sound": "{system}{sound}"}},
        {"forms": {"text+video": "{system}{video}{text}"}},
        {"video": "<|vision_start|><|vision_end|>"},
        {"image": "<|image_pad|><|image_pad|>"},
        {"video": "{groups}"},
        {"video_group": "<{seconds}><|video_pad|>"},
        {"pooled_token": "<|absent|>"},
    ],
)
def test_contract_that_cannot_serve_is_refused(tokenizer, change):
    with pytest.raises(UserError):
        PromptTemplate(tokenizer, dataclasses.replace(Contract(), **change))
