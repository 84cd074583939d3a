"""What a text claims of a scene of the world, and what is true of it.

Found by the world's words and their usual order; other ways to say the same are not
seen, which costs recall and is the same for all captioners.
"""

import itertools
import re
from collections.abc import Iterable, Mapping

from data_synthesis.world import lexicon as lex
from data_synthesis.world import lexicon_moves as verbs
from data_synthesis.world import motion
from data_synthesis.world import scene as graph

# Kind of fact -> what a claim of it is:
#   object: shape        colour: (shape, colour)       count: number of objects
#   direction: (shape, "left" ...)    order: ((shape, motion), (shape, motion) later)
FACTS = ("object", "colour", "count", "direction", "order")

Claims = dict[str, set]


def _table(values: Mapping[str, Iterable[str]]) -> tuple[re.Pattern, dict[str, str]]:
    """A pattern of all phrases, the longest first, and what each stands for."""
    words = {phrase: value for value, phrases in values.items() for phrase in phrases}
    longest = sorted(words, key=len, reverse=True)
    return re.compile(rf"\b(?:{'|'.join(map(re.escape, longest))})\b"), words


def _moves() -> dict[str, list[str]]:
    found: dict[str, list[str]] = {name: [] for name in motion.MOTIONS}
    for (name, _), pairs in verbs.MOVES.items():
        found[name] += [phrase for pair in pairs for phrase in pair]
    for name, phrases in verbs.MOVE_KEYWORDS.items():
        found[name] += phrases
    return found


_SHAPE, _SHAPES = _table(lex.SHAPES)
_COLOUR, _COLOURS = _table(lex.COLOURS)
_MOVE, _MOVES = _table(_moves())
# Ways to say a direction that the world has not.
_WAY = re.compile(
    r"\b(?:mov|slid|drift|travel|go|went|roll|float|shoot|dash|rac|creep|glid|fly|run)\w*"
    r"\b[^.,;]{0,20}?\b(left|right|up|down)(?:wards?)?\b"
)
_NUMBERS = {word: n for n, word in lex.NUMBERS.items()} | {"single": 1}
_COUNT = re.compile(
    rf"\b({'|'.join(_NUMBERS)}|[1-9]) (?:different |moving |colou?red )?"
    r"(?:object|shape|thing|item|figure)s?\b"
)
_ALONE = re.compile(r"\bno other (?:object|shape|thing)\b|\bthe scene is empty\b")
# Scenery that has the shape of a thing, and what the camera does.
_SCENERY = re.compile(r"planet with an? (?:\w+ )?ring|young moon")
_CAMERA = re.compile(r"\b(?:camera|scenery|horizon|framing)\b")
# Words between a colour and the shape it belongs to.
_BETWEEN = re.compile(r"(?: (?!and|or|the|an?|with|in|on|of|is)[\w-]+){0,2} $")
_THEN = re.compile(r"\b(?:then|later|next|before|after that|afterwards)\b")
_AFTER = re.compile(r"\bafter (?!that)")
_IT = re.compile(r"\bits?\b")
_NEAR = 80  # characters between two motions whose order is told


def told(text: str) -> Claims:
    """The claims of a text, of things of different shapes."""
    claims: Claims = {fact: set() for fact in FACTS}
    text = _SCENERY.sub("scenery", text.lower())
    # (place, shape, motion) in the order of the text
    moved: list[tuple[int, int, str, str]] = []
    subject, offset = "", 0
    for clause in re.split(r"(?<=[.;!?])", text):
        shapes = [(m.start(), _SHAPES[m[0]]) for m in _SHAPE.finditer(clause)]
        claims["object"].update(shape for _, shape in shapes)
        claims["colour"].update(_coloured(clause, shapes))
        if not _CAMERA.search(clause):
            if shapes and not re.match(r"\s*(?:then|after that|later|next)\b", clause):
                subject = ""
            for start, end, name in _motions(clause):
                before = [shape for place, shape in shapes if place < start]
                subject = before[-1] if before else subject
                # Scenery rises and runs as well: without a name "it" must be said.
                if subject and (before or _IT.search(clause)):
                    moved.append((offset + start, offset + end, subject, name))
            if not subject and shapes:
                subject = shapes[0][1]
        offset += len(clause)
    claims["count"].update(
        _NUMBERS.get(m[1]) or int(m[1]) for m in _COUNT.finditer(text)
    )
    if _ALONE.search(text):
        claims["count"].add(1)
    claims["direction"].update(
        (shape, name) for _, _, shape, name in moved if name in motion.STRAIGHT
    )
    for one, two in itertools.pairwise(moved):
        claims["order"].update(_ordered(text, one, two))
    return claims


def true(scene: graph.Scene) -> Claims:
    """All that holds of a scene. Orders are those of all pairs of events."""
    events = [
        (event.start, (scene.things[event.who].shape, event.motion))
        for event in scene.events
    ]
    return {
        "object": {thing.shape for thing in scene.things},
        "colour": {(thing.shape, thing.colour) for thing in scene.things},
        "count": {len(scene.things)},
        "direction": {what for _, what in events if what[1] in motion.STRAIGHT},
        "order": {(a, b) for start, a in events for end, b in events if start < end},
    }


def wanted(scene: graph.Scene) -> Claims:
    """What a full account tells: as `true`, but of orders only those of one thing."""
    facts = true(scene)
    facts["order"] = {(a, b) for a, b in facts["order"] if a[0] == b[0]}
    return facts


def _coloured(clause: str, shapes: list[tuple[int, str]]):
    for match in _COLOUR.finditer(clause):
        after = [(place, shape) for place, shape in shapes if place >= match.end()]
        if after and _BETWEEN.fullmatch(clause[match.end() : after[0][0]]):
            yield after[0][1], _COLOURS[match[0]]


def _motions(clause: str) -> list[tuple[int, int, str]]:
    """(start, end, motion) of all that something does."""
    found = [(m.start(), m.end(), _MOVES[m[0]]) for m in _MOVE.finditer(clause)]
    rest = _MOVE.sub(lambda m: "#" * len(m[0]), clause)
    found += [(m.start(), m.end(), m[1]) for m in _WAY.finditer(rest)]
    return sorted(found)


def _ordered(text: str, one, two):
    """The order that two neighbouring motions are told in, if it is."""
    between = text[one[1] : two[0]]
    first, second = one[2:], two[2:]
    ends = len(re.findall(r"[.;!?]", between))
    if len(between) > _NEAR or ends > 1 or first == second:
        return
    sentence = text[: one[0]].rsplit(".", 1)[-1].rsplit(";", 1)[-1]
    if _AFTER.search(between):
        yield second, first
    elif _THEN.search(between) or (_AFTER.match(sentence.strip() + " ") and not ends):
        yield first, second
