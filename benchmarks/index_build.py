"""Time and peak memory of indexing one long video, and two as long as its half.

python -m benchmarks.index_build --minutes=60 --checkpoint=runs/quickstart/train

Renders a minute of 1280 x 720 at 30 frames a second, with cuts and slow camera moves,
repeats it (its packets are copied, so that an hour takes seconds), and runs the real
command on videos of several lengths. Memory is that of the command's process, of the
largest of its readers, and of all at once: none may grow with the length.
"""

import json
import pathlib
import shutil
import sys
import tempfile

import av
import numpy as np
from absl import app, flags
from PIL import Image

from benchmarks.synthesis_memory import measure
from gve_jax.index.store import open_index

_MINUTES = flags.DEFINE_list("minutes", ["6", "60"], "Lengths of the videos.")
_CHECKPOINT = flags.DEFINE_string("checkpoint", "runs/quickstart/train", "Of a model.")
_ARGUMENTS = flags.DEFINE_list("arguments", [], "More of them for `index build`.")
_RATE, _WIDTH, _HEIGHT = 30, 1280, 720


def write_minute(path: pathlib.Path) -> None:
    rng = np.random.default_rng(0)
    with av.open(str(path), "w") as out:
        options = {"preset": "veryfast", "crf": "23"}
        stream = out.add_stream("libx264", rate=_RATE, options=options)
        stream.width, stream.height, stream.pix_fmt = _WIDTH, _HEIGHT, "yuv420p"
        left = 60 * _RATE
        while left:
            ground = np.zeros((_HEIGHT + 160, _WIDTH + 160, 3))
            for size in (4, 16, 64, 256):  # from coarse to fine, as pictures are
                noise = rng.integers(0, 255, (size, 2 * size, 3), np.uint8)
                image = Image.fromarray(noise).resize(ground.shape[1::-1])
                ground += np.asarray(image) / 4
            ground = ground.astype(np.uint8)
            count = min(left, int(rng.integers(2 * _RATE, 9 * _RATE)))
            step = rng.uniform(-80, 80, 2) / count
            for k in range(count):
                y, x = (80 + k * step).astype(int)
                view = np.ascontiguousarray(ground[y : y + _HEIGHT, x : x + _WIDTH])
                frame = av.VideoFrame.from_ndarray(view, format="rgb24")
                out.mux(stream.encode(frame))
            left -= count
        out.mux(stream.encode())


def repeat(minute: pathlib.Path, path: pathlib.Path, times: int) -> None:
    """The packets of a minute, one after the other."""
    with av.open(str(path), "w") as out:
        stream = None
        for k in range(times):
            with av.open(str(minute)) as source:
                video = source.streams.video[0]
                stream = stream or out.add_stream_from_template(video)
                later = round(60 * k / video.time_base)
                for packet in source.demux(video):
                    if packet.dts is not None:
                        packet.pts += later
                        packet.dts += later
                        packet.stream = stream
                        out.mux(packet)


def main(_: list[str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = pathlib.Path(folder)
        write_minute(root / "minute.mp4")
        for minutes in map(int, _MINUTES.value):
            videos, index = root / str(minutes), root / f"{minutes}.index"
            videos.mkdir()
            repeat(root / "minute.mp4", videos / "long.mp4", minutes)
            command = [sys.executable, "-m", "gve_jax.index", "build", str(videos)]
            command += [f"--index={index}", f"--checkpoint={_CHECKPOINT.value}"]
            peak = measure([*command, *_ARGUMENTS.value])
            seconds = peak.pop("seconds")
            found = {
                "minutes": minutes,
                "MB": round((videos / "long.mp4").stat().st_size / 2**20),
                "vectors": len(open_index(index).items),
                "seconds": round(seconds, 1),
                "seconds of video a second": round(60 * minutes / seconds, 1),
                "peak MB": {name: round(value) for name, value in peak.items()},
            }
            print(json.dumps(found), flush=True)
            shutil.rmtree(videos)


if __name__ == "__main__":
    app.run(main)
