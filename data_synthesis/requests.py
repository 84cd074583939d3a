"""The four things that are asked of captioners, as tasks."""

import functools

from data_synthesis import prompts, validation
from data_synthesis.asking import Task
from data_synthesis.captioners.base import Medium, Request
from data_synthesis.record import Media, Record

# How a composed query's reference stands to its target, as the prompt says it.
IMAGE_RELATIONS = {
    "new_action": "the same thing does something else than in the image",
    "new_scene": "the same thing is in another place or setting",
    "negation": "the same thing, but something that the image shows is gone",
    "transfer": "another thing stands in the relation that the image shows",
}
CLIP_RELATIONS = {
    "continuation": "the video goes on where the clip ends",
    "viewpoint": "the same scene is seen from elsewhere",
    "quality": "the same scene in another light or picture quality",
    "action": "the same scene with a small change of the action",
}


def video(
    record: Record, medium: Medium, profile: dict[str, int], line: str,
    slots: tuple[str, str], settings,
) -> Task:  # fmt: skip
    """Five captions of a record's video.

    Args:
      medium: the video.
      profile: see `profiles.draw`; `line` is how the prompt says it.
      slots: readability and education level.
      settings: `config.caption`.
    """
    facts = {"name": record.name, **{part: str(n) for part, n in profile.items()}}
    return _captions("video", record.id, record, medium, facts, line, slots, settings)


def frame(
    record: Record, still: Media, medium: Medium, line: str, slots: tuple[str, str],
    settings,
) -> Task:  # fmt: skip
    """Five captions of a still of a record's video."""
    key = f"{record.id}/{still.sha256[:16]}"
    facts = {"name": record.name, "time": repr(still.start)}
    return _captions("frame", key, record, medium, facts, line, slots, settings)


def query(
    key: str, relation: str, reference: Medium, caption: str, facts: dict[str, str],
    settings, *, clip: bool,
) -> Task:  # fmt: skip
    """A composed query: a reference and a text that ask for a video together.

    Args:
      key: of the pair.
      relation: a key of IMAGE_RELATIONS or CLIP_RELATIONS.
      reference: an image, or a clip.
      caption: of the target.
      facts: "name" of the target's record, "reference" of the other's, and "time" of
        the still or middle of the clip, in seconds of the reference's video.
      settings: `config.caption`.
    """
    kind = "clip_query" if clip else "image_query"
    relations = CLIP_RELATIONS if clip else IMAGE_RELATIONS
    prompt = prompts.load(kind)
    text = prompt.fill(target_caption=caption, relation=relations[relation])
    request = _request(
        key, kind, prompt.system, text, reference, clip, validation.QUERY_SCHEMA,
        facts | {"relation": relation}, settings,
    )  # fmt: skip
    return Task(request, functools.partial(validation.query, clip=clip))


def _captions(kind, key, record, medium, facts, line, slots, settings) -> Task:
    readability, education = slots
    prompt = prompts.load(kind)
    text = prompt.fill(
        raw_caption=record.text.rectified,
        profile=line,
        readability=readability,
        education_level=education,
    )
    facts = facts | {"readability": readability, "education_level": education}
    request = _request(
        key, kind, prompt.system, text, medium, kind == "video",
        validation.CAPTION_SCHEMA, facts, settings,
    )  # fmt: skip
    check = functools.partial(
        validation.captions, frame=kind == "frame", raw=record.text.rectified
    )
    return Task(request, check)


def _request(key, kind, system, text, medium, moving, schema, facts, settings):
    return Request(
        id=key,
        kind=kind,
        system=system,
        prompt=text,
        videos=(medium,) if moving else (),
        images=() if moving else (medium,),
        schema=schema,
        facts=facts,
        seed=0,  # each attempt has its own
        max_tokens=settings.max_tokens,
        temperature=settings.temperature,
    )
