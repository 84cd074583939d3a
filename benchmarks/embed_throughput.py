"""Items embedded a second, against torch and transformers on the same CPU.

python benchmarks/embed_throughput.py --family=qwen2_5_vl --rounds=3

Both sides have the same random weights and the same items, read and resized before the
clock starts: 70 % videos of 8 frames of at most 200 tokens in mixed aspect ratios, 20 %
captions of 10 to 500 words, 10 % images. Vectors are compared first. transformers runs
as its documentation advises, in padded batches under inference_mode with SDPA: once in
the order of the items and once sorted by length, each at the best of some batch sizes.
Rounds are interleaved; medians are compared. Needs the test extra (torch).
"""

import json
import os
import statistics
import tempfile
import time

import jax
import jax.numpy as jnp
import numpy as np
import torch
from absl import app, flags
from transformers import AutoConfig, AutoModelForImageTextToText

from gve_jax import build, sharding
from gve_jax.config import default_config
from gve_jax.embed import Embedder
from gve_jax.model.flops import embed_flops
from gve_jax.preprocess import train_tokenizer
from gve_jax.preprocess.patches import layout
from gve_jax.restore import restore
from gve_jax.types import Frames, Item

_FAMILY = flags.DEFINE_enum(
    "family", "qwen2_5_vl", ["qwen2_vl", "qwen2_5_vl", "qwen3_vl"], "Architecture."
)
_ITEMS = flags.DEFINE_integer("items", 60, "How many.")
_ROUNDS = flags.DEFINE_integer("rounds", 3, "Of each side.")
_SEED = flags.DEFINE_integer("seed", 0, "Of weights and items.")
_DTYPE = flags.DEFINE_enum("dtype", "float32", ["float32", "bfloat16"], "Of ours.")
_TOKENS = flags.DEFINE_integer("tokens", 8192, "Of our batches.")
_BATCHES = flags.DEFINE_list("torch_batches", ["4", "8"], "Batch sizes to try.")

# Width, height: 16:9, 4:3, square, 9:16, 21:9, 3:4.
SHAPES = [(640, 360), (480, 360), (400, 400), (360, 640), (840, 360), (360, 480)]


def make_checkpoint(folder: str, family: str, seed: int) -> None:
    """A random model with about the proportions of the 3B ones, narrow and shallow."""
    text = dict(
        hidden_size=512,
        intermediate_size=2560,
        num_hidden_layers=6,
        num_attention_heads=4,
        num_key_value_heads=1,
        head_dim=128,
        vocab_size=4096,
        bos_token_id=None,
        eos_token_id=None,
        rope_parameters=dict(
            rope_type="default", rope_theta=1e6, mrope_section=[16, 24, 24]
        ),
    )
    if family == "qwen3_vl":
        text["rope_parameters"] |= dict(
            mrope_section=[24, 20, 20], mrope_interleaved=True
        )
    vision = {
        "qwen2_vl": dict(embed_dim=320, hidden_size=512),
        "qwen2_5_vl": dict(
            hidden_size=320,
            intermediate_size=864,
            out_hidden_size=512,
            fullatt_block_indexes=[5],
            tokens_per_second=2,
        ),
        "qwen3_vl": dict(
            hidden_size=320,
            intermediate_size=1280,
            out_hidden_size=512,
            deepstack_visual_indexes=[1, 2, 4],
        ),
    }[family]
    words = [f"{a}{b}" for a in "bdfgklmnprst" for b in ("a", "en", "il", "or", "um")]
    rng = np.random.default_rng(seed)
    texts = [" ".join(rng.choice(words, 12)) for _ in range(2000)]
    tokenizer = train_tokenizer(texts, 2000, folder)
    special = tokenizer.special
    config = AutoConfig.for_model(
        family,
        text_config=text,
        vision_config=dict(depth=6, num_heads=4, **vision),
        tie_word_embeddings=True,
        image_token_id=special("<|image_pad|>"),
        video_token_id=special("<|video_pad|>"),
        vision_start_token_id=special("<|vision_start|>"),
        vision_end_token_id=special("<|vision_end|>"),
    )
    torch.manual_seed(seed)
    model = AutoModelForImageTextToText.from_config(config)
    with torch.no_grad():
        for p in model.parameters():
            if p.dim() > 1:
                p.normal_(std=0.5 * p[0].numel() ** -0.5)
    model.save_pretrained(folder)
    with open(os.path.join(folder, "words.json"), "w") as f:
        json.dump(words, f)


