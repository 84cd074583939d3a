"""Bytes that a chip receives in a training step, as the slice and the batch grow.

python -m benchmarks.weak_scaling --config=configs/gve_3b.py

The real step of the config is compiled for each topology, with as many pairs on each
chip, and so is its loss alone, whose collectives are part of the step's. Two bounds:

- The loss may take what gathering every row of both sides takes, and bringing the
  gradients home: 2 (n - 1) rows dim 4 bytes for a side of n chips with `rows` each.
  A ring, which gathers nothing, is held to it too.
- The whole step may take that, and for all else (weights, their gradients, activations)
  what it takes on the smallest topology, grown as a gathered array does whose whole
  stays the same, by (n - 1) / n: towards a limit.

Exit code 1 where one is exceeded. Nothing runs; see docs/scaling.md for what compilers
need (H100: the extra `cuda`; `cpu:N` are virtual devices).
"""

import os
from typing import NamedTuple

import jax
from absl import flags
from ml_collections import ConfigDict, config_flags

from gve_jax import sharding
from gve_jax.losses import contrastive_loss
from gve_jax.main import run
from gve_jax.plan.collectives import Collectives, count_collectives
from gve_jax.plan.programs import train_shapes
from gve_jax.plan.steps import TrainStep
from gve_jax.plan.topology import Topology, find_topology
from gve_jax.progress import ProgressLine
from gve_jax.types import UserError

_CONFIG = config_flags.DEFINE_config_file("config", None, "Experiment file.")
_TOPOLOGIES = flags.DEFINE_list(
    "topologies", ["h100:8", "h100:64", "h100:256"], "The smallest first."
)
_PAIRS = flags.DEFINE_integer("pairs_per_chip", 128, "Of a batch.", lower_bound=1)
_TEXT_TOKENS = flags.DEFINE_integer(
    "text_tokens", 64, "Of a text, and of the text beside a video.", lower_bound=15
)


class Received(NamedTuple):
    """Bytes that each chip receives in a step."""

    chips: int
    step: Collectives
    loss: Collectives  # its share of the step
    gathered: int  # the bound of the loss

    def most(self, first: "Received") -> float:
        """The bound of the step, by what the smallest topology takes."""
        share = (self.chips - 1) / self.chips
        rest = first.step.bytes - first.loss.bytes
        return self.gathered + rest * share * first.chips / (first.chips - 1)


def compile_step(
    config: ConfigDict, topology: Topology, pairs: int, text_tokens: int
) -> Received:
    """Compiles the step and its loss for `pairs` on each of the topology's chips."""
    n = len(topology.devices)
    config = config.copy_and_resolve_references()
    config.data.batch_size = pairs * n
    work = TrainStep(config, topology, text_tokens)
    step = work.measure(config).collectives
    if step is None:
        raise UserError(f"--topologies={topology.name}: the step does not fit")
    shapes = train_shapes(config, work.architecture, work.mesh, work.text, work.video)
    dim, place = work.architecture.model.dim, sharding.batch_sharding(work.mesh)
    batch = shapes.batch

    def vectors(rows: int) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((rows, dim), "float32", sharding=place)

    def loss(query, target, negatives, batch):
        temperature = config.loss.temperature
        return contrastive_loss(
            query, target, negatives, batch, config.loss, temperature, work.mesh
        )[0]

    b, k = config.data.batch_size, config.data.num_negatives
    sides = vectors(b), vectors(b), vectors(b * k) if k else None
    ids = batch._replace(query=None, target=None, negatives=None)
    gradient = jax.jit(jax.value_and_grad(loss, (0, 1, 2) if k else (0, 1)))
    with jax.set_mesh(work.mesh):
        compiled = gradient.lower(*sides, ids).compile(
            compiler_options=topology.compiler_options or None
        )
    rows = (b + b + b * k) // n
    return Received(
        n, step, count_collectives(compiled.as_text(), n), 2 * (n - 1) * rows * dim * 4
    )


def find_excess(found: list[Received]) -> list[str]:
    """What exceeds its bound."""
    out = []
    for x in found:
        if x.loss.bytes > x.gathered:
            out.append(f"the loss on {x.chips} chips")
        if x.step.bytes > x.most(found[0]):
            out.append(f"the step on {x.chips} chips")
    return out


def show(found: list[Received]) -> str:
    """A table in MiB, with what the kinds of collectives take."""
    lines = ["MiB: loss (at most), step (at most)"]
    for x in found:
        loss, step = (
            f"{bytes_ / 2**20:.3f} ({most / 2**20:.3f})"
            for bytes_, most in (
                (x.loss.bytes, x.gathered),
                (x.step.bytes, x.most(found[0])),
            )
        )
        lines.append(f"{x.chips} chips: {loss}, {step}")
        for part in ("loss", "step"):
            kinds = getattr(x, part).kinds.items()
            text = ", ".join(f"{t.count} {k} {t.bytes / 2**20:.3f}" for k, t in kinds)
            lines.append(f"  {part}: {text}")
        if x.step.unknown_loops:
            lines.append(
                f"  {x.step.unknown_loops} loops of unknown length, as one trip"
            )
    return "\n".join(lines)


def main(_: list[str]) -> None:
    names = _TOPOLOGIES.value
    counts = [int(x.partition(":")[2]) for x in names if x.startswith("cpu:")]
    if counts:  # as many as the largest needs, before there are any
        flag = f"--xla_force_host_platform_device_count={max(counts)}"
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {flag}"
    found = []
    with ProgressLine("compile", len(names), "topologies") as line:
        for name in names:
            topology = find_topology(name)
            found.append(
                compile_step(_CONFIG.value, topology, _PAIRS.value, _TEXT_TOKENS.value)
            )
            line.advance()
    print(show(found))
    if excess := find_excess(found):
        raise UserError(f"more than the bound: {', '.join(excess)}")


if __name__ == "__main__":
    run(main, required=("config",))
