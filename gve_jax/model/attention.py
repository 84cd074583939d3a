"""One attention interface with four implementations.

All compute softmax(q k^T / sqrt(head_dim)) v with grouped key-value heads and a float32
softmax: exponentials of bfloat16 scores would carry errors of a percent.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec

from gve_jax.sharding import constrain, spec

_MASKED = -1e30  # finite, so that no row is ever all -inf
_BLOCK = 128  # queries; shorter sequences are one block
_LARGE = 1 << 17  # scores of one block of one item, from where items go one by one
_LANES = 128  # of a TPU: the splash kernel's blocks are multiples of it


def attention(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    *,
    lengths: jax.Array | None = None,
    causal: bool = False,
    implementation: str = "auto",
) -> jax.Array:
    """Scaled dot-product attention of right-padded sequences.

    Args:
      q: [b, t, heads, d].
      k: [b, s, kv_heads, d]; kv_heads divides heads; t == s if causal.
      v: as k.
      lengths: int [b]; keys from there on are not seen (0 counts as 1, so that every
        row has a key). None: all are seen. Queries of padding get finite rubbish.
      causal: query i sees keys 0..i.
      implementation: "dense", the reference; "blocked", which skips the keys above
        the diagonal and keeps scores in cache; "cudnn" (GPU, 16-bit floats); "splash"
        (TPU); "auto", by backend.

    Returns:
      [b, t, heads, d] in q's dtype.
    """
    if q.shape[1] == 1:  # one pooled query: kernels gain nothing
        implementation = "blocked"
    elif implementation == "auto":
        implementation = _choose(q.dtype, q.shape[-1])
    run = _IMPLEMENTATIONS[implementation]
    q, k, v = (constrain(x, "batch", None, "attention_heads", None) for x in (q, k, v))
    if lengths is not None and run is not _blocked:
        lengths = jnp.maximum(lengths, 1)
    return run(q, k, v, lengths, causal)


def _choose(dtype, head_dim: int) -> str:
    backend = jax.default_backend()
    if backend == "tpu":
        return "splash"
    sixteen_bit = jnp.dtype(dtype).itemsize == 2
    if backend == "gpu" and sixteen_bit and head_dim % 8 == 0 and head_dim <= 128:
        return "cudnn"
    return "blocked"


def _dense(q, k, v, lengths, causal):
    """The reference, as plain as can be."""
    b, t, heads, d = q.shape
    kv_heads = k.shape[2]
    q = q.reshape(b, t, kv_heads, heads // kv_heads, d) * np.asarray(d**-0.5, q.dtype)
    scores = jnp.einsum("btngd,bsnd->bngts", q, k, preferred_element_type=jnp.float32)
    probs = _masked_softmax(scores, lengths, causal).astype(v.dtype)
    out = jnp.einsum("bngts,bsnd->btngd", probs, v)
    return out.reshape(b, t, heads, d)


def _masked_softmax(scores, lengths, causal):
    """float32 [b n g t s] over s."""
    return jax.nn.softmax(_masked(scores, lengths, causal, 0), axis=-1)


def _masked(scores, lengths, causal, start: int):
    """Scores with what is not seen far below; `start`: position of the first query."""
    t, s = scores.shape[-2:]
    seen = None
    if causal:
        seen = np.arange(s) <= start + np.arange(t)[:, None]  # [t s]
    if lengths is not None:
        valid = (np.arange(s) < lengths[:, None])[:, None, None, None]  # [b 1 1 1 s]
        seen = valid if seen is None else seen & valid
    return scores if seen is None else jnp.where(seen, scores, _MASKED)


def _blocked(q, k, v, lengths, causal):
    """Blocks of queries; each sees the keys up to its last query if causal.

    Heads move to the front once, which XLA's CPU matmuls need anyway and the einsum of
    the reference repeats; queries that share keys are folded into one matmul. Long
    items go one by one where the scores of all would leave the cache, and rows without
    an item are passed over.
    """
    b, t, heads, d = q.shape
    n = k.shape[2]
    q = (q * np.asarray(d**-0.5, q.dtype)).reshape(b, t, n, heads // n, d)
    q = q.transpose(0, 2, 3, 1, 4)  # [b n g t d]
    k, v = k.transpose(0, 2, 1, 3), v.transpose(0, 2, 1, 3)  # [b n s d]
    run = functools.partial(_blocks, causal=causal)
    large = heads * min(t, _BLOCK) * k.shape[2] >= _LARGE
    if not (large and b > 1 and jax.default_backend() == "cpu"):
        out = run(q, k, v, lengths)
    elif lengths is None:
        out = jax.lax.map(lambda one: run(*(x[None] for x in one), None)[0], (q, k, v))
    else:

        def item(one):
            q, k, v, length = (x[None] for x in one)
            return jax.lax.cond(
                length[0] > 0,
                lambda: run(q, k, v, length)[0],
                lambda: jnp.zeros(q.shape[1:], v.dtype),
            )

        out = jax.lax.map(item, (q, k, v, lengths))
    return out.transpose(0, 3, 1, 2, 4).reshape(b, t, heads, d)


def _blocks(q, k, v, lengths, causal):
    """q [b n g t d], k and v [b n s d] -> [b n g t d]."""
    b, n, g, t, d = q.shape
    s = k.shape[2]
    if lengths is not None:
        lengths = jnp.maximum(lengths, 1)
    # At most 16 blocks, so that programs of long sequences stay small.
    block = max(_BLOCK, -(-t // 16))
    parts = []
    for start in range(0, t, block):
        stop = min(start + block, t)
        last = stop if causal else s
        scores = jax.lax.dot_general(  # [b n g*t s]
            q[:, :, :, start:stop].reshape(b, n, -1, d),
            k[:, :, :last],
            (((3,), (3,)), ((0, 1), (0, 1))),
            preferred_element_type=jnp.float32,
        ).reshape(b, n, g, stop - start, last)
        scores = _masked(scores, lengths, causal, start)
        # Softmax is divided by its sum after the product with v, which is smaller.
        most = jax.lax.stop_gradient(scores.max(-1, keepdims=True))
        weights = jnp.exp(scores - most)
        total = weights.sum(-1, keepdims=True)
        out = weights.astype(v.dtype).reshape(b, n, -1, last) @ v[:, :, :last]
        out = out.reshape(b, n, g, -1, d).astype(jnp.float32) / total
        parts.append(out.astype(v.dtype))
    return jnp.concatenate(parts, axis=3) if len(parts) > 1 else parts[0]


def _cudnn(q, k, v, lengths, causal):
    # Padding goes by lengths, never by cuDNN's packed offsets: those are wrong for
    # grouped heads in jax 0.10.
    def run(q, k, v, lengths):
        query_lengths = None
        if lengths is not None:
            query_lengths = jnp.full_like(lengths, q.shape[1], dtype=jnp.int32)
            lengths = lengths.astype(jnp.int32)
        return jax.nn.dot_product_attention(
            q,
            k,
            v,
            is_causal=causal,
            query_seq_lengths=query_lengths,
            key_value_seq_lengths=lengths,
            implementation="cudnn",
        )

    return _on_each_device(run, q, k, v, lengths)


def _splash(q, k, v, lengths, causal, interpret: bool = False):
    b, t = q.shape[:2]
    padded = -(-t // _LANES) * _LANES
    if padded != t:
        if lengths is None:
            lengths = jnp.full((b,), t, jnp.int32)
        widths = ((0, 0), (0, padded - t), (0, 0), (0, 0))
        q, k, v = (jnp.pad(x, widths) for x in (q, k, v))
    # Padding is a segment of its own: its queries see its keys, so no row is empty.
    ids = jnp.zeros((b, padded), jnp.int32)
    if lengths is not None:
        ids = (jnp.arange(padded) < lengths[:, None]).astype(jnp.int32)
    run = functools.partial(_splash_local, causal=causal, interpret=interpret)
    q *= np.asarray(q.shape[-1] ** -0.5, q.dtype)
    return _on_each_device(run, q, k, v, ids)[:, :t]


def _on_each_device(run, q, k, v, of_items):
    """`run(q, k, v, of_items)`, device by device under an ambient mesh.

    The compiler cannot split a kernel; items and heads are independent. `of_items` has
    a row for each item, or is None.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.size > 1:
        rows, kv_rows = (
            spec(("batch", None, "attention_heads", None), x.shape, mesh)
            for x in (q, k)
        )
        if rows != kv_rows:  # too few key heads to split: every device takes all
            rows = kv_rows = PartitionSpec(rows[0])
        run = jax.shard_map(
            run,
            in_specs=(rows, kv_rows, kv_rows, PartitionSpec(rows[0])),
            out_specs=rows,
            check_vma=False,
        )
    return run(q, k, v, of_items)


