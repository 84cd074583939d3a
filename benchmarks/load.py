"""Load time and peak host memory of a checkpoint, against transformers.

python benchmarks/load.py --layers=12 --rounds=3

Writes a random Qwen2.5-VL checkpoint in bfloat16 shards (3B's width, fewer layers),
then reads it in fresh processes, in turns: gve_jax in bfloat16 and in int8, and
`from_pretrained`, which maps files and reads their pages when they are first used, so
that its figures are given with and without touching every weight. "Beside" is the peak
over what the process held before and the weights it ended with: what loading itself
needs. Needs the test extra (torch).
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time

from absl import app, flags

_LAYERS = flags.DEFINE_integer("layers", 12, "Of the language model; 3B has 36.")
_ROUNDS = flags.DEFINE_integer("rounds", 3, "Fresh processes of each kind.")
_SHARD = flags.DEFINE_string("shard", "1GB", "Size of the shards.")
_KINDS = ("gve_jax bfloat16", "gve_jax int8", "transformers", "transformers, touched")
_READ = flags.DEFINE_enum("read", None, _KINDS, "Used by the benchmark itself.")
_FOLDER = flags.DEFINE_string("folder", None, "Used by the benchmark itself.")


def write(folder: str) -> None:
    import torch
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    config = Qwen2_5_VLConfig(
        text_config=dict(
            vocab_size=151936,
            hidden_size=2048,
            intermediate_size=11008,
            num_hidden_layers=_LAYERS.value,
            num_attention_heads=16,
            num_key_value_heads=2,
            rope_parameters=dict(
                rope_type="default", rope_theta=1e6, mrope_section=[16, 24, 24]
            ),
        ),
        vision_config=dict(hidden_size=1280, out_hidden_size=2048),
        tie_word_embeddings=True,
        dtype="bfloat16",
    )
    torch.set_default_dtype(torch.bfloat16)
    model = Qwen2_5_VLForConditionalGeneration(config)
    model.save_pretrained(folder, max_shard_size=_SHARD.value)


def resident(field: str = "VmRSS") -> int:
    """Bytes of this process: now, or (VmHWM) at most."""
    with open("/proc/self/status") as f:
        line = next(x for x in f if x.startswith(field))
    return int(line.split()[1]) * 1024


def read(folder: str, kind: str) -> None:
    """Loads in this process and prints what it took as JSON."""
    if kind.startswith("gve_jax"):
        import jax

        from gve_jax.config import default_config
        from gve_jax.model import read_hf

        settings = default_config().model
        settings.lora.rank = 0
        settings.param_dtype = kind.split()[1]
        jax.numpy.zeros(1).block_until_ready()
        before, start = resident(), time.perf_counter()
        _, params = read_hf(folder, settings)
        weights = sum(x.nbytes for x in jax.tree.leaves(params))
    else:
        import torch
        from transformers import Qwen2_5_VLForConditionalGeneration

        before, start = resident(), time.perf_counter()
        model = Qwen2_5_VLForConditionalGeneration.from_pretrained(
            folder, dtype=torch.bfloat16
        )
        if kind.endswith("touched"):
            sum(float(p.sum()) for p in model.parameters())
        weights = sum(p.nbytes for p in model.parameters())
    seconds = time.perf_counter() - start
    beside = resident("VmHWM") - before - weights
    print(json.dumps([seconds, beside, weights]))


def main(_) -> None:
    if _READ.value:
        read(_FOLDER.value, _READ.value)
        return
    with tempfile.TemporaryDirectory() as folder:
        write(folder)
        shards = [f for f in os.listdir(folder) if f.endswith(".safetensors")]
        largest = max(os.path.getsize(os.path.join(folder, f)) for f in shards)
        print(f"{len(shards)} shards, the largest {largest / 2**30:.2f} GiB")
        seen = {kind: [] for kind in _KINDS}
        for _ in range(_ROUNDS.value):
            for kind in _KINDS:
                done = subprocess.run(
                    [sys.executable, __file__, f"--read={kind}", f"--folder={folder}"],
                    capture_output=True,
                    text=True,
                    check=True,
                )
                seen[kind].append(json.loads(done.stdout.splitlines()[-1]))
    base = statistics.median(x[0] for x in seen["transformers, touched"])
    for kind, rows in seen.items():
        seconds = statistics.median(x[0] for x in rows)
        print(
            f"{kind}: {seconds:.1f} s ({seconds / base:.2f} of transformers touched), "
            f"weights {rows[0][2] / 2**30:.2f} GiB, at most "
            f"{max(x[1] for x in rows) / 2**30:.2f} GiB beside"
        )


if __name__ == "__main__":
    app.run(main)
