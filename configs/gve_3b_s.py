"""GVE-s of the paper's ablation, 3B: with synthesised data, no curriculum.

python -m gve_jax.train --config=configs/gve_3b_s.py --config.data.root=DATA_ROOT \
  --workdir=runs/gve_3b_s
"""

from configs import _mixture


def get_config():
    return _mixture.recipe("3B", curriculum="static")
