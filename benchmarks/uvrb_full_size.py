"""What a run over all of UVRB costs beside its embeddings: time and memory.

python -m benchmarks.uvrb_full_size --folder=runs/full_size

Makes datasets of the published counts (UVRB's own media are 490 GB): each video is a
link to one clip of 320 x 240 pixels and 15 s, as of MSR-VTT, and vectors are random,
those of queries near those of their answers. Then runs `python -m eval` on them, which
reads, ranks, scores, and writes rankings and the report with its frames. Datasets that
share videos share them here. MS-TI and MS-TV have a list of ten clips for each query.
"""

import fractions
import json
import os
import pathlib
import resource
import subprocess
import sys
import time

import av
import numpy as np
from absl import app, flags

from eval import uvrb
from gve_jax.disk import write_json, write_rows

_FOLDER = flags.DEFINE_string("folder", "runs/full_size", "Of all that is made.")
_DIM = flags.DEFINE_integer("dim", 2048, "Of the vectors.")
_NOISE = flags.DEFINE_float(
    "noise", 12.0, "Length added to queries, that of targets 1."
)

_LIMITS = 60, 4  # seconds and GiB that the project allows itself on two cores
_SHARED = {  # datasets of other datasets' videos
    **{"MSRVTT-I2V": "MSRVTT", "CRB-S": "CRB-G", "CRB-T": "CRB-G"},
    **{"VDC-D": "VDC-O", "LoVR-C2V": "LoVR-V", "MS-TV": "MS-TI"},
}


def write_clip(path: pathlib.Path) -> None:
    """A moving gradient, H.264."""
    with av.open(str(path), "w") as file:
        stream = file.add_stream("libx264", rate=fractions.Fraction(25))
        stream.width, stream.height, stream.pix_fmt = 320, 240, "yuv420p"
        for i in range(15 * 25):
            column = (np.arange(320) * 3 + 4 * i) % 256
            pixels = np.broadcast_to(column[None, :, None], (240, 320, 3))
            frame = av.VideoFrame.from_ndarray(pixels.astype(np.uint8), "rgb24")
            file.mux(stream.encode(frame))
        file.mux(stream.encode())


def write_dataset(facts: uvrb.Dataset, root: pathlib.Path, clip: pathlib.Path) -> int:
    """Rows, media and vectors of one dataset; returns its number of videos."""
    source = _SHARED.get(facts.name, facts.name)
    lists = facts.metric == "precision@1"
    n = facts.num_queries
    m = facts.num_corpus * (n if lists else 1)
    folder = root / "data" / facts.name
    videos = root / "data" / source / "videos"
    videos.mkdir(parents=True, exist_ok=True)
    if source != facts.name:
        folder.mkdir(parents=True)
        (folder / "videos").symlink_to(videos.absolute())
    for i in range(m):
        if not (videos / f"{i}.mp4").exists():
            os.link(clip, videos / f"{i}.mp4")
    (folder / "jsonl").mkdir(exist_ok=True)
    rng = np.random.default_rng(len(facts.name) + m)
    targets = np.arange(n) * 10 if lists else np.arange(n) % m
    write_rows(
        folder / "jsonl" / "corpus.jsonl",
        ({"id": f"c{i}", "video": f"{i}.mp4"} for i in range(m)),
    )
    words = " ".join(["word"] * int(facts.mean_query_words or 1))
    write_rows(
        folder / "jsonl" / "queries.jsonl",
        ({"id": f"q{i}", "text": f"{words} {i}"} for i in range(n)),
    )
    write_rows(
        folder / "jsonl" / "instances.jsonl",
        (
            {"qid": f"q{i}", "pos": [f"c{t}"]}
            | ({"neg": [f"c{t + j}" for j in range(1, 10)]} if lists else {})
            for i, t in enumerate(targets.tolist())
        ),
    )
    corpus = _unit(rng.standard_normal((m, _DIM.value), np.float32))
    noise = _unit(rng.standard_normal((n, _DIM.value), np.float32))
    for side, letter, rows in (
        ("corpus", "c", corpus),
        ("queries", "q", _unit(corpus[targets] + _NOISE.value * noise)),
    ):
        place = root / "vectors" / facts.name / side
        place.mkdir(parents=True)
        np.save(place / "embeddings.npy", rows)
        write_json(place / "ids.json", [f"{letter}{i}" for i in range(len(rows))])
    return m if source == facts.name else 0


def _unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def main(_) -> None:
    root = pathlib.Path(_FOLDER.value)
    if not (root / "made").exists():
        if root.exists():
            sys.exit(f"--folder={root}: half made, or something else: remove it")
        root.mkdir(parents=True)
        write_clip(root / "clip.mp4")
        made = [
            write_dataset(f, root, root / "clip.mp4") for f in uvrb.DATASETS.values()
        ]
        (root / "made").write_text(str(sum(made)))
    start = time.perf_counter()
    subprocess.run(
        [
            *(sys.executable, "-m", "eval", "--config=configs/uvrb.py"),
            *(f"--config.eval.root={root / 'data'}", f"--vectors={root / 'vectors'}"),
            f"--output={root / 'eval'}",
        ],
        check=True,
    )
    seconds = time.perf_counter() - start
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    results = json.loads((root / "eval" / "results.json").read_text())
    queries = sum(row["num_queries"] for row in results["datasets"].values())
    print(
        f"{(root / 'made').read_text()} videos, {queries} queries of {_DIM.value} "
        f"dimensions on {os.cpu_count()} cores:\n"
        f"{seconds:.1f} s (at most {_LIMITS[0]}), of all cores "
        f"{used.ru_utime + used.ru_stime:.1f} s; peak {used.ru_maxrss / 2**20:.2f} GiB "
        f"(at most {_LIMITS[1]})"
    )


if __name__ == "__main__":
    app.run(main)
