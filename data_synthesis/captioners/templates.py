"""The five captions of a scene graph, or of one moment of it, from templates."""

import random
from collections.abc import Callable, Mapping

from data_synthesis import profiles, validation
from data_synthesis.validation import STYLES
from data_synthesis.world import captions, motion
from data_synthesis.world import lexicon as lex
from data_synthesis.world import scene as graph
from data_synthesis.world.grammar import Sentence, Teller, capital, listing, pick
from data_synthesis.world.stories import PLANS, compose

_TRIES = 200
# Of two neighbouring sentences, how often they become one, by reading level.
_JOINED = (0.0, 0.2, 0.4, 0.6, 0.75)
_EASY_JOINTS = ("; ", "; also, ")
_HARD_JOINTS = ("; moreover, ", "; in addition, ", "; furthermore, ")
# Such a sentence says itself how it goes on.
_GOES_ON = ("Then", "After", "Later", "Next", "First", "It", "Its", "Before")
# Scenes of a video that the rich caption tells, at most.
_MOST_SCENES = 3
_FORMS = {"1": "concise", "3": "abstract", "4": "keywords", "5": "partial"}

Pools = dict[str, list[Sentence]]


class Untold(Exception):
    """No text that passes the validation was found in many tries."""


def of_video(
    video: graph.Video, shares: Mapping[str, float], level: int, rng: random.Random
) -> dict[str, str]:
    """Five captions that pass the validation.

    Args:
      shares: of `profiles.PARTS`, for the rich caption.
      level: of reading, 0 to 4: how many sentences become one.

    Raises:
      Untold: none were found; so does `of_still`.
    """

    def write(style: str) -> str:
        if style == "2":
            return _rich(video, shares, rng)
        scene = rng.choice(video.scenes)
        return captions.of_scene(scene, _FORMS[style], rng).text

    return _valid(write, level, rng, frame=False)


def of_still(
    scene: graph.Scene, u: float, level: int, rng: random.Random
) -> dict[str, str]:
    """Five captions of the moment u of a scene: what is visible, nothing that moves."""
    still = _Still(scene, u, rng)
    writers = {
        "1": still.concise, "2": still.rich, "3": still.abstract,
        "4": still.keywords, "5": still.partial,
    }  # fmt: skip
    return _valid(lambda style: writers[style](), level, rng, frame=True)


def seen(scene: graph.Scene, u: float) -> list[tuple[int, float, float]]:
    """(thing, x, y in the view) of all that is in sight, the main thing first."""
    found = []
    for i in range(len(scene.things)):
        state = motion.state(scene, i, u)
        x, y = motion.to_view(scene, state.x, state.y, u)
        if state.alpha > 0.6 and 8 < x < graph.VIEW - 8 and 8 < y < graph.VIEW - 8:
            found.append((i, x, y))
    return found


def _valid(
    write: Callable[[str], str], level: int, rng: random.Random, *, frame: bool
) -> dict[str, str]:
    """Writes until nothing is wrong, each time only what was."""
    value: dict[str, str] = {}
    wrong = set(STYLES)
    for _ in range(_TRIES):
        for style in sorted(wrong):
            try:
                text = write(style)
            except AssertionError:  # no text of that length, with these draws
                continue
            value[style] = text if style == "4" else _joined(text, level, rng)
        if len(value) < len(STYLES):
            wrong = set(STYLES) - value.keys()
            continue
        faults = validation.captions(value, frame=frame, raw="")
        wrong = {f.style or "1" for f in validation.fatal(faults)}
        if not wrong:
            return value
    raise Untold(f"no five captions in {_TRIES} tries; styles {sorted(wrong)} failed")


def _joined(text: str, level: int, rng: random.Random) -> str:
    """Longer sentences for a higher reading level."""
    parts = text.split(". ")
    out = parts[0]
    for part in parts[1:]:
        if rng.random() >= _JOINED[level] or out.endswith("scene:"):
            out += f". {part}"
        elif part.startswith(_GOES_ON):
            out += f"; {part[0].lower()}{part[1:]}"
        else:
            joint = rng.choice(_EASY_JOINTS if level < 3 else _HARD_JOINTS)
            out += f"{joint}{part[0].lower()}{part[1:]}"
    return out


# --- videos ---


