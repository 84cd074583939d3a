"""The real benchmark. Its folder: --config.eval.root=.../UVRB.

python -m eval --config=configs/uvrb.py --config.eval.root=UVRB \
  --checkpoint=Alibaba-NLP/GVE-3B --output=runs/gve_3b
"""

from gve_jax.config import default_config


def get_config():
    return default_config()
