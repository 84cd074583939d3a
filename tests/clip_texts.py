"""What the web says of a few real clips, and what a captioner answers about them.

Written by hand, of what the clips show. A record's text tells whose answers are due, so
that a captioner that gives them has read its prompt.
"""

import json
from typing import NamedTuple

from data_synthesis import prompts

KINDS = ("video", "frame", "image_query", "clip_query")
FLAWED = ("image_query", "man")


class Subject(NamedTuple):
    """Of one scene, whatever file shows it; `look` is what a still has as well."""

    short: str
    look: str
    moves: str
    mood: str
    keywords: str
    part: str
    thing: str  # of composed queries
    change: str


# Name of the clip -> its text and what it shows.
CLIPS = {
    "bikes": ("Bicycles and cars in the streets of an old town", "street"),
    "bikes_again": ("City traffic with parked bikes and people on foot", "street"),
    "bigbuckbunny": ("A big rabbit crawls out of its burrow", "rabbit"),
    "carphone": ("A man in a suit talks in the back of a car", "man"),
    "carphone_distorted": ("Passenger with a red bow tie, in coarse blocks", "man"),
    "cut": ("The first part of a film about bicycles in town", "street"),
    "world": ("The Earth turns once, with the lights of its cities", "earth"),
    "b": ("Our planet by night begins to turn, seen from space", "earth"),
    "b_avi": ("City lights on a dark globe that slowly rotates", "earth"),
    "muted_b": ("Rotating Earth in the dark, a silent version", "earth"),
    "a": ("Closing card that thanks the viewers in yellow letters", "card"),
}

SUBJECTS = {
    "street": Subject(
        "Cars, pedestrians and parked bicycles follow each other in a grey town.",
        "Rows of parked cars shine under a pale sky. Behind a dark wooden fence stand "
        "tall brick houses with narrow windows and pointed roofs. A white bicycle "
        "leans on a basement grating beside a short stone post, and a second one is "
        "chained to bars, its thin wheel close to the lens. Grey slabs cover the "
        "pavement, and all colours are muted.",
        "First a white car is seen from above, then headlights drift past out of "
        "focus. A dark van with a glowing lamp rolls by on the left. Next the picture "
        "rests on the fence while traffic passes behind it. Somebody in black trousers "
        "strides past the post from left to right, and at the end a tree trunk slides "
        "across the chained wheel as the camera moves on.",
        "Everyday life in a city, put together from short looks at vehicles and "
        "passers-by. The tone is calm and slightly cold, like an early morning before "
        "work, and no single person matters more than the place itself.",
        "town, traffic, parked bicycles, brick houses, grey pavement, montage",
        "Under a barred window a bicycle waits, its spokes thin and bright, while "
        "shoes hurry along the slabs beside it.",
        "grey street",
        "bicycles stand where the cars were",
    ),
    "rabbit": Subject(
        "A huge fluffy rabbit wakes up and climbs out of its burrow into the sun.",
        "A round animal with grey fur, a white belly and long ears fills the middle. "
        "Around it spreads a meadow of bright green grass with moss on a mound. To the "
        "left lie two smooth stones near the dark entrance of a hole beneath old "
        "roots. In the distance rise blue trees, and a low wall of pale rocks crosses "
        "the right side below a violet sky.",
        "At first only a face looks out of the hole. Then the animal pushes its "
        "shoulders through, leans forward on both paws and comes up. It stands, "
        "throws its arms high and yawns with closed eyes. After this stretch it lowers "
        "the arms, swings them, scratches its head and gazes about with a content "
        "smile, while shadows of leaves play over the hill.",
        "A cheerful start to the day in a world of fairy tales. Everything is soft, "
        "warm and a little funny, and comfort speaks from each lazy gesture of a "
        "creature that has slept well and owns its time.",
        "animated rabbit, burrow, meadow, yawning, stretching, sunlight, moss",
        "Two short arms go up beside the ears, fists closed, and the chest widens "
        "below a chin that tilts back.",
        "grey rabbit",
        "it stretches beside its hole",
    ),
    "man": Subject(
        "A man in evening dress talks eagerly in the back of a moving car.",
        "On the rear seat sits a person with short brown hair, dressed in a black "
        "jacket, a white shirt and a dark red bow tie. Blue blinds with pale stripes "
        "hang in the window behind his shoulder. The ceiling of the vehicle is beige, "
        "and to the right a large pane lets in daylight, with bare branches and a "
        "blurred road outside.",
        "He speaks to somebody beside the lens, and his mouth hardly rests. First his "
        "head tilts left, then he straightens and nods twice. Meanwhile trees rush "
        "along the pane and light flickers on his cheek. Halfway through he leans "
        "closer, raises both brows and turns his eyes aside. In the final seconds he "
        "settles back against the seat and goes on talking.",
        "An intimate chat on the way to some occasion. The situation is informal "
        "although the clothes are festive, and there is energy in every glance, as if "
        "a good story had to be told before arrival.",
        "passenger, bow tie, black suit, conversation, car interior, striped blinds",
        "Beyond the glass, twigs and roadside posts sweep from one edge to another in "
        "pale daylight.",
        "talking man",
        "he leans towards the lens",
    ),
    "earth": Subject(
        "The dark globe turns in space while city lights glitter on its continents.",
        "A large sphere hangs in the centre of a black field. Its seas are deep blue, "
        "almost black, and its land is only a shade lighter. Golden dots and threads "
        "mark towns, densest along coasts and rivers. A thin bright rim of air glows "
        "along the left edge, from the upper pole down to the bottom, and fades "
        "towards the shaded half.",
        "Slowly the ball rotates from left to right about an upright axis. India and "
        "Arabia drift to the middle first, then Africa follows with a shining river "
        "in its north. Europe passes above it like a net of sparks. Each new coast "
        "enters at the glowing rim, crosses the disc at an even pace and sinks into "
        "darkness at the opposite side, and the camera never moves.",
        "Silence, distance and order. The view suggests how small mankind is and how "
        "far it has spread, with a solemn rhythm in which nothing hurries and every "
        "part returns in its turn.",
        "globe, night side, city lights, continents, rotation, black space, halo",
        "Along a river delta one golden thread widens into a fan of sparks near dark "
        "water.",
        "dark globe",
        "other continents turn into view",
    ),
    "card": Subject(
        "Yellow letters appear between thin brackets on a plain slate background.",
        "The whole picture is one flat area of slate blue of even texture. In the "
        "middle stands a line of capital letters in bold yellow, small against the "
        "wide frame. To its left a narrow bracket of the same colour encloses the "
        "beginning of the words. Margins are broad on all four sides, and the contrast "
        "is strong and clean.",
        "It begins empty. After a second a short yellow stroke shows up and grows into "
        "a bracket. Then it moves left while letters slide out from behind, one after "
        "another, until three words thank the audience. They rest for about two "
        "seconds. Finally the process runs backwards: the words shrink into the mark, "
        "the mark folds up, and a cut to black ends everything.",
        "A friendly farewell in the style of modern graphic design. It is neat and "
        "brief, it leaves space to breathe, and it tells viewers that a programme is "
        "over in the quietest manner.",
        "closing title, yellow capitals, slate background, motion graphics, bracket",
        "One hooked line travels sideways, pauses, and folds into a point once its "
        "task has been done.",
        "yellow lettering",
        "the words slide back behind the mark",
    ),
}  # fmt: skip


