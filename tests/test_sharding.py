"""The mesh and the rule table, on eight virtual devices."""

import dataclasses

import jax
import numpy as np
import optax
import pytest
from flax import nnx
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from gve_jax.model import abstract, create
from gve_jax.sharding import RULES, batch_sharding, make_mesh, shardings, spec
from gve_jax.types import EncoderInputs, UserError
from tests.model_witness import hf_model, jit, make_item, to_jax
from tests.test_model import TINY


def mesh(data=1, fsdp=1, tensor=1, sequence=1, devices=None):
    config = dict(data=data, fsdp=fsdp, tensor=tensor, sequence=sequence)
    return make_mesh(config, devices)


def test_mesh_fills_the_free_axis():
    assert dict(mesh(data=2, fsdp=-1).shape) == dict(
        data=2, fsdp=4, tensor=1, sequence=1
    )
    one = mesh(fsdp=-1, devices=jax.devices()[:1])
    assert one.size == 1
    assert set(one.axis_types) == {AxisType.Auto}


@pytest.mark.parametrize(
    "sizes", [dict(data=-1, fsdp=-1), dict(data=3, fsdp=-1), dict(data=4), dict(data=0)]
)
def test_impossible_meshes_are_refused(sizes):
    with pytest.raises(UserError, match="mesh: data="):
        mesh(**sizes)


def test_specs_drop_what_does_not_divide():
    m = mesh(fsdp=2, tensor=4)
    axes = ("layers", "embed", "heads", None)
    assert spec(axes, (3, 16, 8, 5), m) == PartitionSpec(None, "fsdp", "tensor", None)
    # Three heads do not split over four devices; an odd width not over two.
    assert spec(axes, (3, 15, 3, 5), m) == PartitionSpec(None, None, None, None)
    # The first dimension wins an axis that two of them ask for.
    assert spec(("embed", "embed"), (4, 4), m) == PartitionSpec("fsdp", None)
    with pytest.raises(KeyError):
        spec(("nonsense",), (4,), m)


def test_every_axis_of_the_model_is_in_the_table():
    axes = {a for _, v in nnx.to_flat_state(abstract(TINY)[1]) for a in v.axes}
    assert axes - {None} <= RULES.keys()
    assert RULES.keys() - axes == {"batch", "tokens", "attention_heads"}


def test_optimiser_moments_are_placed_as_their_parameters():
    m = mesh(fsdp=-1)
    params = abstract(TINY)[1]
    state = jax.eval_shape(optax.adam(1e-3).init, params)
    placed = shardings(state, m)
    assert jax.tree.structure(placed) == jax.tree.structure(state)
    want = shardings(params, m)
    assert jax.tree.leaves(placed[0].mu) == jax.tree.leaves(want)
    assert placed[0].count.spec == PartitionSpec()


CFG = dataclasses.replace(
    TINY,
    lora_dropout=0.0,
    vision=dataclasses.replace(TINY.vision, depth=1, fullatt_block_indexes=()),
    text=dataclasses.replace(TINY.text, num_hidden_layers=2),
)


def loss_and_grads(params, inputs):
    graph = abstract(CFG)[0]

    def loss(params, inputs):
        out = nnx.merge(graph, params)(inputs)
        return (out[:, 0] * np.arange(8)).sum(), out

    (_, out), grads = jit(jax.value_and_grad(loss, has_aux=True))(params, inputs)
    return out, grads


@pytest.fixture(scope="module")
def alone():
    rng = np.random.default_rng(0)
    items = [make_item(rng, [3, ("image", (1, 6, 10)), n + 1]) for n in range(8)]
    inputs = to_jax(hf_model(), items)
    params = create(CFG, 0)[1]
    return params, inputs, *loss_and_grads(params, inputs)


@pytest.mark.parametrize(
    "sizes",
    [dict(fsdp=8), dict(data=2, fsdp=2, tensor=2), dict(fsdp=2, tensor=2, sequence=2)],
    ids=["fsdp", "tensor", "sequence"],
)
def test_sharded_encoder_equals_one_device(sizes, alone):
    params, inputs, want, want_grads = alone
    m = mesh(**sizes)
    _, spread = create(CFG, 0, shardings(abstract(CFG)[1], m))
    assert not spread["visual"]["patch_embed"]["kernel"].sharding.is_fully_replicated
    with jax.set_mesh(m):
        got, grads = loss_and_grads(spread, jax.device_put(inputs, batch_sharding(m)))
    pairs = zip(
        jax.tree.leaves((params, want, want_grads)),
        jax.tree.leaves((spread, got, grads)),
        strict=True,
    )
    for a, b in pairs:
        np.testing.assert_allclose(a, b, atol=1e-5, rtol=1e-4)


def test_devices_share_a_long_item_along_the_sequence_axis():
    """What the compiler says that one device needs for the activations of one item."""
    text = dataclasses.replace(CFG.text, num_attention_heads=8, num_key_value_heads=8)
    text = dataclasses.replace(text, head_dim=8, mrope_section=(1, 1, 2))
    cfg = dataclasses.replace(CFG, text=text, scan=False)
    graph, params = abstract(cfg)
    length = 4096
    inputs = EncoderInputs(
        np.zeros((1, length), np.int32),
        np.full(1, length, np.int32),
        np.zeros((1, 3, length), np.int32),
    )

    def needed(**sizes):
        m = mesh(**sizes)
        whole = NamedSharding(m, PartitionSpec())
        loss = lambda p, x: nnx.merge(graph, p)(x).sum()  # noqa: E731
        arguments = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=whole),
            (params, inputs),
        )
        with jax.set_mesh(m):
            program = jax.jit(jax.grad(loss)).lower(*arguments).compile()
        return program.memory_analysis().temp_size_in_bytes

    alone = needed(tensor=1, devices=jax.devices()[:1])
    assert needed(sequence=8) < alone / 4
