"""UVRB-mini: sixteen datasets in UVRB's own layout, from the test side of the world."""

import json
import os
import shutil
from typing import NamedTuple

from data_synthesis.world import captions, groups
from data_synthesis.world.facts import Caption, satisfies
from data_synthesis.world.jobs import Clip, Job, Still, main_in_sight
from data_synthesis.world.plan import Plan
from data_synthesis.world.scene import Video, stream

TRIES = 6  # wordings tried for one that fits a single video


class Dataset(NamedTuple):
    """Rows of the three files. Media are paths below the dataset's folder."""

    name: str
    corpus: list[dict]
    queries: list[dict]
    instances: list[dict]


# Dataset -> (pool, form of caption, most positives a query should have).
TEXT_SETS = {
    "MSRVTT": ("web", "short", 1),
    "PEV-K": ("web", "keywords", 1),
    "CRB-G": ("care", "general", 1),
    "CRB-S": ("care", "spatial", 1),
    "CRB-T": ("care", "temporal", 1),
    "VDC-O": ("vdc", "object", 1),
    "VDC-D": ("vdc", "detailed", 1),
    "CMRB": ("camera", "camera", 3),
    "DiDeMo": ("moments", "moments", 1),
    "LoVR-V": ("long", "long", 1),
}
# Where the files of a pool lie; other datasets of the pool hold links to them.
HOMES = {
    "web": "MSRVTT",
    "care": "CRB-G",
    "vdc": "VDC-O",
    "camera": "CMRB",
    "moments": "DiDeMo",
    "long": "LoVR-V",
    "composed": "MS-TI",
}


def video_path(video: Video) -> str:
    return f"videos/{video.id}.mp4"


def clip_query(video: Video) -> tuple[str, int]:
    """(path of the clip query of a long video, the scene it shows)."""
    scene = stream(0, "c2v", video.id).randrange(len(video.scenes))
    return f"videos/queries/{video.id}.mp4", scene


def theme_clips(video: Video) -> list[tuple[str, int]]:
    """(path, scene) of the two clips of a long video in the theme corpus."""
    scenes = sorted(stream(0, "theme", video.id).sample(range(len(video.scenes)), 2))
    return [(f"videos/{video.id}/{video.id}-Scene-{k + 1:03d}.mp4", k) for k in scenes]


def make_jobs(plan: Plan, root: str) -> list[Job]:
    """What to render for evaluation: each video once, in its home dataset."""
    jobs = []
    for name, pool in plan.pools.items():
        for video in pool:
            stills, clips = [], []
            if name == "web":
                u = main_in_sight(video, 0, "i2v", plan.seed)
                path = f"{root}/MSRVTT-I2V/images/{video.id}.jpg"
                stills.append(Still(path, 0, u, video.id))
            if name == "long":
                path, scene = clip_query(video)
                path = f"{root}/LoVR-C2V/{path}"
                clips.append(Clip(path, scene, jitter=f"{video.id}/query"))
                for path, scene in theme_clips(video):
                    clips.append(Clip(f"{root}/LoVR-TH/{path}", scene))
            home = f"{root}/{HOMES[name]}/{video_path(video)}"
            jobs.append(Job(plan.seed, video, home, tuple(stills), tuple(clips)))
    for found in plan.groups:
        for video in found.candidates:
            jobs.append(Job(plan.seed, video, f"{root}/MS-TI/{video_path(video)}"))
        for video in found.references:
            still = Still(
                f"{root}/MS-TI/images/{video.id}.jpg",
                0,
                main_in_sight(video, 0, "reference", plan.seed),
                video.id,
            )
            path = f"{root}/MS-TV/videos/queries/{video.id}.mp4"
            jobs.append(Job(plan.seed, video, path, (still,)))
    return jobs


def make_datasets(plan: Plan) -> list[Dataset]:
    """All sixteen datasets."""
    found = [
        _text_set(plan, name, plan.pools[pool], form, most)
        for name, (pool, form, most) in TEXT_SETS.items()
    ]
    found += [
        _events(plan),
        _themes(plan),
        _images(plan),
        _clips(plan),
        _composed(plan, "MS-TI"),
        _composed(plan, "MS-TV"),
    ]
    return found


def write_datasets(datasets: list[Dataset], plan: Plan, root: str) -> list[str]:
    """Links shared videos and writes the three files of each dataset.

    Returns the paths of the files. Call it when all is rendered.
    """
    home_of = {}
    for name, pool in plan.pools.items():
        home_of |= {video_path(v): HOMES[name] for v in pool}
    for found in plan.groups:
        home_of |= {video_path(v): HOMES["composed"] for v in found.candidates}
    written = []
    for dataset in datasets:
        folder = f"{root}/{dataset.name}"
        os.makedirs(f"{folder}/jsonl", exist_ok=True)
        for row in dataset.corpus:
            path = f"{folder}/{row['video']}"
            if not os.path.exists(path):
                link(f"{root}/{home_of[row['video']]}/{row['video']}", path)
        for name in ("corpus", "queries", "instances"):
            path = f"{folder}/jsonl/{name}.jsonl"
            write_jsonl(path, getattr(dataset, name))
            written.append(path)
    return written


