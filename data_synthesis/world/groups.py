"""Composed queries: looks x settings, so that neither reference nor text suffices.

A group holds ten candidate scenes: three looks in three settings and a fourth look in
the first setting. The text names the setting, the reference shows the look; only one
candidate has both.
"""

import random
from typing import NamedTuple

from data_synthesis.world import lexicon as lex
from data_synthesis.world import scene as graph
from data_synthesis.world.facts import Caption, scene_satisfies
from data_synthesis.world.grammar import Teller, capital
from data_synthesis.world.motion import HIDING, PACES

LOOKS = 3
SETTINGS = 3
CANDIDATES = LOOKS * SETTINGS + 1


class Group(NamedTuple):
    """`candidates[look * SETTINGS + setting]`, then one of a fourth look.

    `references[look]` shows that look alone, in a setting of its own.
    """

    references: tuple[graph.Scene, ...]
    candidates: tuple[graph.Scene, ...]


class Setting(NamedTuple):
    """All that a text can say without telling the look: equal for every look."""

    theme: str
    motion: str
    mood: str
    pace: str
    companion: tuple[str, str] | None  # (shape, colour) beside the main thing
    relation: str  # of the main thing to its companion


def sample_group(rng: random.Random, split: str) -> Group:
    """A group whose scenes, references included, all belong to the split."""
    while True:
        group = _try_group(rng, split)
        if group is not None:
            return group


def _try_group(rng: random.Random, split: str) -> Group | None:
    """A group, or None if no look fits the settings or a layout cannot be had."""
    settings = _settings(rng)
    looks = _looks(rng, split, settings)
    if looks is None:
        return None
    *shown, reference = settings
    wanted = [(look, setting) for look in looks[:LOOKS] for setting in shown]
    wanted.append((looks[LOOKS], shown[0]))
    wanted += [(look, reference) for look in looks[:LOOKS]]
    scenes = []
    for look, setting in wanted:
        scene = _scene(rng, split, look, setting)
        if scene is None:
            return None
        scenes.append(scene)
    return Group(tuple(scenes[CANDIDATES:]), tuple(scenes[:CANDIDATES]))


def _settings(rng: random.Random) -> list[Setting]:
    """Three settings that overlap pairwise, and that of the references."""
    a, b, reference_theme = rng.sample(graph.THEMES, 3)
    motions = [m for m in graph.MOTIONS if m not in HIDING]
    p, q, reference_motion = rng.sample(motions, 3)
    kinds = rng.choice(
        (
            ((a, p), (a, q), (b, p)),
            ((a, p), (b, q), (a, q)),
            ((a, p), (b, q), (rng.choice((a, b)), q)),
        )
    )
    settings = []
    for theme, motion in dict.fromkeys(kinds):
        companion = None
        if rng.random() < 0.4:
            companion = (rng.choice(graph.SHAPES), rng.choice(graph.COLOURS))
        settings.append(_setting(rng, theme, motion, companion))
    while len(settings) < SETTINGS:
        settings.append(_setting(rng, b, p, None))
    return [*settings, _setting(rng, reference_theme, reference_motion, None)]


def _setting(rng, theme, motion, companion) -> Setting:
    return Setting(
        theme,
        motion,
        mood=rng.choice(graph.MOODS),
        pace=rng.choice(PACES),
        companion=companion,
        relation=rng.choice(("left of", "right of", "above", "below")),
    )


def _looks(rng, split, settings) -> list[tuple[str, str, str, str]] | None:
    """Four (shape, colour, texture, size) that fit the split in every setting."""
    texture = rng.choice(graph.TEXTURES)
    size = rng.choice(("medium", "large"))
    taken = [s.companion for s in settings if s.companion]
    looks: list[tuple[str, str, str, str]] = []
    choices = [(s, c) for s in graph.SHAPES for c in graph.COLOURS]
    rng.shuffle(choices)
    for shape, colour in choices:
        fits = all(
            graph.split_of(shape, colour, s.motion, s.theme) == split
            and (s.motion != "spin" or graph.looks_like_spinning(shape, texture))
            for s in settings
        )
        clash = any(shape == s or colour == c for s, c in taken)
        clash |= any(shape == k[0] and colour == k[1] for k in looks)
        if fits and not clash:
            looks.append((shape, colour, texture, size))
        if len(looks) == LOOKS + 1:
            return looks
    return None


