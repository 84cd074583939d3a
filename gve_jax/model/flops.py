"""Floating-point operations of a forward pass, by formula.

A multiply-add counts as two. What the compiler adds (padding, masks, recomputation) is
left out: this is the work that the items need.
"""

from gve_jax.model.config import ModelConfig
from gve_jax.types import Encoded


def vision_flops(cfg: ModelConfig, item: Encoded) -> int:
    """Of the vision tower and its mergers, for one item's media."""
    v = cfg.vision
    n, d = len(item.patches), v.hidden_size
    matrices = 3 if v.mlp == "swiglu" else 2
    block = 4 * d * d + matrices * d * v.intermediate_size
    within_frames = int((item.frame_lengths.astype(int) ** 2).sum())
    full = v.depth
    attended = 0
    if v.window_size:
        full = len(v.fullatt_block_indexes)
        within_windows = int((item.window_lengths.astype(int) ** 2).sum())
        attended = (v.depth - full) * within_windows
    attended += full * within_frames
    wide = d * v.spatial_merge_size**2
    merger = (wide * wide + wide * cfg.text.hidden_size) // v.spatial_merge_size**2
    mergers = 1 + len(v.deepstack_visual_indexes)
    return 2 * n * (v.patch_dim * d + v.depth * block + mergers * merger) + (
        4 * d * attended
    )


def text_flops(cfg: ModelConfig, tokens: int) -> int:
    """Of the decoder blocks over one item, all but the pooled token's share of the last
    block's queries and MLP left out."""
    t = cfg.text
    heads, keys = (
        n * t.head_dim for n in (t.num_attention_heads, t.num_key_value_heads)
    )
    kv = 2 * t.hidden_size * keys
    rest = 2 * t.hidden_size * heads + 3 * t.hidden_size * t.intermediate_size
    causal = tokens * (tokens + 1) // 2
    whole = 2 * tokens * (kv + rest) + 4 * heads * causal
    pruned = 2 * (tokens * kv + rest) + 4 * heads * tokens
    return (t.num_hidden_layers - 1) * whole + pruned


def embed_flops(cfg: ModelConfig, item: Encoded) -> int:
    """Of embedding one item."""
    return vision_flops(cfg, item) + text_flops(cfg, len(item.tokens))