def _rich(video: graph.Video, shares: Mapping[str, float], rng: random.Random) -> str:
    low, high = validation.WORDS["2"]
    high -= 20  # joints between sentences are words too
    scenes = video.scenes
    if len(scenes) == 1:
        return compose(scenes[0], rng, _plan(scenes[0], shares, rng), low, high)[0]
    told = sorted(rng.sample(range(len(scenes)), min(len(scenes), _MOST_SCENES)))
    parts = []
    for place, index in enumerate(told):
        scene = scenes[index]
        lead = "In one scene," if place == 0 else "Later on there is another scene:"
        share = len(told)
        text, _ = compose(
            scene,
            rng,
            PLANS["general"](scene, rng),
            -(-low // share),
            high // share - 6,
        )
        parts.append(f"{lead} {text[0].lower() if place == 0 else text[0]}{text[1:]}")
    return " ".join(parts)


def _plan(
    scene: graph.Scene, shares: Mapping[str, float], rng: random.Random
) -> tuple[list[Sentence], list[Sentence]]:
    """What must stand: all things, all actions, the number. The rest is in such an
    order that wherever it ends, the words are spread as the profile wants."""
    pools, must = _pools(scene, rng), []
    for i in range(len(scene.things)):
        must.append(_sentence(rng, 2 + i / 8, lambda t, i=i: t.thing(i)))
    must.append(_sentence(rng, 4, _number))
    told = {"spatial": _words(scene, must), "temporal": 0, "other": 0}
    for i in range(len(scene.things)):
        if events := scene.events_of(i):
            start = events[0].start
            must.append(_sentence(rng, 5 + start, lambda t, i=i: t.events(i)))
            told["temporal"] += _words(scene, must[-1:])
    may = []
    for pool in pools.values():
        rng.shuffle(pool)
    while any(pools.values()):
        total = sum(told.values())
        part = max(
            (p for p in pools if pools[p]), key=lambda p: shares[p] * total - told[p]
        )
        may.append(pools[part].pop())
        told[part] += _words(scene, may[-1:])
    return must, may


def _pools(scene: graph.Scene, rng: random.Random) -> Pools:
    """All optional sentences, by what they are about."""
    things = range(len(scene.things))
    pools: Pools = {part: [] for part in profiles.PARTS}

    def add(part: str, rank: float, write: Callable[[Teller], str]) -> None:
        sentence = _sentence(rng, rank, write)
        if not validation.prose("", _text(scene, sentence)):
            pools[part].append(sentence)

    for i in things:
        add("spatial", 3 + i / 8, lambda t, i=i: t.texture(i))
        add("spatial", 3 + i / 8, lambda t, i=i: t.shape(i))
        for j in range(i + 1, len(scene.things)):
            hidden = graph.appears(scene, i) or graph.appears(scene, j)
            if graph.relation(scene, i, j) and not hidden:
                add("spatial", 3.5, lambda t, i=i, j=j: t.relation_sentence(i, j))
        events = scene.events_of(i)
        if not events:
            add("temporal", 6.5, lambda t, i=i: t.still(i))
        elif len(events) == 1:
            add("temporal", 6, lambda t, i=i: t.timing(i))
            add("temporal", 6.3, lambda t, i=i: t.move_detail(i))
        else:
            for half, event in zip(("first", "second"), events, strict=False):
                add("temporal", 6, lambda t, i=i, h=half, e=event: _halves(t, i, h, e))
        for j in things:
            others = scene.events_of(j)
            if i != j and events and others and events[0].start < others[-1].start:
                add("temporal", 6, lambda t, i=i, j=j: t.order(i, j))
    add("spatial", 4, Teller.colours)
    add("temporal", 7, Teller.camera_sentence)
    add("temporal", 7.5, Teller.camera_detail)
    add("temporal", 8.5, Teller.length)
    for _ in range(2):
        add("other", 1, Teller.mood_sentence)
    for k in range(4):
        add("other", 1, lambda t, k=k: t.theme_detail(k))
    add("other", 0, Teller.opening)
    add("other", 8, Teller.summary)
    return pools


def _sentence(rng: random.Random, rank: float, write) -> Sentence:
    return Sentence(write, rng.getrandbits(48), rank + rng.random() / 8)


def _text(scene: graph.Scene, sentence: Sentence) -> str:
    return sentence.write(Teller(scene, random.Random(sentence.seed)))


def _words(scene: graph.Scene, sentences: list[Sentence]) -> int:
    return sum(len(_text(scene, s).split()) for s in sentences)


def _halves(t: Teller, i: int, half: str, event: graph.Event) -> str:
    """When one of two events of a thing happens: each has half of the scene."""
    when = t.pick((f"In the {half} half", f"During the {half} half of the clip"))
    return f"{when}, {t.noun(i)} {t.move(event)}."


def _number(t: Teller) -> str:
    n = len(t.scene.things)
    things = "object" if n == 1 else "objects"
    return t.pick(
        (
            f"Counted together, that makes {lex.NUMBERS[n]} {things}.",
            f"Exactly {lex.NUMBERS[n]} {things} can be counted.",
        )
    )


# --- stills ---


class _Still:
    """Writes about what is in sight at one moment."""

    def __init__(self, scene: graph.Scene, u: float, rng: random.Random):
        self._scene, self._rng = scene, rng
        self._seen = seen(scene, u)

    def concise(self) -> str:
        t = Teller(self._scene, self._rng)
        nouns = [t.noun(i, t.extras(0.5)) for i, _, _ in self._seen[:2]]
        what = listing(nouns) or f"the scenery of a {self._noun()}"
        return t.pick(
            (
                f"A picture of {what} {t.theme()} in {t.mood()} light.",
                f"{capital(t.theme())}, {what} in the {t.mood()} light of the scene.",
                f"{capital(what)} in the {t.mood()} light of a moment {t.theme()}.",
            )
        )

    def rich(self) -> str:
        must = [_sentence(self._rng, 2, self._places(*one)) for one in self._seen]
        return self._compose(must, [*self._details(), *self._scenery()], 50, 160)

    def abstract(self) -> str:
        must = [_sentence(self._rng, 1, Teller.mood_sentence)]
        must.append(
            _sentence(
                self._rng, 8,
                lambda t: "All in all, the picture gives the impression of a "
                f"{t.mood()} moment {t.theme()}.",
            )
        )  # fmt: skip
        return self._compose(must, self._scenery(), 30, 80)

    def keywords(self) -> str:
        t = Teller(self._scene, self._rng)
        words = [t.noun(i, t.extras(0.4), article=False) for i, _, _ in self._seen]
        words += [self._noun(), f"{t.mood()} light", "still picture"]
        self._rng.shuffle(words)
        return ", ".join(words)

    def partial(self) -> str:
        if not self._seen:
            return self._compose([], self._scenery(), 10, 40)
        one = self._rng.choice(self._seen)
        must = [_sentence(self._rng, 2, self._places(*one))]
        return self._compose(must, self._details([one[0]]), 10, 60)

    def _noun(self) -> str:
        return pick(self._rng, lex.THEME_NOUNS[self._scene.theme])

    def _places(self, i: int, x: float, y: float) -> Callable[[Teller], str]:
        where = graph.part_of_view(x, y)

        def write(t: Teller) -> str:
            noun = t.noun(i, ("size", "texture", "colour"))
            place = t.pick(lex.PLACES[where])
            return t.pick(
                (
                    f"{capital(noun)} is {place} of the picture.",
                    f"{capital(place)} there is {noun}.",
                    f"{capital(noun)} can be seen {place}.",
                )
            )

        return write

    def _details(self, who: list[int] | None = None) -> list[Sentence]:
        who = [i for i, _, _ in self._seen] if who is None else who
        found = []
        for i in who:
            found.append(_sentence(self._rng, 3, lambda t, i=i: t.texture(i)))
            found.append(_sentence(self._rng, 3, lambda t, i=i: t.shape(i)))
        for (i, x, _), (j, x2, _) in zip(self._seen, self._seen[1:], strict=False):
            if i in who and j in who and abs(x - x2) > graph.RELATION_GAP:
                side = "left" if x < x2 else "right"
                found.append(
                    _sentence(
                        self._rng, 4,
                        lambda t, i=i, j=j, side=side: f"{capital(t.noun(i))} is to "
                        f"the {side} of {t.noun(j)}.",
                    )
                )  # fmt: skip
        self._rng.shuffle(found)
        return self._sound(found)

    def _scenery(self) -> list[Sentence]:
        found = [
            _sentence(self._rng, 1, lambda t, k=k: t.theme_detail(k)) for k in range(4)
        ]
        found += [_sentence(self._rng, 1, Teller.mood_sentence) for _ in range(6)]
        self._rng.shuffle(found)
        found.append(
            _sentence(
                self._rng, 0, lambda t: f"The picture shows a moment {t.theme()}."
            )
        )
        return self._sound(found)

    def _sound(self, sentences: list[Sentence]) -> list[Sentence]:
        scene = self._scene
        return [s for s in sentences if not validation.prose("", _text(scene, s))]

    def _compose(self, must, may, low: int, high: int) -> str:
        return compose(self._scene, self._rng, (must, may), low, high)[0]
