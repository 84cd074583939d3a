"""Exports of Qwen2-VL, Qwen2.5-VL and Qwen3-VL: from a PNG, a video and a sentence to
the same vectors in transformers, PEFT and sentence-transformers, by their own files."""

import dataclasses
import importlib.util
import json
import os
import types

import numpy as np
import pytest
import qwen_vocab
import safetensors
import safetensors.numpy
import tokenizers
import torch
import transformers
from flax import nnx
from peft import PeftModel
from PIL import Image
from tokenizers import processors
from transformers import (
    AutoImageProcessor,
    AutoModel,
    AutoModelForImageTextToText,
    AutoProcessor,
    AutoTokenizer,
)
from transformers.video_utils import VideoMetadata

from gve_jax import build, media, presets
from gve_jax.config import default_config
from gve_jax.embed import Embedder
from gve_jax.export import adapter, chat_template, differences, export_hf
from gve_jax.hub import Weights
from gve_jax.preprocess import load_tokenizer, train_tokenizer
from gve_jax.preprocess.patches import layout
from gve_jax.preprocess.prompt import PromptTemplate
from gve_jax.restore import Restored, restore
from gve_jax.types import Item, UserError
from tests.model_witness import CLASSES, FAMILIES, hf_model
from tests.test_preprocess_families import expanded
from tests.tiny import write_video

NUM_FRAMES = 29  # of the video, at 8 a second
SAMPLED = [0, 9, 19, 28]  # as np.linspace(0, 28, 4).round()
needs_torchvision = pytest.mark.skipif(
    not importlib.util.find_spec("torchvision"),
    reason="the video processors of transformers need torchvision",
)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("media")
    write_video(folder / "v.mp4", frames=NUM_FRAMES, size=96)
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (75, 130, 3), dtype=np.uint8)
    Image.fromarray(image).save(folder / "i.png")
    return folder


def settings(family):
    """The family's preset within reach of a tiny model."""
    config = default_config()
    side = 32 if family == "qwen3_vl" else 28
    config.preprocess.update(
        num_frames=4, fps=0.0, min_frames=2, min_pixels=4 * side**2,
        max_pixels=9 * side**2, total_pixels=0, image_min_pixels=2 * side**2,
        image_max_pixels=6 * side**2, max_tokens=256,
    )  # fmt: skip
    return config


@pytest.fixture(scope="module", params=FAMILIES)
def made(request, tmp_path_factory):
    """A bfloat16 folder as transformers saves it, and what we make of it."""
    family = request.param
    root = tmp_path_factory.mktemp(family)
    base = root / "base"
    texts = ["a red square goes left", "Find the video.", "Represent the user's input."]
    tokenizer = train_tokenizer(texts, 400, base)
    model = hf_model(
        family,
        vocab_size=tokenizer.vocab_size,
        **{
            f"{name}_id": tokenizer.special(token)
            for name, token in (
                ("image_token", "<|image_pad|>"),
                ("video_token", "<|video_pad|>"),
                ("vision_start_token", "<|vision_start|>"),
                ("vision_end_token", "<|vision_end|>"),
            )
        },
    )
    model.to(torch.bfloat16).save_pretrained(base)
    out = root / "out"
    found = restore(base, config=settings(family))
    export_hf(found, out)
    return types.SimpleNamespace(family=family, base=base, out=out, found=found)


def items(files):
    video, image = str(files / "v.mp4"), str(files / "i.png")
    return [
        Item("text", text="a red square"),
        Item("asked", text="a red square", instruction="Find the video"),
        Item("image", image=image),
        Item("image, text", image=image, text="but blue", instruction="Find it."),
        Item("video", video=video),
        Item("all", video=video, image=image, text="but blue", instruction="Find it."),
    ]


def messages(item, frames=None):
    """An item in the form of a chat, its text first: the template puts it in order."""
    content = []
    if item.text:
        content.append({"type": "text", "text": item.text})
    if item.image:
        content.append({"type": "image", "image": Image.open(item.image)})
    if item.video:
        content.append({"type": "video", "video": frames})
    chat = [{"role": "user", "content": content}]
    if item.instruction:
        system = [{"type": "text", "text": item.instruction}]
        chat.insert(0, {"role": "system", "content": system})
    return chat


