"""The embedded default with an hour to spare: a larger world, model and schedule.

make full
"""

import ml_collections

from configs import world


def get_config() -> ml_collections.ConfigDict:
    c = world.get_config()
    c.data.pairs = "runs/full/world/train"
    c.preprocess.cache_dir = "runs/full/cache"
    # With foils, false captions beside the true one: once colours and backgrounds are
    # told apart, batches alone hold few pairs that differ in one shape or motion.
    c.data.tasks.update(
        T2V=0.36, V2T=0.16, T2I=0.04, I2T=0.12, I2V=0.10, V2V=0.08, TI2V=0.07,
        TV2V=0.05, TI2I=0.02,
    )  # fmt: skip
    c.data.nums_negatives.update(V2T=2, I2T=2)
    c.data.batch_size = 64
    c.data.min_share = 0.03
    c.preprocess.token_buckets = (36, 68, 100, 136, 224)
    c.model.vision.update(hidden_size=96, intermediate_size=192, num_heads=6, depth=6)
    c.model.vision.fullatt_block_indexes = (2, 5)
    c.model.text.update(num_hidden_layers=2)
    c.optim.update(peak_lr=5e-3, warmup_steps=100)
    c.loss.anneal_steps = 500
    c.train.update(steps=7000, checkpoint_every=500)
    return c
