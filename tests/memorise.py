"""A tiny Qwen2.5-VL generator that has learnt by heart what captioners are to answer.

It is for the plumbing, not for the prose: random weights give no valid JSON, so nothing
would ever reach the stages behind the captions. Its answers follow from the prompt's
text; of the media it only learns to take no notice.
"""

import dataclasses
import itertools
import pathlib
import random
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from tokenizers import pre_tokenizers, trainers

from data_synthesis import profiles, requests
from data_synthesis.asking import Task, ask
from data_synthesis.captioners.base import Medium, Outcome, Request, Response
from data_synthesis.config import default_config as synthesis_config
from data_synthesis.record import Media, Record, Source, Text
from gve_jax import build
from gve_jax.config import default_config
from gve_jax.generate import chat_contract
from gve_jax.model import create, write_hf
from gve_jax.model.text import Cache
from gve_jax.preprocess import Processor, Tokenizer
from gve_jax.preprocess.tokenizer import add_specials, byte_level_bpe
from gve_jax.types import Encoded, EncoderInputs, Item
from tests import clip_texts

# Small media, few shapes; `FLAGS` are those of `python -m gve_jax.generate_serve`.
PREPROCESS = dict(
    num_frames=2,
    fps=0.0,
    min_pixels=56 * 56,
    max_pixels=64 * 64,
    patch_buckets=(48,),
    token_buckets=(256, 512),
)
FLAGS = (
    "--dtype=float32",
    *(f"--config.preprocess.{key}={value}" for key, value in PREPROCESS.items()),
)
_SLOTS = 16  # prompts for captions of each clip
_STEPS, _ROUNDS = 400, 4  # rounds as needed
# In the last steps of a round no token may cost more, in nats.
_LAST, _SURE = 40, 0.1


class Example(NamedTuple):
    """`item` has no medium: one is drawn anew for each step."""

    kind: str
    item: Item
    answer: str


class Batch(NamedTuple):
    """One example of each kind: `inputs` are prompts with their answers."""

    inputs: EncoderInputs
    places: np.ndarray  # int32 [b, n], of the tokens that each answer's tokens follow
    answers: np.ndarray  # int32 [b, n], -1 in padding


class _Teacher:
    """A captioner that gives the answers of `clip_texts`, and remembers them."""

    id = "teacher"

    def __init__(self):
        self.given: list[Example] = []

    def generate(self, requests: Sequence[Request]) -> Iterator[tuple[int, Response]]:
        for i, request in enumerate(requests):
            text = clip_texts.reply(request.system, request.prompt)
            item = Item(request.id, request.prompt, instruction=request.system)
            self.given.append(Example(request.kind, item, text))
            yield i, Response(Outcome.SUCCESS, text)


def examples(clips: Sequence[str]) -> list[Example]:
    """What the workflow asks about these clips, in its words, and the answers."""
    told = [clip_texts.CLIPS[clip] for clip in clips]
    tasks = [task for text, _ in told for task in _caption_tasks(text)]
    tasks += [task for name in sorted({n for _, n in told}) for task in _queries(name)]
    teacher = _Teacher()
    found = ask(teacher, tasks, seed=0, attempts=2, repair=False)
    assert not any(answered.failure for answered in found)
    return teacher.given


def _caption_tasks(text: str) -> Iterator[Task]:
    """Of a record with that text, whose slots are drawn again and again."""
    settings = synthesis_config().caption
    record, medium = Record(text, Source(""), Text(text, text)), Medium("", "")
    still = Media("frame", "", "", 0.0, 0.0)
    for number in range(_SLOTS):
        key = f"{text} {number}"
        slots = profiles.slots(0, key)
        profile = profiles.draw(0, key, "profile")
        line = profiles.line(profile, "video")
        yield requests.video(record, medium, profile, line, slots, settings)
        line = profiles.line({}, "frame")
        yield requests.frame(record, still, medium, line, slots, settings)


def _queries(subject: str) -> Iterator[Task]:
    """All that can be asked for a target which shows that."""
    settings, medium = synthesis_config().caption, Medium("", "")
    captions = clip_texts.captions(clip_texts.SUBJECTS[subject], "video")
    for clip in (False, True):
        relations = requests.CLIP_RELATIONS if clip else requests.IMAGE_RELATIONS
        for caption, relation in itertools.product(captions.values(), relations):
            yield requests.query("", relation, medium, caption, {}, settings, clip=clip)