def _splash_local(q, k, v, ids, *, causal, interpret):
    """q is scaled; the length is a multiple of the kernel's lanes; ids are segments."""
    from jax.experimental.pallas.ops.tpu.splash_attention import (
        splash_attention_kernel as kernel,
    )
    from jax.experimental.pallas.ops.tpu.splash_attention import (
        splash_attention_mask as masks,
    )

    length, heads = q.shape[1:3]
    block = next(n for n in (1024, 512, 256, _LANES) if length % n == 0)
    names = ("block_q", "block_kv", "block_kv_compute", "block_q_dq", "block_kv_dq")
    names += ("block_q_dkv", "block_kv_dkv", "block_kv_dkv_compute")
    mask = (masks.CausalMask if causal else masks.FullMask)((length, length))
    run = kernel.make_splash_mha(
        masks.MultiHeadMask([mask] * heads),
        head_shards=1,
        q_seq_shards=1,
        block_sizes=kernel.BlockSizes(**dict.fromkeys(names, block)),
        interpret=interpret,
    )
    heads_first = [x.transpose(0, 2, 1, 3) for x in (q, k, v)]
    out = jax.vmap(run)(*heads_first, kernel.SegmentIds(ids, ids))  # [b heads s d]
    return out.transpose(0, 2, 1, 3).astype(q.dtype)


_IMPLEMENTATIONS = {
    "dense": _dense,
    "blocked": _blocked,
    "cudnn": _cudnn,
    "splash": _splash,
}
