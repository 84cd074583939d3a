"""`candidates`: all pairs that the records give, of all seven tasks.

Each record gives at least one row a task: where it has no pair, the row says why.
Composed ones have no text yet. Their reference is a still or clip of another video of
the same split that is described in some of the same phrases, so that it shows what the
target shows, in another way: what has nothing of it would add nothing to the text. For
a continuation it is a clip of the target's own video, of which then only what follows
the clip is the target.

What is compared is the records of one shard, a sample of all that its ids settle.
"""

import collections
import dataclasses
import functools
import itertools
import math
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from data_synthesis import draws, pipelines, shards
from data_synthesis.record import CaptionSet, Media, Record, read_table
from data_synthesis.rectify import tells, words_of
from data_synthesis.requests import CLIP_RELATIONS, IMAGE_RELATIONS
from data_synthesis.run import Run, Stage, key
from data_synthesis.shards import Key, Layout
from data_synthesis.splits import split_of
from data_synthesis.stages.select import usable
from data_synthesis.tables import File, Pair, Side, write_pairs
from data_synthesis.world.tasks import OWN_INSTRUCTIONS, instruction
from eval.uvrb import DATASETS

STAGE = Stage(
    "candidates",
    ("select",),
    ("seed", "clips", "extend.splits", "extend.neighbours"),
    version=2,
)
# Two captions that share more of their words make no pair.
SAME = 0.7
# Style -> the form of caption that asks for a video like it does.
FORMS = {"1": "concise", "2": "rich", "3": "abstract", "4": "keywords", "5": "partial"}
ORDERS = {
    "I2V": DATASETS["MSRVTT-I2V"].instruction,
    "V2V": DATASETS["LoVR-C2V"].instruction,
    "TI2V": DATASETS["MS-TI"].instruction,
    "TV2V": DATASETS["MS-TV"].instruction,
    "T2I": OWN_INSTRUCTIONS["T2I"],
    "T2T": OWN_INSTRUCTIONS["T2T"],
}
# Parts of a second by which the times of cuts are rounded.
_SLACK = 1e-3


def work(run: Run) -> pipelines.Work:
    keys = tuple(
        key(run, STAGE, shards.input_hashes(run.layout, shard, STAGE.inputs))
        for shard in range(run.layout.shards)
    )
    return pipelines.Work(run.layout, keys, functools.partial(_shard, run))


def _shard(run: Run, layout: Layout, key: Key, shard: int) -> None:
    rows = read_table(layout.table("select", shard), Record)
    pairs = candidates([r for r in rows if r.alive], run.config)
    write_pairs(layout, key, shard, list(pairs))


def candidates(records: list[Record], config) -> Iterator[Pair]:
    """Pairs of the records of one shard, in the order of their ids."""
    shares = config.extend.splits
    splits = {r.id: split_of(config.seed, cluster_of(r), shares) for r in records}
    number = config.extend.neighbours
    near = {
        role: references(records, splits, role, number) for role in ("frame", "clip")
    }
    for record in records:
        maker = _Maker(record, splits[record.id], config)
        yield maker.text_to_video()
        yield from maker.from_stills()
        yield maker.from_clip()
        yield maker.text_to_text()
        yield maker.image_composed(near["frame"][record.id])
        yield maker.clip_composed(near["clip"][record.id])


def cluster_of(record: Record) -> str:
    return record.group.cluster or record.id


def video_file(record: Record) -> File:
    """The video of a record, repaired if it had to be."""
    for medium in record.media:
        if medium.role == "video":
            return File(medium.path, medium.sha256)
    return File(record.source.uri, record.source.sha256, raw=True)


def of_role(record: Record, role: str) -> list[Media]:
    return [medium for medium in record.media if medium.role == role]


def captions_of(record: Record, media: str = "") -> CaptionSet | None:
    """Those of the video, or of the still of that hash."""
    return next((s for s in record.caption_sets if s.media == media), None)


def selected(found: CaptionSet | None) -> tuple[str, str]:
    """(style, text) of the caption that asks; ("", "") if there is none."""
    for caption in found.captions if found else ():
        if caption.style == found.selected:
            return caption.style, caption.text
    return "", ""


def jaccard(one: str, two: str) -> float:
    """Shared words of all words of two texts."""
    a, b = set(words_of(one)), set(words_of(two))
    return len(a & b) / max(len(a | b), 1)