def link(source: str, path: str) -> None:
    """A hard link, or a copy where the file system has none."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    try:
        os.link(source, path)
    except OSError:
        shutil.copyfile(source, path + ".part")
        os.replace(path + ".part", path)


def write_jsonl(path: str, rows: list[dict]) -> None:
    """Writes rows as JSON lines, atomically."""
    part = path + ".part"
    with open(part, "w", encoding="utf-8") as f:
        for row in rows:
            f.write(json.dumps(row, ensure_ascii=False) + "\n")
    os.replace(part, path)


def _corpus(name: str, videos) -> tuple[list[dict], dict[str, str]]:
    """Corpus rows and video id -> corpus id."""
    rows = [
        {"id": f"{name}_corpus_{i}", "video": video_path(v)}
        for i, v in enumerate(videos)
    ]
    ids = {v.id: r["id"] for v, r in zip(videos, rows, strict=True)}
    return rows, ids


def _fitting(write, videos, most: int, rng) -> tuple[Caption, list[Video]]:
    """The wording of TRIES that fits fewest videos, and those videos."""
    best = None
    for _ in range(TRIES):
        caption = write(rng)
        positives = [v for v in videos if satisfies(v, caption.facts)]
        if best is None or len(positives) < len(best[1]):
            best = caption, positives
        if len(best[1]) <= most:
            break
    return best


def _text_rows(name: str, found, ids) -> tuple[list[dict], list[dict]]:
    """Queries and instances; equal texts become one query with all positives."""
    merged: dict[str, dict[str, None]] = {}
    for caption, positives in found:
        merged.setdefault(caption.text, {}).update(
            dict.fromkeys(ids[v.id] for v in positives)
        )
    queries, instances = [], []
    for i, (text, positives) in enumerate(merged.items()):
        qid = f"{name}_query_{i}"
        queries.append({"id": qid, "text": text})
        instances.append({"qid": qid, "pos": list(positives)})
    return queries, instances


def _text_set(plan, name, videos, form, most) -> Dataset:
    corpus, ids = _corpus(name, videos)
    found = []
    for video in videos:
        rng = stream(plan.seed, "query", name, video.id)
        found.append(
            _fitting(
                lambda r, video=video: captions.caption(video, form, r),
                videos,
                most,
                rng,
            )
        )
    return Dataset(name, corpus, *_text_rows(name, found, ids))


def _events(plan) -> Dataset:
    """DREAM-E: a query for each event of each video."""
    videos = plan.pools["care"]
    corpus, ids = _corpus("DREAM-E", videos)
    found = []
    for video in videos:
        scene = video.scenes[0]
        for k in range(min(2, len(scene.events))):
            rng = stream(plan.seed, "query", "DREAM-E", video.id, k)
            found.append(
                _fitting(
                    lambda r, scene=scene, k=k: captions.events(scene, r)[k],
                    videos,
                    1,
                    rng,
                )
            )
    return Dataset("DREAM-E", corpus, *_text_rows("DREAM-E", found, ids))


def _themes(plan) -> Dataset:
    """LoVR-TH: theme texts against clips of the long videos."""
    clips, paths = [], []
    for video in plan.pools["long"]:
        for path, scene in theme_clips(video):
            clips.append(
                Video(f"{video.id}/{scene}", "test", "clip", (video.scenes[scene],))
            )
            paths.append(path)
    corpus, ids = _corpus("LoVR-TH", clips)
    for row, path in zip(corpus, paths, strict=True):
        row["video"] = path
    found = []
    for clip in clips:
        rng = stream(plan.seed, "query", "LoVR-TH", clip.id)
        found.append(
            _fitting(
                lambda r, clip=clip: captions.caption(clip, "theme", r), clips, 2, rng
            )
        )
    return Dataset("LoVR-TH", corpus, *_text_rows("LoVR-TH", found, ids))


def _images(plan) -> Dataset:
    name = "MSRVTT-I2V"
    videos = plan.pools["web"]
    corpus, ids = _corpus(name, videos)
    queries, instances = [], []
    for i, video in enumerate(videos):
        # UVRB's image values are relative to images/.
        queries.append({"id": f"{name}_query_{i}", "image": f"{video.id}.jpg"})
        instances.append({"qid": f"{name}_query_{i}", "pos": [ids[video.id]]})
    return Dataset(name, corpus, queries, instances)


def _clips(plan) -> Dataset:
    name = "LoVR-C2V"
    videos = plan.pools["long"]
    corpus, ids = _corpus(name, videos)
    queries, instances = [], []
    for i, video in enumerate(videos):
        queries.append({"id": f"{name}_query_{i}", "video": clip_query(video)[0]})
        instances.append({"qid": f"{name}_query_{i}", "pos": [ids[video.id]]})
    return Dataset(name, corpus, queries, instances)


def _composed(plan, name) -> Dataset:
    """MS-TI and MS-TV: a reference and a text, ten candidates of which one fits."""
    medium = "image" if name == "MS-TI" else "clip"
    corpus, ids = _corpus(name, [v for g in plan.groups for v in g.candidates])
    queries, instances = [], []
    for number, found in enumerate(plan.groups):
        for look in range(groups.LOOKS):
            reference = found.references[look]
            for setting in range(groups.SETTINGS):
                rng = stream(plan.seed, "query", name, number, look, setting)
                text = groups.edit(found.group, look, setting, medium, rng)
                if not groups.is_unique(found.group, look, setting, text):
                    continue
                qid = f"{name}_query_{len(queries)}"
                row = {"id": qid, "text": text.text}
                if name == "MS-TI":
                    row["image"] = f"{reference.id}.jpg"
                else:
                    row["video"] = f"videos/queries/{reference.id}.mp4"
                queries.append(row)
                target = found.candidates[look * groups.SETTINGS + setting]
                candidates = [ids[v.id] for v in found.candidates]
                # The place in the list must not tell the answer.
                rng.shuffle(candidates)
                instances.append(
                    {"qid": qid, "pos": [ids[target.id]], "candidates": candidates}
                )
    return Dataset(name, corpus, queries, instances)
