"""Real clips, the real vocabulary and a Hugging Face folder, against torch.

The witness shares no code with the project: frames by PyAV's plain loop, sizes by
`transformers`, pixels by torch's own resize, ids by the tokenizer of `transformers` on
the whole prompt, positions and vectors by its Qwen2.5-VL.
"""

import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
import torch
from flax import nnx
from transformers import AutoTokenizer
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize
from transformers.video_utils import VideoMetadata

from gve_jax.config import default_config
from gve_jax.embed import Embedder
from gve_jax.types import Item, UserError
from tests import qwen_vocab, real_clips
from tests.media_files import decode_some
from tests.model_witness import MEAN, STD, hf_model

ROOT = pathlib.Path(__file__).parents[1]
SPECIAL = dict(
    vision_start_token_id=151652,
    vision_end_token_id=151653,
    image_token_id=151655,
    video_token_id=151656,
)
# Name -> frames and frames a second, as test_media_real.py finds them.
CLIPS = {
    "bikes": (250, 25),
    "bigbuckbunny": (132, 25),
    "carphone": (120, 30000 / 1001),
    "carphone_distorted": (120, 30000 / 1001),
}
WORDS = "Vélos qui passent, 街, 12 fps"


@pytest.fixture(scope="module")
def model():
    """Random, tiny, with the vocabulary of the released models."""
    return hf_model(vocab_size=151936, tied=True, **SPECIAL)


@pytest.fixture(scope="module")
def folder(model, tmp_path_factory):
    """What a download of a Qwen2.5-VL checkpoint holds, but for its size."""
    folder = tmp_path_factory.mktemp("hf") / "model"
    model.save_pretrained(folder)
    qwen_vocab.tokenizer_json(folder)
    return folder


@pytest.fixture(scope="module")
def tokenizer(folder):
    return AutoTokenizer.from_pretrained(folder)


@pytest.fixture(scope="module")
def media(tmp_path_factory):
    """The clips and a re-encoded twin of each, in other bytes and another GOP."""
    media = tmp_path_factory.mktemp("media")
    for name in CLIPS:
        clip = real_clips.path(name, media)
        real_clips.twin(clip, media / f"{name}_twin.mkv", crf=23, gop=17)
    return media


@pytest.fixture(scope="module")
def embedder(folder):
    config = default_config()
    config.embed.tokens = 1024
    return Embedder.from_checkpoint(folder, config=config)


@pytest.fixture(scope="module")
def items(media):
    clips = [Item(name, video=str(media / f"{name}.mp4")) for name in CLIPS]
    twins = [Item(f"{n}_twin", video=str(media / f"{n}_twin.mkv")) for n in CLIPS]
    return [*clips, *twins, clips[0]._replace(id="mixed", text=WORDS)]


@pytest.fixture(scope="module")
def vectors(embedder, items):
    result = embedder.embed(items, progress=False)
    assert not result.failures
    return dict(zip((item.id for item in items), result.vectors, strict=True))


