"""From a folder of `transformers` and items to texts."""

import jax
import pytest
import transformers

from gve_jax.config import default_config
from gve_jax.generate import Generator
from gve_jax.preprocess import train_tokenizer
from gve_jax.types import Item, UserError
from tests import tiny
from tests.model_witness import FAMILIES, hf_model
from tests.qwen_chat import TEMPLATES, conversation

NEW = 12
TEXTS = ["Describe the scene.", "What moves, and where to?", "Name it: <|im_end|>"]


@pytest.fixture(scope="module")
def media(tmp_path_factory):
    folder = tmp_path_factory.mktemp("media")
    tiny.write_video(folder / "red.mp4")
    tiny.write_video(folder / "blue.mp4", (0, 0, 250), moves_right=False)
    return folder


def save(family, folder):
    """A random model with its tokenizer; it does not repeat itself."""
    tokenizer = train_tokenizer(TEXTS, 300, folder)
    special = tokenizer.special
    model = hf_model(
        family,
        std=0.2,
        vocab_size=tokenizer.vocab_size + 9,
        image_token_id=special("<|image_pad|>"),
        video_token_id=special("<|video_pad|>"),
        vision_start_token_id=special("<|vision_start|>"),
        vision_end_token_id=special("<|vision_end|>"),
    )
    model.save_pretrained(folder)
    return model


def load(folder, split="tensor", **changes):
    """All devices along one axis of the mesh."""
    config = default_config()
    config.mesh.update({"fsdp": 1, split: -1})
    config.preprocess.update(
        num_frames=4,
        fps=0.0,
        min_pixels=56 * 56,
        max_pixels=64 * 64,
        patch_buckets=(64,),
        token_buckets=(64, 128, 256),
        **changes,
    )
    return Generator.load(
        folder,
        dtype="float32",
        max_new_tokens=NEW,
        batch_size=2,
        config=config,
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hf")
    save("qwen2_5_vl", folder)
    return folder


@pytest.fixture(scope="module")
def generator(folder):
    return load(folder)


@pytest.mark.parametrize("family", FAMILIES)
def test_texts_are_those_of_transformers(family, tmp_path):
    model = save(family, tmp_path)
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path)
    stops = tokenizer.convert_tokens_to_ids(["<|im_end|>", "<|endoftext|>"])
    wanted = []
    for text in TEXTS[:2]:
        ids = tokenizer.apply_chat_template(
            conversation(text, "Be brief."),
            chat_template=TEMPLATES[family],
            add_generation_prompt=True,
            return_tensors="pt",
            return_dict=True,
        )["input_ids"]
        new = model.generate(
            ids, do_sample=False, max_new_tokens=NEW, eos_token_id=stops, pad_token_id=0
        )[0, ids.shape[1] :].tolist()
        ends = [t for t in new if t in stops]
        wanted.append(tokenizer.decode(new[: new.index(ends[0])] if ends else new))
    items = [Item(str(i), t, instruction="Be brief.") for i, t in enumerate(TEXTS[:2])]
    found = load(tmp_path, "data").generate(items, progress=False)
    assert found.texts == wanted
    assert not found.failures


def items_of(media):
    return [
        Item("a", "What is it?", video=str(media / "red.mp4")),
        Item("b", "Describe the scene."),
        Item("none", "What is it?", video=str(media / "none.mp4")),
        Item("c", "And this?", video=str(media / "blue.mp4")),
        Item("d", "What is it?", video=str(media / "red.mp4"), instruction="Be brief."),
    ]


def test_batches_do_not_matter_and_failures_are_told(generator, media):
    items = items_of(media)
    found = generator.generate(items, progress=False)
    assert list(found.failures) == [2] and "none.mp4" in found.failures[2]
    assert found.texts[2] == ""
    assert len(set(found.texts)) == 5
    compiled = generator.compiled
    for i in (0, 1, 3, 4):
        alone = generator.generate([items[i]], progress=False)
        assert alone.texts == [found.texts[i]]
        assert bool(alone.unfinished) == (i in found.unfinished)
    assert generator.compiled == compiled
    # Batches of two in flight, the last one filled up.
    many = generator.generate([items[0]] * 5 + items, progress=False)
    assert many.texts == [found.texts[0]] * 5 + found.texts
    assert generator.compiled == compiled


@pytest.mark.slow
def test_draws_depend_on_seed_and_id(generator, media):
    items = items_of(media)
    draw = lambda items, seed: generator.generate(  # noqa: E731
        items, temperature=1.5, top_p=0.95, seed=seed, progress=False
    )
    first = draw(items, 0)
    assert draw(items[::-1], 0).texts[::-1] == first.texts
    other = draw(items, 1)
    assert other.texts[0] != first.texts[0]
    twins = [items[1], items[1]._replace(id="twin")]
    assert len(set(draw(twins, 0).texts)) == 2


def test_long_requests_are_cut_before_the_answer(folder):
    generator = load(folder, max_tokens=60)
    long = Item("long", "word " * 300)
    encoded = generator._processor.encode(long)
    assert len(encoded.tokens) == 60 and "long" in generator._processor.truncated
    tail = generator._tokenizer.decode(encoded.tokens[-20:].tolist())
    assert tail.endswith("<|im_end|>\n<|im_start|>assistant\n")
    assert generator.generate([long], progress=False).texts[0]


@pytest.mark.parametrize(
    "settings", [{"temperature": -1}, {"top_p": 0.0}, {"top_p": 1.5}, {"top_k": -1}]
)
def test_impossible_settings(generator, settings):
    with pytest.raises(UserError, match=next(iter(settings))):
        generator.generate([], **settings)


@pytest.mark.slow
def test_bfloat16(folder, media):
    generator = Generator.load(folder, max_new_tokens=4, batch_size=1)
    weights = jax.tree.leaves(generator._params)
    assert {x.dtype.name for x in weights} == {"bfloat16"}
    found = generator.generate(items_of(media)[:2], progress=False)
    assert all(found.texts) and not found.failures
