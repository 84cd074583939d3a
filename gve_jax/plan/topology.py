"""Chips that are not here: their devices, as compilers know them, and their limits."""

import importlib.util
import os
from typing import Any, NamedTuple

import jax
from jax.experimental import topologies

from gve_jax.plan.h100 import TARGET
from gve_jax.types import UserError

GIB = 2**30


class Chip(NamedTuple):
    """One accelerator. Peaks are the makers' figures for dense bfloat16."""

    title: str
    attention: str  # what "auto" means there
    flops: float = 0.0  # bfloat16 peak, FLOP/s; 0: not known
    hbm: int = 0  # bytes that a program may use; 0: not known
    link: float = 0.0  # bytes a second to other chips, all links together; 0: not known


# FLOP/s and links: cloud.google.com/tpu/docs, pages v5e, v5p and v6e (1600, 4800 and
# 3584 Gbit/s); NVIDIA's data sheet of the H100 SXM (NVLink, 900 GB/s in both directions
# together). Bytes: what libtpu 0.0.42 calls available, a little below the 16, 96 and 32
# GiB of the pages; of the H100 the 79.1 GiB that its driver gives less the tenth that
# CUDA, NCCL and cuDNN take (XLA_PYTHON_CLIENT_MEM_FRACTION=0.9; JAX alone takes 0.75).
CHIPS = {
    "v5e": Chip("TPU v5e", "splash", 197e12, int(15.75 * GIB), 200e9),
    "v5p": Chip("TPU v5p", "splash", 459e12, int(95.74 * GIB), 600e9),
    "v6e": Chip("TPU v6e", "splash", 918e12, int(31.25 * GIB), 448e9),
    "h100": Chip("H100 SXM", "cudnn", 989e12, int(0.9 * 84942979072), 450e9),
    "cpu": Chip("CPU device", "blocked"),
}


class Topology(NamedTuple):
    """A slice of chips, or a host of them, that programs are compiled for."""

    name: str
    chip: Chip
    devices: list[Any]
    compiler_options: dict[str, Any]


def find_topology(name: str) -> Topology:
    """A topology by name; nothing of it needs to be here but its compiler.

    `v5e:4x8`, `v5p:2x2x4` and `v6e:4x4` are TPU slices by their shape, `v5e:1` and so
    on is one chip; `h100:8` are GPUs of one host, `cpu:8` as many virtual devices here.

    Raises:
      UserError: there is no such topology, or its compiler is not installed.
    """
    # Compiling for a chip must not look for one.
    jax.config.update("jax_platforms", "cpu")
    kind, _, shape = name.partition(":")
    if kind not in CHIPS or not shape:
        raise UserError(
            f"--topology={name}: name a chip and its number, as v5e:4x8, v5p:2x2x4, "
            f"v6e:4x4, v5e:1, h100:8 or cpu:8; chips are {', '.join(CHIPS)}"
        )
    options = {}
    try:
        if kind == "cpu":
            devices = _cpus(int(shape))
        elif kind == "h100":
            devices = _gpus(int(shape))
            options["xla_gpu_autotune_level"] = 0  # it would time kernels on the GPU
        else:
            devices = _tpus(kind, shape)
    except (ValueError, jax.errors.JaxRuntimeError) as e:
        raise UserError(f"--topology={name}: {str(e).splitlines()[0]}") from None
    return Topology(name, CHIPS[kind], devices, options)


def _cpus(count: int) -> list[Any]:
    # A number that comes too late, after the first use of a device, raises.
    if "host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
        jax.config.update("jax_num_cpu_devices", count)
    devices = jax.devices("cpu")
    if not 1 <= count <= len(devices):
        raise ValueError(f"there are {len(devices)} virtual devices here")
    return devices[:count]


def _tpus(kind: str, shape: str) -> list[Any]:
    if importlib.util.find_spec("libtpu") is None:
        raise UserError(f"--topology={kind}:{shape} needs libtpu: install gve_jax[tpu]")
    # There is no metadata server to ask where this runs, and no chip to lock.
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    os.environ.setdefault("TPU_ACCELERATOR_TYPE", "v5litepod-8")
    os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
    one = "2x2x1" if kind == "v5p" else "2x2"  # the least that libtpu describes
    name = f"{kind}:{one if shape == '1' else shape}"
    devices = topologies.get_topology_desc(name, "tpu").devices
    return devices[:1] if shape == "1" else list(devices)


def _gpus(count: int) -> list[Any]:
    if importlib.util.find_spec("jax_cuda13_plugin") is None:
        raise UserError(
            f"--topology=h100:{count} needs the CUDA plugin: install gve_jax[cuda]"
        )
    jax.devices("cpu")  # finding it, JAX registers its plugins too
    return list(
        topologies.get_topology_desc(
            platform="cuda", target_config=TARGET, topology=f"1x1x{count}"
        ).devices
    )
