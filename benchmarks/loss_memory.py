"""Memory and collectives of the contrastive loss, compiled for eight virtual devices.

JAX_PLATFORMS=cpu python -m benchmarks.loss_memory --sizes=8192,32768

Value and gradients of each form at each size of the global batch; nothing is run.
"dense" is what the compiler makes of the plain formula over the same sharded arrays.
Temporary memory is that of one device. Collectives of at least 1 MiB are listed with
the size of their results; "x 8" are in a loop that meets eight blocks.
"""

import math
import re

import jax
import jax.numpy as jnp
from absl import app, flags
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from gve_jax.losses import info_nce
from gve_jax.sharding import batch_sharding, make_mesh

_SIZES = flags.DEFINE_list("sizes", ["8192", "32768"], "Of the global batch.")
_DIM = flags.DEFINE_integer("dim", 2048, "Of the embeddings.")
_NEGATIVES = flags.DEFINE_integer("negatives", 0, "Hard negatives of a pair.")

FORMS = ("dense", "gather", "ring")
_WAYS = 8
# An instruction's results, and its name: "%x = f32[8,2]{1,0} all-gather(...".
_COLLECTIVE = re.compile(
    r"= (\S.*?) (all-gather|all-reduce|all-to-all|reduce-scatter|collective-permute)"
    r"(?:-start)?\("
)
_DIMS = re.compile(r"\[([\d,]*)\]")


def dense(query, target, negatives, *, negative_ids, temperature, **_):
    """The loss as one would write it first, with fewer masks."""
    scores = query @ target.T
    positive = jnp.diagonal(scores)
    rows = jnp.where(scores > positive[:, None] + 0.1, -1e9, scores)
    columns = jnp.where(scores > positive + 0.1, -1e9, scores)
    if negatives is not None:
        hard = jnp.where(negative_ids < 0, -1e9, query @ negatives.T)
        rows = jnp.concatenate([rows, hard], axis=1)
    loss = jax.nn.logsumexp(rows / temperature, axis=1)
    loss += jax.nn.logsumexp(columns / temperature, axis=0)
    return jnp.mean(loss - 2 * positive / temperature) / 2


def info_nce_by(form: str, mesh: Mesh):
    def loss(*vectors, **ids):
        return info_nce(*vectors, **ids, mesh=mesh, exchange=form)[0]

    return loss


def compile_loss(form: str, n: int, d: int, k: int, mesh: Mesh) -> jax.stages.Compiled:
    """Value and gradients of n pairs with k hard negatives each, spread over a mesh."""
    place = batch_sharding(mesh)
    formula = dense if form == "dense" else info_nce_by(form, mesh)

    def loss(vectors, ids, negative_ids):
        return formula(
            *vectors,
            query_ids=ids,
            target_ids=ids,
            source_ids=ids,
            negative_ids=negative_ids,
            temperature=0.03,
        )

    def rows(count, *shape, dtype=jnp.float32):
        if count:
            return jax.ShapeDtypeStruct((count, *shape), dtype, sharding=place)
        return None

    whole = NamedSharding(mesh, PartitionSpec())
    run = jax.jit(jax.value_and_grad(loss), out_shardings=(whole, place))
    vectors = rows(n, d), rows(n, d), rows(n * k, d)
    ids = rows(n, dtype=jnp.int32), rows(n * k, dtype=jnp.int32)
    return run.lower(vectors, *ids).compile()


def found_collectives(compiled: jax.stages.Compiled) -> list[tuple[str, int, bool]]:
    """Of each: its name, the elements of its results, and whether it is in a loop."""
    return [
        (
            found[2],
            sum(
                math.prod(int(x) for x in dims.split(",") if x)
                for dims in _DIMS.findall(found[1])
            ),
            "/while/body/" in line,
        )
        for line in compiled.as_text().splitlines()
        if (found := _COLLECTIVE.search(line))
    ]


def main(_) -> None:
    jax.config.update("jax_num_cpu_devices", _WAYS)
    mesh = make_mesh(dict(data=_WAYS, fsdp=1, tensor=1, sequence=1))
    print(f"{'pairs':>8}  {'form':8}{'temp MiB':>9}  collectives, MiB of float32")
    for n in map(int, _SIZES.value):
        for form in FORMS:
            compiled = compile_loss(form, n, _DIM.value, _NEGATIVES.value, mesh)
            temp = compiled.memory_analysis().temp_size_in_bytes / 2**20
            shown = [
                f"{name} {size / 2**18:.0f}" + (f" x {_WAYS}" if loop else "")
                for name, size, loop in found_collectives(compiled)
                if size >= 1 << 18
            ]
            print(f"{n:8}  {form:8}{temp:9.0f}  {', '.join(shown)}", flush=True)


if __name__ == "__main__":
    app.run(main)
