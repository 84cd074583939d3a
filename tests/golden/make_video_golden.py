"""Makes `video_golden.npz`: videos as transformers' own video processor cuts them.

    python -m venv /tmp/golden && /tmp/golden/bin/pip install torch==2.14.1 \
        torchvision==0.29.1 transformers==5.23.0 pillow
    /tmp/golden/bin/python tests/golden/make_video_golden.py

That processor needs torchvision, which does not import beside the torch of the test
extra: so it ran once, in 5.5 GB of its own, and its answers are kept here. The frames
are made anew from their seeds by the test. Stored are uint8 values: normalising them
again gives the processor's float32 to the last bit, which is checked below.
"""

import pathlib
from typing import NamedTuple

import numpy as np

GOLDEN = pathlib.Path(__file__).with_name("video_golden.npz")


class Case(NamedTuple):
    frames: int
    height: int
    width: int
    min_pixels: int
    max_pixels: int
    kind: str  # of `make_frames`


CASES = {
    "world": Case(8, 168, 168, 9 * 784, 9 * 784, "smooth"),
    "same_size": Case(2, 84, 84, 784, 9 * 784, "noise"),
    "odd_frames": Case(3, 144, 176, 784, 12 * 784, "noise"),
    "wide": Case(2, 90, 700, 784, 20 * 784, "noise"),
    "tall": Case(2, 611, 47, 784, 20 * 784, "edges"),
    "enlarged": Case(2, 30, 41, 12 * 784, 20 * 784, "edges"),
    "one_side": Case(2, 84, 200, 784, 20 * 784, "smooth"),
    "hd": Case(2, 720, 1280, 784, 40 * 784, "edges"),
    "hd_smooth": Case(2, 1080, 607, 784, 40 * 784, "smooth"),
}


def make_frames(case: Case) -> np.ndarray:
    """uint8 [frames, height, width, 3] from the numbers in `case` alone."""
    shape = (case.frames, case.height, case.width, 3)
    rng = np.random.default_rng(case.height * 10_007 + case.width)
    if case.kind == "noise":
        return rng.integers(0, 256, shape, dtype=np.uint8)
    if case.kind == "edges":  # black and white: overshoot beyond both ends
        return rng.integers(0, 2, shape, dtype=np.uint8) * np.uint8(255)
    t, y, x, c = np.ogrid[tuple(slice(0, n) for n in shape)]
    ramp = (7 * t + 2 * y + 3 * x * (c + 1) + (x * y) // 16) % 511
    return np.where(ramp > 255, 510 - ramp, ramp).astype(np.uint8)


def main() -> None:
    import torch
    from transformers.models.qwen2_vl.video_processing_qwen2_vl import (
        Qwen2VLVideoProcessor,
    )

    stored = {}
    for name, case in CASES.items():
        processor = Qwen2VLVideoProcessor(
            size={"shortest_edge": case.min_pixels, "longest_edge": case.max_pixels},
            cap_pixels_per_frame=False,
            do_sample_frames=False,
        )
        frames = make_frames(case)
        out = processor(videos=[frames], return_tensors="pt")
        values = out["pixel_values_videos"].reshape(-1, 3, 2, 14, 14)
        mean = torch.tensor(processor.image_mean).reshape(3, 1, 1, 1) * 255
        std = torch.tensor(processor.image_std).reshape(3, 1, 1, 1) * 255
        pixels = torch.round(values * std + mean).to(torch.uint8)
        again = (pixels.float() - mean) / std
        assert torch.equal(again, values), name
        stored[f"{name}_patches"] = pixels.reshape(len(pixels), -1).numpy()
        stored[f"{name}_grid"] = out["video_grid_thw"][0].numpy()
    np.savez_compressed(GOLDEN, **stored)
    print(f"{GOLDEN}: {GOLDEN.stat().st_size} bytes")


if __name__ == "__main__":
    main()