def subject_of(prompt: str) -> str:
    """Which subject a prompt is about, by its record's text or its target's caption."""
    for text, name in CLIPS.values():
        if text in prompt:
            return name
    for name, subject in SUBJECTS.items():
        if any(text in prompt for text in captions(subject, "video").values()):
            return name
    raise ValueError(f"no clip is meant by {prompt!r}")


def captions(subject: Subject, kind: str) -> dict[str, str]:
    """The five of a "video", or of a "frame" of it."""
    s = subject
    if kind == "video":
        texts = s.short, f"{s.look} {s.moves}", s.mood, s.keywords, s.part
    else:
        short = f"A still of one moment. {s.short}"
        texts = short, s.look, s.mood, f"still image, {s.keywords}", s.part
    return dict(zip("12345", texts, strict=True))


def asked(system: str, prompt: str) -> tuple[str, str]:
    """(kind, subject) of a request."""
    kinds = {prompts.load(kind).system: kind for kind in KINDS}
    return kinds[system], subject_of(prompt)


def reply(system: str, prompt: str) -> str:
    """The JSON that answers a request.

    The first answer to FLAWED names no reference, which is against the rules; asked
    again, it does.
    """
    kind, name = asked(system, prompt)
    subject = SUBJECTS[name]
    if kind in ("video", "frame"):
        return json.dumps(captions(subject, kind))
    where = f" from the reference {'clip' if kind == 'clip_query' else 'image'}"
    if (kind, name) == FLAWED and "<previous_answer>" not in prompt:
        where = ""
    return json.dumps({"query": f"The {subject.thing}{where}, now {subject.change}"})
