"""Training pairs of all modalities, in the pairs format.

Each caption carries the instruction of the UVRB dataset whose queries it resembles, so
that kinds of caption are told apart; media that are to be found carry none. In V2T and
I2T the media ask for their caption: hard negatives of text cost little to encode.
"""

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

from data_synthesis.world import captions, groups
from data_synthesis.world.facts import Caption
from data_synthesis.world.foils import foils
from data_synthesis.world.jobs import Clip, Job, Still, main_in_sight
from data_synthesis.world.plan import Plan
from data_synthesis.world.scene import Scene, Video, stream
from eval.uvrb import DATASETS

TASKS = (
    *("T2V", "T2T", "T2I", "I2V", "V2V", "TI2V", "TV2V", "I2I", "TI2I"),
    *("V2T", "I2T"),
)
# Form of a caption -> the dataset whose queries it resembles.
RESEMBLES = {
    "short": "MSRVTT",
    "concise": "MSRVTT",
    "rich": "CRB-G",
    "general": "CRB-G",
    "spatial": "CRB-S",
    "temporal": "CRB-T",
    "object": "VDC-O",
    "detailed": "VDC-D",
    "camera": "CMRB",
    "event": "DREAM-E",
    "partial": "DREAM-E",
    "theme": "LoVR-TH",
    "abstract": "LoVR-TH",
    "keywords": "PEV-K",
    "moments": "DiDeMo",
    "long": "LoVR-V",
}
OWN_INSTRUCTIONS = {
    "T2T": "Find another description of the described video.",
    "T2I": "Find the image that shows what is described.",
    "I2I": "Find another picture of the same scene.",
    "TI2I": "Find the image that corresponds to the given text and the given image.",
}
FOILS = 2  # false captions beside a true one
FOILED = 4  # captions of a video that come with foils; those of many words never do
FOILED_FORMS = [f for f in captions.SHORT_FORMS if captions.WORDS[f][1] <= 70]
GROUPS_TOGETHER = 8  # composed groups, of nine pairs each, that make a cluster


class Row(NamedTuple):
    """A line of TASK.jsonl."""

    task: str
    pair: dict


def instruction(form: str) -> str:
    return DATASETS[RESEMBLES[form]].instruction


def video_path(video: Video) -> str:
    return f"videos/{video.id}.mp4"


def jittered(video: Video) -> str:
    """A frame seen by another camera: what an image query shows."""
    return f"images/{video.id}_query.jpg"


def clean(video: Video) -> str:
    """A frame as it is: what an image target shows."""
    return f"images/{video.id}.jpg"


def clip_path(video: Video, index: int) -> str:
    return f"clips/{video.id}_{index}.mp4"


def clips_of(video: Video, number: int) -> list[Clip]:
    """The clips of a training video: of two scenes, or of a part of the only one."""
    rng_seed = f"{video.id}"
    count = len(video.scenes)
    if count > 1:
        rng = stream(0, "clips", rng_seed)
        chosen = sorted(rng.sample(range(count), 2))
        return [Clip(clip_path(video, k), k, jitter=f"{video.id}/{k}") for k in chosen]
    if number % 4:
        return []
    start = stream(0, "clips", rng_seed).uniform(0, 0.4)
    return [Clip(clip_path(video, 0), 0, start, start + 0.6, f"{video.id}/0")]


def frame_times(seed: int, video: Video) -> tuple[int, float, float]:
    """(scene, time of the query frame, time of the clean frame)."""
    index = stream(seed, "frame scene", video.id).randrange(len(video.scenes))
    return (
        index,
        main_in_sight(video, index, "query frame", seed),
        main_in_sight(video, index, "clean frame", seed),
    )


def make_jobs(plan: Plan, folder: str) -> list[Job]:
    """What to render for training, below `folder`."""
    jobs = []
    for number, video in enumerate(plan.train):
        scene, first, second = frame_times(plan.seed, video)
        stills = (
            Still(f"{folder}/{jittered(video)}", scene, first, video.id),
            Still(f"{folder}/{clean(video)}", scene, second),
        )
        clips = tuple(
            c._replace(path=f"{folder}/{c.path}") for c in clips_of(video, number)
        )
        path = f"{folder}/{video_path(video)}"
        jobs.append(Job(plan.seed, video, path, stills, clips))
    return jobs


def make_rows(plan: Plan) -> list[Row]:
    """All training pairs, in a fixed order."""
    rows = []
    for number, video in enumerate(plan.train):
        rows += _rows_of(plan.seed, video, number)
    for number, found in enumerate(plan.train_groups):
        rows += _composed(plan.seed, found, number)
    return rows


def video_captions(seed: int, video: Video) -> list[Caption]:
    """The captions of a training video, one of each form that fits it."""
    if len(video.scenes) == 1:
        (scene,) = video.scenes
        return [_worded(seed, video.id, f, scene) for f in captions.SHORT_FORMS]
    form = "moments" if len(video.scenes) <= 3 else "long"
    # Two wordings, since long videos are few.
    return [
        captions.caption(video, form, stream(seed, *key))
        for key in (("train", video.id, form), ("again", video.id))
    ]


def _worded(seed: int, name: str, form: str, scene: Scene) -> Caption:
    """The caption of the only scene of the video of that name, or a foil of it."""
    return captions.of_scene(scene, form, stream(seed, "train", name, form))


def _theme(video: Video) -> str:
    """What a cluster shares: a background, or being cut from several scenes."""
    return video.scenes[0].theme if len(video.scenes) == 1 else "several scenes"


