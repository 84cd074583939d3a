"""The parts both towers are built from. Linears see 2-D tokens [n, features]."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import qwix
from flax import nnx
from jax.ad_checkpoint import checkpoint_name

from gve_jax.model.config import ModelConfig


class LoRAParam(nnx.LoRAParam):
    """A parameter of a low-rank update; always float32."""


class Linear(nnx.Module):
    """y = x W + b, with an optional low-rank update (alpha / rank) x A B.

    The kernel is [in, *out]: naming the parts of the output (heads, say) lets a mesh
    split it between them. The result is 2-D all the same: [n, prod(out)]. With
    `cfg.int8` the kernel is int8, and `kernel_scale` [*out] says how large a step is.
    """

    def __init__(
        self,
        cfg: ModelConfig,
        rngs: nnx.Rngs,
        in_size: int,
        out_shape: tuple[int, ...],
        axes: tuple[str | None, ...],
        *,
        bias: bool = False,
        lora: bool = False,
        gain: float = 1.0,
    ):
        """`axes` names those of the kernel; `gain` scales a fan-in initialisation."""
        self.dtype = jnp.dtype(cfg.dtype)
        param_dtype = jnp.dtype(cfg.param_dtype)
        std = cfg.init_std or gain * in_size**-0.5
        kernel = random_normal(
            rngs,
            (in_size, *out_shape),
            std,
            jnp.float32 if cfg.int8 else param_dtype,
        )
        self.has_bias, self.has_lora = bias, lora and cfg.lora_rank > 0
        self.int8 = cfg.int8
        if cfg.int8:
            kernel, scale = quantise_kernel(kernel)
            self.kernel_scale = nnx.Param(scale, axes=axes[1:])
        self.kernel = nnx.Param(kernel, axes=axes)
        if bias:
            self.bias = nnx.Param(jnp.zeros(out_shape, param_dtype), axes=axes[1:])
        if self.has_lora:
            self.lora_scale = cfg.lora_alpha / cfg.lora_rank
            self.lora_a = LoRAParam(
                random_normal(
                    rngs, (in_size, cfg.lora_rank), in_size**-0.5, jnp.float32
                ),
                axes=(axes[0], "lora"),
            )
            self.lora_b = LoRAParam(
                jnp.zeros((cfg.lora_rank, *out_shape), jnp.float32),
                axes=("lora", *axes[1:]),
            )

    def __call__(self, x: jax.Array, dropped: jax.Array | None = None) -> jax.Array:
        """[n, in] -> [n, prod(out)]. `dropped` is what the low-rank update sees."""
        y = x @ _matrix(self.kernel, self.dtype)
        if self.int8:
            y = (y * self.kernel_scale[...].reshape(-1)).astype(self.dtype)
        if self.has_bias:
            y += self.bias[...].reshape(-1).astype(self.dtype)
        if self.has_lora:
            seen = x if dropped is None else dropped
            low = _narrow(seen, _matrix(self.lora_a, self.dtype))
            # Scaled while it is narrow: the gradient of y stays one array.
            y += low * self.lora_scale @ _matrix(self.lora_b, self.dtype)
        return y


def _matrix(param: nnx.Param, dtype) -> jax.Array:
    return param[...].reshape(param.shape[0], -1).astype(dtype)


@jax.custom_vjp
def _narrow(x: jax.Array, a: jax.Array) -> jax.Array:
    """x [n, in] @ a [in, r] of few r, with a gradient of a that is quick on CPU: there
    a product with few columns takes eight times as long as one with few rows."""
    return x @ a


def _narrow_backward(kept, g):
    x, a = kept
    # The barrier keeps XLA from turning the product around.
    return g @ a.T, jax.lax.optimization_barrier(g.T @ x).T


_narrow.defvjp(lambda x, a: (x @ a, (x, a)), _narrow_backward)


def quantise_kernel(kernel: jax.Array) -> tuple[jax.Array, jax.Array]:
    """A kernel [in, *out] as steps, int8 [in, *out], and their sizes, float32 [*out].

    The step of an output is its largest absolute weight over 127 (1 where all are
    zero), so that no weight is off by more than half a step.
    """
    q = qwix.quantize(
        kernel.astype(jnp.float32),
        jnp.int8,
        channelwise_axes=range(1, kernel.ndim),
        # It would take 127.5, and whether the largest weight is then -127 or -128 steps
        # would be an accident of rounding.
        calibration_method=f"absmax,{127.5 / 127}",
    )
    return q.qvalue, q.scale.reshape(kernel.shape[1:])


def random_normal(rngs: nnx.Rngs, shape, std: float, dtype) -> jax.Array:
    # Truncated at two deviations and rescaled to the wanted one.
    x = jax.random.truncated_normal(rngs.params(), -2, 2, shape, jnp.float32)
    return (x * (std / 0.87962566103423978)).astype(dtype)


class RMSNorm(nnx.Module):
    """x / rms(x) * scale, in float32: squares of bfloat16 lose the small features."""

    def __init__(self, cfg: ModelConfig, size: int, eps: float):
        self.eps = eps
        self.scale = nnx.Param(
            jnp.ones((size,), jnp.dtype(cfg.param_dtype)), axes=("norm",)
        )

    def __call__(self, x: jax.Array) -> jax.Array:
        y = x.astype(jnp.float32)
        y *= jax.lax.rsqrt(jnp.mean(y * y, axis=-1, keepdims=True) + self.eps)
        return (y * self.scale[...].astype(jnp.float32)).astype(x.dtype)


class LayerNorm(nnx.Module):
    """(x - mean) / deviation * scale + bias, in float32."""

    def __init__(self, cfg: ModelConfig, size: int, eps: float):
        dtype = jnp.dtype(cfg.param_dtype)
        self.eps = eps
        self.scale = nnx.Param(jnp.ones((size,), dtype), axes=("norm",))
        self.bias = nnx.Param(jnp.zeros((size,), dtype), axes=("norm",))

    def __call__(self, x: jax.Array) -> jax.Array:
        y = x.astype(jnp.float32)
        y -= jnp.mean(y, axis=-1, keepdims=True)
        y *= jax.lax.rsqrt(jnp.mean(y * y, axis=-1, keepdims=True) + self.eps)
        y = y * self.scale[...].astype(jnp.float32) + self.bias[...]
        return y.astype(x.dtype)


class SwiGLU(nnx.Module):
    """down(silu(gate(x)) * up(x))."""

    def __init__(self, cfg, rngs, size, hidden, *, bias=False, lora=False, gain=1.0):
        wide = dict(axes=("embed", "mlp"), bias=bias, lora=lora)
        self.gate = Linear(cfg, rngs, size, (hidden,), **wide)
        self.up = Linear(cfg, rngs, size, (hidden,), **wide)
        self.down = Linear(
            cfg,
            rngs,
            hidden,
            (size,),
            ("mlp", "embed"),
            bias=bias,
            lora=lora,
            gain=gain,
        )

    def __call__(self, x: jax.Array, dropout: "Dropout | None" = None) -> jax.Array:
        dropped = dropout(x) if dropout else None
        hidden = jax.nn.silu(self.gate(x, dropped)) * self.up(x, dropped)
        return self.down(hidden, dropout(hidden) if dropout else None)


class MLP(nnx.Module):
    """fc2(act(fc1(x))), with biases."""

    def __init__(self, cfg, rngs, size, hidden, act, *, gain=1.0):
        self.act = act
        self.fc1 = Linear(cfg, rngs, size, (hidden,), ("embed", "mlp"), bias=True)
        self.fc2 = Linear(
            cfg, rngs, hidden, (size,), ("mlp", "embed"), bias=True, gain=gain
        )

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.fc2(_ACTIVATIONS[self.act](self.fc1(x)))


_ACTIVATIONS = {
    "quick_gelu": lambda x: x * jax.nn.sigmoid(1.702 * x),
    "gelu_pytorch_tanh": functools.partial(jax.nn.gelu, approximate=True),
}


class Dropout:
    """Keyed dropout of one layer: each call draws from the next key.

    Projections of one input (q, k, v; gate, up) share a draw: random bits are dear.
    """

    def __init__(self, key: jax.Array, rate: float):
        self.key, self.rate, self.calls = key, rate, 0

    def __call__(self, x: jax.Array) -> jax.Array:
        key = jax.random.fold_in(self.key, self.calls)
        self.calls += 1
        keep = jax.random.bernoulli(key, 1 - self.rate, x.shape)
        return jnp.where(keep, x * np.asarray(1 / (1 - self.rate), x.dtype), 0)


def stack(make: Callable[[nnx.Rngs], nnx.Module], rngs: nnx.Rngs, count: int):
    """`count` equal blocks as one module, parameters stacked over axis "layers"."""
    keys = jax.random.split(rngs.params(), count)
    metadata = {nnx.PARTITION_NAME: "layers", "axes": "layers"}
    return nnx.vmap(lambda key: make(nnx.Rngs(key)), transform_metadata=metadata)(keys)


def run_stack(cfg: ModelConfig, blocks: nnx.Module, x: Any, each, call) -> Any:
    """Runs stacked blocks over `x`, scanned or unrolled.

    Args:
      cfg: read for `scan` and `remat`.
      blocks: made by `stack`.
      x: [n, features], or a tree of such that goes from block to block.
      each: NumPy array [layers, ...] of what differs between the layers.
      call: (block, x, each[i]) -> x; `each[i]` is traced if scanned, else NumPy.
    """
    graph, state = nnx.split(blocks)

    def body(x, params, one):
        return call(nnx.merge(graph, params), x, one)

    if cfg.scan:
        body = remat(cfg, body, scanned=True)
        step = lambda x, xs: (body(x, *xs), None)  # noqa: E731
        return jax.lax.scan(step, x, (state, jnp.asarray(each)))[0]
    # lax.split, as its transpose is one concatenation; that of x[i] pads and adds.
    sizes = (1,) * len(each)
    parts = jax.tree.map(lambda p: jax.lax.split(p, sizes), state)
    for i, one in enumerate(each):
        params = jax.tree.map(lambda p, s, i=i: s[i].reshape(p.shape[1:]), state, parts)
        x = remat(cfg, lambda x, params, one=one: body(x, params, one))(x, params)
    return x


def when(condition, then: Callable[..., Any], other: Callable[..., Any], *args):
    """`then(*args)` or `other(*args)`; decided while tracing where it can be."""
    if isinstance(condition, (bool, np.bool_)):
        return (then if condition else other)(*args)
    return jax.lax.cond(condition, then, other, *args)


def remat(
    cfg: ModelConfig, fn: Callable[..., Any], scanned: bool = False
) -> Callable[..., Any]:
    """Rematerialises `fn` in the backward pass as `cfg.remat` says."""
    if cfg.remat == "none":
        return fn
    policy = None
    if cfg.remat == "attn_out":
        policy = jax.checkpoint_policies.save_only_these_names("attn_out")
    # A loop's body already keeps the compiler from merging the two computations.
    return jax.checkpoint(fn, policy=policy, prevent_cse=not scanned)


def name_attention(x: jax.Array) -> jax.Array:
    """Marks an attention output as what `remat="attn_out"` keeps."""
    return checkpoint_name(x, "attn_out")
