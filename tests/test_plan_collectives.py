"""What programs move, counted from their text and known by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from gve_jax.plan.collectives import Collectives, Traffic, count_collectives

N = 8


@pytest.fixture(scope="module")
def mesh():
    return jax.make_mesh((N,), ("x",), axis_types=(AxisType.Auto,))


def count(mesh, function, *shapes, in_specs, out_specs) -> Collectives:
    run = jax.shard_map(function, mesh=mesh, in_specs=in_specs, out_specs=out_specs)
    arguments = [
        jax.ShapeDtypeStruct(shape, jnp.float32, sharding=NamedSharding(mesh, spec))
        for shape, spec in zip(shapes, in_specs, strict=True)
    ]
    compiled = jax.jit(run).lower(*arguments).compile()
    return count_collectives(compiled.as_text(), N)


ROWS = PartitionSpec("x")
WHOLE = 64 * 128 * 4  # bytes of the array, an eighth of it on each device
TURN = [(i, (i + 1) % N) for i in range(N)]


@pytest.mark.parametrize(
    "kind, function, received",
    [
        (
            "all-gather",
            lambda x: jax.lax.all_gather(x, "x", tiled=True)[:8] * 2,
            WHOLE * 7 // 8,
        ),
        (
            "reduce-scatter",
            lambda x: jax.lax.psum_scatter(jnp.tile(x, (8, 1)), "x", tiled=True),
            WHOLE * 7 // 8,
        ),
        # The parts are reduced and handed out again.
        ("all-reduce", lambda x: jax.lax.psum(x, "x") + x, WHOLE // 8 * 7 // 8 * 2),
        (
            "all-to-all",
            lambda x: jax.lax.all_to_all(x, "x", 0, 0, tiled=True),
            WHOLE // 8 * 7 // 8,
        ),
        (
            "collective-permute",
            lambda x: jax.lax.ppermute(x, "x", TURN),
            WHOLE // 8,
        ),
    ],
)
def test_each_kind_once(mesh, kind, function, received):
    found = count(mesh, function, (64, 128), in_specs=(ROWS,), out_specs=ROWS)
    assert found.kinds == {kind: Traffic(1, received)}


def test_loops_count_as_often_as_they_run(mesh):
    def step(x, _):
        turned = jax.lax.fori_loop(
            0, 7, lambda i, x: jax.lax.ppermute(jnp.sin(x), "x", TURN), x
        )
        return jax.lax.psum(turned, "x") * x, None

    def function(x):
        return jax.lax.scan(step, x, length=5)[0]

    found = count(mesh, function, (64, 128), in_specs=(ROWS,), out_specs=ROWS)
    assert found.kinds["collective-permute"] == Traffic(35, 35 * WHOLE // 8)
    assert found.kinds["all-reduce"].count == 5
    assert (found.loops, found.unknown_loops) == (2, 0)


def test_loops_of_unknown_length_are_counted_once_and_said(mesh):
    def function(x):
        more = lambda x: jax.lax.pmax(x.max(), "x") < 1e6  # noqa: E731
        return jax.lax.while_loop(more, lambda x: x * 2, x)

    found = count(mesh, function, (64, 128), in_specs=(ROWS,), out_specs=ROWS)
    assert found.unknown_loops == 1
    assert found.kinds["all-reduce"].count >= 1


def test_sharded_weights_are_gathered_in_each_layer(mesh):
    """Fully sharded data parallelism: weights [5, 128, 128], gathered there and back;
    their gradients are summed over all devices."""

    def loss(weights, x):
        return jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, weights)[0].sum()

    place = NamedSharding(mesh, PartitionSpec(None, "x"))
    weights = jax.ShapeDtypeStruct((5, 128, 128), jnp.float32, sharding=place)
    x = jax.ShapeDtypeStruct((64, 128), jnp.float32, sharding=NamedSharding(mesh, ROWS))
    gradient = jax.jit(jax.grad(loss), out_shardings=place)
    text = gradient.lower(weights, x).compile().as_text()
    found = count_collectives(text, N)
    layer = 128 * 128 * 4
    assert found.kinds["all-gather"] == Traffic(10, 10 * layer * 7 // 8)
    summed = found.kinds.get("all-reduce") or found.kinds["reduce-scatter"]
    assert summed.count == 5


def test_programs_add_up():
    one = Collectives({"all-gather": Traffic(2, 10)}, 1, 0)
    two = Collectives({"all-gather": Traffic(1, 5), "all-reduce": Traffic(1, 7)}, 0, 1)
    kinds = {"all-gather": Traffic(7, 35), "all-reduce": Traffic(1, 7)}
    assert one.times(3) + two == Collectives(kinds, 1, 1)
    assert (one + two).bytes == 22


# As compilers for TPUs and GPUs write what that for CPUs does not.
TPU = """HloModule jit_f, is_scheduled=true

%piece.1 (p.1: bf16[256,64]) -> bf16[2048,64] {
  %p.1 = bf16[256,64]{1,0:T(8,128)(2,1)} parameter(0)
  ROOT %all-gather.1 = bf16[2048,64]{1,0:T(8,128)(2,1)S(1)} all-gather(%p.1), \
channel_id=4, replica_groups=mesh['a'=8,'b'=2] {'a'}, dimensions={0}
}

