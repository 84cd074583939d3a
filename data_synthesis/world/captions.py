"""The forms of caption: which sentences each takes, and how long it may be.

The first five are those of V-SynFlow's captioning contract; the others are scaled-down
likenesses of the UVRB query texts.
"""

import random
from collections.abc import Callable

from data_synthesis.world import lexicon as lex
from data_synthesis.world import lexicon_moves as verbs
from data_synthesis.world import motion
from data_synthesis.world import scene as graph
from data_synthesis.world.facts import Caption
from data_synthesis.world.grammar import (
    Teller,
    capital,
    listing,
    pick,
    with_article,
)
from data_synthesis.world.stories import PLANS, WORDS, compose

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
    if form in PLANS:
        text, facts = compose(scene, rng, PLANS[form](scene, rng), low, high)
        return Caption(text, form, facts)
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
        place = pick(rng, lex.PLACES[graph.part_of_view(*seen[0][1:])])
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
            f"The theme of this video is {mood} in which {hero} takes the lead.",
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
            words.append(t.pick(verbs.MOVE_KEYWORDS[event.motion]))
        groups.append(words)
    t.claim("theme", scene.theme)
    groups.append([t.pick(lex.THEME_NOUNS[scene.theme])])
    if t.chance(0.6):
        groups.append([t.mood()])
    if scene.camera[0].move != "static" and t.chance(0.6):
        words = []
        for segment in scene.camera:
            t.claim("camera", segment.move, None)
            words.append(t.pick(verbs.CAMERA_KEYWORDS[segment.move]))
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
    raise AssertionError(f"moments: no text of {low}-{high} words for {video.id}")


def _long(video: graph.Video, rng: random.Random) -> Caption:
    low, high = WORDS["long"]
    count = len(video.scenes)
    parts = [f"The video has {lex.NUMBERS[count]} scenes."]
    facts: list[tuple] = []
    for index, scene in enumerate(video.scenes):
        plan = PLANS["general"](scene, rng)
        share_low = max(30, round(low / count))
        share_high = round((high - 30) / count) - 4
        text, found = compose(scene, rng, plan, share_low, share_high, index)
        name = lex.ORDINALS[index]
        lead = pick(rng, (f"In the {name} scene:", f"Scene {lex.NUMBERS[index + 1]}:"))
        if index == count - 1:
            lead = pick(rng, ("In the last scene:", lead))
        parts.append(f"{lead} {text}")
        facts += found
    text = " ".join(parts)
    assert low <= len(text.split()) <= high, (len(text.split()), text)
    return Caption(text, "long", tuple(facts))