class Reference(NamedTuple):
    """A still or clip that a composed query shows."""

    record: Record
    medium: Media


def references(
    records: list[Record], splits: Mapping[str, str], role: str, number: int
) -> dict[str, list[Reference]]:
    """The media of a role that share the most telling phrases with each record.

    Telling by their inverse frequency among the media; equals in the order of the
    records. None is of another split, of the same source or of the same cluster. What
    shares nothing only serves where nothing else is there.

    Returns:
      id -> up to `number` media, the nearest first.
    """
    media = [Reference(r, m) for r in records for m in of_role(r, role)]
    having = collections.defaultdict(list)
    for place, found in enumerate(media):
        for phrase in phrases_shown(found):
            having[phrase].append(place)
    result = {}
    for record in records:
        shared: collections.Counter[int] = collections.Counter()
        for phrase in phrases(record) & having.keys():
            # Whole numbers: sums of them are exact in any order.
            weight = round(1000 * math.log(len(media) / len(having[phrase])))
            shared.update(dict.fromkeys(having[phrase], weight))
        allowed = [
            place
            for place, found in enumerate(media)
            if splits[found.record.id] == splits[record.id]
            and cluster_of(found.record) != cluster_of(record)
            and found.record.source.sha256 != record.source.sha256
        ]
        near = [place for place in allowed if shared[place] > 0]
        near.sort(key=lambda place: -shared[place])
        if not near:
            near = sorted(allowed, key=lambda p: draws.identity(record.id, p))
        result[record.id] = [media[place] for place in near[:number]]
    return result


def phrases(record: Record) -> set[str]:
    """Those of a record that name what its video shows."""
    captions = captions_of(record)
    return {*_phrases(captions), *_pairs(record.text.rectified)}


def phrases_shown(found: Reference) -> set[str]:
    """Those of a still, or of all stills of a clip's video; without captions of these,
    those of the video."""
    sets = [s for s in found.record.caption_sets if s.media]
    if found.medium.role == "frame":
        sets = [s for s in sets if s.media == found.medium.sha256]
    if not sets:
        return phrases(found.record)
    return {phrase for captions in sets for phrase in _phrases(captions)}


def _phrases(found: CaptionSet | None) -> Iterator[str]:
    """Of the captions that name what there is: the summary and the keywords."""
    for caption in usable(found.captions) if found else ():
        if caption.style in ("1", "4"):
            yield from _pairs(caption.text)


def _pairs(text: str) -> Iterator[str]:
    """Neighbouring words that each tell something: "red ball", "old man"."""
    for one, two in itertools.pairwise(words_of(text)):
        if tells(one) and tells(two):
            yield f"{one} {two}"


