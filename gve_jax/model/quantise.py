"""Weights of one kind as another: float32, bfloat16 or int8."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
from flax import nnx

from gve_jax import sharding
from gve_jax.model.config import ModelConfig
from gve_jax.model.encoder import abstract
from gve_jax.model.layers import quantise_kernel


def convert_weights(
    cfg: ModelConfig,
    params: nnx.State,
    weights: str,
    mesh: jax.sharding.Mesh | None = None,
) -> tuple[ModelConfig, nnx.State]:
    """The same model with weights of this kind and low-rank updates merged.

    Each weight is computed in float32 and rounded once, to what is wanted. The old and
    the new parameters are in memory together; `read_hf` quantises as it reads.

    Args:
      cfg: of the parameters.
      params: of any kind; what need not change is shared with the result.
      weights: "float32", "bfloat16" or "int8".
      mesh: the parameters are spread over; None: one device.

    Returns:
      (config, parameters).

    Raises:
      UserError: there are no such weights.
    """
    wanted = dataclasses.replace(cfg.with_weights(weights), lora_rank=0)
    old = {path: v[...] for path, v in nnx.to_flat_state(params)}
    new = dict(nnx.to_flat_state(abstract(wanted)[1]))
    places = {}
    if mesh is not None:
        tree = sharding.shardings(abstract(wanted)[1], mesh)
        places = {path: v.get_value() for path, v in nnx.to_flat_state(tree)}
    scale = cfg.lora_alpha / cfg.lora_rank if cfg.lora_rank else 0.0
    filled = {}
    for path, variable in new.items():
        module = path[:-1]
        if path[-1] == "kernel_scale":
            continue  # comes with its kernel
        if path[-1] != "kernel":
            filled[path] = old[path].astype(variable.dtype)
            continue
        parts = {
            name: old[*module, name]
            for name in ("kernel", "kernel_scale", "lora_a", "lora_b")
            if (*module, name) in old
        }
        if "lora_a" not in parts and weights == cfg.weights:
            filled |= {(*module, name): x for name, x in parts.items()}
            continue
        stacked = variable.get_metadata("axes")[0] == "layers"
        names = ["kernel", "kernel_scale"][: 1 + wanted.int8]
        out = tuple(places[*module, name] for name in names) if places else None
        made = _compiled(scale, variable.dtype, stacked, out)(parts)
        filled |= {(*module, k): v for k, v in zip(names, made, strict=True)}
    return wanted, nnx.from_flat_state(
        {path: v.replace(filled[path]) for path, v in new.items()}
    )


@functools.cache
def _compiled(lora: float, dtype, stacked: bool, places):
    """Compiled: a linear's parts -> its kernel, and its scale if it is to be int8."""

    def kernel(parts: dict[str, jax.Array]) -> tuple[jax.Array, ...]:
        x = parts["kernel"].astype(jnp.float32)
        if "kernel_scale" in parts:
            x *= parts["kernel_scale"]
        if "lora_a" in parts:
            x += lora * jnp.tensordot(parts["lora_a"], parts["lora_b"], 1)
        return quantise_kernel(x) if dtype == jnp.int8 else (x.astype(dtype),)

    return jax.jit(jax.vmap(kernel) if stacked else kernel, out_shardings=places)
