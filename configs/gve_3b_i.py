"""GVE-i of the paper's ablation, 3B: collected data alone, no curriculum.

python -m gve_jax.train --config=configs/gve_3b_i.py --config.data.root=DATA_ROOT \
  --workdir=runs/gve_3b_i
"""

from configs import _mixture


def get_config():
    return _mixture.recipe("3B", synthesised=False, curriculum="static")
