"""Seconds of a training step, against torch, transformers and PEFT on the same CPU.

python -m benchmarks.train_throughput --cores=1

A Qwen2.5-VL of about the proportions of the 3B ones, narrow and shallow; random
weights, which both sides read from the same files, the low-rank updates' too. A batch
is pairs of a caption and a video of 8 frames, at most 200 tokens a frame pair; tokens
and patches are made before the clock starts. float32, LoRA of rank 16 without dropout,
frozen vision tower, symmetric InfoNCE, AdamW with clipping.

Ours is the step of `gve_jax.train`: its two compiled programs. torch runs as its
documentation advises: the padded batch that the processor of transformers makes, SDPA,
no head of the language model, fused AdamW; eagerly, and with torch.compile. The sides
take their steps in turns, and their losses are compared.

With `--cores=1` seconds are CPU seconds of the process, which other work on the machine
hardly changes; with more they are those of the clock, and mean nothing on a busy
machine: waiting threads of torch suffer most.

`--mixed_shapes` takes videos of six aspect ratios and the buckets of the 3B recipe,
with their padding, instead of one ratio and buckets made for it. Needs the test extra
(torch, transformers, PEFT).
"""

import dataclasses
import os
import pathlib
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import av
import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from flax import nnx
from ml_collections import ConfigDict

from gve_jax import build, sharding
from gve_jax.config import default_config
from gve_jax.export import export_hf
from gve_jax.main import run
from gve_jax.model import ModelConfig
from gve_jax.model.flops import text_flops, train_flops, vision_flops
from gve_jax.preprocess import Processor
from gve_jax.preprocess.patches import layout
from gve_jax.progress import ProgressLine
from gve_jax.restore import Restored
from gve_jax.train import setup
from gve_jax.train.compiled import Compiled
from gve_jax.train.state import make_gradient, make_update
from gve_jax.types import Encoded, Item, PairBatch, UserError

_STEPS = flags.DEFINE_integer("train_steps", 20, "Of each side.", lower_bound=5)
_PAIRS = flags.DEFINE_integer("batch_pairs", 4, "Of a batch.", lower_bound=2)
_BATCHES = flags.DEFINE_integer("batches", 5, "Different ones.", lower_bound=1)
_MIXED = flags.DEFINE_bool("mixed_shapes", False, "Of the videos; see above.")
_CORES = flags.DEFINE_integer("cores", 0, "To run on; 0: all there are.", lower_bound=0)
_COMPILE = flags.DEFINE_bool("torch_compile", True, "As a third side.")

# Width, height: 16:9, 4:3, square, 9:16, 21:9, 3:4.
SHAPES = [(640, 360), (480, 360), (400, 400), (360, 640), (840, 360), (360, 480)]
_UNTIMED = 4  # first steps, in which torch.compile compiles


def make_config(pairs: int, mixed: bool) -> ConfigDict:
    """A config of the benchmark's model and data."""
    c = default_config()
    c.preprocess.update(vocab_size=2000, num_frames=8, max_pixels=200 * 28 * 28)
    if mixed:  # as configs/gve_3b.py
        c.preprocess.token_buckets = (32, 64, 128, 256, 512, 896)
        c.preprocess.patch_buckets = (896, 3200)
    else:
        c.preprocess.token_buckets = (128, 784)
        c.preprocess.exact_grids = ((4, 20, 36),)  # of the first of SHAPES
    c.data.batch_size = pairs
    c.model.update(param_dtype="float32", scan=False)
    c.model.lora.dropout = 0.0
    c.model.vision.update(
        depth=6, hidden_size=320, intermediate_size=864, num_heads=4,
        fullatt_block_indexes=(5,),
    )  # fmt: skip
    c.model.text.update(
        num_hidden_layers=6, hidden_size=512, intermediate_size=2560,
        num_attention_heads=4, num_key_value_heads=1,
    )  # fmt: skip
    c.loss.update(temperature=0.05, mask_margin=2.0)  # no mask by score
    c.optim.update(peak_lr=3e-4, warmup_steps=4)
    return c


