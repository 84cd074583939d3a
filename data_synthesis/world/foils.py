"""Foils: captions that almost fit a scene, told of a scene that differs in one respect.

A foil is worded from the seed of the caption it stands beside, so that little but the
wrong word tells the two apart; and it is kept only if its claims do not hold.
"""

import dataclasses
import random
from collections.abc import Callable

from data_synthesis.world import motion
from data_synthesis.world import scene as graph
from data_synthesis.world.facts import Caption, scene_satisfies

_TRIES = 12  # alterations tried for a foil

# Respect -> how often it is altered: what takes longest to learn comes most.
_OF_A_FRAME = {
    "shape": 5,
    "colour": 2,
    "texture": 3,
    "size": 2,
    "identities": 2,
    "mirror": 1,
    "mood": 1,
    "theme": 1,
}
_OF_A_VIDEO = _OF_A_FRAME | {"motion": 6, "order": 2, "pace": 1, "camera": 2}
# Camera captions tell little else.
_OF_A_CAMERA = {"camera": 10, "shape": 1, "colour": 1, "theme": 1}
_RESPECTS = {"frame": _OF_A_FRAME, "camera": _OF_A_CAMERA}


def foils(
    scene: graph.Scene,
    write: Callable[[graph.Scene], Caption | None],
    count: int,
    rng: random.Random,
) -> list[str]:
    """Up to `count` different texts, each false of the scene.

    Args:
      scene: what the true caption tells.
      write: words a caption, always from the same seed; None if there is none.
      rng: chooses the alterations.
    """
    true = write(scene)
    respects = _RESPECTS.get(true.form, _OF_A_VIDEO)
    texts = [true.text]
    for _ in range(_TRIES * count):
        (respect,) = rng.choices(list(respects), list(respects.values()))
        altered = _CHANGES[respect](scene, rng)
        found = altered and write(altered)
        if not found or found.text in texts:
            continue
        if not scene_satisfies(scene, [fact[1:] for fact in found.facts]):
            texts.append(found.text)
        if len(texts) > count:
            break
    return texts[1:]


def _other(rng: random.Random, values, *taken):
    return rng.choice([v for v in values if v not in taken])


def _thing(name: str, values):
    """Changes one attribute of a thing, mostly of the main one."""

    def change(scene: graph.Scene, rng: random.Random) -> graph.Scene:
        who = 0 if rng.random() < 0.6 else rng.randrange(len(scene.things))
        taken = [getattr(scene.things[who], name)]
        if name in ("shape", "colour"):  # those of things differ
            taken += [getattr(t, name) for t in scene.things]
        things = list(scene.things)
        value = _other(rng, values, *taken)
        things[who] = dataclasses.replace(things[who], **{name: value})
        return dataclasses.replace(scene, things=tuple(things))

    return change


def _identities(scene: graph.Scene, rng: random.Random) -> graph.Scene | None:
    """Two things trade their shapes or their colours."""
    if len(scene.things) < 2:
        return None
    i, j = rng.sample(range(len(scene.things)), 2)
    name = rng.choice(("shape", "colour"))
    things = list(scene.things)
    one, two = (getattr(things[k], name) for k in (i, j))
    things[i] = dataclasses.replace(things[i], **{name: two})
    things[j] = dataclasses.replace(things[j], **{name: one})
    return dataclasses.replace(scene, things=tuple(things))


def _event(scene: graph.Scene, rng: random.Random, change) -> graph.Scene | None:
    """One event changed, mostly of the main thing."""
    events = list(scene.events)
    main = [k for k, e in enumerate(events) if e.who == 0]
    k = rng.choice(main if rng.random() < 0.7 else range(len(events)))
    found = change(events[k])
    if found is None:
        return None
    events[k] = found
    return dataclasses.replace(scene, events=tuple(events))


def _motion(scene: graph.Scene, rng: random.Random) -> graph.Scene | None:
    def change(event: graph.Event) -> graph.Event:
        taken = [e.motion for e in scene.events_of(event.who)]
        # A straight motion most often becomes another: pace and wording stay.
        near = event.motion in motion.STRAIGHT and rng.random() < 0.6
        name = _other(rng, motion.STRAIGHT if near else motion.MOTIONS, *taken)
        pace = None
        if name in motion.STRAIGHT:
            pace = event.pace or rng.choice(motion.PACES)
        return dataclasses.replace(event, motion=name, pace=pace)

    return _event(scene, rng, change)


def _pace(scene: graph.Scene, rng: random.Random) -> graph.Scene | None:
    def change(event: graph.Event) -> graph.Event | None:
        if event.pace is None:
            return None
        pace = _other(rng, motion.PACES, event.pace)
        return dataclasses.replace(event, pace=pace)

    return _event(scene, rng, change)


def _order(scene: graph.Scene, rng: random.Random) -> graph.Scene | None:
    """The two events of a thing in the other order."""
    both = [i for i in range(len(scene.things)) if len(scene.events_of(i)) > 1]
    if not both:
        return None
    one, two = scene.events_of(rng.choice(both))[:2]
    events = [e for e in scene.events if e not in (one, two)]
    events.append(dataclasses.replace(two, start=one.start, end=one.end))
    events.append(dataclasses.replace(one, start=two.start, end=two.end))
    events.sort(key=lambda e: (e.start, e.who))
    return dataclasses.replace(scene, events=tuple(events))


def _mirror(scene: graph.Scene, rng: random.Random) -> graph.Scene:
    """The layout mirrored: left is right, or above is below."""
    axis = rng.choice("xy")
    things = tuple(
        dataclasses.replace(t, **{axis: graph.VIEW - getattr(t, axis)})
        for t in scene.things
    )
    return dataclasses.replace(scene, things=things)


def _camera(scene: graph.Scene, rng: random.Random) -> graph.Scene:
    moves = list(scene.camera)
    k = rng.randrange(len(moves))
    opposite = motion.OPPOSITE.get(moves[k].move)
    if opposite and rng.random() < 0.5:
        name = opposite
    else:
        taken = [m.move for m in moves] + (["static"] if len(moves) > 1 else [])
        name = _other(rng, motion.CAMERA_MOVES, *taken)
    pace = None if name == "static" else moves[k].pace or rng.choice(motion.PACES)
    moves[k] = dataclasses.replace(moves[k], move=name, pace=pace)
    return dataclasses.replace(scene, camera=tuple(moves))


def _mood(scene: graph.Scene, rng: random.Random) -> graph.Scene:
    return dataclasses.replace(scene, mood=_other(rng, graph.MOODS, scene.mood))


def _theme(scene: graph.Scene, rng: random.Random) -> graph.Scene:
    return dataclasses.replace(scene, theme=_other(rng, graph.THEMES, scene.theme))


_CHANGES = {
    "shape": _thing("shape", graph.SHAPES),
    "colour": _thing("colour", graph.COLOURS),
    "texture": _thing("texture", graph.TEXTURES),
    "size": _thing("size", graph.SIZES),
    "identities": _identities,
    "motion": _motion,
    "order": _order,
    "pace": _pace,
    "mirror": _mirror,
    "camera": _camera,
    "mood": _mood,
    "theme": _theme,
}
