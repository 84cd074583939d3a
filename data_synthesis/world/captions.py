"""The forms of caption: which sentences each takes, and how long it may be.

The first five are those of V-SynFlow's captioning contract; the others are scaled-down
likenesses of the UVRB query texts.
"""

import random
from collections.abc import Callable

from data_synthesis.world import lexicon as lex
from data_synthesis.world import motion
from data_synthesis.world import scene as graph
from data_synthesis.world.facts import Caption
from data_synthesis.world.grammar import (
    Sentence,
    Teller,
    capital,
    listing,
    pick,
    with_article,
)

# Form -> (fewest, most) words.
WORDS = {
    "concise": (10, 25),
    "rich": (101, 200),
    "abstract": (30, 100),
    "keywords": (5, 30),
    "partial": (10, 70),
    "short": (6, 16),
    "general": (40, 70),
    "spatial": (30, 70),
    "temporal": (30, 70),
    "object": (30, 50),
    "detailed": (80, 150),
    "camera": (8, 25),
    "event": (4, 10),
    "theme": (15, 40),
    "moments": (20, 40),
    "long": (150, 300),
}
FIVE = ("concise", "rich", "abstract", "keywords", "partial")
SHORT_FORMS = (
    *FIVE,
    "short",
    "general",
    "spatial",
    "temporal",
    "object",
    "detailed",
    "camera",
    "event",
    "theme",
)


def caption(video: graph.Video, form: str, rng: random.Random) -> Caption:
    """A caption of the form.

    `moments` and `long` tell all scenes of a video; the other forms tell its first.
    """
    if form == "moments":
        return _moments(video, rng)
    if form == "long":
        return _long(video, rng)
    return of_scene(video.scenes[0], form, rng)


def of_scene(scene: graph.Scene, form: str, rng: random.Random) -> Caption:
    """A caption of one scene, in a form that needs no more."""
    low, high = WORDS[form]
    if form in _PLANS:
        must, may = _PLANS[form](scene, rng)
        return Caption(*_compose(scene, rng, must, may, low, high, form))
    for _ in range(40):
        teller = Teller(scene, rng)
        text = _LINES[form](teller)
        if low <= len(text.split()) <= high:
            return Caption(text, form, tuple(teller.facts))
    raise AssertionError(f"{form}: no text of {low}-{high} words for {scene}")


def events(scene: graph.Scene, rng: random.Random) -> list[Caption]:
    """One caption of form "event" for each event of the scene."""
    found = []
    for event in scene.events:
        teller = Teller(scene, rng)
        found.append(Caption(_event_line(teller, event), "event", tuple(teller.facts)))
    return found


def frame(scene: graph.Scene, u: float, rng: random.Random) -> Caption | None:
    """A caption of the frame at time u: what is visible then, nothing that moves.

    None if the main thing is out of sight at that time.
    """
    seen = []
    for i in range(len(scene.things)):
        state = motion.state(scene, i, u)
        x, y = motion.to_view(scene, state.x, state.y, u)
        if state.alpha > 0.6 and 8 < x < graph.VIEW - 8 and 8 < y < graph.VIEW - 8:
            seen.append((i, x, y))
    if not seen or seen[0][0] != 0:
        return None
    teller = Teller(scene, rng)
    nouns = [teller.noun(i, teller.extras(0.5)) for i, _, _ in seen[:3]]
    theme = teller.theme()
    text = rng.choice(
        (
            f"{capital(listing(nouns))} {theme}.",
            f"{capital(theme)}: {listing(nouns)}.",
            f"A picture of {listing(nouns)} {theme}.",
        )
    )
    if rng.random() < 0.6:
        thing = graph.Thing("", "", "", "", seen[0][1], seen[0][2])
        place = pick(rng, lex.PLACES[graph.place(thing)])
        text += f" {capital(teller.noun(0))} is {place}."
    if rng.random() < 0.5:
        text += f" {teller.mood_sentence()}"
    return Caption(text, "frame", tuple(teller.facts))


