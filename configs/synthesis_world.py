"""V-SynFlow on a rendered world, whose captioner knows the truth.

python -m data_synthesis --config=configs/synthesis_world.py:runs/quickstart/world \
    --input=runs/quickstart/world/raw/raw.jsonl --output=runs/synthesis \
    --config.consistency.embedder=runs/quickstart/train
"""

import ml_collections

from data_synthesis.config import default_config


def get_config(world: str = "runs/quickstart/world") -> ml_collections.ConfigDict:
    c = default_config()
    c.shard_size = 100
    c.ingest.dataset = "world"
    c.ingest.license = "Apache-2.0"
    c.motion.preset = "noise_free"
    # Its videos last a few seconds.
    c.clips.min_seconds = 0.8
    # All pairs that there are, in whatever proportion.
    c.extend.scale = 1.0
    c.caption.captioner = "groundtruth"
    c.caption.truth = f"{world}/truth.jsonl"
    return c
