"""Cost sheet of a synthesis, on paper: from one run's shares to so many pairs.

python -m benchmarks.synthesis_costs --synthesis=runs/noisy/synthesis

A finished run says how many records each filter leaves, how many pairs of each task a
kept record gives, and how many requests and tokens it takes. Seconds of the CPU, the
embedder's arithmetic and the accelerators' rates are the flags': measure your own.
Embeddings are counted in FLOPs of GVE's 3B model at its protocol (8 frames of at most
200 tokens). Nothing here was run at this size.
"""

import functools
import json
import pathlib
import types

import numpy as np
from absl import app, flags

from data_synthesis.config import default_config
from gve_jax.config import default_config as gve_config
from gve_jax.model import flops
from gve_jax.model.config import ModelConfig
from gve_jax.plan.architecture import find_architecture

_SYNTHESIS = flags.DEFINE_string("synthesis", None, "Finished run.", required=True)
_SCALE = flags.DEFINE_float("scale", 1.0, "Of Table 7's pairs, 1.55 million.")
_QC = flags.DEFINE_float("qc_seconds", 1.2, "CPU seconds of qc, a raw video.")
_ASSETS = flags.DEFINE_float("assets_seconds", 1.5, "CPU seconds of assets, one kept.")
_CORES = flags.DEFINE_list("cores", ["2", "64"], "Workers, one core each.")
_PEAK = flags.DEFINE_float("peak_tflops", 197.0, "Of a chip: v5e in bfloat16.")
_MFU = flags.DEFINE_float("mfu", 0.35, "Share of it that the embedder reaches.")
_CHIPS = flags.DEFINE_integer("chips", 64, "That embed.")
_TOKENS = flags.DEFINE_float(
    "tokens_per_second", 2500.0, "Output of one captioner's accelerator, batched."
)
_VISUAL = flags.DEFINE_integer("visual_tokens", 1600, "Of a caption request's media.")


@functools.cache
def _model() -> ModelConfig:
    config = gve_config()
    config.model.init_from = "Alibaba-NLP/GVE-3B"
    return find_architecture(config, "embed", "dense").model


def embedding_flops(frames: int, text: int) -> float:
    """Of one item under GVE-3B: 200 tokens a pair of frames, and text with the prompt.

    Windows of attention are whole: 64 patches each.
    """
    groups = -(-frames // 2)
    patches = 800 * groups
    item = types.SimpleNamespace(
        patches=np.zeros((patches, 0)),
        frame_lengths=np.full(groups, 800),
        window_lengths=np.full(-(-patches // 64), 64),
        tokens=np.zeros(200 * groups + text),
    )
    return flops.embed_flops(_model(), item)


def sheet(report: dict) -> dict[str, float]:
    """What it takes: videos, CPU hours, exaFLOPs and tokens."""
    stages, costs = report["stages"], report["costs"]
    raw = stages["ingest"]["in"]
    kept = stages["assets"]["kept"]
    embedded = report["filters"]["consistency"]["in"]
    tasks = {task: row["kept"] for task, row in report["pairs"]["tasks"].items()}
    quotas = default_config().extend.quotas
    records = max(
        _SCALE.value * quota * kept / tasks[task]
        for task, quota in quotas.items()
        if tasks.get(task)
    )
    videos = records * raw / kept
    requests = {
        name: sum(row[name] for row in costs["requests"].values()) / kept
        for name in ("asked", "tokens_in", "tokens_out")
    }
    captions = report["captions"]["texts"] / kept
    text, image = embedding_flops(0, 60), embedding_flops(1, 30)
    video = embedding_flops(8, 30)
    before = records * embedded / kept * (text + video + 3 * image)
    after = records * (captions * text + 2 * video + image)  # captions, clip, probes
    return {
        "raw videos": videos,
        "kept records": records,
        "CPU hours of decoding": (videos * _QC.value + records * _ASSETS.value) / 3600,
        "caption requests": records * requests["asked"],
        "caption tokens in": records
        * (requests["tokens_in"] + requests["asked"] * _VISUAL.value),
        "caption tokens out": records * requests["tokens_out"],
        "embedding exaFLOPs": (before + after) / 1e18,
    }


def main(_: list[str]) -> None:
    path = pathlib.Path(_SYNTHESIS.value) / "report.json"
    found = sheet(json.loads(path.read_text(encoding="utf-8")))
    for name, value in found.items():
        print(f"{name:<36}{value:>16,.0f}")
    for cores in map(int, _CORES.value):
        hours = found["CPU hours of decoding"] / cores
        print(f"{f'hours of decoding on {cores} cores':<36}{hours:>16,.1f}")
    chip = found["embedding exaFLOPs"] * 1e6 / (_PEAK.value * _MFU.value) / 3600
    print(f"{'chip hours of embedding':<36}{chip:>16,.1f}")
    hours = chip / _CHIPS.value
    print(f"{f'hours of embedding on {_CHIPS.value} chips':<36}{hours:>16,.1f}")
    hours = found["caption tokens out"] / _TOKENS.value / 3600
    print(f"{'accelerator hours of captioning':<36}{hours:>16,.1f}")


if __name__ == "__main__":
    app.run(main)
