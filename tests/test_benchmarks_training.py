"""The benchmarks of training, at toy sizes: what they compare is the same work."""

import os
import subprocess
import sys
import time

import numpy as np
import pytest

from benchmarks import gradcache, train_throughput, weak_scaling
from gve_jax.plan.collectives import Collectives, Traffic

SHAPE = (56, 56)


def small(pairs: int):
    config = train_throughput.make_config(pairs, mixed=False)
    config.preprocess.update(min_pixels=56 * 56, max_pixels=56 * 56, vocab_size=320)
    config.preprocess.update(token_buckets=(128, 256), exact_grids=((4, 4, 4),))
    config.model.scan = True  # compiles sooner
    config.model.vision.update(
        depth=2, hidden_size=16, intermediate_size=32, num_heads=2,
        fullatt_block_indexes=(1,),
    )  # fmt: skip
    config.model.text.update(
        num_hidden_layers=2, hidden_size=32, intermediate_size=48,
        num_attention_heads=2, num_key_value_heads=1, mrope_section=(2, 3, 3),
    )  # fmt: skip
    config.model.lora.rank = 4
    config.optim.update(peak_lr=1e-2, warmup_steps=1)
    config.train.steps = 5
    return config


@pytest.mark.slow
def test_both_sides_train_alike():
    found, flops = train_throughput.compare(
        small(3), [SHAPE], batches=2, clock=time.perf_counter, torch_compile=False
    )
    ours, theirs = found["gve_jax"].losses, found["torch"].losses
    assert len(ours) == 5
    assert ours == pytest.approx(theirs, abs=1e-4)
    assert abs(ours[4] - ours[0]) > 1e-2  # the same batch, after four updates
    assert flops.required == flops.executed < flops.of_torch


@pytest.mark.slow
def test_memory_of_chunks_grows_less():
    config = small(8)
    config.train.chunk = 256
    few, many = gradcache.measure(config, SHAPE, [2, 8], 1, time.perf_counter)
    whole, chunked = np.subtract(many.temporaries, few.temporaries)
    assert chunked < whole / 2
    assert many.executed[1] > many.executed[0] > few.executed[0]
    assert len(gradcache.show([few, many]).splitlines()) == 3


def received(chips: int, loss: int, rest: int) -> weak_scaling.Received:
    def moved(bytes_: int) -> Collectives:
        return Collectives({"all-gather": Traffic(1, bytes_)}, 0, 0)

    return weak_scaling.Received(chips, moved(loss + rest), moved(loss), 100 * chips)


def test_excess_is_found():
    first = received(2, loss=200, rest=1000)  # a whole of 2000 that is gathered
    assert weak_scaling.find_excess([first, received(4, 400, 1500)]) == []
    assert weak_scaling.find_excess([first, received(4, 300, 1600)]) == []
    (found,) = weak_scaling.find_excess([first, received(4, 401, 1499)])
    assert found == "the loss on 4 chips"
    (found,) = weak_scaling.find_excess([first, received(4, 400, 1501)])
    assert found == "the step on 4 chips"


@pytest.mark.slow
def test_a_step_scales_on_virtual_devices(tmp_path):
    file = tmp_path / "config.py"
    file.write_text(
        "import tiny\ndef get_config():\n"
        "    c = tiny.config('pairs', model__trainable='lora', optim__name='adamw')\n"
        "    c.model.text.update(hidden_size=128, mrope_section=(8, 12, 12))\n"
        "    return c\n"
    )
    command = [sys.executable, "-m", "benchmarks.weak_scaling", f"--config={file}"]
    command += ["--topologies=cpu:8,cpu:16", "--pairs_per_chip=2"]
    path = os.pathsep.join([os.path.dirname(__file__), os.getcwd()])
    environment = os.environ | {"PYTHONPATH": path, "XLA_FLAGS": ""}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "16 chips" in done.stdout
