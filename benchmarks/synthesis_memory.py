"""Peak memory of a synthesis as its input grows tenfold; shards stay of one size.

python -m benchmarks.synthesis_memory --records=200 --output=runs/synthesis_memory

Makes small distinct videos, runs the stages up to `assets` and the report by the real
command, and samples the resident memory of its process and of those below it.
"""

import json
import os
import pathlib
import shutil
import subprocess
import sys
import time

import numpy as np
from absl import app, flags

from data_synthesis.world.encode import write_video

_RECORDS = flags.DEFINE_integer("records", 200, "Of the small input.")
_OUTPUT = flags.DEFINE_string("output", "runs/synthesis_memory", "Folder; made anew.")
_SHARD = flags.DEFINE_integer("shard_size", 100, "Records of a shard.")

STAGES = "ingest,benchmark,qc,links,texts,groups,embed,nearest,decide,assets,report"
_WATCH_S = 0.1


def write_input(folder: pathlib.Path, number: int) -> None:
    """Videos of 12 frames, 128 x 128, in which a square moves over a random ground."""
    folder.mkdir(parents=True)
    rows = []
    for i in range(number):
        rng = np.random.default_rng(i)
        ground = np.kron(rng.integers(60, 200, (8, 8, 3)), np.ones((16, 16, 1)))
        frames = []
        for t in range(12):
            frame = ground.astype(np.uint8)
            frame[40:72, 4 + 7 * t : 36 + 7 * t] = rng.integers(0, 256, 3)
            frames.append(frame)
        write_video(str(folder / f"{i}.mp4"), frames)
        text = f"a square of many colours slides over ground number {i}"
        rows.append({"id": str(i), "video": f"{i}.mp4", "text": text})
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / "raw.jsonl").write_text(lines)


def measure(command: list[str]) -> dict[str, float]:
    """Runs it; peak MB of its process, of the largest below it, of all at once."""
    peak = {"own": 0.0, "largest child": 0.0, "together": 0.0}
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    while process.poll() is None:
        found = _resident(process.pid)
        below = [mb for pid, mb in found.items() if pid != process.pid]
        now = (
            found.get(process.pid, 0.0),
            max(below, default=0.0),
            sum(found.values()),
        )
        peak = {k: max(v, n) for (k, v), n in zip(peak.items(), now, strict=True)}
        time.sleep(_WATCH_S)
    if process.returncode:
        sys.exit(f"{' '.join(command)}: exit code {process.returncode}")
    return peak | {"seconds": time.perf_counter() - start}


def _resident(root: int) -> dict[int, float]:
    """MB of a process and of all below it, by pid."""
    parents, sizes = {}, {}
    for folder in pathlib.Path("/proc").glob("[0-9]*"):
        try:
            stat = (folder / "stat").read_text().rsplit(")", 1)[1].split()
            pages = int((folder / "statm").read_text().split()[1])
        except OSError:  # it ended
            continue
        parents[int(folder.name)] = int(stat[1])
        sizes[int(folder.name)] = pages * os.sysconf("SC_PAGE_SIZE") / 2**20
    found = {root}
    while more := {p for p, parent in parents.items() if parent in found} - found:
        found |= more
    return {pid: sizes[pid] for pid in found if pid in sizes}


def main(_: list[str]) -> None:
    root = pathlib.Path(_OUTPUT.value)
    shutil.rmtree(root, ignore_errors=True)
    for number in (_RECORDS.value, 10 * _RECORDS.value):
        raw = root / f"raw_{number}"
        write_input(raw, number)
        peak = measure([
            sys.executable, "-m", "data_synthesis", "--config=configs/synthesis.py",
            f"--input={raw}/raw.jsonl", f"--output={root}/out_{number}",
            f"--config.shard_size={_SHARD.value}", f"--stages={STAGES}",
            "--config.clips.min_seconds=0.5",
        ])  # fmt: skip
        shown = ", ".join(f"{name} {value:.0f}" for name, value in peak.items())
        print(f"{number:6d} records: {shown}", flush=True)


if __name__ == "__main__":
    app.run(main)
