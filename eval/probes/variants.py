"""Probes that change items: frames, parts of queries, instructions, wording."""

import dataclasses
from collections.abc import Callable, Iterable

from eval import uvrb
from eval.datasets import RetrievalSet
from eval.probes import wording
from eval.probes.records import NotRun, Subject, Variant
from gve_jax.preprocess.order import ORDERS
from gve_jax.types import Item, UserError


def frame_order(subject: Subject) -> dict[str, Variant]:
    """Frames of the corpus in another order; then those of query clips alone."""
    if subject.fixed_frames:
        raise NotRun(subject.fixed_frames)
    words = {
        "reversed": "frames run backwards",
        "shuffled": "frames are shuffled",
        "single": "the middle frame takes the place of all",
    }
    found = {}
    for side, name in (("corpus", "corpus"), ("queries", "query clips")):
        for order in ORDERS:

            def change(item: Item, order=order) -> Item:
                return item._replace(frame_order=order) if item.video else item

            sets = _changed(subject.sets, side, change)
            if sets:
                what = f"{name}: {words[order]}"
                found[f"{side} {order}"] = Variant(what, sets)
    if not found:
        raise NotRun("no item of these datasets is a video")
    return found


def query_parts(subject: Subject) -> dict[str, Variant]:
    """Composed queries without their image or clip, and without their text."""
    cut = dict.fromkeys(("image", "video", "start", "end"))
    composed = [
        data
        for data in subject.sets
        if any(q.text and (q.image or q.video) for q in data.queries)
    ]
    if not composed:
        raise NotRun("no dataset here has queries of text and media together")
    return {
        "text only": Variant(
            "composed queries without their image or clip",
            _changed(composed, "queries", lambda q: q._replace(**cut)),
        ),
        "media only": Variant(
            "composed queries without their text",
            _changed(composed, "queries", lambda q: q._replace(text=None)),
        ),
    }


def no_instruction(subject: Subject) -> dict[str, Variant]:
    """Queries without the sentence that names the task."""
    sets = _changed(subject.sets, "queries", lambda q: q._replace(instruction=None))
    if not sets:
        raise NotRun("no query of these datasets has an instruction")
    return {"none": Variant("queries without their instruction", sets)}


def wrong_instruction(subject: Subject) -> dict[str, Variant]:
    """Queries with the instruction of another dataset: the next with another one."""
    every = [d.instruction for d in uvrb.DATASETS.values()]
    found = []
    for data in subject.sets:
        own = next((q.instruction for q in data.queries if q.instruction), None)
        at = every.index(own) if own in every else 0
        later = [i for i in every[at:] + every[:at] if i and i != own]
        found += _changed(
            [data], "queries", lambda q, new=later[0]: q._replace(instruction=new)
        )
    return {
        "of another dataset": Variant(
            "queries with the instruction of the next dataset that has another",
            tuple(found),
        )
    }


def paraphrase(subject: Subject) -> dict[str, Variant]:
    """Texts of queries in other words: from a file, or by the world's own lexicon."""
    if subject.paraphrases is not None:
        sets = tuple(
            _reworded(data, subject.paraphrases[data.name])
            for data in subject.sets
            if data.name in subject.paraphrases
        )
        if not sets:
            raise NotRun("--paraphrases names none of these datasets")
        return {"file": Variant("texts of queries as in --paraphrases", sets)}
    if subject.world is None:
        raise NotRun(
            "no other wording of the queries is known: give --paraphrases=FILE, "
            '{"DATASET": {"query id": "text"}}'
        )
    sets = _changed(
        subject.sets,
        "queries",
        lambda q: q._replace(text=wording.reword(q.text)) if q.text else q,
    )
    if not sets:
        raise NotRun("no query of these datasets has a text")
    return {"world": Variant("other words of the world's lexicon, same facts", sets)}


def _changed(
    sets: Iterable[RetrievalSet], side: str, change: Callable[[Item], Item]
) -> tuple[RetrievalSet, ...]:
    """The sets with `change` done to one side; those that stay as they are left out."""
    found = []
    for data in sets:
        before = getattr(data, side)
        after = tuple(map(change, before))
        if after != before:
            found.append(dataclasses.replace(data, **{side: after}))
    return tuple(found)


def _reworded(data: RetrievalSet, texts: dict[str, str]) -> RetrievalSet:
    due = [q.id for q in data.queries if q.text]
    lacking = [i for i in due if not texts.get(i)]
    unknown = texts.keys() - set(due)
    if lacking or unknown:
        which = (
            f"no text for {lacking[0]!r}" if lacking else f"{min(unknown)!r} is none"
        )
        raise UserError(
            f"--paraphrases: {data.name}: {which} of its queries with a text "
            f"({len(lacking)} lacking, {len(unknown)} unknown): give all of them, or "
            "leave the dataset out"
        )
    queries = (q._replace(text=texts[q.id]) if q.text else q for q in data.queries)
    return dataclasses.replace(data, queries=tuple(queries))