def _pair(
    task: str,
    name: str,
    query: dict,
    target: dict,
    source: str,
    cluster: str,
    negatives: Sequence[dict] = (),
) -> Row:
    key = f"{task}/{name}"
    pair = {
        "id": key,
        "query": {"id": f"{key}/query", **query},
        "target": {"id": f"{key}/target", **target},
        "task": task,
        "source_id": source,
        "cluster": cluster,
    }
    if negatives:
        pair["negatives"] = [
            {"id": f"{key}/negative/{k}", **item} for k, item in enumerate(negatives)
        ]
    return Row(task, pair)


def _with_foils(
    seed: int,
    task: str,
    name: str,
    scene: Scene,
    write: Callable[[Scene], Caption],
    order: str,
) -> list[dict]:
    """The caption of a scene and false ones like it, as items."""
    texts = [write(scene).text]
    texts += foils(scene, write, FOILS, stream(seed, "foils", task, name))
    return [{"text": text, "instruction": order} for text in texts]


def _rows_of(seed: int, video: Video, number: int) -> list[Row]:
    rows = []
    told = video_captions(seed, video)
    theme = _theme(video)
    target = {"video": video_path(video)}
    for k, caption in enumerate(told):
        query = {"text": caption.text, "instruction": instruction(caption.form)}
        # Captions of a kind compete with their like: names of motions with names of
        # motions, not with whole descriptions.
        kind = RESEMBLES[caption.form]
        name = f"{video.id}/{caption.form}/{k}"
        rows.append(_pair("T2V", name, query, target, video.id, kind))
    if len(video.scenes) == 1:
        for form in stream(seed, "foiled", video.id).sample(FOILED_FORMS, FOILED):
            name = f"{video.id}/{form}"
            write = functools.partial(_worded, seed, video.id, form)
            true, *false = _with_foils(
                seed, "V2T", name, video.scenes[0], write, instruction(form)
            )
            kind = RESEMBLES[form]
            rows.append(_pair("V2T", name, target, true, video.id, kind, false))
    rng = stream(seed, "pairs", video.id)
    if len(video.scenes) == 1:
        # Two new wordings, so that T2V texts are not seen twice as often.
        forms = rng.sample([f for f in captions.SHORT_FORMS if f != "event"], 2)
    else:
        forms = ["moments" if len(video.scenes) <= 3 else "long"] * 2
    one, two = (captions.caption(video, f, rng) for f in forms)
    query = {"text": one.text, "instruction": OWN_INSTRUCTIONS["T2T"]}
    rows.append(_pair("T2T", video.id, query, {"text": two.text}, video.id, theme))

    rows += _frame_rows(seed, video)
    seen = {"image": jittered(video)}
    query = {**seen, "instruction": DATASETS["MSRVTT-I2V"].instruction}
    rows.append(_pair("I2V", video.id, query, target, video.id, theme))
    query = {**seen, "instruction": OWN_INSTRUCTIONS["I2I"]}
    image = {"image": clean(video)}
    rows.append(_pair("I2I", video.id, query, image, video.id, theme))
    for k, clip in enumerate(clips_of(video, number)):
        query = {"video": clip.path, "instruction": DATASETS["LoVR-C2V"].instruction}
        rows.append(_pair("V2V", f"{video.id}/{k}", query, target, video.id, theme))
    return rows


def _frame_rows(seed: int, video: Video) -> list[Row]:
    """The clean frame and its caption, either asking for the other."""
    index, _, time = frame_times(seed, video)
    scene = video.scenes[index]

    def write(scene: Scene) -> Caption | None:
        return captions.frame(scene, time, stream(seed, "frame caption", video.id))

    if write(scene) is None:
        return []
    image = {"image": clean(video)}
    true, *false = _with_foils(
        seed, "I2T", video.id, scene, write, OWN_INSTRUCTIONS["T2I"]
    )
    theme = _theme(video)
    return [
        _pair("T2I", video.id, true, image, video.id, theme),
        _pair("I2T", video.id, image, true, video.id, theme, false),
    ]


def _composed(seed: int, found, number: int) -> list[Row]:
    """All looks x settings of a group, as image-, clip- and still-composed pairs."""
    rows = []
    group = found.group
    for look in range(groups.LOOKS):
        reference = found.references[look]
        for setting in range(groups.SETTINGS):
            position = look * groups.SETTINGS + setting
            target = found.candidates[position]
            rng = stream(seed, "edit", target.id)
            # The same look elsewhere, and another look here.
            others = [
                look * groups.SETTINGS + (setting + 1) % groups.SETTINGS,
                (look + 1) % groups.LOOKS * groups.SETTINGS + setting,
            ]
            for task, medium, asked, media, shown in (
                ("TI2V", "image", "MS-TI", {"image": jittered(reference)}, video_path),
                ("TV2V", "clip", "MS-TV", {"video": video_path(reference)}, video_path),
                ("TI2I", "still", None, {"image": jittered(reference)}, clean),
            ):
                text = groups.edit(group, look, setting, medium, rng)
                order = DATASETS[asked].instruction if asked else OWN_INSTRUCTIONS[task]
                kind = "image" if task == "TI2I" else "video"
                if task == "TI2I" and not groups.is_unique(group, look, setting, text):
                    continue
                query = {"text": text.text, **media, "instruction": order}
                # A batch of whole groups holds every look in every setting.
                cluster = f"groups {number // GROUPS_TOGETHER:04d}"
                rows.append(
                    _pair(
                        task,
                        target.id,
                        query,
                        {kind: shown(target)},
                        target.id,
                        cluster,
                        [{kind: shown(found.candidates[other])} for other in others],
                    )
                )
    return rows
