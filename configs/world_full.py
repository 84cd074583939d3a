"""The embedded default with an hour to spare: a larger world, model and schedule.

Not yet run to its end: the numbers are a first guess.

python -m data_synthesis.world --output=runs/full/world --seed=0 --videos=8000
python -m gve_jax.train --config=configs/world_full.py --workdir=runs/full/train
"""

import ml_collections

from configs import world


def get_config() -> ml_collections.ConfigDict:
    c = world.get_config()
    c.data.pairs = "runs/full/world/train"
    c.preprocess.cache_dir = "runs/full/cache"
    c.data.tasks.update(T2T=0.02, TI2I=0.04, I2I=0.04)
    c.data.batch_size = 64
    c.data.num_negatives = 1
    c.model.vision.update(hidden_size=96, intermediate_size=192, depth=6)
    c.model.vision.fullatt_block_indexes = (2, 5)
    c.model.text.update(num_hidden_layers=2)
    c.optim.update(peak_lr=5e-3, warmup_steps=100)
    c.loss.anneal_steps = 500
    c.train.update(steps=5000, checkpoint_every=500)
    return c