%piece.2 (p.2: bf16[256,64]) -> bf16[2048,64] {
  %p.2 = bf16[256,64]{1,0:T(8,128)(2,1)} parameter(0)
  ROOT %all-gather.2 = bf16[2048,64]{1,0:T(8,128)(2,1)} all-gather(%p.2), \
channel_id=4, replica_groups=mesh['a'=8,'b'=2] {'a'}, dimensions={0}
}

%cond (c: (bf16[256,64], u32[])) -> pred[] {
  %c = (bf16[256,64]{1,0:T(8,128)(2,1)}, u32[]{:T(128)}) parameter(0)
  %bound = u32[]{:T(128)} constant(9)
  %i = u32[]{:T(128)} get-tuple-element(%c), index=1
  ROOT %less = pred[]{:T(512)} compare(%i, %bound), direction=LT
}

%body (b: (bf16[256,64], u32[])) -> (bf16[256,64], u32[]) {
  %b = (bf16[256,64]{1,0:T(8,128)(2,1)}, u32[]{:T(128)}) parameter(0)
  %two = u32[]{:T(128)} constant(2)
  %x = bf16[256,64]{1,0:T(8,128)(2,1)} get-tuple-element(%b), index=0
  %j = u32[]{:T(128)} get-tuple-element(%b), index=1
  %start = (bf16[256,64]{1,0:T(8,128)(2,1)}, bf16[256,64]{1,0:T(8,128)(2,1)S(1)}, \
u32[]{:S(2)}, u32[]{:S(2)}) collective-permute-start(%x), channel_id=7, \
source_target_pairs={{0,1},{1,0}}
  %done = bf16[256,64]{1,0:T(8,128)(2,1)S(1)} collective-permute-done(%start)
  %next = u32[]{:T(128)} add(%j, %two)
  ROOT %out = (bf16[256,64]{1,0:T(8,128)(2,1)}, u32[]{:T(128)}) tuple(%done, %next)
}

ENTRY %main (arg: bf16[256,64]) -> bf16[2048,64] {
  %arg = bf16[256,64]{1,0:T(8,128)(2,1)} parameter(0)
  %zero = u32[]{:T(128)} constant(0)
  %copy = u32[]{:T(128)} copy(%zero)
  %init = (bf16[256,64]{1,0:T(8,128)(2,1)}, u32[]{:T(128)}) tuple(%arg, %copy)
  %loop = (bf16[256,64]{1,0:T(8,128)(2,1)}, u32[]{:T(128)}) while(%init), \
condition=%cond, body=%body
  %turned = bf16[256,64]{1,0:T(8,128)(2,1)} get-tuple-element(%loop), index=0
  %first = bf16[2048,64]{1,0:T(8,128)(2,1)} fusion(%turned), kind=kCustom, \
calls=%piece.1
  ROOT %second = bf16[2048,64]{1,0:T(8,128)(2,1)} fusion(%turned), kind=kCustom, \
calls=%piece.2
}
"""
SHARE = 256 * 64 * 2


def test_pieces_of_one_collective_and_counted_loops_of_tpus():
    # From 0 to 9 in steps of 2 are five trips; the two pieces are one all-gather of 8.
    assert count_collectives(TPU, 16) == Collectives(
        {
            "all-gather": Traffic(1, 7 * SHARE),
            "collective-permute": Traffic(5, 5 * SHARE),
        },
        loops=1,
        unknown_loops=0,
    )


def test_asynchronous_collectives_of_gpus():
    text = """HloModule jit_f

%add (x: f32[], y: f32[]) -> f32[] {
  %x = f32[] parameter(0)
  %y = f32[] parameter(1)
  ROOT %sum = f32[] add(%x, %y)
}

%wrapped (q: f32[1024]) -> f32[256] {
  %q = f32[1024]{0} parameter(0)
  ROOT %scattered = f32[256]{0} reduce-scatter(%q), channel_id=2, \
replica_groups=[2,4]<=[8], dimensions={0}, to_apply=%add
}

ENTRY %main (p: f32[256], q: f32[1024]) -> f32[256] {
  %p = f32[256]{0} parameter(0)
  %q.1 = f32[1024]{0} parameter(1)
  %ag = (f32[256]{0}, f32[1024]{0}) all-gather-start(%p), channel_id=1, \
replica_groups=[2,4]<=[4,2]T(1,0), dimensions={0}
  %agd = f32[1024]{0} all-gather-done(%ag)
  %rs = ((f32[1024]{0}), f32[256]{0}) async-start(%q.1), calls=%wrapped
  ROOT %rsd = f32[256]{0} async-done(%rs), calls=%wrapped
}
"""
    assert count_collectives(text, 8).kinds == {
        "all-gather": Traffic(1, 3 * 1024),
        "reduce-scatter": Traffic(1, 3 * 1024),
    }


def test_bytes_are_those_of_the_numbers():
    """An all-gather of bfloat16 moves half of that of float32."""
    mesh = jax.make_mesh((N,), ("x",), axis_types=(AxisType.Auto,))
    sizes = []
    for dtype in (np.float32, jnp.int8):
        place = NamedSharding(mesh, ROWS)
        x = jax.ShapeDtypeStruct((64, 128), dtype, sharding=place)
        whole = NamedSharding(mesh, PartitionSpec())
        run = jax.jit(lambda x: x + x, out_shardings=whole)
        found = count_collectives(run.lower(x).compile().as_text(), N)
        sizes.append(found.kinds["all-gather"].bytes)
    assert sizes == [WHOLE * 7 // 8, WHOLE // 4 * 7 // 8]