# --- one line ---


def _short(t: Teller) -> str:
    noun = t.noun(0, t.extras(0.15))
    choice = t.rng.randrange(6)
    if t.chance(0.3):
        # Only the first of two events.
        t.most = 1
    if choice == 0:
        return f"{noun} {t.moves(0)} {t.theme()}"
    if choice == 1:
        return f"{t.theme()} {noun} {t.moves(0)}"
    if choice == 2:
        return f"{noun} is {t.moves(0, gerund=True)} {t.theme()}"
    if choice == 3:
        return f"there is {noun} {t.moves(0, gerund=True)} {t.theme()}"
    if choice == 4 and len(t.scene.things) > 1:
        return f"{noun} and {t.noun(1)} {t.theme()} while the first one {t.moves(0)}"
    return f"a clip of {noun} {t.moves(0, gerund=True)} {t.theme()}"


def _concise(t: Teller) -> str:
    noun = t.noun(0, t.extras(0.5))
    moves = t.moves(0)
    theme = t.theme()
    tail = ""
    if len(t.scene.things) > 1 and t.chance(0.6):
        other = t.noun(1, t.extras(0.3))
        tail = t.pick((f", with {other} in view", f", together with {other}"))
    elif t.chance(0.5):
        tail = f", under {t.mood()} light"
    if t.chance(0.5):
        return f"{capital(noun)} {moves} {theme}{tail}."
    return f"{capital(theme)}, {noun} {moves}{tail}."


def _event_line(t: Teller, event: graph.Event) -> str:
    noun = t.noun(event.who, t.extras(0.12))
    noun = t.pick((noun, "the" + noun[noun.index(" ") :]))
    move = t.move(event, pace=0.3)
    return f"{capital(noun)} {move}."


def _event(t: Teller) -> str:
    return _event_line(t, t.rng.choice(t.scene.events))


def _camera(t: Teller) -> str:
    camera = t.camera(pace=0.9)
    if t.scene.camera[0].move == "static":
        camera = t.pick((camera, f"{camera} during the whole shot"))
    noun = t.noun(0) if t.chance(0.55) else ""
    theme = t.theme() if t.chance(0.75) or not noun else ""
    if noun and theme:
        return t.pick(
            (
                f"The camera {camera} {theme}, where {noun} is in view.",
                f"{capital(theme)}, the camera {camera} with {noun} in view.",
            )
        )
    if theme:
        return t.pick(
            (
                f"The camera {camera} {theme} in one shot.",
                f"{capital(theme)}, the camera {camera} in one shot.",
            )
        )
    return t.pick(
        (
            f"The camera {camera} while {noun} is in view.",
            f"With {noun} in view, the camera {camera}.",
        )
    )


def _theme(t: Teller) -> str:
    noun = t.pick(lex.THEME_NOUNS[t.scene.theme])
    t.claim("theme", t.scene.theme)
    mood = with_article(f"{t.mood()} {noun}")
    thing = t.scene.things[0]
    if t.chance(0.6):
        t.claim("thing", 0, (("shape", thing.shape),))
        hero = with_article(t.pick(lex.SHAPES[thing.shape]))
    else:
        t.claim("thing", 0, (("colour", thing.colour),))
        hero = with_article(t.pick(lex.COLOURS[thing.colour]) + " shape")
    text = t.pick(
        (
            f"The theme of this video is {mood} in which {hero} plays the leading part.",
            f"This is about {mood}, and about {hero} that lives in it.",
            f"{capital(mood)} sets the theme here, and {hero} is its hero.",
            f"A little story of {hero} that takes place in {mood}.",
        )
    )
    if t.chance(0.7):
        text += " " + t.mood_sentence()
    if len(text.split()) < 20 or t.chance(0.3):
        text += " " + t.theme_detail(t.rng.randrange(4))
    return text


