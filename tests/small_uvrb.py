"""Tiny datasets in UVRB's layout, and an embedder whose answers are known."""

import functools
import hashlib
import io
import json
import pathlib

import av
import numpy as np
from PIL import Image

from gve_jax import media
from gve_jax.contract import Contract
from gve_jax.embed import EmbedResult, EmbedStats
from gve_jax.types import Item

DIM = 16


def write_video(path: pathlib.Path, seed: int):
    """A square of a colour of its own that moves over a background of its own.

    Equal seeds give equal bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(_video(seed))


@functools.cache
def _video(seed: int, size: int = 48, frames: int = 8) -> bytes:
    rng = np.random.default_rng(seed)
    back, front = rng.integers(0, 256, (2, 3))
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as out:
        stream = out.add_stream("libx264", rate=8)
        stream.width = stream.height = size
        stream.pix_fmt = "yuv420p"
        for i in range(frames):
            pixels = np.empty((size, size, 3), np.uint8)
            pixels[:] = back
            x = 2 + i * (size - 20) // frames
            pixels[12:28, x : x + 16] = front
            out.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, "rgb24")))
        out.mux(stream.encode())
    return file.getvalue()


def write_rows(path: pathlib.Path, rows: list[dict | str]):
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [
        r if isinstance(r, str) else json.dumps(r, ensure_ascii=False) for r in rows
    ]
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def write_dataset(
    root: pathlib.Path, name: str, n: int = 4, kind: str = "text", videos=None
) -> pathlib.Path:
    """n videos and n queries, query i asking for video i; returns the folder.

    The word before the space in a text is what `FakeEmbedder` sees: `v<seed>`.
    """
    folder = root / name
    seeds = videos or range(n)
    corpus, queries, instances = [], [], []
    for i, seed in enumerate(seeds):
        write_video(folder / "videos" / f"v{seed}.mp4", seed)
        corpus.append({"id": f"{name}_corpus_{i}", "video": f"v{seed}.mp4"})
        query = {"id": f"{name}_query_{i}"}
        if "text" in kind:
            query["text"] = f"v{seed} is what I look for"
        if "image" in kind:
            query["image"] = f"q{seed}.png"
            (folder / "images").mkdir(exist_ok=True)
            pixels = np.full((20, 30, 3), 9 * seed % 256, np.uint8)
            Image.fromarray(pixels).save(folder / "images" / f"q{seed}.png")
        if "video" in kind:
            query["video"] = f"videos/q{seed}.mp4"
            write_video(folder / "videos" / f"q{seed}.mp4", 1000 + seed)
        queries.append(query)
        instances.append({"qid": query["id"], "pos": [corpus[i]["id"]]})
    write_rows(folder / "jsonl" / "corpus.jsonl", corpus)
    write_rows(folder / "jsonl" / "queries.jsonl", queries)
    write_rows(folder / "jsonl" / "instances.jsonl", instances)
    return folder


def Result(vectors, failures) -> EmbedResult:
    return EmbedResult(vectors, failures, EmbedStats(len(vectors), 0.0, 0, 0, 0))


class FakeEmbedder:
    """A unit vector per name: of the video's file stem or the text's first word.

    Items in `confused` get a vector of their own, so they are not found. Files of no
    bytes fail, as a decoder would.
    """

    def __init__(self, confused: set[str] = frozenset(), weights: str = "w"):
        self.contract = Contract(dim=DIM, weights_hash=weights, decoder=media.DECODER)
        self.dim = DIM
        self.confused = confused
        self.calls: list[list[Item]] = []

    @property
    def items(self) -> list[Item]:
        return [item for call in self.calls for item in call]

    def embed(self, items, desc="embed", progress=True):
        self.calls.append(list(items))
        vectors = np.full((len(items), DIM), np.nan, np.float32)
        failures = {}
        for i, item in enumerate(items):
            path = item.video or item.image
            if path and pathlib.Path(path).stat().st_size == 0:
                failures[i] = "empty file"
                continue
            name = pathlib.Path(path).stem if path else item.text.split()[0]
            if item.instruction:
                name = name.replace("q", "v")
                if name in self.confused:
                    name = f"confused {name}"
            seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:4])
            v = np.random.default_rng(seed).normal(size=DIM)
            vectors[i] = v / np.linalg.norm(v)
        return Result(vectors, failures)