class Prepared:
    """A processor whose media are random frames, resized before the clock starts."""

    def __init__(self, processor, items):
        self._processor = processor
        self._encoded = {item.id: processor.encode(item) for item in items}

    def try_encode(self, item):
        return self._encoded[item.id]

    def __getattr__(self, name):
        return getattr(self._processor, name)


def make_items(count: int, words: list[str], seed: int):
    """(items, path -> Frames)."""
    rng = np.random.default_rng(seed)
    items, media = [], {}
    for i in range(count):
        kind = rng.choice(["video", "text", "image"], p=[0.7, 0.2, 0.1])
        if kind == "text":
            length = int(np.exp(rng.uniform(np.log(10), np.log(500))))
            items.append(Item(str(i), text=" ".join(rng.choice(words, length))))
            continue
        width, height = SHAPES[rng.integers(len(SHAPES))]
        n = 8 if kind == "video" else 1
        small = rng.integers(0, 256, (n, 9, 16, 3), dtype=np.uint8)
        pixels = small.repeat(-(-height // 9), 1).repeat(-(-width // 16), 2)
        seconds = np.linspace(0, rng.uniform(4, 60), n)
        media[f"/{i}"] = Frames(
            pixels[:, :height, :width], seconds, float(seconds[-1]) + 0.04
        )
        items.append(Item(str(i), **{kind: f"/{i}"}))
    return items, media


def torch_inputs(encoded, durations, processor, cfg) -> dict:
    """The padded batch that transformers' processor makes of the same items."""
    length = max(len(e.tokens) for _, e in encoded)
    ids = np.zeros((len(encoded), length), np.int64)
    mask = np.zeros_like(ids)
    kinds = np.zeros_like(ids)
    grids, pixels, seconds = {1: [], 2: []}, {1: [], 2: []}, []
    v = cfg.vision
    inner = v.patch_dim // 3
    mean = np.repeat(v.image_mean, inner).astype(np.float32)
    std = np.repeat(v.image_std, inner).astype(np.float32)
    for row, (i, e) in enumerate(encoded):
        n = len(e.tokens)
        ids[row, :n], mask[row, :n] = e.tokens, 1
        kinds[row, :n] = (e.tokens == cfg.image_token_id) + 2 * (
            e.tokens == cfg.video_token_id
        )
        if not len(e.patches):
            continue
        kind = int(kinds[row].max())
        rows, columns = e.coords.max(0) + 1
        grid = (len(e.frame_lengths), int(rows), int(columns))
        x = e.patches.reshape(-1, 4, v.patch_dim)
        if v.window_size:  # back from window order
            x = x[layout(grid, processor.geometry).place]
        x = (x.reshape(-1, v.patch_dim).astype(np.float32) / 255 - mean) / std
        grids[kind].append(grid)
        pixels[kind].append(x)
        if kind == 2 and cfg.family == "qwen2_5_vl":
            seconds.append(durations[i] * 2 / 8)
    out = dict(
        input_ids=torch.from_numpy(ids),
        attention_mask=torch.from_numpy(mask),
        mm_token_type_ids=torch.from_numpy(kinds).int(),
    )
    for kind, names in (
        (1, ("pixel_values", "image_grid_thw")),
        (2, ("pixel_values_videos", "video_grid_thw")),
    ):
        if grids[kind]:
            out[names[0]] = torch.from_numpy(np.concatenate(pixels[kind]))
            out[names[1]] = torch.tensor(grids[kind])
    if seconds:
        out["second_per_grid_ts"] = torch.tensor(seconds, dtype=torch.float32)
    return out


def torch_embed(model, batches, order, dim) -> tuple[np.ndarray, float]:
    vectors = np.zeros((len(order), dim), np.float32)
    start, done = time.perf_counter(), 0
    with torch.inference_mode():
        for inputs in batches:
            hidden = model.model(**inputs).last_hidden_state
            last = inputs["attention_mask"].sum(1) - 1
            pooled = hidden[torch.arange(len(last)), last]
            unit = torch.nn.functional.normalize(pooled.float(), dim=-1)
            vectors[order[done : done + len(last)]] = unit.numpy()
            done += len(last)
    return vectors, time.perf_counter() - start


def gemm_peak() -> float:
    """FLOP/s of the largest product of the forward pass, best of several."""
    a, b = jnp.ones((1600, 2048)), jnp.ones((2048, 8192))
    f = jax.jit(jnp.matmul)
    f(a, b).block_until_ready()
    best = min(_timed(lambda: f(a, b).block_until_ready()) for _ in range(8))
    return 2 * 1600 * 2048 * 8192 / best


def _timed(f) -> float:
    start = time.perf_counter()
    f()
    return time.perf_counter() - start


def main(_) -> None:
    family = _FAMILY.value
    folder = tempfile.mkdtemp()
    make_checkpoint(folder, family, _SEED.value)
    with open(os.path.join(folder, "words.json")) as f:
        items, media = make_items(_ITEMS.value, json.load(f), _SEED.value)

    config = default_config()
    config.preprocess.update(num_frames=8, max_pixels=200 * 28 * 28)
    if family == "qwen3_vl":
        config.preprocess.update(max_pixels=200 * 32 * 32, min_pixels=128 * 32 * 32)
    config.model.param_dtype = "float32"
    mesh = sharding.make_mesh(config.mesh)
    found = restore(folder, dtype=_DTYPE.value, config=config, mesh=mesh)
    cfg = found.model_config
    processor = build.make_processor(found.config, found.tokenizer, found.contract, cfg)
    from gve_jax import media as reading

    reading.read_video = lambda path, *_, **__: media[path]
    reading.read_image = lambda path, *_, **__: media[path].pixels[0]
    prepared = Prepared(processor, items)
    ours = Embedder(
        found.graphdef,
        found.params,
        prepared,
        found.contract,
        tokens=_TOKENS.value,
        mesh=mesh,
    )
    encoded = [prepared.try_encode(item) for item in items]
    flops = sum(embed_flops(cfg, e) for e in encoded)
    tokens = [len(e.tokens) for e in encoded]
    print(
        f"{len(items)} items, {sum(tokens)} tokens, "
        f"{sum(len(e.patches) for e in encoded)} patches, {flops / 1e9:.0f} GFLOP"
    )

    model = AutoModelForImageTextToText.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="sdpa"
    )
    model.eval()
    durations = {int(path[1:]): x.duration for path, x in media.items()}
    torch_runs = {}
    for label, order in (
        ("in order", np.arange(len(items))),
        ("by length", np.argsort(tokens, kind="stable")),
    ):
        for size in map(int, _BATCHES.value):
            batches = [
                torch_inputs(
                    [(i, encoded[i]) for i in order[at : at + size]],
                    durations,
                    processor,
                    cfg,
                )
                for at in range(0, len(items), size)
            ]
            torch_runs[f"transformers {label}, batch {size}"] = (batches, order)

    start = time.perf_counter()
    mine = ours.embed(items, progress=False)
    print(f"first pass of ours, compiling: {time.perf_counter() - start:.1f} s")
    times = {name: [] for name in ["gve_jax", *torch_runs]}
    for round_ in range(_ROUNDS.value):
        times["gve_jax"].append(_timed(lambda: ours.embed(items, progress=False)))
        for name, (batches, order) in torch_runs.items():
            theirs, seconds = torch_embed(model, batches, order, cfg.dim)
            times[name].append(seconds)
            error = np.abs(theirs - mine.vectors).max()
            if round_ == 0:
                print(f"{name}: vectors differ by at most {error:.1e}")
    peak = gemm_peak()
    median = {name: statistics.median(t) for name, t in times.items()}
    best = {
        label: min(t for n, t in median.items() if label in n)
        for label in ("in order", "by length")
    }
    print(mine.stats)
    for name, seconds in median.items():
        print(
            f"{name}: {len(items) / seconds:.2f} items/s "
            f"(min {min(times[name]):.1f} s, median {seconds:.1f} s), "
            f"{flops / seconds / peak:.0%} of the GEMM peak of {peak / 1e9:.0f} GF/s"
        )
    for label, seconds in best.items():
        print(f"ratio to transformers {label}: {seconds / median['gve_jax']:.2f}")


if __name__ == "__main__":
    app.run(main)
