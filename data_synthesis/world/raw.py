"""The raw side: noisy "web" annotations over some training videos, at known rates."""

import os
import random
import shutil
from typing import NamedTuple

from data_synthesis.world import captions
from data_synthesis.world import lexicon as lex
from data_synthesis.world.encode import write_bytes
from data_synthesis.world.facts import Caption, satisfies
from data_synthesis.world.jobs import Clip, Job
from data_synthesis.world.plan import Plan
from data_synthesis.world.scene import Video, stream
from data_synthesis.world.uvrb_mini import link

RAW_SHARE = 0.25  # raw records per training video
# Share of the records with each fault; the rest is clean. One fault a record.
RATES = {
    "wrong_text": 0.10,  # the caption of another video
    "title": 0.07,  # a title or file name: does not describe
    "tags": 0.05,
    "static": 0.06,  # a still picture as video, with a caption that fits it
    "truncated": 0.04,
    "empty": 0.02,  # zero bytes
    "duplicate": 0.06,  # the bytes of another record under another name
    "reencoded": 0.04,  # another record at another quality and crop
}
TITLES = (
    "My favorite video part {n}",
    "IMG_{n}.MOV",
    "Untitled project {n} final FINAL",
    "Episode {n} (official)",
    "best of {n} you won't believe this",
    "VID_2021_{n}",
    "Nature Channel HD - {n}",
    "Watch till the end!!! {n}",
)
TAGS = ("#fyp", "#viral", "#art", "#shapes", "#4k", "#asmr", "#animation", "#loop")


class Record(NamedTuple):
    """A raw record: `video` shows it, `noise` is its fault or "none".

    `text_of` is the video that the text belongs to ("" for no video at all), `original`
    the record repeated by a duplicate.
    """

    id: str
    video: Video
    text: str
    noise: str
    text_of: str
    original: str = ""

    @property
    def path(self) -> str:
        return f"videos/{self.id}.mp4"


def make_records(plan: Plan) -> list[Record]:
    """The raw records, in a fixed order."""
    rng = stream(plan.seed, "raw")
    count = max(20, round(len(plan.train) * RAW_SHARE))
    videos = rng.sample(plan.train, min(count, len(plan.train)))
    noises: list[str] = []
    for noise, rate in RATES.items():
        noises += [noise] * max(1, round(rate * count))
    noises += ["none"] * (count - len(noises))
    rng.shuffle(noises)
    # Duplicates need an earlier clean record, of a single scene for some.
    noises[noises.index("none")], noises[0] = noises[0], "none"
    single = next(i for i, v in enumerate(videos) if _fits(v, 1))
    videos[0], videos[single] = videos[single], videos[0]
    records: list[Record] = []
    for i, (video, noise) in enumerate(zip(videos, noises, strict=False)):
        own = stream(plan.seed, "raw", i)
        name, original = f"raw_{i:05d}", ""
        if noise in ("duplicate", "reencoded"):
            # A re-encoded record shows one scene: that must be all there is.
            most = 1 if noise == "reencoded" else 9
            first = own.choice(
                [r for r in records if r.noise == "none" and _fits(r.video, most)]
            )
            video, original = first.video, first.id
        text, text_of = _caption(video, own).text, video.id
        if noise == "wrong_text":
            text, text_of = _wrong(video, plan, own)
        elif noise == "title":
            title = own.choice(TITLES).replace("{n}", str(own.randrange(1000)))
            text, text_of = title, ""
        elif noise == "tags":
            text, text_of = " ".join(own.sample(TAGS, 4)), ""
        elif noise == "static":
            # Only what a still picture shows: no motion is claimed.
            about = captions.frame(video.scenes[0], 0.0, own)
            theme = own.choice(lex.THEMES[video.scenes[0].theme])
            text = about.text if about else f"A quiet scene {theme}."
        records.append(Record(name, video, text, noise, text_of, original))
    return records


def _fits(video: Video, most: int) -> bool:
    return len(video.scenes) <= most


def _wrong(video: Video, plan: Plan, rng: random.Random) -> tuple[str, str]:
    """(text, id of the video it tells of): a text that does not hold of `video`."""
    while True:
        other = rng.choice(plan.train)
        caption = _caption(other, rng)
        if not satisfies(video, caption.facts):
            return caption.text, other.id


def _caption(video: Video, rng: random.Random) -> Caption:
    form = "moments" if len(video.scenes) <= 3 else "long"
    if len(video.scenes) == 1:
        form = rng.choice(("short", "concise", "concise", "general", "partial"))
    return captions.caption(video, form, rng)


def make_jobs(plan: Plan, records: list[Record], folder: str) -> list[Job]:
    """Renders of their own: static and re-encoded records."""
    jobs = []
    for record in records:
        path = f"{folder}/{record.path}"
        if record.noise == "static":
            clip = Clip(path, 0, frozen=True)
        elif record.noise == "reencoded":
            clip = Clip(path, 0, jitter=record.id)
        else:
            continue
        jobs.append(Job(plan.seed, record.video, "", clips=(clip,)))
    return jobs


def place_files(records: list[Record], train: str, folder: str) -> None:
    """Links, cuts or empties the other records' files. Call it after rendering."""
    os.makedirs(f"{folder}/videos", exist_ok=True)
    for record in records:
        path = f"{folder}/{record.path}"
        source = f"{train}/videos/{record.video.id}.mp4"
        if os.path.exists(path):
            continue
        if record.noise == "empty":
            write_bytes(path, b"")
        elif record.noise == "truncated":
            with open(source, "rb") as f:
                data = f.read()
            share = 0.3 + 0.6 * (int(record.id[-5:]) % 10) / 10
            write_bytes(path, data[: int(len(data) * share)])
        elif record.noise == "duplicate":
            shutil.copyfile(source, path + ".part")
            os.replace(path + ".part", path)
        elif record.noise not in ("static", "reencoded"):
            link(source, path)
