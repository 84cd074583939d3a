"""What a step takes on chips that are not here, before they are paid for.

python -m gve_jax.plan --config=configs/gve_3b.py --topology=v5e:8x8

Compiles the real training or embedding step for the topology and prints, for each chip,
memory by part, collectives, FLOPs, whether it fits, and the largest batch and chunk
that do. Nothing runs; times are projections. TPUs need the extra `tpu`, H100 `cuda`.
"""

import json

from absl import flags
from ml_collections import config_flags

from gve_jax.main import run
from gve_jax.plan.plan import make_plan
from gve_jax.plan.report import as_json, as_text
from gve_jax.plan.steps import STEPS
from gve_jax.plan.topology import GIB, find_topology
from gve_jax.types import UserError

_CONFIG = config_flags.DEFINE_config_file("config", None, "Experiment file.")
_TOPOLOGY = flags.DEFINE_string(
    "topology", None, "Such as v5e:4x8, v5p:2x2x4, v6e:4x4, v5e:1, h100:8 or cpu:8."
)
_STEP = flags.DEFINE_enum("step", "train", list(STEPS), "What to compile.")
_TEXT_TOKENS = flags.DEFINE_integer(
    "text_tokens", 64, "Of a text, and of the text beside a video.", lower_bound=15
)
_TRIES = flags.DEFINE_integer(
    "tries", 3, "Compilations in each search for what fits; 0: none.", lower_bound=0
)
_HBM_GIB = flags.DEFINE_float(
    "hbm_gib", 0.0, "Memory of a chip to plan for; 0: the chip's.", lower_bound=0.0
)
_UTILISATION = flags.DEFINE_float(
    "utilisation", 0.4, "Of the chip's peak, for projected times.", 0.01, 1.0
)
_REQUIRE_FIT = flags.DEFINE_bool(
    "require_fit", False, "Exit with 1 if it does not fit."
)
_JSON = flags.DEFINE_bool("json", False, "Print JSON.")


def main(_: list[str]) -> None:
    plan = make_plan(
        _CONFIG.value,
        find_topology(_TOPOLOGY.value),
        _STEP.value,
        text_tokens=_TEXT_TOKENS.value,
        hbm=int(_HBM_GIB.value * GIB),
        tries=_TRIES.value,
    )
    if _JSON.value:
        print(json.dumps(as_json(plan, _UTILISATION.value), indent=1))
    else:
        print(as_text(plan, _UTILISATION.value))
    if _REQUIRE_FIT.value and not plan.fits:
        raise UserError(f"--topology={_TOPOLOGY.value}: the step does not fit")


if __name__ == "__main__":
    run(main, required=("config", "topology"))