def _keywords(t: Teller) -> str:
    """Words and short phrases only, no sentence."""
    scene = t.scene
    groups: list[list[str]] = []
    for i in range(min(len(scene.things), t.rng.choice((1, 2, 2, 3)))):
        words = [t.noun(i, t.extras(0.4), article=False)]
        for event in scene.events_of(i):
            t.claim("event", i, event.motion, None)
            words.append(t.pick(lex.MOVE_KEYWORDS[event.motion]))
        groups.append(words)
    t.claim("theme", scene.theme)
    groups.append([t.pick(lex.THEME_NOUNS[scene.theme])])
    if t.chance(0.6):
        groups.append([t.mood()])
    if scene.camera[0].move != "static" and t.chance(0.6):
        words = []
        for segment in scene.camera:
            t.claim("camera", segment.move, None)
            words.append(t.pick(lex.CAMERA_KEYWORDS[segment.move]))
        groups.append(words)
    t.rng.shuffle(groups)
    words = [w for group in groups for w in group]
    while len(" ".join(words).split()) < 5:
        words.append(t.pick(("short video", "animation", "moving shapes")))
    return ", ".join(words)


_LINES: dict[str, Callable[[Teller], str]] = {
    "short": _short,
    "concise": _concise,
    "event": _event,
    "camera": _camera,
    "theme": _theme,
    "keywords": _keywords,
}

# --- several sentences ---


class _Plan:
    """Collects sentences: those that must stand and those that may fill up."""

    def __init__(self, scene: graph.Scene, rng: random.Random):
        self.scene, self.rng = scene, rng
        self.must: list[Sentence] = []
        self.may: list[Sentence] = []
        count = len(scene.things)
        self.pairs = [
            (i, j)
            for i in range(count)
            for j in range(i + 1, count)
            if graph.relation(scene, i, j)
        ]
        self.active = [i for i in range(count) if scene.events_of(i)]
        self.resting = [i for i in range(count) if not scene.events_of(i)]

    def add(self, to: list, rank: float, write: Callable[[Teller], str]) -> None:
        seed = self.rng.getrandbits(48)
        to.append(Sentence(write, seed, rank + self.rng.random()))

    def opening(self, to) -> None:
        self.add(to, self.rng.choice((0, 0, 0, 8)), Teller.opening)

    def mood(self, to) -> None:
        self.add(to, self.rng.choice((1, 8)), Teller.mood_sentence)

    def scenery(self, to, most=4) -> None:
        for k in self.rng.sample(range(4), most):
            self.add(to, 1, lambda t, k=k: t.theme_detail(k))

    def things(self, to, who) -> None:
        for i in who:
            self.add(to, 2 + i / 8, lambda t, i=i: t.thing(i))

    def relations(self, to, most=9) -> None:
        for i, j in self.pairs[:most]:
            if self.rng.random() < 0.5:
                i, j = j, i
            self.add(to, 3.5, lambda t, i=i, j=j: t.relation_sentence(i, j))

    def actions(self, to, who) -> None:
        for i in who:
            start = self.scene.events_of(i)[0].start
            self.add(to, 5 + start, lambda t, i=i: t.events(i))

    def timings(self, to) -> None:
        for i in self.active:
            if len(self.scene.events_of(i)) == 1:
                self.add(to, 6, lambda t, i=i: t.timing(i))
                self.add(to, 6.3, lambda t, i=i: t.move_detail(i))

    def orders(self, to) -> None:
        for i in self.active:
            for j in self.active:
                a, b = self.scene.events_of(i)[0], self.scene.events_of(j)[-1]
                if i != j and a.start < b.start:
                    self.add(to, 6, lambda t, i=i, j=j: t.order(i, j))

    def rests(self, to) -> None:
        for i in self.resting:
            self.add(to, 6.5, lambda t, i=i: t.still(i))

    def details(self, to, who) -> None:
        for i in who:
            self.add(to, 3 + i / 8, lambda t, i=i: t.texture(i))
            self.add(to, 3 + i / 8, lambda t, i=i: t.shape(i))

    def camera(self, to) -> None:
        self.add(to, 7, Teller.camera_sentence)

    def fillers(self) -> None:
        """What any scene allows, in the order in which it is worth telling."""
        self.add(self.may, 4, Teller.count)
        self.add(self.may, 8, Teller.summary)
        self.add(self.may, 7.5, Teller.camera_detail)
        self.add(self.may, 4, Teller.colours)
        self.add(self.may, 8.5, Teller.length)

    def shuffled(self) -> "_Plan":
        self.rng.shuffle(self.may)
        return self

    @property
    def both(self) -> tuple[list[Sentence], list[Sentence]]:
        return self.must, self.may


