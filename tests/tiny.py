"""A tiny data set and configuration for tests of the whole chain.

Twelve clips of a coloured square that moves one of two ways, captioned by colour and
direction: enough to learn from, small enough to train on in seconds.
"""

import itertools
import json
import pathlib

import av
import ml_collections
import numpy as np

from gve_jax.config import default_config

COLOURS = {
    "red": (220, 30, 30),
    "green": (30, 200, 30),
    "blue": (40, 40, 230),
    "yellow": (220, 220, 30),
    "white": (240, 240, 240),
    "purple": (150, 30, 200),
}


def write_video(path, colour=(255, 0, 0), moves_right=True, frames=12, size=56) -> None:
    """A square crossing a grey field; H.264, 8 frames a second."""
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", rate=8, options={"threads": "1"})
        stream.width = stream.height = size
        stream.pix_fmt = "yuv420p"
        for i in range(frames):
            step = i if moves_right else frames - 1 - i
            left = step * (size - 24) // (frames - 1)
            image = np.full((size, size, 3), 110, np.uint8)
            image[16:40, left : left + 24] = colour
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            out.mux(stream.encode(frame))
        out.mux(stream.encode())


def write_pairs(folder: pathlib.Path) -> pathlib.Path:
    """Writes T2V.jsonl (24 pairs with one negative each) and T2T.jsonl (12 pairs)."""
    folder.mkdir(parents=True, exist_ok=True)
    videos = []
    for name, right in itertools.product(COLOURS, (True, False)):
        file = f"{name}-{'right' if right else 'left'}.mp4"
        write_video(folder / file, COLOURS[name], right)
        videos.append((name, "right" if right else "left", file))
    rows, texts = [], []
    for i, (name, way, file) in enumerate(videos):
        other = videos[(i + 5) % len(videos)][2]
        for k, text in enumerate(
            (f"a {name} square goes {way}", f"something {name} moves to the {way}")
        ):
            rows.append(
                {
                    "id": f"{file}-{k}",
                    "query": {"text": text, "instruction": "Find the video."},
                    "target": {"video": file},
                    "negatives": [{"video": other}],
                    "source_id": file,
                }
            )
        texts.append(
            {
                "id": file,
                "query": {"text": f"a {name} square"},
                "target": {"text": f"{way} it goes, this {name} thing"},
                "source_id": file,
            }
        )
    for task, lines in (("T2V", rows), ("T2T", texts)):
        with open(folder / f"{task}.jsonl", "w", encoding="utf-8") as f:
            f.writelines(json.dumps(row) + "\n" for row in lines)
    return folder


def config(pairs, **changes) -> ml_collections.ConfigDict:
    """A two-block encoder on 56-pixel frames; `changes` are dotted keys."""
    c = default_config()
    c.data.pairs = str(pairs)
    c.data.batch_size = 8
    c.data.workers = 2
    c.data.shift = 3
    c.preprocess.vocab_size = 320
    c.preprocess.num_frames = 4
    c.preprocess.min_pixels = c.preprocess.max_pixels = 56 * 56
    c.preprocess.max_tokens = 256
    c.preprocess.token_buckets = (64, 128, 256)
    c.preprocess.exact_grids = ((2, 4, 4),)
    c.model.trainable = "all"
    c.model.vision.update(
        depth=2, hidden_size=16, intermediate_size=32, num_heads=2,
        fullatt_block_indexes=(1,),
    )  # fmt: skip
    c.model.text.update(
        num_hidden_layers=2, hidden_size=32, intermediate_size=48,
        num_attention_heads=2, num_key_value_heads=1, mrope_section=(2, 3, 3),
    )  # fmt: skip
    c.loss.temperature = 0.05
    c.optim.update(name="muon", peak_lr=3e-3, warmup_steps=2)
    c.train.update(steps=4, log_every=1, checkpoint_every=2, keep=2)
    c.embed.tokens = 512
    for key, value in changes.items():
        with c.unlocked():
            c.update_from_flattened_dict({key.replace("__", "."): value})
    return c