class Pairs(NamedTuple):
    """One batch, before it is padded."""

    queries: list[Encoded]
    targets: list[Encoded]


def make_texts(count: int, rng: np.random.Generator) -> list[str]:
    """Captions of made-up words."""
    words = [f"{a}{b}" for a in "bdfgklmnprst" for b in ("a", "en", "il", "or", "um")]
    return [" ".join(rng.choice(words, rng.integers(6, 31))) for _ in range(count)]


def write_video(path: pathlib.Path, size: tuple[int, int], rng) -> None:
    """Random tiles of colour; H.264, 2 frames a second."""
    width, height = size
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", rate=2, options={"preset": "ultrafast"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for _ in range(8):
            tiles = rng.integers(0, 256, (9, 16, 3), dtype=np.uint8)
            pixels = tiles.repeat(-(-height // 9), 0).repeat(-(-width // 16), 1)
            pixels = np.ascontiguousarray(pixels[:height, :width])
            out.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        out.mux(stream.encode())


def make_pairs(
    processor: Processor,
    texts: Sequence[str],
    shapes: Sequence[tuple[int, int]],
    pairs: int,
    rng: np.random.Generator,
) -> list[Pairs]:
    """The texts in batches, each with a video of its own."""
    batches = []
    with tempfile.TemporaryDirectory() as folder:
        video = pathlib.Path(folder) / "video.mp4"
        encoded = []
        for i, text in enumerate(texts):
            write_video(video, shapes[i % len(shapes)], rng)
            target = processor.encode(Item(f"v{i}", video=str(video)))
            encoded.append((processor.encode(Item(f"t{i}", text=text)), target))
    for at in range(0, len(encoded), pairs):
        batches.append(Pairs(*map(list, zip(*encoded[at : at + pairs], strict=True))))
    return batches


class Ours:
    """The step of `gve_jax.train.loop`, for one device."""

    def __init__(self, config: ConfigDict, model: setup.Model):
        self.model, self.state = model, model.state
        places = jax.tree.map(lambda x: x.sharding, model.state)
        whole = sharding.replicated(model.mesh)
        self.gradient = Compiled(
            make_gradient(model.graphdef, config, model.mesh),
            model.mesh,
            out_shardings=(places.trainable, whole),
        )
        self.update = Compiled(
            make_update(model.optimizer, model.schedule),
            model.mesh,
            donate_argnums=0,
            out_shardings=(places, whole),
        )
        self._part = sharding.from_all_rows(np.int32(0), whole)
        params = nnx.merge_state(model.state.trainable, model.frozen)
        self.cfg: ModelConfig = nnx.merge(model.graphdef, params).cfg

    def arguments(self, batch: PairBatch) -> tuple:
        """Of the gradient."""
        state = self.state
        return state.trainable, self.model.frozen, batch, state.step, self._part

    def put(self, pairs: Pairs) -> PairBatch:
        """The batch as the loader makes it, on the device."""
        # Not as `config.data` would: ids here are of positions.
        ids = np.arange(len(pairs.queries), dtype=np.int32)
        sides = map(self.model.processor.collate, pairs)
        batch = PairBatch(*sides, None, source_ids=ids, query_ids=ids, target_ids=ids)
        return sharding.from_own_rows(batch, self.model.mesh)

    def step(self, batch: PairBatch) -> float:
        """The loss; the state afterwards is the next one."""
        gradients, curves = self.gradient(*self.arguments(batch))
        self.state, _ = jax.block_until_ready(self.update(self.state, gradients))
        return float(curves.loss)


def make_ours(config: ConfigDict, texts: Sequence[str], folder: pathlib.Path) -> Ours:
    """Our side, and the files that the other one reads: FOLDER/base, FOLDER/adapter."""
    tokenizer = build.make_tokenizer(config, texts)
    bare = config.copy_and_resolve_references()
    bare.model.lora.rank = 0
    cfg, graphdef, params = build.make_model(bare, tokenizer)
    contract = build.make_contract(bare, cfg)
    found = Restored(cfg, graphdef, params, tokenizer, contract, bare)
    export_hf(found, folder / "base")

    config.model.init_from = str(folder / "base")
    model = setup.make_model(config, tokenizer, jax.devices()[:1])
    ours = Ours(config, model)
    params = nnx.merge_state(model.state.trainable, model.frozen)
    found = Restored(ours.cfg, model.graphdef, params, tokenizer, contract, config)
    export_hf(found, folder / "adapter", lora="adapter")
    return ours


def torch_inputs(items: Sequence[Encoded], cfg: ModelConfig, processor) -> dict:
    """The padded batch that the processor of transformers makes of the same items."""
    import torch

    length = max(len(e.tokens) for e in items)
    ids = np.zeros((len(items), length), np.int64)
    mask = np.zeros_like(ids)
    for row, e in enumerate(items):
        ids[row, : len(e.tokens)], mask[row, : len(e.tokens)] = e.tokens, 1
    out = dict(
        input_ids=torch.from_numpy(ids),
        attention_mask=torch.from_numpy(mask),
        mm_token_type_ids=torch.from_numpy(2 * (ids == cfg.video_token_id)).int(),
    )
    if not len(items[0].patches):
        return out
    v = cfg.vision
    inner = v.patch_dim // v.in_channels
    mean, std = (np.float32(np.repeat(x, inner)) for x in (v.image_mean, v.image_std))
    grids, pixels, seconds = [], [], []
    for e in items:
        grid = (len(e.frame_lengths), *(int(n) for n in e.coords.max(0) + 1))
        units = e.patches.reshape(-1, processor.geometry.unit, v.patch_dim)
        raster = units[layout(grid, processor.geometry).place]  # from window order
        pixels.append((raster.reshape(-1, v.patch_dim) / np.float32(255) - mean) / std)
        grids.append(grid)
        seconds.append(1.0)  # of a frame pair, two frames a second
    return out | dict(
        pixel_values_videos=torch.from_numpy(np.concatenate(pixels)),
        video_grid_thw=torch.tensor(grids),
        second_per_grid_ts=torch.tensor(seconds),
    )


class Theirs:
    """The same step in torch."""

    def __init__(self, config: ConfigDict, folder: pathlib.Path, compiled: bool):
        import torch
        from peft import PeftModel
        from transformers import AutoModelForImageTextToText

        model = AutoModelForImageTextToText.from_pretrained(
            folder / "base", dtype=torch.float32, attn_implementation="sdpa"
        )
        model = PeftModel.from_pretrained(model, folder / "adapter", is_trainable=True)
        model.train()
        self.trainable = [p for p in model.parameters() if p.requires_grad]
        self.config = config
        inner = model.base_model.model.model  # without the head
        self.model = torch.compile(inner) if compiled else inner
        o = config.optim
        self.optimizer = torch.optim.AdamW(
            self.trainable,
            lr=o.peak_lr,
            betas=(o.b1, o.b2),
            weight_decay=o.weight_decay,
            fused=True,
        )

    def embed(self, inputs: dict) -> Any:
        import torch

        hidden = self.model(**inputs, use_cache=False).last_hidden_state
        last = inputs["attention_mask"].sum(1) - 1
        pooled = hidden[torch.arange(len(last)), last]
        return torch.nn.functional.normalize(pooled, dim=-1)

    def step(self, sides: tuple[dict, dict], learning_rate: float) -> float:
        import torch

        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        self.optimizer.zero_grad(set_to_none=True)
        query, target = map(self.embed, sides)
        scores = query @ target.T / self.config.loss.temperature
        labels = torch.arange(len(scores))
        both = [
            torch.nn.functional.cross_entropy(x, labels) for x in (scores, scores.T)
        ]
        loss = sum(both) / 2
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.trainable, self.config.optim.clip_norm)
        self.optimizer.step()
        return loss.item()


class Measured(NamedTuple):
    """Of one side, step by step."""

    losses: list[float]
    seconds: list[float]


def measure(
    sides: dict[str, Callable[[int], float]], steps: int, clock: Callable[[], float]
) -> dict[str, Measured]:
    """Takes each side's steps, functions of their number, in turns."""
    found = {name: Measured([], []) for name in sides}
    with ProgressLine("train", steps, "steps") as line:
        for i in range(steps):
            for name, step in sides.items():
                start = clock()
                found[name].losses.append(step(i))
                found[name].seconds.append(clock() - start)
            line.advance()
    return found


def gemm_peaks(clock: Callable[[], float]) -> dict[str, float]:
    """FLOP/s of a float32 product in XLA and in torch, the best of several."""
    import torch

    m, k, n = 4096, 2048, 4096
    a, b = np.ones((m, k), np.float32), np.ones((k, n), np.float32)
    multiply, ours = jax.jit(jnp.matmul), (jnp.asarray(a), jnp.asarray(b))
    theirs = torch.from_numpy(a), torch.from_numpy(b)
    products = {
        "XLA": lambda: multiply(*ours).block_until_ready(),
        "torch": lambda: torch.mm(*theirs),
    }
    best = dict.fromkeys(products, float("inf"))
    for i in range(13):
        for name, product in products.items():
            start = clock()
            product()
            if i:  # the first compiles
                best[name] = min(best[name], clock() - start)
    return {name: 2 * m * k * n / seconds for name, seconds in best.items()}


class Flops(NamedTuple):
    """Of a step, the mean over batches; padding is not in them."""

    required: int
    executed: int  # by ours
    of_torch: int  # whose last block runs for all tokens, not the pooled one alone


def count_flops(cfg: ModelConfig, batches: Sequence[Pairs]) -> Flops:
    """By formula, see `gve_jax.model.flops`."""

    def layers(n: int) -> ModelConfig:
        text = dataclasses.replace(cfg.text, num_hidden_layers=n)
        return dataclasses.replace(cfg, text=text)

    more, one = layers(cfg.text.num_hidden_layers + 1), layers(1)

    def of(item: Encoded) -> Flops:
        ours, n = train_flops(cfg, item, chunked=False), len(item.tokens)
        whole = text_flops(more, n) - text_flops(one, n)
        return Flops(*ours, vision_flops(cfg, item) + 2 * whole)

    items = [of(e) for pairs in batches for side in pairs for e in side]
    return Flops(*(sum(x) // len(batches) for x in zip(*items, strict=True)))


def show(found: dict[str, Measured], flops: Flops, peaks: dict[str, float]) -> None:
    """Prints the table and the losses."""
    ours = found["gve_jax"]
    print(
        f"GFLOP a step: {flops.required / 1e9:.0f} required, "
        f"{flops.executed / 1e9:.0f} executed by gve_jax, "
        f"{flops.of_torch / 1e9:.0f} by torch (its last block runs for all tokens)\n"
        "GEMM peaks: "
        + ", ".join(f"{k} {x / 1e9:.0f} GFLOP/s" for k, x in peaks.items())
    )
    peak = peaks["XLA"]
    for name, (_, seconds) in found.items():
        timed = seconds[_UNTIMED:]
        median = statistics.median(timed)
        print(
            f"{name}: {median:.2f} s a step ({min(timed):.2f} to {max(timed):.2f}), "
            f"MFU {flops.required / median / peak:.0%}"
        )
        if name == "gve_jax":
            print(f"  HFU {flops.executed / median / peak:.0%}")
            continue
        ratios = [b / a for a, b in zip(ours.seconds, seconds, strict=True)]
        ratios = ratios[_UNTIMED:]
        ratio = statistics.median(ratios)
        print(
            f"  HFU {flops.of_torch / median / peak:.0%}, of torch's own peak "
            f"{flops.of_torch / median / peaks['torch']:.0%}\n"
            f"  ratio {ratio:.2f} ({min(ratios):.2f} to {max(ratios):.2f}), at equal "
            f"FLOPs {ratio * flops.executed / flops.of_torch:.2f}"
        )
    for name, (losses, _) in found.items():
        off = max(abs(a - b) for a, b in zip(losses, ours.losses, strict=True))
        print(f"losses of {name}: {' '.join(f'{x:.4f}' for x in losses)}")
        if name != "gve_jax":
            print(f"  off ours by at most {off:.1e}")


def compare(
    config: ConfigDict,
    shapes: Sequence[tuple[int, int]],
    batches: int,
    clock: Callable[[], float],
    torch_compile: bool,
) -> tuple[dict[str, Measured], Flops]:
    """Trains all sides for `train.steps`.

    Args:
      config: of `make_config`.
      shapes: of the videos, in turn: width, height.
      batches: different ones.
      clock: in seconds.
      torch_compile: whether it is a side of its own.
    """
    pairs, rng = config.data.batch_size, np.random.default_rng(config.seed)
    texts = make_texts(pairs * batches, rng)
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        ours = make_ours(config, texts, folder)
        processor, cfg = ours.model.processor, ours.cfg
        made = make_pairs(processor, texts, shapes, pairs, rng)
        own = [ours.put(batch) for batch in made]
        torchs = [
            tuple(torch_inputs(side, cfg, processor) for side in batch)
            for batch in made
        ]
        sides = {"gve_jax": lambda i: ours.step(own[i % batches])}
        for side in ("torch", "torch.compile")[: 1 + torch_compile]:
            theirs = Theirs(config, folder, compiled=side == "torch.compile")
            sides[side] = lambda i, theirs=theirs: theirs.step(
                torchs[i % batches], float(ours.model.schedule(i))
            )
    tokens = sum(len(e.tokens) for batch in made for side in batch for e in side)
    slots = sum(x.tokens.size for batch in own for x in (batch.query, batch.target))
    print(f"{pairs} pairs a batch, {tokens // batches} tokens; ours pads them "
          f"by {slots / tokens - 1:.0%}")  # fmt: skip
    return measure(sides, config.train.steps, clock), count_flops(cfg, made)


def take_cores() -> Callable[[], float]:
    """Leaves this process `--cores`, before XLA makes its threads.

    Returns:
      The clock that is right for so many, in seconds.
    """
    cores = sorted(os.sched_getaffinity(0))[: _CORES.value or None]
    os.sched_setaffinity(0, cores)
    return time.process_time if len(cores) == 1 else time.perf_counter


def main(_: list[str]) -> None:
    try:
        import peft
        import torch
        import transformers
    except ImportError as e:
        raise UserError(f"{e}: install the extra gve_jax[test]") from None
    clock = take_cores()
    cores = len(os.sched_getaffinity(0))
    torch.set_num_threads(cores)
    config = make_config(_PAIRS.value, _MIXED.value)
    config.train.steps = _STEPS.value
    load = os.getloadavg()[0]
    shapes = SHAPES if _MIXED.value else SHAPES[:1]
    found, flops = compare(config, shapes, _BATCHES.value, clock, _COMPILE.value)
    peaks = gemm_peaks(clock)
    print(
        f"jax {jax.__version__}, torch {torch.__version__}, transformers "
        f"{transformers.__version__}, PEFT {peft.__version__}; {cores} cores, "
        f"{'CPU' if cores == 1 else 'wall'} seconds; load {load:.1f} before, "
        f"{os.getloadavg()[0]:.1f} after"
    )
    show(found, flops, peaks)


if __name__ == "__main__":
    run(main)
