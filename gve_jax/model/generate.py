"""Text from an `Encoder` with a head: one compiled program from prompts to tokens."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from gve_jax.model.encoder import Encoder
from gve_jax.model.text import Cache
from gve_jax.types import EncoderInputs


class Sampling(NamedTuple):
    """How tokens are drawn; all fields may be traced.

    `temperature` above 0 divides the logits. Of what it gives, `top_k` tokens are kept
    (0: all), and of these the fewest whose probabilities reach `top_p`, as in
    `transformers`.
    """

    keys: jax.Array  # JAX keys [b]: an item's draws depend on its own alone
    temperature: float | jax.Array = 1.0
    top_p: float | jax.Array = 1.0
    top_k: int | jax.Array = 0


class Generated(NamedTuple):
    """Tokens of each item up to the stop token, which is left out."""

    tokens: jax.Array  # int32 [b, max_new_tokens]; `stop_ids[0]` after the end
    lengths: jax.Array  # int32 [b]; max_new_tokens: no stop token came


def generate(
    model: Encoder,
    inputs: EncoderInputs,
    stop_ids: jax.Array,
    max_new_tokens: int,
    sampling: Sampling | None = None,
) -> Generated:
    """Continues each prompt of a batch; to be jitted, `max_new_tokens` static.

    An item's tokens do not depend on its batch or its padding, beyond the order of
    float sums. The loop ends when all items have.

    Args:
      model: its config has `head`.
      inputs: prompts, as `Processor.collate` makes them. Rows that only fill the batch
        should repeat an item, so that they end when it does.
      stop_ids: int32 [k], at least one.
      max_new_tokens: room for the new tokens, at least 1.
      sampling: None: the likeliest token is taken, of equal ones the first.
    """
    text = model.text
    b, l = inputs.tokens.shape  # noqa: E741
    x, deep = model.embed_inputs(inputs)
    cache = Cache.empty(model.cfg, b, l + max_new_tokens)
    x, cache = text.cached(x, inputs.positions, cache, deep=deep)
    rows, last = jnp.arange(b), inputs.lengths - 1
    last_positions = inputs.positions[rows, :, last]  # [b 3]

    def add_token(t, x, tokens, lengths):
        """Chooses each item's token t by states [b, d], if the item goes on."""
        token = _choose(text.logits(x), t, sampling)
        stops = (token[:, None] == stop_ids).any(1)
        goes_on = (lengths == t) & ~stops
        token = jnp.where(goes_on, token, stop_ids[0])
        return tokens.at[:, t].set(token), lengths + goes_on

    def step(carry):
        t, cache, tokens, lengths = carry
        # The newest token goes after its prompt, over the padding, and its position
        # after that of the prompt's last token.
        positions = (last_positions + t)[:, :, None]
        x = text.embed(tokens[:, t - 1])
        x, cache = text.cached(x, positions, cache, last + t)
        return t + 1, cache, *add_token(t, x, tokens, lengths)

    def unfinished(carry):
        t, _, _, lengths = carry
        return (t < max_new_tokens) & (lengths == t).any()

    tokens = jnp.full((b, max_new_tokens), stop_ids[0], jnp.int32)
    first = add_token(0, x[rows * l + last], tokens, jnp.zeros(b, jnp.int32))
    _, _, tokens, lengths = jax.lax.while_loop(unfinished, step, (1, cache, *first))
    return Generated(tokens, lengths)


def _choose(logits: jax.Array, t, sampling: Sampling | None) -> jax.Array:
    """int32 [b], token t of each item, by float32 [b, vocab]."""
    if sampling is None:
        return jnp.argmax(logits, axis=-1).astype(jnp.int32)
    logits = truncate(logits / sampling.temperature, sampling.top_p, sampling.top_k)
    keys = jax.vmap(jax.random.fold_in, (0, None))(sampling.keys, t)
    return jax.vmap(jax.random.categorical)(keys, logits).astype(jnp.int32)


def truncate(logits: jax.Array, top_p, top_k) -> jax.Array:
    """Float32 [b, vocab] with -inf for tokens that are not to be drawn.

    See `Sampling`; the likeliest token always stays, and so do equals of the last one
    that does.
    """

    def cut(logits):
        ranked = jnp.sort(logits, axis=-1, descending=True)
        rank = jnp.arange(logits.shape[-1])
        kept = (rank < top_k) | (top_k == 0)
        probs = jax.nn.softmax(jnp.where(kept, ranked, -jnp.inf), axis=-1)
        before = jnp.cumsum(probs, axis=-1) - probs
        kept = kept & (before < top_p) | (rank == 0)
        least = jnp.min(jnp.where(kept, ranked, jnp.inf), axis=-1, keepdims=True)
        return jnp.where(logits < least, -jnp.inf, logits)

    # Sorting a vocabulary is dear: not done for nothing.
    return jax.lax.cond((top_p < 1) | (top_k > 0), cut, lambda x: x, logits)
