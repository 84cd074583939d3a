"""Encoders of others: CLIP against plain torch, VideoPrism against its interface."""

import functools
import pathlib
import subprocess
import sys
import types

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from eval.encoders import clip, reading
from eval.encoders.videoprism import VideoPrism
from gve_jax import media
from gve_jax.preprocess import Reader
from gve_jax.types import Item, UserError
from tests import tiny

ROOT = pathlib.Path(__file__).parents[1]
SIZE = 32
WORDS = ["<start>", "<end>", "a", "red", "blue", "square", "goes", "left"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A random CLIP with a tokenizer of eight words."""
    folder = tmp_path_factory.mktemp("clip")
    small = dict(
        hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2
    )
    config = transformers.CLIPConfig(
        text_config=dict(
            vocab_size=len(WORDS),
            max_position_embeddings=9,
            bos_token_id=0,
            eos_token_id=1,
            pad_token_id=1,
            **small,
        ),
        vision_config=dict(image_size=SIZE, patch_size=8, **small),
        projection_dim=12,
    )
    torch.manual_seed(0)
    transformers.CLIPModel(config).save_pretrained(folder)
    words = Tokenizer(models.WordLevel({w: i for i, w in enumerate(WORDS)}, "a"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.post_processor = processors.TemplateProcessing(
        single="<start> $A <end>", special_tokens=[("<start>", 0), ("<end>", 1)]
    )
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="<end>", eos_token="<end>"
    ).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def items(tmp_path_factory):
    folder = tmp_path_factory.mktemp("media")
    tiny.write_video(folder / "v.mp4", size=56)
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (40, 70, 3), dtype=np.uint8)
    Image.fromarray(image).save(folder / "i.png")
    video, image = str(folder / "v.mp4"), str(folder / "i.png")
    return [
        Item("t", text="a red square"),
        Item("v", video=video),
        Item("i", image=image),
        Item("ti", text="goes left", image=image, instruction="Find it."),
        Item("r", video=video, frame_order="single"),
        Item("long", text="a red square goes left " * 9),
    ]


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def test_clip_is_transformers_own_averaged_over_frames(folder, items):
    encoder = clip.Clip(str(folder), num_frames=4, batch_size=2)
    result = encoder.embed(items, progress=False)
    assert not result.failures and encoder.contract.to_json()["weights"] == str(folder)
    model = transformers.CLIPModel.from_pretrained(folder).eval()
    mean, std = clip._MEAN, clip._STD

    def image(frames):
        x = ((np.stack(frames) / 255 - mean) / std).transpose(0, 3, 1, 2)
        with torch.no_grad():
            found = model.vision_model(torch.from_numpy(x.astype(np.float32)))
            return unit(model.visual_projection(found.pooler_output).numpy())

    def text(*ids):
        with torch.no_grad():
            found = model.text_model(torch.tensor([ids]))
            return unit(model.text_projection(found.pooler_output).numpy())[0]

    def scaled(frame):
        height, width = frame.shape[:2]
        to = SIZE * width // min(height, width), SIZE * height // min(height, width)
        whole = Image.fromarray(frame).resize(to, Image.Resampling.BICUBIC)
        left, top = (to[0] - SIZE) // 2, (to[1] - SIZE) // 2
        return np.asarray(whole.crop((left, top, left + SIZE, top + SIZE)))

    frames = [scaled(f) for f in media.read_video(items[1].video, 4).pixels]
    picture = image([scaled(media.read_image(items[2].image))])[0]
    want = [
        text(0, 2, 3, 5, 1),
        unit(image(frames).mean(0)),
        picture,
        unit(text(0, 6, 7, 1) + picture),
        image(frames[2:3])[0],
        text(0, 2, 3, 5, 6, 7, 2, 3, 1),  # cut to nine tokens, the end kept
    ]
    np.testing.assert_allclose(result.vectors, want, atol=2e-6)


class FakePrism:
    """What the README of videoprism says of its module `models`."""

    def load_text_tokenizer(self, name):
        assert name == "c4_en"
        return name

    def tokenize_texts(self, tokenizer, texts):
        ids = np.array([[len(t), t.count("a")] for t in texts], np.int32)
        return ids, np.zeros(ids.shape, np.float32)

    def load_pretrained_weights(self, name):
        return {"name": name}

    def get_model(self, name):
        return types.SimpleNamespace(apply=self.apply)

    def apply(self, weights, video, ids, paddings, train):
        assert weights["name"].startswith("videoprism_lvt") and train is False
        found = [None, None, {}]
        if video is not None:
            assert video.ndim == 5 and video.shape[2:] == (288, 288, 3)
            found[0] = np.ones((1, 768)) * video.mean((1, 2, 3, 4))[:, None]
        if ids is not None:
            assert ids.shape == paddings.shape
            found[1] = np.arange(1, 769) * ids[:, :1] + ids[:, 1:]
        return tuple(found)


def test_videoprism_is_asked_as_its_readme_says(items, monkeypatch):
    package = types.ModuleType("videoprism")
    package.models = FakePrism()
    monkeypatch.setitem(sys.modules, "videoprism", package)
    encoder = VideoPrism(num_frames=4)
    result = encoder.embed(items, progress=False)
    assert not result.failures and result.vectors.shape == (6, 768)
    np.testing.assert_allclose(np.linalg.norm(result.vectors, axis=1), 1, atol=1e-5)
    words = unit(np.arange(1, 769) * 9.0 + items[3].text.count("a"))
    shown = unit(np.ones(768))
    np.testing.assert_allclose(result.vectors[3], unit(words + shown), atol=1e-5)


def test_videoprism_says_what_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "videoprism", None)
    with pytest.raises(UserError, match="no package videoprism"):
        VideoPrism()
    with pytest.raises(UserError, match="name is 'base', not one of videoprism_lvt"):
        VideoPrism("base")


def test_frames_become_squares():
    frames = np.random.default_rng(0).integers(0, 256, (2, 30, 50, 3), dtype=np.uint8)
    assert reading.centre_square(24, frames).shape == (2, 24, 24, 3)
    tall = reading.centre_square(24, frames.transpose(0, 2, 1, 3))
    assert tall.shape == (2, 24, 24, 3)
    assert reading.squeeze(24, frames).shape == (2, 24, 24, 3)


def test_frames_are_read_elsewhere_without_jax(items):
    read = functools.partial(reading.read, 4, functools.partial(reading.squeeze, 24))
    (here,) = Reader(read).ahead([items[1]])
    (there,) = Reader(read, 1).ahead([items[1]])
    np.testing.assert_array_equal(here.video, there.video)
    assert there.video.shape == (4, 24, 24, 3)
    code = "import sys, eval.encoders.reading; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0