def _plan_general(scene, rng):
    p = _Plan(scene, rng)
    p.opening(p.must)
    p.actions(p.must, [0])
    p.things(p.may, range(1, len(scene.things)))
    p.actions(p.may, p.active[1:])
    p.mood(p.may)
    p.relations(p.may, 2)
    p.camera(p.may)
    p.scenery(p.may, 2)
    p.shuffled()
    p.rests(p.may)
    p.fillers()
    p.details(p.may, range(len(scene.things)))
    return p.both


def _plan_spatial(scene, rng):
    p = _Plan(scene, rng)
    p.things(p.must, range(min(3, len(scene.things))))
    p.relations(p.may)
    p.shuffled()
    p.opening(p.must)
    p.scenery(p.may, 2)
    p.details(p.may, range(len(scene.things)))
    p.add(p.may, 4, Teller.count)
    p.add(p.may, 4, Teller.colours)
    return p.both


def _plan_temporal(scene, rng):
    p = _Plan(scene, rng)
    p.actions(p.must, p.active)
    p.orders(p.may)
    p.camera(p.may)
    p.timings(p.may)
    p.shuffled()
    p.rests(p.may)
    p.opening(p.may)
    p.fillers()
    p.scenery(p.may, 3)
    return p.both


def _plan_object(scene, rng):
    p = _Plan(scene, rng)
    p.things(p.must, [0])
    p.actions(p.must, [0])
    p.details(p.may, [0])
    p.relations(p.may, 1)
    p.shuffled()
    p.things(p.may, range(1, len(scene.things)))
    p.fillers()
    p.scenery(p.may, 2)
    return p.both


def _plan_detailed(scene, rng):
    p = _Plan(scene, rng)
    count = range(len(scene.things))
    p.opening(p.must)
    p.things(p.must, count)
    p.actions(p.must, p.active)
    p.camera(p.must)
    p.mood(p.may)
    p.scenery(p.may, 2)
    p.relations(p.may, 3)
    p.rests(p.may)
    p.timings(p.may)
    p.shuffled()
    p.orders(p.may)
    p.details(p.may, count)
    p.fillers()
    p.scenery(p.may, 4)
    # Scenery may come twice over: once is enough.
    return p.must, _without_repeats(p.may)


def _plan_abstract(scene, rng):
    p = _Plan(scene, rng)
    p.mood(p.must)
    p.add(p.must, 9, Teller.summary)
    p.add(p.may, 5, lambda t: t.events(0))
    p.opening(p.may)
    p.scenery(p.may, 2)
    p.add(p.may, 4, Teller.count)
    p.add(p.may, 4, Teller.colours)
    p.shuffled()
    p.fillers()
    return p.must, p.may