def theirs(model, tokenizer, clip=None, name=None, text=""):
    """The embedding that `transformers` and torch give."""
    inputs, pads = {}, ""
    if clip:
        count, fps = CLIPS[name]
        chosen = np.linspace(0, count - 1, 8).round().astype(int).tolist()
        frames = decode_some(clip, set(chosen))
        x = torch.tensor(np.stack([frames[k] for k in chosen])).permute(0, 3, 1, 2)
        h, w = smart_resize(*x.shape[2:], 28, 128 * 784, 200 * 784)
        # On bytes, as torchvision does for the video processor.
        x = torch.nn.functional.interpolate(x, (h, w), mode="bicubic", antialias=True)
        mean, std = (torch.from_numpy(s)[:, None, None] for s in (MEAN, STD))
        x = ((x / 255 - mean) / std).reshape(4, 2, 3, h // 28, 2, 14, w // 28, 2, 14)
        grid = 4, h // 14, w // 14
        inputs["pixel_values_videos"] = x.permute(0, 3, 6, 4, 7, 2, 1, 5, 8).reshape(
            -1, 1176
        )
        inputs["video_grid_thw"] = torch.tensor([grid])
        metadata = VideoMetadata(total_num_frames=count, fps=fps, frames_indices=chosen)
        inputs["second_per_grid_ts"] = torch.tensor([2 / metadata.sampled_fps])
        pads = "<|video_pad|>" * (np.prod(grid) // 4)
        pads = f"<|vision_start|>{pads}<|vision_end|>"
    ids = tokenizer(
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n"
        f"{pads}{text}<|im_end|>\n<|im_start|>assistant\n<|endoftext|>",
        return_tensors="pt",
    ).input_ids
    types = torch.where(ids == SPECIAL["video_token_id"], 2, 0).int()
    with torch.no_grad():
        last = model.model(
            input_ids=ids, mm_token_type_ids=types, **inputs
        ).last_hidden_state[0, -1]
    return torch.nn.functional.normalize(last, dim=-1).numpy()


def test_the_vocabulary_is_the_real_one(folder, embedder):
    tokenizer = embedder.processor.tokenizer
    assert tokenizer.special("<|endoftext|>") == 151643
    assert tokenizer.special("<|video_pad|>") == SPECIAL["video_token_id"]
    assert json.loads((folder / "config.json").read_text())["model_type"]
    # A folder's weights are whole: no update on top of them.
    paths = [path for path, _ in nnx.to_flat_state(embedder.params)]
    assert paths and not any("lora" in str(path) for path in paths)


@pytest.mark.parametrize("name", CLIPS)
def test_clips_equal_torch(model, tokenizer, media, vectors, name):
    want = theirs(model, tokenizer, media / f"{name}.mp4", name)
    np.testing.assert_allclose(vectors[name], want, atol=1e-4, rtol=0)


def test_text_and_mixture_equal_torch(model, tokenizer, media, embedder, vectors):
    want = theirs(model, tokenizer, media / "bikes.mp4", "bikes", WORDS)
    np.testing.assert_allclose(vectors["mixed"], want, atol=1e-4, rtol=0)
    assert np.abs(vectors["mixed"] - vectors["bikes"]).max() > 1e-2
    got = embedder.embed([Item("t", text=WORDS)], progress=False).vectors[0]
    want = theirs(model, tokenizer, text=WORDS)
    np.testing.assert_allclose(got, want, atol=1e-4, rtol=0)


def test_each_clip_finds_its_twin(vectors):
    names = [n for n in vectors if n != "mixed"]
    table = np.stack([vectors[n] for n in names])
    scores = table @ table.T
    np.fill_diagonal(scores, -2)
    for name, row in zip(names, scores, strict=True):
        other = name.removesuffix("_twin") if "_twin" in name else f"{name}_twin"
        assert names[np.argmax(row)] == other, name


def test_the_command_on_a_hugging_face_folder(folder, media, vectors, tmp_path):
    rows = [
        {"id": "carphone", "video": str(media / "carphone.mp4")},
        {"id": "bikes", "video": str(media / "bikes.mp4")},
    ]
    (tmp_path / "items.jsonl").write_text("\n".join(map(json.dumps, rows)))
    done = subprocess.run(
        [sys.executable, "-m", "gve_jax.embed", f"--checkpoint={folder}",
         f"--input={tmp_path}/items.jsonl", f"--output={tmp_path}/out", "--stats"],
        cwd=ROOT,
        env=os.environ | {"XLA_FLAGS": ""},
        capture_output=True,
        text=True,
        timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    got = np.load(tmp_path / "out" / "embeddings.npy")
    want = np.stack([vectors["carphone"], vectors["bikes"]])
    np.testing.assert_allclose(got, want, atol=1e-5, rtol=0)
    contract = json.loads((tmp_path / "out" / "contract.json").read_text())
    assert contract["dim"] == 64 and len(contract["weights_hash"]) == 16
    assert "1 shapes compiled" in done.stdout
    assert contract["min_pixels"] == 128 * 784 and contract["num_frames"] == 8


def test_a_folder_without_its_tokenizer_is_refused(folder, tmp_path):
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).symlink_to(folder / name)
    with pytest.raises(UserError, match="no tokenizer here"):
        Embedder.from_checkpoint(tmp_path)
