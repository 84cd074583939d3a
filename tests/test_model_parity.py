"""Every module and the whole encoder against the torch model of `transformers`.

float32, random weights that are far from their initial values. Bounds are absolute:
1e-5 a module, 1e-4 end to end.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from transformers.vision_utils import (
    get_vision_interpolation_indices_and_weights,
    get_vision_position_ids,
)

from gve_jax.model.layers import RMSNorm
from gve_jax.model.rope import rotate, text_rotary, vision_rotary
from gve_jax.model.rows import Rows
from gve_jax.model.vision import make_layout, normalise
from tests.model_witness import (
    FAMILIES,
    embed,
    hf_model,
    jax_model,
    jit,
    make_item,
    to_jax,
    to_torch,
    torch_embed,
    window_order,
)

MODULE, WHOLE = 1e-5, 1e-4


@functools.cache
def pair(family):
    """The torch model and ours with its weights."""
    model = hf_model(family)
    return model, jax_model(model)


@pytest.fixture
def witness():
    return pair("qwen2_5_vl")[0]


@pytest.fixture
def ours():
    return pair("qwen2_5_vl")[1]


def block_of(stack, layer):
    graph, state = nnx.split(stack)
    return nnx.merge(graph, jax.tree.map(lambda p: p[layer], state))


def close(ours, theirs, bound):
    theirs = theirs.detach().numpy() if isinstance(theirs, torch.Tensor) else theirs
    error = np.abs(np.asarray(ours) - theirs).max()
    assert error <= bound, error


def normal(*shape):
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def test_rms_norm(witness, ours):
    theirs = witness.model.language_model.norm
    x = normal(7, 64) * 3
    close(ours.text.norm(x), theirs(torch.from_numpy(x)), MODULE)
    assert RMSNorm(ours.cfg, 64, 1e-6)(x.astype(jnp.bfloat16)).dtype == jnp.bfloat16


def test_vision_rotary(witness):
    coords = np.random.default_rng(0).integers(0, 60, (40, 2))
    cos, sin = witness.model.visual.rotary_pos_emb(
        torch.zeros(1), torch.from_numpy(coords)
    )
    mine = vision_rotary(coords, 16, 1e4)
    close(np.tile(mine.cos[:, 0], 2), cos, MODULE)
    close(np.tile(mine.sin[:, 0], 2), sin, MODULE)


@pytest.mark.parametrize("family", FAMILIES)
def test_text_rotary_with_sections(family):
    from transformers.models.qwen3_vl.modeling_qwen3_vl import apply_rotary_pos_emb

    witness, ours = pair(family)
    t = ours.cfg.text
    positions = np.random.default_rng(0).integers(0, 300, (2, 3, 11))
    x = normal(2, 11, 4, t.head_dim)
    cos, sin = witness.model.language_model.rotary_emb(
        torch.from_numpy(x), torch.from_numpy(positions).transpose(0, 1)
    )
    theirs, _ = apply_rotary_pos_emb(*[torch.from_numpy(x)] * 2, cos, sin, 2)
    rotary = text_rotary(
        positions, t.head_dim, 1e4, t.mrope_section, t.mrope_interleaved
    )
    mine = rotate(x.reshape(22, 4, -1), rotary)
    close(mine, theirs.numpy().reshape(mine.shape), MODULE)


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("grid", [(2, 8, 8), (3, 6, 10)], ids=["exact", "partial"])
@pytest.mark.parametrize("family", FAMILIES)
def test_vision_block(family, full, grid):
    witness, ours = pair(family)
    windows = window_order(grid, family)[1]
    n = int(np.prod(grid))
    frames = np.full(grid[0], grid[1] * grid[2])
    item = make_item(np.random.default_rng(0), [("video", grid, 1.0)], family)
    vision = to_jax(witness, [item], regular=False).vision
    x, layer = normal(n, 32), int(full)
    coords = vision.coords[0]
    rotary = vision_rotary(coords, 16, 1e4)
    layouts = [
        None
        if not ours.cfg.vision.window_size
        else make_layout(
            vision.window_lengths, vision.window_index, vision.window_slot, rotary
        ),
        make_layout(
            vision.frame_lengths, vision.frame_index, vision.frame_slot, rotary
        ),
    ]
    mine = jit(lambda x: block_of(ours.visual.blocks, layer)(x, full, *layouts))(x)
    whole = full or layouts[0] is None
    bounds = np.cumsum([0, *(frames if whole else windows)])
    theirs = witness.model.visual.blocks[layer](
        torch.from_numpy(x),
        cu_seqlens=torch.from_numpy(bounds),
        position_embeddings=witness.model.visual.rotary_pos_emb(
            torch.zeros(1), torch.from_numpy(coords)
        ),
    )
    close(mine, theirs, MODULE)


@pytest.mark.parametrize("family", FAMILIES)
def test_merger(family):
    witness, ours = pair(family)
    x = normal(24, 32)
    theirs = witness.model.visual.merger(torch.from_numpy(x))
    assert np.abs(theirs.detach().numpy()).max() > 1
    close(ours.visual.merger(x), theirs, MODULE)


def test_deep_mergers():
    witness, ours = pair("qwen3_vl")
    x = normal(24, 32)
    for i, theirs in enumerate(witness.model.visual.deepstack_merger_list):
        mine = block_of(ours.visual.deep_mergers, i)(x)
        close(mine, theirs(torch.from_numpy(x)), MODULE)


@pytest.mark.parametrize("grid", [(1, 2, 2), (2, 8, 8), (1, 6, 30), (1, 22, 4)])
def test_learned_positions(grid):
    witness, ours = pair("qwen3_vl")
    visual = witness.model.visual
    index, weights = get_vision_interpolation_indices_and_weights(
        torch.tensor([grid]), 8, "bilinear", align_corners=True, spatial_merge_size=2
    )
    theirs = (visual.pos_embed(index) * weights[:, :, None]).sum(1)
    coords = get_vision_position_ids(torch.tensor([grid]), 2).numpy()
    extents = np.tile(grid[1:], (len(coords), 1))
    close(ours.visual.positions(coords, extents), theirs, MODULE)


@pytest.mark.parametrize("length", [9, 300])  # one block of queries, and two
@pytest.mark.parametrize("family", FAMILIES)
def test_decoder_layer(family, length):
    witness, ours = pair(family)
    x = normal(2, length, 64)
    rng = np.random.default_rng(0)
    positions = np.sort(rng.integers(0, 50, (2, 3, length)))
    language = witness.model.language_model
    rope = language.rotary_emb(
        torch.from_numpy(x), torch.from_numpy(positions).transpose(0, 1)
    )
    mask = torch.full((length, length), -torch.inf).triu(1)[None, None]
    theirs = language.layers[0](
        torch.from_numpy(x), attention_mask=mask, position_embeddings=rope
    )
    t = ours.cfg.text
    rotary = text_rotary(
        positions, t.head_dim, 1e4, t.mrope_section, t.mrope_interleaved
    )
    rows = Rows.of(jnp.array([length, length]), None)
    mine = jit(lambda x: block_of(ours.text.layers, 0)(x, rows, rotary))(
        x.reshape(-1, 64)
    )
    close(np.asarray(mine).reshape(x.shape), theirs, MODULE)


@pytest.mark.parametrize("family", FAMILIES)
def test_normalisation_of_pixels(family):
    dim = pair(family)[1].cfg.vision.patch_dim
    patches = np.random.default_rng(0).integers(0, 256, (5, dim), dtype=np.uint8)
    item = dict(patches=[patches], grids=[(1, 1, 5)], kinds=["image"])
    theirs = to_torch([item | dict(tokens=[0], types=[0], seconds=[])])["pixel_values"]
    close(normalise(patches, pair(family)[1].cfg), theirs, MODULE)


@pytest.mark.parametrize("grid", [(1, 10, 14), (4, 6, 6), (2, 8, 16)])
@pytest.mark.parametrize("family", FAMILIES)
def test_vision_tower(family, grid):
    witness, ours = pair(family)
    item = make_item(np.random.default_rng(0), [("video", grid, 1.0)], family)
    inputs = to_torch([item])
    theirs = witness.model.visual(
        inputs["pixel_values_videos"], inputs["video_grid_thw"]
    )
    graph, params = nnx.split(ours.visual)
    run = jit(lambda p, x: nnx.merge(graph, p)(x))
    mine = run(params, to_jax(witness, [item]).vision)
    order, _ = window_order(grid, family)
    close(mine.units, theirs.pooler_output.detach()[order], MODULE)
    deep = theirs.get("deepstack_features") or []
    assert len(deep) == len(mine.deep)
    for a, b in zip(mine.deep, deep, strict=True):
        close(a, b, MODULE)


BATCHES = {
    "text": [[9], [31], [1]],
    "image": [[4, ("image", (1, 6, 10)), 3], [4, ("image", (1, 14, 6)), 20]],
    "video": [[4, ("video", (4, 6, 6), 0.6), 3], [4, ("video", (4, 6, 6), 2.2), 1]],
    "exact windows": [[("video", (2, 8, 16), 1.0), 3]],
    "mixed": [
        [3, ("video", (2, 4, 6), 1.5), ("image", (1, 10, 14)), 7],
        [3, ("video", (3, 8, 10), 0.4), ("image", (1, 6, 6)), 2],
    ],
    "all in one batch": [
        [5, ("video", (3, 6, 10), 0.7), 4],
        [9],
        [2, ("image", (1, 8, 12)), 3],
        [3, ("video", (2, 4, 6), 1.0), ("image", (1, 10, 14)), 7],
    ],
    "several images": [
        [2, ("image", (1, 8, 12)), 3, ("image", (1, 6, 6)), ("image", (1, 2, 20)), 4],
        [("image", (1, 4, 4)), 1],
    ],
    "odd shapes": [[3, ("image", (1, 2, 40)), 2], [("video", (3, 30, 4), 0.9), 2]],
    "long": [[("video", (8, 12, 14), 0.5), 100], [400]],
}


@pytest.mark.parametrize("name", BATCHES)
@pytest.mark.parametrize("family", FAMILIES)
def test_embedding(family, name):
    witness, ours = pair(family)
    rng = np.random.default_rng(1)
    items = [make_item(rng, parts, family) for parts in BATCHES[name]]
    theirs = torch_embed(witness, items)
    mine = embed(ours, to_jax(witness, items))
    assert mine.dtype == np.float32
    close(mine, theirs, WHOLE)
    if len(items) > 1:  # the bound means something: other items are far away
        assert np.abs(theirs[0] - theirs[1]).max() > 0.1


@pytest.mark.parametrize("family", FAMILIES)
def test_left_padded_batches(family):
    """What transformers makes of a batch padded on the left is the same vector."""
    witness, ours = pair(family)
    rng = np.random.default_rng(1)
    items = [make_item(rng, p, family) for p in BATCHES["all in one batch"]]
    right = to_torch(items)
    left = dict(right)
    lengths = right["attention_mask"].sum(1).tolist()
    for key in ("input_ids", "attention_mask", "mm_token_type_ids"):
        rows = [
            row.roll(len(row) - n) for row, n in zip(right[key], lengths, strict=True)
        ]
        left[key] = torch.stack(rows)
    with torch.no_grad():
        hidden = witness.model(**left).last_hidden_state[:, -1]
    theirs = torch.nn.functional.normalize(hidden, dim=-1)
    close(embed(ours, to_jax(witness, items)), theirs, WHOLE)


@pytest.mark.parametrize("family", FAMILIES)
def test_unrolled_unpruned_padded_and_dense(family):
    witness, _ = pair(family)
    rng = np.random.default_rng(1)
    items = [make_item(rng, p, family) for p in BATCHES["all in one batch"]]
    model = jax_model(witness, scan=False, attention="dense")
    inputs = to_jax(witness, items, length=512, patches=1408)
    mine = embed(model, inputs, jit=jax.jit, prune_last=False)
    close(mine, torch_embed(witness, items), WHOLE)


def test_untied_and_one_layer():
    witness = hf_model(seed=3, tied=False)
    witness.model.language_model.layers = witness.model.language_model.layers[:1]
    witness.config.text_config.num_hidden_layers = 1
    witness.config.text_config.layer_types = ["full_attention"]
    items = [make_item(np.random.default_rng(2), [3, ("image", (1, 4, 6)), 5])]
    mine = embed(jax_model(witness), to_jax(witness, items))
    close(mine, torch_embed(witness, items), WHOLE)


@pytest.mark.parametrize(
    ("family", "scan", "remat"),
    [
        ("qwen2_5_vl", False, "none"),
        ("qwen2_5_vl", True, "attn_out"),
        ("qwen2_5_vl", False, "full"),
        ("qwen2_vl", True, "none"),
        ("qwen3_vl", True, "full"),
        ("qwen3_vl", False, "none"),
    ],
)
def test_gradients(family, scan, remat):
    """All parameters, through padding, index gathers and the pruned last layer."""
    witness, _ = pair(family)
    model = jax_model(witness, scan=scan, remat=remat)
    rng = np.random.default_rng(1)
    items = [make_item(rng, p, family) for p in BATCHES["all in one batch"]]
    weights = normal(len(items), 64)

    inputs = to_torch(items)
    witness.zero_grad()
    hidden = witness.model(**inputs).last_hidden_state
    last = inputs["attention_mask"].sum(1) - 1
    pooled = torch.nn.functional.normalize(hidden[torch.arange(4), last], dim=-1)
    (pooled * torch.from_numpy(weights)).sum().backward()
    theirs = {k: p.grad.numpy() for k, p in witness.model.named_parameters()}

    graph, params = nnx.split(model)
    batch = to_jax(witness, items, length=128, patches=320)
    grads = jit(jax.grad(lambda p: jnp.sum(nnx.merge(graph, p)(batch) * weights)))(
        params
    )
    from gve_jax.model.convert import _rows

    flat = dict(nnx.to_flat_state(grads))
    for row in _rows(model.cfg):
        name = row.key.replace("model.", "language_model.")
        mine = flat[row.path][...]
        mine = np.asarray(mine if row.layer is None else mine[row.layer])
        mine = row.to_theirs(mine)
        scale = max(np.abs(theirs[name]).max(), 1.0)
        close(mine / scale, theirs[name] / scale, WHOLE)
