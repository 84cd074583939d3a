"""Plans against what really runs on eight virtual CPU devices, and against XLA."""

import dataclasses
import functools
import importlib.util
import json
import math
import os
import subprocess
import sys

import jax
import numpy as np
import pytest
import tiny
from flax import nnx

from gve_jax import sharding
from gve_jax.model import create, partition
from gve_jax.model.flops import embed_flops, text_flops, train_flops
from gve_jax.plan import programs
from gve_jax.plan.architecture import find_architecture
from gve_jax.plan.plan import make_plan
from gve_jax.plan.report import as_json, as_text
from gve_jax.plan.search import largest_fitting
from gve_jax.plan.steps import TrainStep
from gve_jax.plan.topology import CHIPS, GIB, find_topology
from gve_jax.preprocess.buckets import Buckets, collate
from gve_jax.train.state import learning_rate, make_optimizer
from gve_jax.types import UserError


def small(**changes):
    usual = dict(data__batch_size=16, optim__name="adamw", model__trainable="lora")
    return tiny.config("pairs", **(usual | changes))


@pytest.fixture(scope="module")
def topology():
    return find_topology("cpu:8")


@functools.cache
def train_plan(chunk: int, accumulate: int = 1):
    config = small(train__chunk=chunk, train__accumulate=accumulate)
    return make_plan(config, find_topology("cpu:8"), "train")


def held(tree) -> int:
    """Bytes of a tree of real arrays on the first device."""
    device = jax.devices()[0]
    return sum(
        shard.data.nbytes
        for x in jax.tree.leaves(tree)
        for shard in x.addressable_shards
        if shard.device == device
    )


def test_predicted_bytes_are_those_that_a_run_holds(topology):
    memory = train_plan(chunk=128).measured.memory

    config = small()
    work = TrainStep(config, topology, 64)
    mesh = sharding.make_mesh(config.mesh)
    model = work.architecture.model
    places = sharding.shardings(programs.abstract(model)[1], mesh)
    _, params = create(model, 0, places)
    weights, frozen = partition(params, "lora")
    optimizer = make_optimizer(config.optim, learning_rate(config.optim, 1))
    abstract = jax.eval_shape(optimizer.init, weights)
    init = jax.jit(optimizer.init, out_shardings=sharding.shardings(abstract, mesh))
    p = config.preprocess
    buckets = Buckets(p.token_buckets, p.patch_buckets, p.exact_grids)
    sides = [
        collate([item] * 16, buckets.of(item), 16) for item in (work.text, work.video)
    ]
    ids = [np.zeros(16, np.int32)] * 3
    batch = jax.device_put((sides, ids), sharding.batch_sharding(mesh))

    assert memory.frozen == held(frozen)
    assert memory.trainable == memory.gradients == held(weights)
    assert memory.optimiser == held(init(weights))
    assert memory.batches == 4 * held(batch)
    # What the compiler says of the arguments is the same, to the byte.
    assert memory.padding == 0


def test_chunks_need_less_memory_and_more_work():
    whole, chunked = (train_plan(chunk).measured for chunk in (0, 128))
    assert chunked.memory.temporaries < 0.8 * whole.memory.temporaries
    assert chunked.flops.required == whole.flops.required == whole.flops.executed
    assert chunked.flops.executed > whole.flops.executed
    assert chunked.memory[:5] == whole.memory[:5]