class _Maker:
    """Makes the pairs whose target is of one record."""

    def __init__(self, record: Record, split: str, config):
        self._record, self._split, self._config = record, split, config
        self._video = Side(video=video_file(record))

    def text_to_video(self) -> Pair:
        style, text = selected(captions_of(self._record))
        if not text:
            return self._none("T2V", "no_caption")
        query = Side(text, instruction=instruction(FORMS[style]))
        return self._pair("T2V", "", query, self._video, style=style)

    def from_stills(self) -> Iterator[Pair]:
        """Of each still: it asks for its video, and its caption asks for it."""
        stills = of_role(self._record, "frame")
        if not stills:
            yield self._none("I2V", "no_still")
            yield self._none("T2I", "no_still")
        for still in stills:
            image = File(still.path, still.sha256)
            query = Side(image=image, instruction=ORDERS["I2V"])
            yield self._pair("I2V", still.sha256, query, self._video)
            style, text = selected(captions_of(self._record, still.sha256))
            if not text:
                yield self._none("T2I", "no_caption", still.sha256)
                continue
            query, target = Side(text, instruction=ORDERS["T2I"]), Side(image=image)
            yield self._pair("T2I", still.sha256, query, target, style=style)

    def from_clip(self) -> Pair:
        clips = of_role(self._record, "clip")
        if not clips:
            return self._none("V2V", "no_clip")
        clip = clips[0]
        query = Side(video=File(clip.path, clip.sha256), instruction=ORDERS["V2V"])
        pair = self._pair("V2V", clip.sha256, query, self._video)
        if clip.sha256 in (self._video.video.sha256, self._record.source.sha256):
            return pair.leave("drop", STAGE.name, "same_file")
        longest = self._config.clips.max_share * self._record.source.duration
        if clip.end - clip.start > longest + _SLACK:
            return pair.leave("drop", STAGE.name, "clip_too_long")
        return pair

    def text_to_text(self) -> Pair:
        """Two captions of the video that do not ask for it elsewhere."""
        found = captions_of(self._record)
        captions = usable(found.captions) if found else []
        free = [c for c in captions if c.style != found.selected]
        if len(free) < 2:
            return self._none("T2T", "few_captions")
        pairs = [
            (one, two)
            for one, two in itertools.permutations(free, 2)
            if jaccard(one.text, two.text) < SAME
        ]
        if not pairs:
            return self._none("T2T", "too_similar")
        one, two = self._drawn("T2T", pairs)
        query = Side(one.text, instruction=ORDERS["T2T"])
        return self._pair("T2T", "", query, Side(two.text), style=one.style)

    def image_composed(self, near: list[Reference]) -> Pair:
        if not near:
            return self._none("TI2V", "no_reference")
        found = self._drawn("reference frame", near)
        image = File(found.medium.path, found.medium.sha256)
        query = Side(image=image, instruction=ORDERS["TI2V"])
        relation = self._drawn("TI2V", sorted(IMAGE_RELATIONS))
        return self._composed("TI2V", query, self._video, found, relation)

    def clip_composed(self, near: list[Reference]) -> Pair:
        relations = sorted(CLIP_RELATIONS)
        relation = self._drawn("TV2V", relations)
        found, target = None, self._video
        if relation == "continuation":
            found, target = self._continued()
            if found is None:
                relations.remove(relation)
                relation = self._drawn("TV2V again", relations)
        if found is None:
            if not near:
                return self._none("TV2V", "no_reference")
            found, target = self._drawn("reference clip", near), self._video
        clip, limits = found.medium, self._config.clips
        query = Side(video=File(clip.path, clip.sha256), instruction=ORDERS["TV2V"])
        pair = self._composed("TV2V", query, target, found, relation)
        shortest, longest = limits.min_seconds - _SLACK, limits.max_seconds + _SLACK
        if not shortest <= clip.end - clip.start <= longest:
            return pair.leave("drop", STAGE.name, "clip_length")
        return pair

    def _continued(self) -> tuple[Reference | None, Side]:
        """The own clip, and what follows it if that is long enough."""
        record, clips = self._record, of_role(self._record, "clip")
        ahead = self._config.clips.min_seconds
        if not clips or record.source.duration - clips[0].end < ahead:
            return None, self._video
        # No frame of the clip may be in the target: from the next millisecond on.
        start = math.ceil(clips[0].end * 1000) / 1000
        target = dataclasses.replace(self._video, start=start)
        return Reference(record, clips[0]), target

    def _drawn(self, purpose: str, choices: list):
        place = draws.uniform(self._config.seed, self._record.id, purpose)
        return choices[int(place * len(choices))]

    def _composed(
        self, task: str, query: Side, target: Side, found: Reference, relation: str
    ) -> Pair:
        medium = found.medium
        slot = f"{found.record.id}/{medium.sha256}/{relation}"
        pair = self._pair(task, slot, query, target)
        if medium.sha256 in (self._video.video.sha256, self._record.source.sha256):
            pair = pair.leave("drop", STAGE.name, "same_file")
        return dataclasses.replace(
            pair,
            reference=found.record.id,
            reference_source=found.record.source.sha256,
            reference_cluster=cluster_of(found.record),
            relation=relation,
            time=(medium.start + medium.end) / 2,
        )

    def _pair(self, task: str, slot: str, query: Side, target: Side, style="") -> Pair:
        """`slot`: which of a record's pairs of the task it is."""
        name = draws.identity(self._record.id, task, slot)
        return Pair(
            id=name,
            task=task,
            split=self._split,
            query=query,
            target=target,
            record=self._record.id,
            source=self._record.source.sha256,
            cluster=cluster_of(self._record),
            order=draws.uniform(self._config.seed, name, "quota"),
            style=style,
        )

    def _none(self, task: str, reason: str, slot: str = "") -> Pair:
        pair = self._pair(task, slot, Side(), Side())
        return pair.leave("drop", STAGE.name, reason)
