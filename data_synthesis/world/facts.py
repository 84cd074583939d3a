"""Facts: what a text claims, and whether a video satisfies it.

A fact is a tuple (scene index, kind, ...); thing numbers in it are variables, bound to
whichever things of the other video make all facts of a scene true at once. Kinds:

  theme T | mood M | count N | camera MOVE PACE? | cameras (MOVE, MOVE)
  thing I ((attribute, value), ...) | place I PLACE | relation I R J
  event I MOTION PACE? | before (I, MOTION) (J, MOTION) | still I
"""

import itertools
from typing import NamedTuple

from data_synthesis.world import scene as graph


class Caption(NamedTuple):
    """A text, its form (a key of captions.FORMS) and all that it claims."""

    text: str
    form: str
    facts: tuple

    @property
    def words(self) -> int:
        return len(self.text.split())


def satisfies(video: graph.Video, facts: tuple) -> bool:
    """Whether the facts hold in the video, its scenes taken in order."""
    wanted: dict[int, list] = {}
    for index, *fact in facts:
        wanted.setdefault(index, []).append(fact)
    position = 0
    # Greedy is exact: matching each wanted scene as early as possible leaves the most.
    for index in sorted(wanted):
        while position < len(video.scenes):
            position += 1
            if scene_satisfies(video.scenes[position - 1], wanted[index]):
                break
        else:
            return False
    return True


def scene_satisfies(scene: graph.Scene, facts: list) -> bool:
    """Whether some choice of things makes all facts true in the scene."""
    about_things = []
    for fact in facts:
        kind, *values = fact
        if kind == "theme":
            holds = scene.theme == values[0]
        elif kind == "mood":
            holds = scene.mood == values[0]
        elif kind == "count":
            holds = len(scene.things) == values[0]
        elif kind == "camera":
            holds = any(
                c.move == values[0] and values[1] in (None, c.pace)
                for c in scene.camera
            )
        elif kind == "cameras":
            holds = tuple(c.move for c in scene.camera) == tuple(values[0])
        else:
            about_things.append(fact)
            continue
        if not holds:
            return False
    names = sorted({n for f in about_things for n in _names(f)})
    return any(
        all(
            _holds(scene, f, dict(zip(names, choice, strict=True)))
            for f in about_things
        )
        for choice in itertools.permutations(range(len(scene.things)), len(names))
    )


def _names(fact: list) -> tuple[int, ...]:
    kind = fact[0]
    if kind == "relation":
        return (fact[1], fact[3])
    if kind == "before":
        return (fact[1][0], fact[2][0])
    return (fact[1],)


def _holds(scene: graph.Scene, fact: list, bound: dict[int, int]) -> bool:
    kind = fact[0]
    if kind == "before":
        (i, first), (j, second) = fact[1:]
        return any(
            a.start < b.start
            for a in scene.events_of(bound[i])
            if a.motion == first
            for b in scene.events_of(bound[j])
            if b.motion == second
        )
    who = bound[fact[1]]
    thing = scene.things[who]
    if kind == "thing":
        return all(getattr(thing, name) == value for name, value in fact[2])
    if kind == "place":
        return graph.place(scene, who) == fact[2]
    if kind == "relation":
        return graph.relation(scene, who, bound[fact[3]]) == fact[2]
    if kind == "event":
        return any(
            e.motion == fact[2] and fact[3] in (None, e.pace)
            for e in scene.events_of(who)
        )
    if kind == "still":
        return not scene.events_of(who)
    raise ValueError(f"no such kind of fact: {kind}")
