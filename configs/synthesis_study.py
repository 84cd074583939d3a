"""Does a synthesised training set teach more than the raw captions it was made of?

python -m gve_jax.ablate --config=configs/synthesis_study.py --output=runs/noisy/study

docs/synthesis.md says how the world and the synthesis that it reads are made. `raw`
trains on the raw records as they are, wrong and broken ones included, `synthesised` on
the pairs that V-SynFlow makes of the same records: equal steps, models and seeds. Tasks
of the latter weigh what Table 7 of the paper says, and were not searched for.
"""

import ml_collections

from configs import world
from data_synthesis.config import default_config

WORLD = "runs/noisy/world"
SYNTHESIS = "runs/noisy/synthesis"


def get_config(arm: str = "") -> ml_collections.ConfigDict:
    """The study; or the training config of one of its arms."""
    if arm:
        return _training(arm)
    c = ml_collections.ConfigDict()
    c.seeds = (0, 1, 2)
    c.steps = 1200
    c.world = WORLD
    c.evaluation = "configs/uvrb_mini.py"
    c.prober = ml_collections.ConfigDict(dict(arm="raw", seed=100))  # no arm probes
    c.resamples = 10000
    c.order = ("raw", "synthesised")
    c.arms = ml_collections.ConfigDict(
        dict(
            raw=dict(
                config="configs/synthesis_study.py:raw",
                pairs=f"{WORLD}/raw/raw.jsonl",
                baseline="",
                claim="",
                points="",
            ),
            synthesised=dict(
                config="configs/synthesis_study.py:synthesised",
                pairs=f"{SYNTHESIS}/pairs",
                baseline="raw",
                claim="A synthesised set teaches more than the raw captions",
                points="",
            ),
        )
    )
    return c


def _training(arm: str) -> ml_collections.ConfigDict:
    c = world.get_config()
    c.preprocess.cache_dir = "runs/noisy/cache"
    # Pairs name no clusters.
    c.data.cluster_share = 0.0
    c.data.tasks = ml_collections.ConfigDict()
    if arm == "synthesised":
        quotas = default_config().extend.quotas
        total = sum(quotas.values())
        c.data.tasks.update({task: n / total for task, n in quotas.items()})
    elif arm != "raw":
        raise ValueError(f"no arm {arm!r}: give raw or synthesised")
    return c
