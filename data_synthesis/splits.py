"""Splits by source and duplicates: what repeats each other is never in two of them."""

from collections.abc import Mapping

from data_synthesis import draws
from gve_jax.types import UserError


def split_of(seed: int, cluster: str, shares: Mapping[str, float]) -> str:
    """The split of all records of a cluster of duplicates.

    Args:
      cluster: the smallest id among the duplicates.
      shares: split -> its share of the clusters.

    Raises:
      UserError: the shares do not sum to one, or one is negative.
    """
    if abs(sum(shares.values()) - 1) > 1e-6 or min(shares.values()) < 0:
        raise UserError(
            f"config.extend.splits={dict(shares)}: shares from 0 that sum to 1 are due"
        )
    place, seen = draws.uniform(seed, cluster, "split"), 0.0
    for name in sorted(shares):
        seen += shares[name]
        if place < seen:
            return name
    return max(shares, key=lambda name: shares[name])  # sums may end just below one
