"""Large batches in small memory: items encoded in chunks, and encoded again on the way
back.

GradCache (Gao et al. 2021, arXiv 2101.06983) computes all embeddings without keeping
activations, the loss and its gradient with respect to the embeddings, and then encodes
each chunk once more to carry that gradient on to the weights. In JAX this is a loop
over rematerialised chunks. The gradient is that of the whole batch, not an estimate.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from gve_jax.model.encoder import FROZEN_FEATURES
from gve_jax.sharding import RULES, batch_ways
from gve_jax.types import EncoderInputs


def count_chunks(rows: int, tokens: int, chunk: int) -> int:
    """Into how many equal chunks a device cuts its rows.

    Args:
      rows: of the device.
      tokens: of a row, padding included.
      chunk: most tokens of a chunk, which holds at least one row; 0: no limit.
    """
    if not chunk:
        return 1
    most = max(1, chunk // tokens)
    return next(n for n in range(1, rows + 1) if rows % n == 0 and rows // n <= most)


def encode_in_chunks(
    encode: Callable[[Any, EncoderInputs, jax.Array | None], jax.Array],
    params: Any,
    inputs: EncoderInputs,
    key: jax.Array | None,
    *,
    chunk: int,
    mesh: jax.sharding.Mesh,
) -> jax.Array:
    """`encode(params, inputs, key)`, chunk by chunk where it is too large.

    Args:
      encode: pure, row by row.
      params: what gradients are taken of, and the rest.
      inputs: b rows, spread over the mesh.
      key: of dropout; each chunk has one of its own.
      chunk: as in `count_chunks`.
      mesh: every device goes through its own rows.

    Returns:
      [b, d].
    """
    b, tokens = inputs.tokens.shape
    ways = batch_ways(mesh)
    n = count_chunks(b // ways, tokens, chunk)
    if n == 1:
        return encode(params, inputs, key)
    place = NamedSharding(mesh, PartitionSpec(None, RULES["batch"]))

    def cut(x):  # [b ...] -> [n b/n ...], rows staying on their device
        x = x.reshape(ways, n, -1, *x.shape[1:]).swapaxes(0, 1)
        x = x.reshape(n, b // n, *x.shape[3:])
        return jax.lax.with_sharding_constraint(x, place)

    def one(params, part, number):
        own = None if key is None else jax.random.fold_in(key, number)
        return encode(params, part, own)

    # What frozen parts made is small beside the work it took.
    policy = jax.checkpoint_policies.save_only_these_names(FROZEN_FEATURES)
    one = jax.checkpoint(one, policy=policy, prevent_cse=False)  # a loop's body
    parts = jax.tree.map(cut, inputs), jnp.arange(n)
    out = jax.lax.map(lambda part: one(params, *part), parts)
    out = out.reshape(n, ways, -1, out.shape[-1]).swapaxes(0, 1)
    return out.reshape(b, -1)
