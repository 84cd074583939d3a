"""UVRB-mini, the sixteen small datasets of the rendered world.

python -m eval --config=configs/uvrb_mini.py:runs/quickstart/world/uvrb_mini \
  --checkpoint=runs/quickstart/train --output=runs/quickstart/eval
"""

from gve_jax.config import default_config


def get_config(root: str = "runs/quickstart/world/uvrb_mini"):
    config = default_config()
    config.eval.root = root
    config.eval.check_counts = False  # small by design
    return config