def _plan_partial(scene, rng):
    """One corner of the scene: a side figure, a relation, an action, the camera."""
    p = _Plan(scene, rng)
    count = len(scene.things)
    topics = ["action", "look"]
    topics += ["others"] * 2 if count > 1 else []
    topics += ["relation"] if p.pairs else []
    topics += ["camera"] if scene.camera[0].move != "static" else []
    topic = rng.choice(topics)
    if topic == "action":
        p.actions(p.must, [0])
    elif topic == "look":
        p.things(p.must, [0])
    elif topic == "others":
        p.things(p.must, [rng.randrange(1, count)])
    elif topic == "relation":
        i, j = rng.choice(p.pairs)
        p.add(p.must, 1, lambda t: t.relation_sentence(i, j))
    else:
        p.camera(p.must)
        p.add(p.must, 8, lambda t: f"It passes {t.noun(0)} {t.theme()}.")
    p.opening(p.may)
    p.mood(p.may)
    p.scenery(p.may, 1)
    p.shuffled()
    return p.both


_PLANS = {
    "rich": _plan_detailed,
    "abstract": _plan_abstract,
    "partial": _plan_partial,
    "general": _plan_general,
    "spatial": _plan_spatial,
    "temporal": _plan_temporal,
    "object": _plan_object,
    "detailed": _plan_detailed,
}


def _without_repeats(sentences: list[Sentence]) -> list[Sentence]:
    return list({s.seed: s for s in sentences}.values())


def _compose(scene, rng, must, may, low, high, form, index=0):
    """Writes the sentences that must stand and as many others as the length wants."""
    # Aim inside the range, so that lengths vary.
    aim = rng.uniform(low, low + 0.6 * (high - low))
    chosen, total, texts = [], 0, set()
    for sentence in (*must, *may):
        required = sentence in must
        if not required and total >= aim:
            break
        trial = Teller(scene, random.Random(sentence.seed), index)
        text = sentence.write(trial)
        words = len(text.split())
        if text in texts or (total + words > high and total):
            continue
        chosen.append(sentence)
        texts.add(text)
        total += words
    chosen.sort(key=lambda s: s.rank)
    teller = Teller(scene, rng, index)
    parts = []
    for sentence in chosen:
        teller.rng = random.Random(sentence.seed)
        parts.append(sentence.write(teller))
    text = " ".join(parts)
    assert low <= len(text.split()) <= high, (form, len(text.split()), text, scene)
    return text, form, tuple(dict.fromkeys(teller.facts))


# --- several scenes ---


def _moments(video: graph.Video, rng: random.Random) -> Caption:
    low, high = WORDS["moments"]
    for _ in range(60):
        parts, facts = [], []
        for index, scene in enumerate(video.scenes):
            teller = Teller(scene, rng, index)
            teller.most = 1
            text = _short(teller)
            if index:
                link = pick(rng, ("then ", "next ", "afterwards ", ""))
                text = link + text
            parts.append(capital(text) + ".")
            facts += teller.facts
        text = " ".join(parts)
        if low <= len(text.split()) <= high:
            return Caption(text, "moments", tuple(facts))
        if len(text.split()) < low:
            continue
    raise AssertionError(f"moments: no text of {low}-{high} words for {video.id}")


def _long(video: graph.Video, rng: random.Random) -> Caption:
    low, high = WORDS["long"]
    count = len(video.scenes)
    parts = [f"The video has {lex.NUMBERS[count]} scenes."]
    facts: list[tuple] = []
    for index, scene in enumerate(video.scenes):
        must, may = _plan_general(scene, rng)
        share_low = max(30, round(low / count))
        share = (share_low, round((high - 30) / count) - 4)
        text, _, found = _compose(scene, rng, must, may, *share, "long", index)
        name = lex.ORDINALS[index]
        lead = pick(rng, (f"In the {name} scene:", f"Scene {lex.NUMBERS[index + 1]}:"))
        if index == count - 1:
            lead = pick(rng, ("In the last scene:", lead))
        parts.append(f"{lead} {text}")
        facts += found
    text = " ".join(parts)
    assert low <= len(text.split()) <= high, (len(text.split()), text)
    return Caption(text, "long", tuple(facts))
