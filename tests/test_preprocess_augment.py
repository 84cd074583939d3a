"""Random changes of training frames."""

import numpy as np

from gve_jax.preprocess.augment import random_shift


def test_all_frames_move_together_and_edges_repeat():
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 255, (3, 10, 12, 3), np.uint8)
    padded = np.pad(frames, ((0, 0), (2, 2), (2, 2), (0, 0)), mode="edge")
    windows = {
        (dy, dx): padded[:, dy : dy + 10, dx : dx + 12]
        for dy in range(5)
        for dx in range(5)
    }
    seen = set()
    for seed in range(300):
        moved = random_shift(frames, 2, np.random.default_rng(seed))
        seen |= {at for at, w in windows.items() if np.array_equal(w, moved)}
    assert seen == set(windows)  # every shift comes, and nothing else
    assert np.array_equal(random_shift(frames, 0, rng), frames)
