"""Tiny Qwen-VL models of `transformers` and one batch for both sides.

The batch is built here in NumPy from Hugging Face's own window and rope functions, so
that the model's tests do not lean on `gve_jax.preprocess`.
"""

import copy
import dataclasses
import tempfile

import jax
import numpy as np
import torch
import transformers
from flax import nnx
from transformers.vision_utils import get_vision_position_ids, get_vision_window_index

from gve_jax.model import Encoder, abstract, read_hf
from gve_jax.types import EncoderInputs, VisionInputs

IMAGE, VIDEO = 190, 191
MEAN = np.array([0.48145466, 0.4578275, 0.40821073], np.float32)
STD = np.array([0.26862954, 0.26130258, 0.27577711], np.float32)
CLASSES = {"qwen2_vl": "Qwen2VL", "qwen2_5_vl": "Qwen2_5_VL", "qwen3_vl": "Qwen3VL"}
FAMILIES = list(CLASSES)
VISION = {
    "qwen2_vl": dict(embed_dim=32, mlp_ratio=2, hidden_size=64),
    "qwen2_5_vl": dict(
        hidden_size=32,
        intermediate_size=44,
        out_hidden_size=64,
        fullatt_block_indexes=[1],
        tokens_per_second=2,
    ),
    "qwen3_vl": dict(
        hidden_size=32,
        intermediate_size=44,
        out_hidden_size=64,
        num_position_embeddings=64,
        deepstack_visual_indexes=[0, 2],
    ),
}


def hf_config(family="qwen2_5_vl", tied=False, vocab_size=200, **token_ids):
    ids = dict(
        image_token_id=IMAGE,
        video_token_id=VIDEO,
        vision_start_token_id=192,
        vision_end_token_id=193,
    )
    text = dict(
        vocab_size=vocab_size,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        rope_parameters=dict(
            rope_type="default", rope_theta=1e4, mrope_section=[2, 3, 3]
        ),
        bos_token_id=None,
        eos_token_id=None,
    )
    if family == "qwen3_vl":
        # Heads wider than hidden_size / heads, as in its 2B model.
        text |= dict(head_dim=24)
        text["rope_parameters"] |= dict(mrope_section=[5, 4, 3], mrope_interleaved=True)
    return hf_config_class(family)(
        text_config=text,
        vision_config=dict(depth=3, num_heads=2, **VISION[family]),
        tie_word_embeddings=tied,
        **ids | token_ids,
    )


def hf_config_class(family):
    return getattr(transformers, f"{CLASSES[family]}Config")


def hf_class(family):
    return getattr(transformers, f"{CLASSES[family]}ForConditionalGeneration")


def index_models() -> dict:
    """Models of real sizes without memory: only their index arithmetic runs."""
    made = {}
    for family in FAMILIES:
        config = hf_config_class(family)()
        config.text_config.num_hidden_layers = config.vision_config.depth = 1
        with torch.device("meta"):
            made[family] = transformers.AutoModel.from_config(config)
    return made


def hf_model(family="qwen2_5_vl", seed=0, std=0.1, **options):
    """Random, with norms and biases that are not ones and zeros."""
    torch.manual_seed(seed)
    model = hf_class(family)(hf_config(family, **options)).eval()
    with torch.no_grad():
        for name, p in model.named_parameters():
            p.normal_(std=std)
            if ("norm" in name or "ln_q" in name) and name.endswith("weight"):
                p.add_(1.0)
    return model


def jax_model(model, **options) -> Encoder:
    """Our encoder with the torch model's weights, through files."""
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        cfg, params = read_hf(folder)
    cfg = dataclasses.replace(cfg, **options)
    return nnx.merge(abstract(cfg)[0], params)


def jit(f):
    """Compiled without LLVM's optimisations: tests spend their time compiling."""
    return jax.jit(f, compiler_options={"xla_backend_optimization_level": 0})


