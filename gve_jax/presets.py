"""The contracts of published models: how each was asked for its vectors.

Each is what the model's authors run, read from their code; where that leaves a choice,
a comment names it and why it fell so. Videos follow the authors' own sampling. UVRB's
protocol for all, 8 frames of fewer than 200 tokens, is

  --config.preprocess.num_frames=8 --config.preprocess.fps=0
  --config.preprocess.max_pixels=156800

and 204800 for Qwen3-VL, whose tokens are larger.
"""

import itertools

from gve_jax.contract import Contract

_UNIT = 28 * 28  # pixels of a merged unit, Qwen2-VL and Qwen2.5-VL
_UNIT3 = 32 * 32  # Qwen3-VL
_KINDS = ("video", "image", "text")
# The parts of an item that has not all three.
_SOME = [kinds for n in (1, 2) for kinds in itertools.combinations(_KINDS, n)]

# embeddings-benchmark/mteb, gve_models.py, which reproduces the paper: the defaults.
_GVE = Contract()

# The models' own modeling_gme_qwen2vl.py. They take images and text only: for videos,
# which come before images here, GVE's rule. The authors add "." to any instruction that
# ends otherwise; here "?" or ":" is left alone. Their cap of 1,800 tokens would cut the
# pooled token: not kept.
_GME = Contract(
    family="qwen2_vl",
    instruction_end=".",
    image_min_pixels=256 * _UNIT,
    image_max_pixels=1280 * _UNIT,
)


def _unite_form(kinds: tuple[str, ...]) -> str:
    words = {"text": "sentence", "image": "image", "video": "video"}
    named = " and ".join(word for kind, word in words.items() if kind in kinds)
    text = "{text}" if "text" in kinds else ""
    media = "".join(f"{{{kind}}}" for kind in kinds if kind != "text")
    return (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
        f"<|im_start|>user\n{media}{{instruction}}{text}"
        f"\nSummary above {named} in one word:<|im_end|>\n"
        "<|im_start|>assistant\n"
    )


# friedrichor/UNITE: unite/prompt_template.py for the words, inference_demo/inference.py
# for the tail and the frames, train.py for the pixels of images. It has no slot for an
# instruction: as in MMEB's data, which it was trained on, it comes before the text.
_UNITE = Contract(
    family="qwen2_vl",
    template=_unite_form(_KINDS),
    forms={"+".join(kinds): _unite_form(kinds) for kinds in _SOME},
    instruction_role="user",
    separator=" ",
    default_instruction="",
    num_frames=32,
    fps=1.0,
    min_frames=4,
    min_pixels=128 * _UNIT,
    max_pixels=360 * 420,
    image_min_pixels=256 * _UNIT,
    image_max_pixels=1280 * _UNIT,
)


def _vlm2vec_form(kinds: tuple[str, ...]) -> str:
    media = "".join(f"{{{kind}}} " for kind in ("image", "video") if kind in kinds)
    return f"{media}{{instruction}}{'{text}' if 'text' in kinds else ''}"


# TIGER-AI-Lab/VLM2Vec: src/model/processor.py for the bare strings and pixels,
# src/data/eval_dataset/msrvtt_dataset.py for the sentence of videos and the 8 frames,
# demo_v2_image.py for that of images. Without <|vision_start|> before the media, the
# position rule of their day took all for text. Their 8 frames are rounded down from the
# even spacing; here each is the nearest. Image and video in one item: their order is a
# guess, as no data of theirs has both.
_VLM2VEC = Contract(
    family="qwen2_vl",
    template=_vlm2vec_form(_KINDS),
    forms={"+".join(kinds): _vlm2vec_form(kinds) for kinds in _SOME},
    video="<|video_pad|>",
    image="<|image_pad|>",
    instruction_role="user",
    separator=" ",
    default_instruction="",
    instructions={
        "video": "Understand the content of the provided video.",
        "image": "Represent the given image.",
        "video+image": "Understand the content of the provided video.",
    },
    pooled_token="",
    positions="sequential",
    min_pixels=4 * _UNIT,
    max_pixels=1280 * _UNIT,
)

# raghavlite/B3, a fork of VLM2Vec that asks in the same way. Its prefixes of text
# targets ("Represent the answer: " and the like) belong to MMEB's tasks: as
# instructions, if wanted.
_B3 = _VLM2VEC

# QwenLM/Qwen3-VL-Embedding, src/models/qwen3_vl_embedding.py; the pooled token is added
# by the models' tokenizer. Each pair of frames follows its time, as the processor of
# transformers 4.57 wrote it, which the models were trained and published with; since
# 5.10 transformers leaves one more <|vision_start|> and <|vision_end|> around them all.
# The total of pixels is the one their code applies to lists of frames; to files it
# forgets it, and long videos outgrow its own cap of 8,192 tokens.
_QWEN3 = Contract(
    family="qwen3_vl",
    video="{groups}",
    video_group="<{seconds} seconds><|vision_start|><|video_pad|><|vision_end|>",
    instruction_end=".",
    default_instruction="Represent the user's input.",
    num_frames=64,
    fps=1.0,
    min_frames=4,
    min_pixels=128 * _UNIT3,
    max_pixels=768 * _UNIT3,
    total_pixels=7680 * _UNIT3,
    image_min_pixels=4 * _UNIT3,
    image_max_pixels=1800 * _UNIT3,
)

PRESETS = {
    "gve": _GVE,
    "gme": _GME,
    "unite": _UNITE,
    "vlm2vec-v2": _VLM2VEC,
    "b3": _B3,
    "qwen3-vl-embedding": _QWEN3,
}

# Hub id -> preset.
OF_HUB_ID = {
    "Alibaba-NLP/GVE-3B": "gve",
    "Alibaba-NLP/GVE-7B": "gve",
    "Alibaba-NLP/gme-Qwen2-VL-2B-Instruct": "gme",
    "Alibaba-NLP/gme-Qwen2-VL-7B-Instruct": "gme",
    "friedrichor/Unite-Base-Qwen2-VL-2B": "unite",
    "friedrichor/Unite-Base-Qwen2-VL-7B": "unite",
    "friedrichor/Unite-Instruct-Qwen2-VL-2B": "unite",
    "friedrichor/Unite-Instruct-Qwen2-VL-7B": "unite",
    "VLM2Vec/VLM2Vec-V2.0": "vlm2vec-v2",
    "raghavlite/B3_Qwen2_2B": "b3",
    "raghavlite/B3_Qwen2_7B": "b3",
    "Qwen/Qwen3-VL-Embedding-2B": "qwen3-vl-embedding",
    "Qwen/Qwen3-VL-Embedding-8B": "qwen3-vl-embedding",
}

# Family -> preset of checkpoints that nothing else is known of.
OF_FAMILY = {
    "qwen2_vl": "gme",
    "qwen2_5_vl": "gve",
    "qwen3_vl": "qwen3-vl-embedding",
}
