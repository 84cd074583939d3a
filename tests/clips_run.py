r"""Real clips through all stages of `data_synthesis`, with two captioners.

python -m tests.clips_run --output=runs/clips --embedder=runs/quickstart/train \
    [--more=FOLDER]

The local captioner has a generator of `memorise`; the server is a stand-in that
misbehaves until it is mended. Clips are those of `real_clips`, one of them once more in
another encoding, a file that is cut off, and those of a folder that `clip_texts` knows.
"""

import argparse
import collections
import json
import pathlib
import subprocess
import sys
import time
from typing import NamedTuple

import cv2

from data_synthesis.record import Record
from data_synthesis.shards import Layout, read_stage
from data_synthesis.tables import Pair, kept_pairs
from gve_jax import media
from tests import clip_texts, memorise, real_clips
from tests.stub_server import CUT, DRIP, HANG, OK, RESET, Server, serving

ROOT = pathlib.Path(__file__).parents[1]
FLAX, HTTP = "flax", "http"
DEADLINE = 6.0  # seconds of a request; a try that hangs has half of it


class Says(NamedTuple):
    """An answer of the server's own; `finish` as the interface has it."""

    text: str
    finish: str = "stop"


# (kind, subject) -> what the server does instead of answering: at first, and always.
ONCE = {
    ("video", "street"): ((429, {"Retry-After": "1"}, b"busy"), Says('{"1": "Cars, ')),
    ("video", "man"): (HANG,),
    ("frame", "street"): ((500, {}, b"oops"), CUT, (200, {}, b'{"choices": [{')),
    ("image_query", "street"): (RESET, (503, {}, b"")),
    ("image_query", "man"): (DRIP,),
    ("clip_query", "man"): (Says("Here it is: now he leans."),),
}
ALWAYS = {
    ("video", "rabbit"): Says("A rabbit, of which I could say more."),
    ("frame", "rabbit"): Says("", "content_filter"),
    ("frame", "man"): Says('{"1": "A still of', "length"),
    ("clip_query", "street"): (500, {}, b"oops"),
}


def asked(body: dict) -> tuple[str, str]:
    """(kind, subject) of what was sent to the server."""
    system, user = body["messages"]
    return clip_texts.asked(system["content"], user["content"][-1]["text"])


class Moody(Server):
    """Misbehaves until it is `mended`."""

    def __init__(self):
        super().__init__(self._reply)
        self.mended = False
        self._once = {key: list(faults) for key, faults in ONCE.items()}

    def _reply(self, body: dict) -> str:
        system, user = body["messages"]
        return clip_texts.reply(system["content"], user["content"][-1]["text"])

    def step(self, body: dict):
        if self.mended:
            return OK
        key = asked(body)
        with self.lock:
            once = self._once.get(key)
            fault = once.pop(0) if once else ALWAYS.get(key, OK)
        if isinstance(fault, Says):
            return 200, {}, self.completion(*fault)
        return fault


class Clips(NamedTuple):
    """A folder with raw.jsonl, videos/ and generator/."""

    root: pathlib.Path
    names: list[str]  # of `clip_texts.CLIPS`


