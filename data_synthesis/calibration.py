"""Where a cosine stops to tell that two things belong together."""

import numpy as np


def calibrated(own: np.ndarray, other: np.ndarray, config) -> dict:
    """A threshold, from the cosines of pairs and of shuffled pairs.

    The threshold is a percentile of the shuffled ones. With an AUROC under `min_auroc`,
    or under 50 pairs, `filter` is false: such an embedder tells nothing. Whoever sets
    `tau` has seen that: it is applied all the same.

    Args:
      own, other: float [n].
      config: `config.consistency`.
    """
    given = {"filter": True, "why": "", "tau": float(config.tau)}
    given = given if config.tau > -2 else {}
    if len(own) < 50:
        why = f"{len(own)} pairs to calibrate with, under 50"
        return {"filter": False, "why": why} | given
    order = np.sort(other)
    below = np.searchsorted(order, own, "left") + np.searchsorted(order, own, "right")
    auroc = float(np.mean(below / (2 * len(other))))
    enough = auroc >= config.min_auroc
    return {
        "filter": enough,
        "why": "" if enough else f"AUROC {auroc:.3f}, under {config.min_auroc}",
        "auroc": auroc,
        "tau": float(np.percentile(other, config.percentile)),
        "pairs": len(own),
        "own": np.percentile(own, range(0, 101, 5)).tolist(),
        "other": np.percentile(other, range(0, 101, 5)).tolist(),
    } | given