class OurVideos:
    """Stands in for a video processor, which needs torchvision: our own pixels."""

    merge_size = temporal_patch_size = 2

    def __init__(self, found, item):
        encoded = build.make_processor(
            found.config, found.tokenizer, found.contract, found.model_config
        ).encode(item._replace(image=None))
        groups = len(encoded.frame_lengths)
        rows, columns = (encoded.coords.max(axis=0) + 1).tolist()
        self.grid = (groups, rows, columns)
        geometry = build.geometry(found.model_config)
        units = encoded.patches.reshape(-1, 4, 3, geometry.patch_dim // 3)
        raster = np.empty_like(units)
        raster[layout(self.grid, geometry).order] = units
        v = found.model_config.vision
        mean, std = (np.float32(x)[:, None] for x in (v.image_mean, v.image_std))
        x = (raster.astype(np.float32) / 255 - mean) / std
        self.pixels = torch.from_numpy(x.reshape(-1, geometry.patch_dim))

    def __call__(self, videos, **_):
        metadata = VideoMetadata(
            total_num_frames=NUM_FRAMES, fps=8.0, frames_indices=list(SAMPLED)
        )
        return {
            "pixel_values_videos": self.pixels,
            "video_grid_thw": torch.tensor([self.grid]),
            "video_metadata": [metadata],
        }


def processor(made, item):
    """Their processor of an exported folder, but for the video part."""
    kind = getattr(transformers, f"{CLASSES[made.family]}Processor")
    theirs = object.__new__(kind)
    theirs.tokenizer = AutoTokenizer.from_pretrained(made.out)
    theirs.chat_template = theirs.tokenizer.chat_template
    theirs.image_processor = AutoImageProcessor.from_pretrained(made.out, backend="pil")
    theirs.video_processor = OurVideos(made.found, item) if item.video else None
    for name in ("image_token", "video_token", "vision_start", "vision_end"):
        pad = name.replace("token", "pad")
        attribute = name if name.endswith("token") else f"{name}_token"
        setattr(theirs, attribute, f"<|{pad}|>")
        token = theirs.tokenizer.convert_tokens_to_ids(f"<|{pad}|>")
        setattr(theirs, f"{attribute}_id", token)
    return theirs


def pooled(model, inputs):
    with torch.no_grad():
        hidden = model(**inputs).last_hidden_state
    return torch.nn.functional.normalize(hidden[:, -1], dim=-1)[0].numpy()


def chat_inputs(made, item):
    frames = np.zeros((NUM_FRAMES, 8, 8, 3), np.uint8)
    return processor(made, item).apply_chat_template(
        messages(item, frames),
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
    )


def vectors(folder, things, **options):
    result = Embedder.from_checkpoint(folder, **options).embed(things, progress=False)
    assert not result.failures
    return result.vectors


@pytest.fixture(scope="module")
def mine(made, files):
    return vectors(made.out, items(files))


def test_every_tensor_keeps_its_bytes_and_name(made):
    theirs, ours = (
        safetensors.safe_open(folder / "model.safetensors", "np")
        for folder in (made.base, made.out)
    )
    # An embedder has no head.
    assert set(theirs.keys()) - set(ours.keys()) == {"lm_head.weight"}
    assert set(ours.keys()) < set(theirs.keys())
    for key in ours.keys():  # noqa: SIM118  (not a dict)
        a, b = theirs.get_tensor(key), ours.get_tensor(key)
        assert a.dtype == b.dtype == "bfloat16"
        assert a.shape == b.shape
        assert a.tobytes() == b.tobytes()


@pytest.mark.parametrize("kind", [AutoModel, AutoModelForImageTextToText])
def test_transformers_finds_every_weight(made, kind):
    _, info = kind.from_pretrained(made.out, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]


def test_vectors_equal_those_of_transformers(made, mine, files):
    model = AutoModel.from_pretrained(made.out, dtype=torch.float32).eval()
    encode = build.make_processor(
        made.found.config, made.found.tokenizer, made.found.contract,
        made.found.model_config,
    ).encode  # fmt: skip
    for item, vector in zip(items(files), mine, strict=True):
        inputs = chat_inputs(made, item)
        assert inputs["input_ids"][0].tolist() == encode(item).tokens.tolist()
        np.testing.assert_allclose(pooled(model, inputs), vector, atol=1e-4)


def test_our_own_vectors_and_contract_stay(made, mine, files):
    before = vectors(made.base, items(files), config=settings(made.family))
    np.testing.assert_array_equal(before, mine)
    assert restore(made.out).contract == made.found.contract
    assert made.found.contract.weights == "bfloat16"


def test_the_files_are_written_as_the_umask_says(made):
    umask = os.umask(0o022)
    os.umask(umask)
    for path in made.out.rglob("*"):
        if path.is_file():
            assert path.stat().st_mode & 0o777 == 0o666 & ~umask, path


def test_processor_files(made):
    read = lambda name: json.loads((made.out / name).read_text())  # noqa: E731
    contract, side = made.found.contract, made.found.model_config.vision.patch_size
    image = read("preprocessor_config.json")
    video = read("video_preprocessor_config.json")
    prefix = CLASSES[made.family]
    for values in (image, video, read("processor_config.json")):
        assert values["processor_class"] == f"{prefix}Processor"
    assert image["size"] == {
        "shortest_edge": contract.image_min_pixels,
        "longest_edge": contract.image_max_pixels,
    }
    kind = "Qwen3VL" if made.family == "qwen3_vl" else "Qwen2VL"
    assert video["video_processor_type"] == f"{kind}VideoProcessor"
    for values in (image, video):
        assert values["patch_size"] == (16 if made.family == "qwen3_vl" else 14) == side
        assert values["image_mean"][0] == (0.5 if side == 16 else 0.48145466)
        assert values["image_std"][0] == (0.5 if side == 16 else 0.26862954)
    n = 4 if made.family == "qwen3_vl" else 1  # there the sizes are of all frames
    assert video["size"] == {
        "shortest_edge": contract.min_pixels * n,
        "longest_edge": contract.max_pixels * n,
    }
    assert video.get("num_frames", video.get("max_frames")) == 4
    tokenizer = AutoTokenizer.from_pretrained(made.out)
    assert tokenizer.chat_template == chat_template(contract)
    assert tokenizer.model_max_length == contract.max_tokens


def test_files_of_sentence_transformers(made):
    read = lambda name: json.loads((made.out / name).read_text())  # noqa: E731
    paths = [module["path"] for module in read("modules.json")]
    assert paths == ["", "1_Pooling", "2_Normalize"]
    pooling = read("1_Pooling/config.json")
    assert pooling["pooling_mode"] == "lasttoken"
    assert pooling["embedding_dimension"] == 64
    assert "message" in read("sentence_bert_config.json")["modality_config"]


# With torchvision: the video processors, AutoProcessor, sentence-transformers.


def whole_video(files):
    frames = media.read_video(str(files / "v.mp4"), NUM_FRAMES).pixels
    x = torch.from_numpy(np.array(frames)).permute(0, 3, 1, 2)  # [n c h w]
    metadata = {"fps": 8.0, "total_num_frames": NUM_FRAMES, "duration": NUM_FRAMES / 8}
    return x, metadata


@needs_torchvision
def test_video_processor(made, files):
    theirs = AutoProcessor.from_pretrained(made.out).video_processor
    x, metadata = whole_video(files)
    options = {}
    if made.family != "qwen3_vl":  # their rule takes other frames
        assert len(theirs.sample_frames(VideoMetadata(**metadata), num_frames=4)) == 4
        x, metadata["frames_indices"] = x[SAMPLED], list(SAMPLED)
        options["do_sample_frames"] = False
    got = theirs(
        [x], video_metadata=[metadata], return_metadata=True, return_tensors="pt",
        **options,
    )  # fmt: skip
    assert list(got["video_metadata"][0].frames_indices) == SAMPLED
    ours = OurVideos(made.found, items(files)[4])
    assert tuple(got["video_grid_thw"][0].tolist()) == ours.grid
    np.testing.assert_allclose(got["pixel_values_videos"], ours.pixels, atol=1e-5)


@needs_torchvision
def test_sentence_transformers(made, files):
    package = pytest.importorskip("sentence_transformers")
    model = package.SentenceTransformer(
        str(made.out), device="cpu", model_kwargs={"dtype": torch.float32}
    )
    model[0].processor.image_processor = AutoImageProcessor.from_pretrained(
        made.out, backend="pil"
    )
    x, metadata = whole_video(files)
    options = {}
    if made.family != "qwen3_vl":
        x, metadata["frames_indices"] = x[SAMPLED], list(SAMPLED)
        options["processing_kwargs"] = {"video": {"do_sample_frames": False}}
    long = Item("long", text="a red square " * 200)  # is cut
    for item, vector in zip(
        [*items(files), long], vectors(made.out, [*items(files), long]), strict=True
    ):
        content = {"text": item.text} if item.text else {}
        if item.image:
            content["image"] = Image.open(item.image)
        if item.video:
            content["video"] = {"array": x, "video_metadata": metadata}
        got = model.encode(content, prompt=item.instruction, **options)
        np.testing.assert_allclose(got, vector, atol=1e-4)


# Low-rank updates.


def low_rank(made, rank=4) -> Restored:
    """A checkpoint as training leaves it, with an update that is felt."""
    config = settings(made.family)
    config.model.init_from = str(made.base)
    config.model.param_dtype = "float32"
    config.model.lora.rank = rank
    tokenizer = build.make_tokenizer(config, ())
    model_config, graphdef, params = build.make_model(config, tokenizer)
    rng = np.random.default_rng(0)
    flat = dict(nnx.to_flat_state(params))
    for path, v in flat.items():
        if path[-1] == "lora_b":
            flat[path] = v.replace(rng.normal(0, 0.1, v.shape).astype(np.float32))
    return Restored(
        model_config, graphdef, nnx.from_flat_state(flat), tokenizer,
        build.make_contract(config, model_config), config,
    )  # fmt: skip


def test_adapters(made, files, tmp_path):
    found = low_rank(made)
    export_hf(found, tmp_path / "adapter", "adapter")
    export_hf(found, tmp_path / "merged", "merge")
    item = items(files)[3]
    mine = vectors(tmp_path / "merged", [item])[0]
    back = vectors(tmp_path / "adapter", [item], weights="float32")[0]
    np.testing.assert_allclose(back, mine, atol=1e-5)

    inputs = chat_inputs(made, item)
    model = AutoModelForImageTextToText.from_pretrained(
        made.base, dtype=torch.float32
    ).eval()
    assert np.abs(pooled(model.model, inputs) - mine).max() > 1e-2
    model = PeftModel.from_pretrained(model, tmp_path / "adapter").eval()
    written = safetensors.numpy.load_file(
        tmp_path / "adapter" / "adapter_model.safetensors"
    )
    known = {
        name.replace(".default", "")
        for name, _ in model.named_parameters()
        if "lora_" in name
    }
    assert set(written) == known
    bare = AutoModel.from_pretrained(tmp_path / "adapter", dtype=torch.float32).eval()
    for theirs in (model.base_model.model.model, bare):
        np.testing.assert_allclose(pooled(theirs, inputs), mine, atol=1e-4)


def test_an_adapter_names_its_base_for_every_folder(made, tmp_path, monkeypatch):
    found = low_rank(made)
    name = "base_model_name_or_path"
    monkeypatch.chdir(made.base.parent)
    found.config.model.init_from = "base"
    assert adapter.adapter_config(found)[name] == str(made.base)

    hub = Weights(tmp_path / "snapshots" / "abc1", hub_id="org/name")
    monkeypatch.setattr(adapter, "find_weights", lambda *_: hub)
    config = adapter.adapter_config(found)
    assert (config[name], config["revision"]) == ("org/name", "abc1")


def test_an_adapter_needs_a_base_of_its_own(made, tmp_path):
    found = low_rank(made)
    export_hf(found, tmp_path / "one", "adapter")
    for init_from, message in ((str(tmp_path / "one"), "itself"), ("", "random")):
        found.config.model.init_from = init_from
        with pytest.raises(UserError, match=message):
            export_hf(found, tmp_path / "two", "adapter")
    assert not (tmp_path / "two").exists()


# Prompts, on the real vocabulary.


@pytest.fixture(scope="module")
def qwen(tmp_path_factory):
    folder = tmp_path_factory.mktemp("qwen")
    qwen_vocab.tokenizer_json(folder)
    load_tokenizer(folder).save(folder)
    return load_tokenizer(folder), AutoTokenizer.from_pretrained(folder)


TEXTS = ["", "a red ball", " 你好，世界！", "\n\n{text} {{ video }}\n", "it's 12%}\r\n"]
INSTRUCTIONS = [None, "Find the video.", " Find it ", "Find it。", "Find $", "  "]


@pytest.mark.parametrize("name", presets.PRESETS)
@pytest.mark.parametrize(
    "kinds", [(), ("video",), ("image",), ("video", "image")], ids="-".join
)
def test_the_chat_template_is_the_prompt(qwen, name, kinds):
    tokenizer, reference = qwen
    contract = presets.PRESETS[name]
    template = chat_template(contract)
    times, grids = [], {}
    if "video" in kinds:
        grids["video"] = (3, 4, 6)
        if contract.video_group:
            times = [0.25, 1.35, 12.05]
        grids["metadata"] = VideoMetadata(
            total_num_frames=300, fps=20.0, frames_indices=[0, 10, 20, 34, 241, 241]
        )
    if "image" in kinds:
        grids["image"] = (1, 4, 4)
    fill = PromptTemplate(tokenizer, contract).fill
    for text in TEXTS:
        for instruction in INSTRUCTIONS:
            if not (text or kinds):
                continue
            content = [{"type": kind} for kind in (*reversed(kinds),)]
            chat = [{"role": "user", "content": content}]
            if not kinds:
                chat[0]["content"] = text
            elif text:
                content.insert(0, {"type": "text", "text": text})
            if instruction is not None:
                chat.insert(0, {"role": "system", "content": instruction})
            prompts = [
                reference.apply_chat_template(
                    chat,
                    chat_template=template,
                    add_generation_prompt=whole,
                    tokenize=False,
                )
                for whole in (True, False)
            ]
            assert prompts[0] == prompts[1]
            if "video" in kinds and contract.family == "qwen3_vl":
                assert "<|vision_start|><|video_pad|>" not in prompts[0]
            theirs = expanded(prompts[0], contract.family, reference, **grids)
            mine = fill(
                text,
                instruction,
                video_tokens=18 if "video" in kinds else 0,
                image_tokens=4 if "image" in kinds else 0,
                times=times,
            )
            assert reference(theirs).input_ids == mine.tokens, (text, instruction)


@pytest.mark.parametrize(
    ("chat", "message"),
    [
        ([{"role": "assistant", "content": "yes"}], "no assistant message"),
        (
            [{"role": "user", "content": [{"type": "image"}, {"type": "image"}]}],
            "one image and one video",
        ),
    ],
)
def test_the_chat_template_refuses_what_no_item_is(qwen, chat, message):
    template = chat_template(presets.PRESETS["gve"])
    with pytest.raises(Exception, match=message):
        qwen[1].apply_chat_template(chat, chat_template=template, tokenize=False)


def test_the_tokenizer_adds_nothing_to_the_template(made, tmp_path):
    """Qwen3-VL-Embedding's own appends the pooled token to whatever it encodes."""
    folder = tmp_path / "base"
    folder.mkdir()
    for path in made.base.iterdir():
        (folder / path.name).symlink_to(path)
    backend = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    pooled_id = backend.token_to_id("<|endoftext|>")
    backend.post_processor = processors.TemplateProcessing(
        single="$A <|endoftext|>", special_tokens=[("<|endoftext|>", pooled_id)]
    )
    (folder / "tokenizer.json").unlink()
    backend.save(str(folder / "tokenizer.json"))
    assert AutoTokenizer.from_pretrained(folder)("a").input_ids[-1] == pooled_id
    export_hf(restore(folder, config=settings(made.family)), tmp_path / "out")
    quiet = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert quiet("a").input_ids == made.found.tokenizer.encode("a")


def test_differences_are_told():
    gve, qwen3 = presets.PRESETS["gve"], presets.PRESETS["qwen3-vl-embedding"]
    assert [line[:28] for line in differences(gve)] == ["of a video other frames are "]
    assert "131072 pixels" in next(differences(qwen3))
    assert not list(differences(dataclasses.replace(qwen3, fps=0.0)))
    text = " ".join(differences(presets.PRESETS["vlm2vec-v2"]))
    assert "position_ids" in text
    assert "nominal" in next(differences(dataclasses.replace(gve, time="nominal")))
