"""A run of made-up records up to stage `caption`, an embedder and a captioner for it.

Record i shows some words; its video, stills and clip have vectors of these, and its
captions say them. So it is known what matches what.
"""

import contextlib
import functools
import hashlib
import json
import pathlib
import types

import numpy as np

from data_synthesis import asking, pipelines, shards
from data_synthesis.asking import Answered, Session
from data_synthesis.captioners import choice
from data_synthesis.config import default_config
from data_synthesis.embedding import Client, Embedded
from data_synthesis.record import (
    Caption,
    CaptionSet,
    Failure,
    Generation,
    Group,
    Media,
    Record,
    Source,
    Text,
)
from data_synthesis.rectify import words_of
from data_synthesis.run import Run, open_run
from data_synthesis.shards import Key
from data_synthesis.stages.embed import Vector

DIM = 24
NOUNS = ["cat", "dog", "cow", "fox", "owl", "bee", "ant", "hen"]
VERBS = ["runs", "jumps", "sleeps", "swims", "climbs"]
PLACES = ["forest", "beach", "city", "garden", "house"]
_GENERATION = Generation("stub", "video.v1", "", "")


def said(i: int) -> tuple[str, str, str]:
    return NOUNS[i % 8], VERBS[i % 5], PLACES[i // 3 % 5]


def sha(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def vector(words) -> np.ndarray:
    """The sum of a random direction for each word that there is one for."""
    known = [w for w in words if w in {*NOUNS, *VERBS, *PLACES}] or ["nothing"]
    total = np.zeros(DIM)
    for word in known:
        seed = int.from_bytes(hashlib.sha256(word.encode()).digest()[:4])
        total += np.random.default_rng(seed).normal(size=DIM)
    return (total / np.linalg.norm(total)).astype(np.float32)


def shown(path: str) -> tuple[str, ...]:
    """Words of a media file, which its name has: videos/7.mp4, media/7-0.jpg."""
    noun, verb, place = said(int(pathlib.Path(path).stem.split("-")[0]))
    if path.endswith("clip.mp4"):
        return (noun,)
    return (noun, place) if path.endswith("jpg") else (noun, verb, place)


def embed(items) -> Embedded:
    rows = []
    for item in items:
        words = words_of(item.text or "")
        for path in filter(None, (item.image, item.video)):
            words += shown(path)
        if item.start:  # a part of a video is not the video
            words.append(PLACES[0])
        rows.append(vector(words))
    return Embedded(np.array(rows, np.float32), {})


class StubClient:
    def __init__(self):
        self.contract = {"weights_hash": "stub"}
        self.embed = embed


def captions(i: int, frame: bool = False) -> tuple[Caption, ...]:
    noun, verb, place = said(i)
    texts = {
        "1": f"a {noun} {'in' if frame else verb + ' in'} the {place}",
        "2": f"{'' if frame else verb + ' '}all over that {place} some big {noun}",
        "3": f"mood of one {place} where nothing but this {noun} lives and {verb}",
        "4": f"small {noun}, {place} today",
        "5": f"only the {noun} {verb}",
    }
    return tuple(Caption(s, t, len(t.split())) for s, t in texts.items())


def record(i: int, config) -> Record:
    duration = 12.0
    clip = Media("clip", f"media/{i}-clip.mp4", sha(f"clip {i}"), 1.0, 4.0 + i % 4)
    stills = tuple(
        Media("frame", f"media/{i}-{k}.jpg", sha(f"still {i} {k}"), 3.0 * k, 3.0 * k)
        for k in range(2)
    )
    sets = [("", captions(i))] + [(s.sha256, captions(i, True)) for s in stills]
    return Record(
        id=sha(f"record {i}")[:32],
        name=f"v{i}",
        source=Source(f"videos/{i}.mp4", sha(f"video {i}"), duration=duration),
        text=Text(" ".join(said(i)), " ".join(said(i))),
        media=(*stills, clip) if i % 6 else stills,
        group=Group(cluster=sha(f"cluster {i // 2 * 2 if i < 8 else i}")[:32]),
        caption_sets=tuple(
            CaptionSet(
                medium,
                found,
                "12345"[i % 5],
                {},
                "easy",
                "high school",
                _GENERATION,
            )
            for medium, found in sets
        ),
    )


def begin(
    root: pathlib.Path, number: int = 48, embedder: bool = True, caption=(), **extend
) -> tuple[Run, list[Record]]:
    """A run whose stages `caption` and `vectors` are there."""
    config = default_config()
    config.shard_size = 16
    config.consistency.embedder = "stub" if embedder else ""
    config.extend.splits = dict(train=0.7, validation=0.3)
    config.extend.pool = 10
    config.extend.update(extend)
    config.caption.update(dict(caption))
    lines = [{"id": f"v{i}", "video": f"videos/{i}.mp4"} for i in range(number)]
    root.mkdir(parents=True, exist_ok=True)
    (root / "raw.jsonl").write_text("".join(json.dumps(x) + "\n" for x in lines))
    run = open_run(config, root / "raw.jsonl", root / "out", False)
    records = [record(i, config) for i in range(number)]
    # One that had left before: it passes by.
    records[-1] = records[-1].leave("drop", "decide", "static")
    for each in records:
        for medium in each.media:
            path = run.layout.root / medium.path
            path.parent.mkdir(exist_ok=True)
            path.touch()
        path = root / each.source.uri
        path.parent.mkdir(exist_ok=True)
        path.touch()
    for shard in range(run.layout.shards):
        here = sorted(
            (r for r in records if run.layout.shard_of(r.id) == shard),
            key=lambda r: r.id,
        )
        vectors = [
            Vector(r.id, "video", vector(said(int(r.name[1:]))).tobytes())
            for r in here
            if embedder
        ]
        for stage, rows, kind in (
            ("caption", here, Record),
            ("vectors", vectors, Vector),
        ):
            key = Key(stage, 1, "", {})
            shards.write_shard(run.layout, key, shard, rows, kind)
    return run, [r for r in records if r.alive]


def answer(task) -> Answered:
    """What stands for a captioner; one request in ten fails."""
    request = task.request
    if int(request.id[:4], 16) % 10 == 0:
        failure = Failure(("json",), "not strict JSON", 3, request.id)
        return Answered({}, (), {}, 3, 30, 9, False, failure)
    _, verb, place = said(int(request.facts["name"][1:]))
    medium = "clip" if request.videos else "image"
    text = f"as in the reference {medium} but now it {verb} in the {place}"
    return Answered({"query": text}, (), {"query": 0}, 1, 10, 3, False, None)


def patch(monkeypatch) -> None:
    """The embedder and the captioner, for stages that run in this process."""

    @contextlib.contextmanager
    def session(run, stage, shard):
        stub = types.SimpleNamespace(id="stub", fingerprint="stub")
        made = functools.partial(asking.made_by, run, stub)
        yield Session(lambda tasks: [answer(task) for task in tasks], made)

    monkeypatch.setattr(asking, "session", session)
    monkeypatch.setattr(choice, "fingerprint", lambda config: "stub")
    monkeypatch.setattr(Client, "shared", classmethod(lambda cls, *a: StubClient()))


def go(run: Run, stages) -> int:
    """Runs stages as `pipelines.run` does, without Beam; how many shards were made."""
    made = 0
    for stage in stages:
        work = stage.work(run)
        for shard in pipelines.missing(work):
            work.run(work.layout, work.keys[shard], shard)
            made += 1
    return made