def test_embedding_holds_weights_alone(topology):
    plan = make_plan(small(), topology, "embed", hbm=GIB, tries=1)
    m = plan.measured
    assert m.memory.trainable == m.memory.optimiser == m.memory.gradients == 0
    assert m.memory.padding == 0 and m.memory.frozen > 0
    assert m.batch_size == 8 * (512 // 128)  # items of up to 128 tokens
    assert plan.fits and plan.largest["embed.tokens"] > plan.asked["embed.tokens"]


def test_accumulated_steps_repeat_gradients_not_the_update():
    one, three = (train_plan(0, n).measured for n in (1, 3))
    assert three.flops.executed == 3 * one.flops.executed
    assert three.memory.gradients == 2 * one.memory.gradients
    assert one.collectives.bytes < three.collectives.bytes < 3 * one.collectives.bytes


# ---- search --------------------------------------------------------------------------


@pytest.mark.parametrize("first", [8, 512, 8192])
@pytest.mark.parametrize("limit", [1000, 5000, 100_000])
def test_a_line_is_searched_in_a_few_measurements(first, limit):
    calls = []

    def need(value):
        calls.append(value)
        return 400 + 3 * value

    found = largest_fitting(
        need, {first: need(first)}, limit, list(range(8, 8193, 8)), tries=3
    )
    assert found == min((limit - 400) // 3 // 8 * 8, 8192)
    assert len(calls) <= 4 and len(set(calls)) == len(calls)


def test_a_search_returns_what_it_measured():
    # Nothing fits; and a curve, of which three tries find no more than a part.
    assert largest_fitting(lambda v: 10 + v, {4: 14}, 5, [1, 2, 4], tries=9) is None
    needs = {}

    def need(value):
        return needs.setdefault(value, value * value)

    candidates = list(range(1, 1001))
    found = largest_fitting(need, {10: need(10)}, 250_000, candidates, tries=3)
    assert needs[found] <= 250_000 and found > 10


# ---- FLOPs ---------------------------------------------------------------------------


def counted(function, *arguments) -> float:
    """FLOPs that XLA counts."""
    return jax.jit(function).lower(*arguments).compile().cost_analysis()["flops"]


@pytest.mark.parametrize("trainable", ["all", "lora"])
def test_flops_of_a_training_step_are_what_xla_counts(topology, trainable):
    """On an unrolled model wide enough that products are nearly all of its work; in
    loops XLA counts one step."""
    config = small(model__trainable=trainable, model__scan=False)
    config.model.attention = "dense"
    config.model.lora.update(rank=1, dropout=0.0)
    config.model.text.update(
        hidden_size=256, intermediate_size=1024, num_hidden_layers=3,
        num_attention_heads=4, mrope_section=(8, 12, 12),
    )  # fmt: skip
    config.model.vision.update(hidden_size=128, intermediate_size=512)
    architecture = find_architecture(config, "train", "dense")
    model = architecture.model
    item = programs.video_item(architecture, 64)
    p = config.preprocess
    buckets = Buckets((len(item.tokens),), p.patch_buckets, p.exact_grids)
    inputs = collate([item], buckets.of(item), 1)
    graphdef, params = create(model, 0)
    weights, frozen = partition(params, trainable)

    def loss(weights, frozen, inputs):
        return nnx.merge(graphdef, weights, frozen)(inputs).sum()

    forward = counted(loss, weights, frozen, inputs)
    assert embed_flops(model, item) == pytest.approx(forward, rel=0.1)
    backward = counted(jax.grad(loss), weights, frozen, inputs)
    required, executed = train_flops(model, item, chunked=False)
    assert required == executed == pytest.approx(backward, rel=0.1)


def test_recomputed_flops():
    config = small(model__trainable="lora")
    architecture = find_architecture(config, "train", "dense")
    item = programs.video_item(architecture, 64)
    model = architecture.model
    text = text_flops(model, len(item.tokens))

    def executed(remat, chunked):
        flops = train_flops(dataclasses.replace(model, remat=remat), item, chunked)
        return (flops.executed - flops.required) / text

    assert executed("none", False) == 0
    assert executed("none", True) == executed("full", False) == 1
    assert executed("full", True) == 2
    assert 0 < executed("attn_out", False) < 1


# ---- what is planned -----------------------------------------------------------------


def test_a_known_model_needs_no_files():
    config = small(model__init_from="Alibaba-NLP/GVE-7B", model__dtype="bfloat16")
    model, contract, source = find_architecture(config, "embed", "splash")
    assert (model.param_dtype, model.attention) == ("bfloat16", "splash")
    assert contract.dim == 3584 and "GVE-7B" in source
    _, params = programs.abstract(model)
    count = sum(math.prod(x.shape) for x in jax.tree.leaves(params))
    assert count == pytest.approx(7.75e9, rel=0.01)  # 15.5 GB in docs/embedding.md


def test_an_unknown_model_is_refused():
    config = small(model__init_from="nobody/nothing")
    with pytest.raises(UserError, match=r"nobody/nothing.*config\.json"):
        find_architecture(config, "train", "dense")


def test_a_video_fills_the_contract():
    config = small()
    config.preprocess.update(num_frames=8, max_pixels=200 * 28 * 28)
    item = programs.video_item(find_architecture(config, "train", "dense"), 64)
    assert len(item.tokens) == 4 * 200 + 64
    assert item.frame_lengths.tolist() == [784] * 4  # 28 x 28 patches
    assert (item.visual_index >= 0).sum() == 4 * 196


@pytest.mark.parametrize("name", ["cpu", "v4:2x2", "cpu:many", "cpu:0", "cpu:900"])
def test_unknown_topologies(name):
    with pytest.raises(UserError, match="--topology="):
        find_topology(name)


def test_reports(topology):
    plan = train_plan(chunk=128)._replace(hbm=1)
    assert plan.fits is False
    text = as_text(plan, 0.4)
    assert "fits: no" in text and "all-gather" in text
    values = json.loads(json.dumps(as_json(plan, 0.4)))
    assert values["memory"]["peak"] == plan.measured.memory.peak
    assert values["projection"] is None  # the peak of a CPU is not known
    plan = plan._replace(topology=topology._replace(chip=CHIPS["v5e"]))
    assert "not a measurement" in as_text(plan, 0.4)
    seconds = as_json(plan, 0.4)["projection"]["compute_seconds"]
    assert seconds == plan.measured.flops.executed / 0.4 / 197e12


def test_command_line(tmp_path):
    file = tmp_path / "config.py"
    file.write_text("import tiny\ndef get_config():\n    return tiny.config('pairs')\n")
    command = [sys.executable, "-m", "gve_jax.cli", "plan", f"--config={file}"]
    command += ["--topology=cpu:2", "--step=embed", "--tries=0", "--json"]
    path = os.pathsep.join([os.path.dirname(__file__), os.getcwd()])
    environment = os.environ | {"PYTHONPATH": path, "XLA_FLAGS": ""}

    def run(*flags):
        return subprocess.run(
            [*command, *flags], env=environment, capture_output=True, text=True
        )

    done = run()
    assert done.returncode == 0, done.stderr
    values = json.loads(done.stdout)
    assert values["chips"] == 2 and values["fits"] is None
    done = run("--require_fit", "--hbm_gib=1e-6")
    assert done.returncode == 1 and "does not fit" in done.stderr
    assert json.loads(done.stdout)["fits"] is False


@pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="needs libtpu: gve_jax[tpu]"
)
def test_tpu_programs_are_compiled_and_refused():
    topology = find_topology("v5e:1")
    config = small(model__dtype="bfloat16")
    plan = make_plan(config, topology, "embed")
    assert plan.fits
    assert plan.measured.memory.padding > 0  # tiles
    config.preprocess.vocab_size = 2**28  # of 32 features in float32
    plan = make_plan(config, topology, "embed")
    assert plan.fits is False and plan.measured.collectives is None
    # The compiler's figure has the 32 GiB of the embedding in it.
    memory = plan.measured.memory
    assert topology.chip.hbm < memory.frozen <= memory.peak < 1.5 * memory.frozen
