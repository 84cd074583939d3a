"""GVE-7B: collected and synthesised data under the Modality Pyramid.

python -m gve_jax.train --config=configs/gve_7b.py --config.data.root=DATA_ROOT \
  --workdir=runs/gve_7b

docs/training_data.md says how DATA_ROOT looks.
"""

from configs import _mixture


def get_config():
    return _mixture.recipe("7B")
