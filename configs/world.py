"""The embedded default: a small encoder on the procedural world, in minutes on a CPU.

python -m gve_jax.train --config=configs/world.py --workdir=runs/quickstart/train
"""

import ml_collections

from gve_jax.config import default_config


def get_config() -> ml_collections.ConfigDict:
    c = default_config()
    c.data.pairs = "runs/quickstart/world/train"
    c.data.batch_size = 48
    c.data.min_share = 0.05
    c.data.cluster_share = 0.8
    c.data.workers = 2  # the videos are small: more threads only wait for each other
    c.data.tasks.update(
        T2V=0.54, T2I=0.14, I2V=0.13, V2V=0.06, TI2V=0.07, TV2V=0.06,
    )  # fmt: skip
    c.data.shift = 7  # half a patch
    c.preprocess.cache_dir = "runs/quickstart/cache"
    c.preprocess.vocab_size = 2048
    # The world's 168 x 168 pixels become 84 x 84: 9 visual tokens a frame pair.
    c.preprocess.min_pixels = 84 * 84
    c.preprocess.max_pixels = 84 * 84
    c.preprocess.max_tokens = 224
    c.preprocess.token_buckets = (36, 68, 100, 224)
    c.preprocess.exact_grids = ((1, 6, 6), (4, 6, 6))

    c.model.trainable = "all"
    c.model.scan = False
    c.model.vision.update(
        depth=4, hidden_size=64, intermediate_size=128, num_heads=4,
        fullatt_block_indexes=(3,),
    )  # fmt: skip
    # Within minutes, depth pays off in the vision tower alone: with a second decoder
    # block the same steps cost two fifths more and reach less (one seed).
    # Of Qwen's rotary frequencies, those of rows and columns are so low that three by
    # three tokens look alike: here each of time, row and column has one that it sees.
    c.model.text.update(
        num_hidden_layers=1, hidden_size=128, intermediate_size=256,
        num_attention_heads=8, num_key_value_heads=4, mrope_section=(1, 1, 6),
        rope_theta=1e4,
    )  # fmt: skip

    # At 0.05 from the start, embeddings collapse before anything aligns; and most true
    # negatives outscore their positive, so none are masked by score.
    c.loss.update(
        start_temperature=0.5, anneal_steps=250, temperature=0.05, mask_margin=2.0
    )
    c.optim.update(
        name="muon", peak_lr=8e-3, warmup_steps=50, weight_decay=0.05, b2=0.99
    )
    c.train.update(steps=1200, log_every=10, checkpoint_every=300)
    return c