def prepare(root: pathlib.Path, more: pathlib.Path | None = None) -> Clips:
    """Writes the clips and their texts, and the generator that knows them."""
    folder, files = root / "videos", {}
    folder.mkdir(parents=True)
    for name in real_clips.CLIPS:
        files[name] = real_clips.path(name, folder)
    files["bikes_again"] = real_clips.twin(files["bikes"], folder / "bikes_again.mp4")
    for path in sorted(more.iterdir()) if more else ():
        name = path.name.removesuffix(".mp4").replace(".", "_")
        if name in clip_texts.CLIPS:
            files[name] = folder / path.name
            files[name].write_bytes(path.read_bytes())
    stills = []
    for name, path in files.items():
        frame = media.read_video(str(path), 3).pixels[1]
        stills.append(root / f"{name}.png")
        cv2.imwrite(str(stills[-1]), cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))
    memorise.memorise(list(files), list(files.values()), stills, root / "generator")
    files["cut"] = folder / "cut.mp4"
    files["cut"].write_bytes(files["bikes"].read_bytes()[:200_000])
    rows = [
        {"id": name, "video": f"videos/{path.name}", "text": clip_texts.CLIPS[name][0]}
        for name, path in files.items()
    ]
    (root / "raw.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return Clips(root, list(files))


def synthesise(clips: Clips, name: str, captioner: list[str], *more: str) -> float:
    """One command over all stages, into the folder `name`; its seconds.

    Args:
      captioner: keys of `config.caption`, as "url=...".
      more: flags.
    """
    command = [
        sys.executable, "-m", "data_synthesis", "--config=configs/synthesis.py",
        f"--input={clips.root}/raw.jsonl", f"--output={clips.root}/{name}",
        "--config.consistency.frames=1", "--config.caption.temperature=0.0",
        f"--config.caption.deadline={DEADLINE}", "--config.extend.scale=1.0",
        "--config.extend.splits.train=1.0", "--config.extend.splits.validation=0.0",
        f"--config.caption.captioner={name}",
        *(f"--config.caption.{key}" for key in captioner), *more,
    ]  # fmt: skip
    start = time.monotonic()
    found = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=500
    )
    if found.returncode:
        raise RuntimeError(f"{name} ended with {found.returncode}: {found.stderr}")
    return time.monotonic() - start


def with_flax(clips: Clips, *more: str) -> float:
    captioner = [
        f"checkpoint={clips.root}/generator", "batch_size=4",
        f"flags={memorise.FLAGS!r}",
    ]  # fmt: skip
    return synthesise(clips, FLAX, captioner, *more)


def with_server(clips: Clips, url: str, *more: str) -> float:
    captioner = [f"url={url}", "model=stand-in", "key_variable=NO_SUCH_KEY"]
    return synthesise(clips, HTTP, captioner, *more)


def records(clips: Clips, name: str) -> dict[str, Record]:
    """By their names, as they are after the last stage of records."""
    layout = Layout(clips.root / name, 1)
    return {record.name: record for record in read_stage(layout, "select", Record)}


def pairs(clips: Clips, name: str) -> list[Pair]:
    """As stage `compose` leaves them."""
    return list(read_stage(Layout(clips.root / name, 1), "compose", Pair))


def fate(clips: Clips, name: str, clip: str) -> str:
    """What became of a clip, in a few words."""
    record = records(clips, name)[clip]
    if not record.alive:
        return f"{', '.join(record.decision.reasons)} ({record.decision.stage})"
    stills = record.caption_sets[1:]
    lost = sorted({code for s in stills if s.failure for code in s.failure.codes})
    kept = kept_pairs(Layout(clips.root / name, 1), 0)
    tasks = collections.Counter(p.task for p in kept if p.record == record.id)
    told = f"{sum(s.failure is None for s in stills)} of {len(stills)} stills captioned"
    told += f" ({', '.join(lost)})" if lost else ""
    return f"kept, {told}; {tasks.total()} pairs of {len(tasks)} tasks"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=pathlib.Path, required=True)
    parser.add_argument("--more", type=pathlib.Path, help="folder of further clips")
    parser.add_argument("--embedder", required=True, help="a checkpoint")
    flags = parser.parse_args()
    start = time.monotonic()
    clips = prepare(flags.output.absolute(), flags.more)
    embedder = f"--config.consistency.embedder={flags.embedder}"
    print(f"clips and generator: {time.monotonic() - start:.0f} s")
    told, seconds = {}, {}
    seconds[FLAX] = with_flax(clips, embedder)
    told[FLAX] = {clip: fate(clips, FLAX, clip) for clip in clips.names}
    server = Moody()
    with serving(server) as url:
        for when, more in (("bad", ()), ("mended", ("--retry_failed=all",))):
            server.mended, before = when == "mended", len(server.bodies)
            seconds[when] = with_server(clips, url, embedder, *more)
            told[when] = {clip: fate(clips, HTTP, clip) for clip in clips.names}
            print(f"{when} server: {len(server.bodies) - before} requests")
    print(
        "| clip | " + " | ".join(f"{n}, {s:.0f} s" for n, s in seconds.items()) + " |"
    )
    print("|---" * (1 + len(told)) + "|")
    for clip in clips.names:
        print(f"| {clip} | " + " | ".join(told[n][clip] for n in told) + " |")


if __name__ == "__main__":
    main()
