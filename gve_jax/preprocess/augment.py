"""Random changes of training frames that no caption speaks of. NumPy only."""

import numpy as np


def random_shift(frames: np.ndarray, most: int, rng: np.random.Generator) -> np.ndarray:
    """The frames moved together by up to `most` pixels along each axis.

    Vision transformers know nothing of translation: an object that always lies in the
    same way across the patch borders is learned by heart. What comes in at an edge
    repeats the edge.

    Args:
      frames: uint8 [n, h, w, 3].
      most: pixels, at least 0 and below h and w.
    """
    for axis in (1, 2):
        size = frames.shape[axis]
        places = np.arange(size) - rng.integers(-most, most + 1)
        frames = frames.take(np.clip(places, 0, size - 1), axis)
    return frames