def _scene(rng, split, look, setting: Setting) -> graph.Scene | None:
    """The look in the setting; None if the companion cannot stand where it should."""
    wish = graph.Wish(
        main=look,
        first_motion=setting.motion,
        theme=setting.theme,
        mood=setting.mood,
        pace=setting.pace,
        companion=setting.companion,
        num_things=(1,),
        camera=0.0,
        second_event=0.0,
        other_events=0.0,
        seconds=(3.0, 3.8),
    )
    for _ in range(80):
        scene = graph.sample_scene(rng, split, wish)
        if not setting.companion or graph.relation(scene, 0, 1) == setting.relation:
            return scene
    return None


def edit(
    group: Group, look: int, setting: int, medium: str, rng: random.Random
) -> Caption:
    """What changes from the reference of a look to its candidate in a setting.

    Args:
      medium: "image" (of a video to be found), "clip", or "still": an image of an
        image to be found, whose text speaks of nothing that moves.

    Its facts hold, among the candidates of that look, for the target alone. They never
    tell shape or colour of the main thing.
    """
    target = group.candidates[look * SETTINGS + setting]
    rivals = [
        group.candidates[look * SETTINGS + k] for k in range(SETTINGS) if k != setting
    ]
    aspects = ["theme", "mood"] if medium == "still" else ["motion", "theme", "mood"]
    if len(target.things) > 1:
        aspects.append("companion")
    elif any(len(s.things) > 1 for s in rivals):
        aspects.append("alone")
    weights = {"motion": 4, "theme": 4, "companion": 3, "alone": 1, "mood": 1}
    # Weighted order without replacement.
    aspects.sort(key=lambda a: rng.random() ** (1 / weights[a]), reverse=True)
    for count in range(1, len(aspects) + 1):
        chosen = aspects[:count]
        caption = _word(target, chosen, medium, Teller(target, rng))
        facts = [list(f[1:]) for f in caption.facts]
        unique = not any(scene_satisfies(rival, facts) for rival in rivals)
        if unique and (count > 1 or rng.random() < 0.45):
            return caption
    return caption


def is_unique(group: Group, look: int, setting: int, caption: Caption) -> bool:
    """Whether the text together with the look singles out one candidate of ten."""
    target = group.candidates[look * SETTINGS + setting]
    thing = target.things[0]
    identity = ("thing", 0, (("shape", thing.shape), ("colour", thing.colour)))
    facts = [list(f[1:]) for f in caption.facts] + [identity]
    return sum(scene_satisfies(s, facts) for s in group.candidates) == 1


def _word(target, aspects, medium: str, t: Teller) -> Caption:
    source = "reference clip" if medium == "clip" else "reference image"
    t.known.add(0)
    # The texture is common to all looks of a group: naming it gives nothing away.
    thing = target.things[0]
    adjective = ""
    if thing.texture != "plain" and t.chance(0.3):
        t.claim("thing", 0, (("texture", thing.texture),))
        adjective = t.pick(lex.TEXTURES[thing.texture]) + " "
    else:
        t.claim("thing", 0, ())
    hero = t.pick(
        (
            f"the {adjective}object from the {source}",
            f"the same {adjective}object as in the {source}",
            f"the {adjective}shape shown in the {source}",
        )
    )
    clauses = []
    if "motion" in aspects:
        clauses.append(t.move(target.events_of(0)[0], gerund=True, pace=0.3))
    if "theme" in aspects:
        clauses.append(t.theme())
    if "companion" in aspects:
        relation = graph.relation(target, 0, 1)
        if relation is None or t.chance(0.4):
            clauses.append(f"together with {t.noun(1)}")
        elif target.travels(0):
            clauses.append(f"starting out {t.relation(0, 1)}")
        else:
            clauses.append(t.relation(0, 1))
    if "alone" in aspects:
        t.claim("count", 1)
        clauses.append(t.pick(("all alone", "without any other object")))
    if "mood" in aspects:
        clauses.append(f"in {t.mood()} light")
    body = " ".join(clauses)
    text = t.pick(
        (
            f"{capital(hero)}, now {body}.",
            f"Find {hero}, but this time {body}.",
            f"{capital(hero)} is now {body}.",
            f"Show {hero}, only now {body}.",
        )
    )
    return Caption(text, f"edit of {medium}", tuple(t.facts))