def memorise(
    clips: Sequence[str],
    videos: Sequence[pathlib.Path],
    stills: Sequence[pathlib.Path],
    folder: pathlib.Path,
) -> None:
    """Trains the generator and writes it as a Hugging Face folder.

    Args:
      clips: of `clip_texts.CLIPS`.
      videos, stills: what it sees beside the prompts, whatever these are about.
      folder: to write.

    Raises:
      RuntimeError: it did not learn them.
    """
    known = examples(clips)
    texts = [t for e in known for t in (e.item.instruction, e.item.text, e.answer)]
    tokenizer = _tokenizer(texts)
    tokenizer.save(folder)
    config = _config(folder.parent / "frames")
    cfg = dataclasses.replace(build.architecture(config, tokenizer), head=True)
    contract = chat_contract(build.make_contract(config, cfg))
    processor = build.make_processor(config, tokenizer, contract, cfg)
    graph, params = create(cfg, 0)
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(_rate, b2=0.98))

    @jax.jit
    def step(params, state, batch):
        loss = jax.grad(_loss, has_aux=True)
        grads, worst = loss(params, graph, batch)
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), state, worst

    state, batches = optimizer.init(params), _batches(known, videos, stills, processor)
    for _ in range(_ROUNDS):
        worst = []
        for batch in itertools.islice(batches, _STEPS):
            params, state, cost = step(params, state, batch)
            worst.append(cost)
        if max(worst[-_LAST:]) < _SURE:
            write_hf(cfg, params, folder)
            return
    raise RuntimeError(f"its worst token still costs {max(worst[-_LAST:]):.2f} nats")


def _rate(count: jax.Array) -> jax.Array:
    """Falls as half a cosine in each round; the first begins gently."""
    fall = 0.5 * (1 + jnp.cos(jnp.pi * (count % _STEPS) / _STEPS))
    return 3e-3 * jnp.minimum(count / 20, 1) * fall


def _tokenizer(texts: list[str]) -> Tokenizer:
    """Its tokens are phrases of several words: what is to be learnt is short."""
    backend = byte_level_bpe()
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(
        add_prefix_space=False, use_regex=False
    )
    trainer = trainers.BpeTrainer(
        vocab_size=4000,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        max_token_length=24,
        show_progress=False,
    )
    backend.train_from_iterator(texts, trainer)
    add_specials(backend)
    return Tokenizer(backend, {}, "the trained tokenizer")


def _config(cache: pathlib.Path):
    config = default_config()
    config.preprocess.update(PREPROCESS, cache_dir=str(cache))
    config.model.trainable, config.model.lora.rank = "all", 0
    config.model.attention, config.model.scan = "dense", False
    config.model.vision.update(
        depth=1, hidden_size=16, intermediate_size=32, num_heads=2,
        fullatt_block_indexes=(0,),
    )  # fmt: skip
    config.model.text.update(
        num_hidden_layers=2, hidden_size=96, intermediate_size=192,
        num_attention_heads=4, num_key_value_heads=4, mrope_section=(4, 4, 4),
        rope_theta=1e4,
    )  # fmt: skip
    return config


def _loss(params, graph, batch: Batch) -> tuple[jax.Array, jax.Array]:
    """(cross-entropy of the answers, summed over each; that of the worst token).

    Summed: of hundreds of tokens one alone tells which clip is meant.
    """
    model, inputs = nnx.merge(graph, params), batch.inputs
    b, length = inputs.tokens.shape
    x, deep = model.embed_inputs(inputs)
    cache = Cache.empty(model.cfg, b, length)
    x, _ = model.text.cached(x, inputs.positions, cache, deep=deep)
    rows = (batch.places + length * jnp.arange(b)[:, None]).reshape(-1)
    answers = batch.answers.reshape(-1)
    losses = optax.softmax_cross_entropy_with_integer_labels(
        model.text.logits(x[rows]), answers
    )
    losses = jnp.where(answers >= 0, losses, 0)
    return jnp.sum(losses) / b, jnp.max(losses)


def _batches(
    known: list[Example], videos, stills, processor: Processor
) -> Iterator[Batch]:
    rng, tokenizer = random.Random(0), processor.tokenizer
    end = tokenizer.special("<|im_end|>")
    groups = [[e for e in known if e.kind == kind] for kind in clip_texts.KINDS]
    longest = 1 + max(len(tokenizer.encode(e.answer)) for e in known)
    while True:
        places = np.zeros((len(groups), longest), np.int32)
        answers = np.full((len(groups), longest), -1, np.int32)
        whole = []
        for row, group in enumerate(groups):
            kind, item, answer = rng.choice(group)
            if kind in ("video", "clip_query"):
                item = item._replace(video=str(rng.choice(videos)))
            else:
                item = item._replace(image=str(rng.choice(stills)))
            prompt = processor.encode(item)
            ids = np.array([*tokenizer.encode(answer), end], np.int32)
            places[row, : len(ids)] = len(prompt.tokens) - 1 + np.arange(len(ids))
            answers[row, : len(ids)] = ids
            whole.append(_followed(prompt, ids[:-1]))
        yield Batch(processor.collate(whole), places, answers)


def _followed(prompt: Encoded, answer: np.ndarray) -> Encoded:
    """A prompt and what it is answered, placed as `generate` does."""
    n = len(answer)
    after = prompt.positions[:, -1:] + 1 + np.arange(n, dtype=np.int32)
    return prompt._replace(
        tokens=np.concatenate([prompt.tokens, answer]),
        positions=np.concatenate([prompt.positions, after], axis=1),
        visual_index=np.pad(prompt.visual_index, (0, n), constant_values=-1),
    )
