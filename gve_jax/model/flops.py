"""Floating-point operations of an item, by formula.

A multiply-add counts as two. What the compiler adds (padding, masks) is left out, and
so are the low-rank updates, a hundredth of the rest.
"""

from typing import NamedTuple

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
    whole = 2 * tokens * (kv + rest)
    pruned = 2 * (tokens * kv + rest)
    linear = (t.num_hidden_layers - 1) * whole + pruned
    return linear + attention_flops(cfg, tokens)


def attention_flops(cfg: ModelConfig, tokens: int) -> int:
    """Of the decoder's attention alone."""
    t = cfg.text
    causal = tokens * (tokens + 1) // 2
    seen = (t.num_hidden_layers - 1) * causal + tokens  # the last block's one query
    return 4 * t.num_attention_heads * t.head_dim * seen


def embed_flops(cfg: ModelConfig, item: Encoded) -> int:
    """Of embedding one item."""
    return vision_flops(cfg, item) + text_flops(cfg, len(item.tokens))


class TrainFlops(NamedTuple):
    """Of an item in a training step; of hardware's peak they are called MFU and HFU."""

    required: int  # by its embedding and the gradient
    executed: int  # and by what is computed again to save memory


def train_flops(cfg: ModelConfig, item: Encoded, chunked: bool) -> TrainFlops:
    """Of training on one item.

    The gradient of a linear layer costs its forward pass twice, for the inputs and for
    the weights; frozen weights need the former alone, a frozen vision tower none.

    Args:
      cfg: with `lora_rank` if the weights are frozen.
      item: as it is encoded.
      chunked: whether it is in a chunk that is encoded again (GradCache).
    """
    vision, text = vision_flops(cfg, item), text_flops(cfg, len(item.tokens))
    again = chunked * text
    if cfg.remat != "none":
        again += text
        if cfg.remat == "attn_out":
            again -= attention_flops(cfg, len(item.tokens))
    if cfg.lora_rank:
        required = vision + 2 * text
    else:
        required = 3 * (vision + text)
        again += (chunked + (cfg.remat != "none")) * vision
    return TrainFlops(required, required + again)
