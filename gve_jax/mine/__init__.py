"""Hard negatives, mined with any embedder and audited."""

from gve_jax.mine.mining import Audit, Mined, MineOptions, mine
from gve_jax.mine.pool import Corpus, equal_files, media_paths
from gve_jax.mine.store import mine_to_folder, write_pairs

__all__ = [
    "Audit",
    "Corpus",
    "MineOptions",
    "Mined",
    "equal_files",
    "media_paths",
    "mine",
    "mine_to_folder",
    "write_pairs",
]
