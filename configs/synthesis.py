"""V-SynFlow on one's own videos; `raw.jsonl` names them and their captions.

python -m data_synthesis --config=configs/synthesis.py --input=raw.jsonl \
    --output=runs/synthesis --config.caption.captioner=http \
    --config.caption.url=http://localhost:8000/v1 --config.caption.model=MODEL \
    --config.consistency.embedder=Alibaba-NLP/GVE-3B
"""

from data_synthesis.config import default_config


def get_config():
    return default_config()
