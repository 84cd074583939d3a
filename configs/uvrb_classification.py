"""Video classification as retrieval of labels; accuracy is recall@1.

python -m eval --config=configs/uvrb_classification.py --config.eval.root=UVRB \
  --checkpoint=Alibaba-NLP/GVE-3B --output=runs/gve_3b_classes
"""

from gve_jax.config import default_config


def get_config():
    config = default_config()
    config.eval.datasets = ("K700", "UCF101", "HMDB51", "SSV2", "Breakfast")
    return config