def embed(model, inputs, jit=jit, **kwargs) -> np.ndarray:
    graph, params = nnx.split(model)
    run = jit(lambda p, x: nnx.merge(graph, p)(x, **kwargs))
    return np.asarray(run(params, inputs))


def make_item(rng, parts, family="qwen2_5_vl"):
    """One item from parts: int n (text tokens), ("image", (1, h, w)) or
    ("video", (t, h, w), seconds per temporal group). Grids count patches."""
    item = dict(tokens=[], types=[], grids=[], kinds=[], seconds=[], patches=[])
    item["family"] = family
    patch_dim = 1536 if family == "qwen3_vl" else 1176

    def add_text(n):
        item["tokens"] += rng.integers(0, 180, n).tolist()
        item["types"] += [0] * n

    def add_units(kind, n):
        item["tokens"] += [192, *[IMAGE if kind == "image" else VIDEO] * n, 193]
        item["types"] += [0, *[1 if kind == "image" else 2] * n, 0]

    for part in parts:
        if isinstance(part, int):
            add_text(part)
            continue
        kind, grid = part[:2]
        units = int(np.prod(grid)) // 4
        if family == "qwen3_vl" and kind == "video":  # groups between time stamps
            for _ in range(grid[0]):
                add_text(2)
                add_units(kind, units // grid[0])
        else:
            add_units(kind, units)
        item["grids"].append(grid)
        item["kinds"].append(kind)
        if kind == "video":
            item["seconds"].append(part[2])
        item["patches"].append(
            rng.integers(0, 256, (int(np.prod(grid)), patch_dim), dtype=np.uint8)
        )
    return item


def to_torch(items) -> dict:
    """Inputs of the torch model, right-padded."""
    length = max(len(i["tokens"]) for i in items)
    pad = lambda key: torch.tensor(  # noqa: E731
        [i[key] + [0] * (length - len(i[key])) for i in items]
    )
    lengths = torch.tensor([len(i["tokens"]) for i in items])
    out = dict(
        input_ids=pad("tokens"),
        mm_token_type_ids=pad("types").int(),
        attention_mask=(torch.arange(length) < lengths[:, None]).long(),
    )
    for kind, pixels, grid in (
        ("image", "pixel_values", "image_grid_thw"),
        ("video", "pixel_values_videos", "video_grid_thw"),
    ):
        chosen = [
            (g, p)
            for i in items
            for g, k, p in zip(i["grids"], i["kinds"], i["patches"], strict=True)
            if k == kind
        ]
        if chosen:
            out[grid] = torch.tensor([g for g, _ in chosen])
            x = np.concatenate([p for _, p in chosen])
            dim = x.shape[1]
            mean, std = (0.5, 0.5) if dim == 1536 else (MEAN[:, None], STD[:, None])
            x = (x.reshape(-1, 3, dim // 3).astype(np.float32) / 255 - mean) / std
            out[pixels] = torch.from_numpy(x.reshape(-1, dim).astype(np.float32))
    seconds = [s for i in items for s in i["seconds"]]
    if seconds and items[0]["family"] == "qwen2_5_vl":
        out["second_per_grid_ts"] = torch.tensor(seconds)
    return out


def torch_embed(model, items) -> np.ndarray:
    inputs = to_torch(items)
    with torch.no_grad():
        hidden = model.model(**copy.copy(inputs)).last_hidden_state
    last = inputs["attention_mask"].sum(1) - 1
    pooled = hidden[torch.arange(len(last)), last]
    return torch.nn.functional.normalize(pooled, dim=-1).numpy()


def window_order(grid, family="qwen2_5_vl"):
    """(order of the merged units, patches of each window) of one medium."""
    if family != "qwen2_5_vl":
        return np.arange(np.prod(grid) // 4), np.zeros(0, int)
    index, bounds = get_vision_window_index(torch.tensor([grid]), 2, 112, 14)
    return index.numpy(), np.diff(bounds.numpy())


def to_jax(model, items, *, length=None, patches=None, regular=None) -> EncoderInputs:
    """Our padded batch.

    `length` and `patches` pad to a bucket; `regular` asserts that reshapes do (True)
    or forces index arrays (False).
    """
    length = length or max(len(i["tokens"]) for i in items)
    b = len(items)
    tokens = np.zeros((b, length), np.int32)
    positions = np.zeros((b, 3, length), np.int32)
    visual_index = np.full((b, length), -1, np.int32)
    rows = []
    for n, item in enumerate(items):
        l = len(item["tokens"])  # noqa: E741
        tokens[n, :l] = item["tokens"]
        one = to_torch([item])
        if item["grids"]:
            ids, _ = model.model.get_rope_index(
                **{k: v for k, v in one.items() if not k.startswith("pixel")}
            )
            positions[n, :, :l] = ids[:, 0].numpy()
        else:
            positions[n, :, :l] = np.arange(l)
        row = dict(patches=[], coords=[], extents=[], windows=[], frames=[])
        units, offset = [], 0
        for grid, x in zip(item["grids"], item["patches"], strict=True):
            order, windows = window_order(grid, item["family"])
            coords = get_vision_position_ids(torch.tensor([grid]), 2).numpy()
            row["patches"].append(x.reshape(len(order), -1)[order].reshape(x.shape))
            row["extents"].append(np.tile(grid[1:], (len(x), 1)))
            row["coords"].append(coords.reshape(-1, 4, 2)[order].reshape(-1, 2))
            row["windows"] += windows.tolist()
            row["frames"] += [grid[1] * grid[2]] * grid[0]
            units += (np.argsort(order) + offset).tolist()
            offset += len(order)
        visual_index[n, :l][np.array(item["types"]) > 0] = units
        rows.append(row)
    lengths = np.array([len(i["tokens"]) for i in items], np.int32)
    vision = None
    if any(row["patches"] for row in rows):
        vision = _vision(rows, patches, regular, items[0]["family"])
    return EncoderInputs(
        tokens, lengths, positions, None if vision is None else visual_index, vision
    )


def _vision(rows, size, regular, family) -> VisionInputs:
    counts = [sum(map(len, r["patches"])) for r in rows]
    size = size or max(counts)
    b = len(rows)
    patch_dim = next(p.shape[1] for r in rows for p in r["patches"])
    patches = np.zeros((b, size, patch_dim), np.uint8)
    coords = np.zeros((b, size, 2), np.int32)
    extents = np.ones((b, size, 2), np.int32)
    for n, row in enumerate(rows):
        if counts[n]:
            patches[n, : counts[n]] = np.concatenate(row["patches"])
            coords[n, : counts[n]] = np.concatenate(row["coords"])
            extents[n, : counts[n]] = np.concatenate(row["extents"])
    out = {"extents": extents} if family == "qwen3_vl" else {}
    for key in ("window", "frame") if family == "qwen2_5_vl" else ("frame",):
        most = max(len(r[f"{key}s"]) for r in rows)
        lengths = np.zeros((b, most), np.int32)
        for n, row in enumerate(rows):
            lengths[n, : len(row[f"{key}s"])] = row[f"{key}s"]
        out[f"{key}_lengths"] = lengths
        width = lengths.max()
        if regular is not False and (lengths == width).all() and most * width == size:
            continue
        assert not regular
        index = np.zeros((b, most, width), np.int32)
        slot = np.zeros((b, size), np.int32)
        for n in range(b):
            patch = 0
            for w, count in enumerate(lengths[n]):
                index[n, w, :count] = patch + np.arange(count)
                slot[n, patch : patch + count] = w * width + np.arange(count)
                patch += count
        out |= {f"{key}_index": index, f"{key}_slot": slot}
    return VisionInputs(patches, coords, **out)
