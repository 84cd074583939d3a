"""Scene graphs: what a rendered video shows, sampled from seeds and split by content.

Coordinates are pixels of the 168 x 168 view at the start of a scene, x to the right
and y down; times are fractions of the scene, 0 at its first frame and 1 at its last.
"""

import dataclasses
import hashlib
import itertools
import random

from data_synthesis.world import motion

VIEW = 168  # pixels, width and height of a frame
FPS = 8

SHAPES = (
    "circle",
    "square",
    "triangle",
    "star",
    "heart",
    "diamond",
    "cross",
    "ring",
    "crescent",
    "arrow",
)
COLOURS = (
    "red",
    "orange",
    "yellow",
    "green",
    "cyan",
    "blue",
    "purple",
    "pink",
    "brown",
    "white",
    "black",
)
SIZES = {"small": 34, "medium": 52, "large": 76}  # pixels across
TEXTURES = ("plain", "striped", "dotted", "checkered", "two-tone")
THEMES = (
    "beach",
    "forest",
    "desert",
    "city",
    "meadow",
    "snow",
    "ocean",
    "space",
    "room",
    "volcano",
)
MOODS = ("cheerful", "gloomy", "warm", "cold", "dreamy", "mysterious")
MOTIONS = motion.MOTIONS
CAMERA_MOVES = motion.CAMERA_MOVES
# One combination in SPLIT_PARTS belongs to the test side.
SPLIT_PARTS = 4
# Centres further apart than this along one axis stand in a spatial relation.
RELATION_GAP = 34
RELATIONS = ("left of", "right of", "above", "below", "inside", "in front of")
INVERSE = {
    "left of": "right of",
    "right of": "left of",
    "above": "below",
    "below": "above",
    "inside": "around",
    "in front of": "behind",
}


@dataclasses.dataclass(frozen=True)
class Thing:
    """An object; (x, y) is its centre when the scene starts."""

    shape: str
    colour: str
    size: str
    texture: str
    x: float = VIEW / 2
    y: float = VIEW / 2

    @property
    def identity(self) -> tuple[str, str]:
        return (self.shape, self.colour)


@dataclasses.dataclass(frozen=True)
class Event:
    """Thing `who` moves during [start, end]; only straight motions have a pace."""

    who: int
    motion: str
    pace: str | None
    start: float
    end: float


@dataclasses.dataclass(frozen=True)
class CameraMove:
    """A camera move during [start, end]; a static camera has no pace."""

    move: str
    pace: str | None
    start: float
    end: float


@dataclasses.dataclass(frozen=True)
class Scene:
    """One shot. `things[0]` is the main object, drawn last (nearest the viewer).

    `layout` is "apart", or "inside" / "in front of": what thing 0 is to thing 1.
    `nuisance` seeds all that no caption speaks of: texture phase, light, clutter.
    """

    theme: str
    mood: str
    things: tuple[Thing, ...]
    events: tuple[Event, ...]
    camera: tuple[CameraMove, ...]
    layout: str
    seconds: float
    nuisance: int

    @property
    def num_frames(self) -> int:
        return round(self.seconds * FPS)

    @property
    def combination(self) -> tuple[str, str, str, str]:
        """(shape, colour, motion, theme) of the main object: what splits are cut by."""
        first = next(e.motion for e in self.events if e.who == 0)
        return (*self.things[0].identity, first, self.theme)

    def events_of(self, who: int) -> tuple[Event, ...]:
        found = [e for e in self.events if e.who == who]
        return tuple(sorted(found, key=lambda e: e.start))

    def travels(self, who: int) -> bool:
        """Whether the thing changes its place for good."""
        return any(e.motion in motion.TRAVELLING for e in self.events_of(who))


@dataclasses.dataclass(frozen=True)
class Video:
    """A video of one or several scenes. `split` is "train" or "test"."""

    id: str
    split: str
    pool: str
    scenes: tuple[Scene, ...]

    @property
    def seconds(self) -> float:
        return sum(s.num_frames for s in self.scenes) / FPS

    def spans(self) -> list[tuple[float, float]]:
        """(start, end) of each scene in seconds."""
        ends = list(itertools.accumulate(s.num_frames / FPS for s in self.scenes))
        return list(zip([0.0, *ends[:-1]], ends, strict=True))

    def to_json(self) -> dict:
        return dataclasses.asdict(self) | {
            "seconds": self.seconds,
            "spans": self.spans(),
        }


def stream(seed: int, purpose: str, *index) -> random.Random:
    """The random stream of one purpose: never depends on order or process."""
    key = "|".join(map(str, (seed, purpose, *index)))
    digest = hashlib.blake2b(key.encode(), digest_size=16).digest()
    return random.Random(int.from_bytes(digest, "big"))


def _part(*values: str) -> int:
    digest = hashlib.blake2b("|".join(values).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") % SPLIT_PARTS


def split_of(shape: str, colour: str, first_motion: str, theme: str) -> str:
    """The split of a combination. The look and the setting are hashed apart and added,
    so that one look fits several settings of its split (composed queries need that).
    """
    total = _part(shape, colour) + _part(first_motion, theme)
    return "test" if total % SPLIT_PARTS == 0 else "train"


def relation(scene: Scene, i: int, j: int) -> str | None:
    """What thing i is to thing j when the scene starts; None if nothing clear."""
    if scene.layout != "apart" and {i, j} == {0, 1}:
        return scene.layout if i == 0 else INVERSE[scene.layout]
    a, b = scene.things[i], scene.things[j]
    dx, dy = b.x - a.x, b.y - a.y
    if max(abs(dx), abs(dy)) < RELATION_GAP:
        return None
    if abs(dx) > abs(dy):
        return "left of" if dx > 0 else "right of"
    return "above" if dy > 0 else "below"


def appears(scene: Scene, i: int) -> bool:
    """Whether thing i is out of sight when the scene starts."""
    return any(e.motion == "appear" for e in scene.events_of(i))


def place(scene: Scene, i: int) -> str:
    """The part of the frame in which thing i is first seen: "upper left", "center"."""
    u = 0.0
    for event in scene.events_of(i):
        if event.motion == "appear":
            u = event.start + 0.6 * (event.end - event.start)
    return part_of_view(*motion.seen_at(scene, i, u))


def part_of_view(x: float, y: float) -> str:
    """The name of the ninth of the view that holds the point (pixels)."""
    row = ("upper", "", "lower")[min(2, max(0, int(y * 3 / VIEW)))]
    column = ("left", "", "right")[min(2, max(0, int(x * 3 / VIEW)))]
    return f"{row} {column}".strip() or "center"


@dataclasses.dataclass(frozen=True)
class Wish:
    """What a sampled scene must have; None leaves a value free.

    `things` and `camera` are ranges or rates: how many things, how often the camera
    moves. `main` is (shape, colour, texture, size). In a `steady` scene nothing is ever
    out of sight, so that any single frame of it shows the main thing.
    """

    main: tuple[str, str, str, str] | None = None
    first_motion: str | None = None
    pace: str | None = None
    theme: str | None = None
    mood: str | None = None
    num_things: tuple[int, ...] = (1, 2, 2, 2, 3, 3, 4)
    camera: float = 0.45
    second_event: float = 0.5
    other_events: float = 0.4
    overlap: float = 0.25
    seconds: tuple[float, float] = (3.0, 4.5)
    steady: bool = False
    companion: tuple[str, str] | None = None


def sample_scene(rng: random.Random, split: str, wish: Wish = Wish()) -> Scene:
    """A scene of the split. Every thing stays in view for most of its life."""
    while True:
        scene = _draft(rng, wish)
        if scene and split_of(*scene.combination) == split and _visible(scene):
            return scene


def sample_look(rng: random.Random) -> tuple[str, str, str, str]:
    """(shape, colour, texture, size) of a main object."""
    return (
        rng.choice(SHAPES),
        rng.choice(COLOURS),
        rng.choice(TEXTURES),
        rng.choice(("medium", "medium", "large", "small")),
    )


def looks_like_spinning(shape: str, texture: str) -> bool:
    """A plain circle or ring shows no rotation."""
    return not (shape in ("circle", "ring") and texture in ("plain", "dotted"))


def _draft(rng: random.Random, wish: Wish) -> Scene | None:
    shape, colour, texture, size = wish.main or sample_look(rng)
    count = rng.choice(wish.num_things)
    if wish.companion:
        count = max(count, 2)
    layout = "apart"
    if count > 1 and not wish.companion and rng.random() < wish.overlap:
        layout = rng.choice(("inside", "in front of"))
        size = "small" if layout == "inside" else rng.choice(("small", "medium"))
        if wish.main and size != wish.main[3]:
            layout, size = "apart", wish.main[3]
    things = [Thing(shape, colour, size, texture)]
    for i in range(1, count):
        shapes = [s for s in SHAPES if all(s != t.shape for t in things)]
        colours = [c for c in COLOURS if all(c != t.colour for t in things)]
        if i == 1 and wish.companion:
            if wish.companion[0] not in shapes or wish.companion[1] not in colours:
                return None
            shapes, colours = [wish.companion[0]], [wish.companion[1]]
        size_i = rng.choice(("small", "medium", "medium", "large"))
        if count > 2 and size_i == "large":
            size_i = "medium"
        if i == 1 and layout != "apart":
            size_i = "large"
            if layout == "inside":
                shapes = [s for s in shapes if s in ("circle", "square", "ring")]
                if not shapes:
                    return None
        things.append(
            Thing(rng.choice(shapes), rng.choice(colours), size_i, rng.choice(TEXTURES))
        )
    moving = rng.random() < wish.camera
    camera = _draw_camera(rng, moving)
    events = _draw_events(rng, things, layout, moving, wish)
    if events is None:
        return None
    placed = _place(rng, things, events, layout)
    if placed is None:
        return None
    seconds = rng.uniform(*wish.seconds)
    return Scene(
        theme=wish.theme or rng.choice(THEMES),
        mood=wish.mood or rng.choice(MOODS),
        things=placed,
        events=events,
        camera=camera,
        layout=layout,
        seconds=round(seconds * FPS) / FPS,
        nuisance=rng.getrandbits(32),
    )


def _draw_camera(rng: random.Random, moving: bool) -> tuple[CameraMove, ...]:
    if not moving:
        return (CameraMove("static", None, 0.0, 1.0),)
    moves = [m for m in CAMERA_MOVES if m != "static"]
    first = rng.choice(moves)
    if rng.random() < 0.35:
        calm = [m for m in moves if m not in (first, motion.OPPOSITE.get(first))]
        calm = [m for m in calm if m != "shake"]
        if first != "shake":
            return (
                CameraMove(first, rng.choice(motion.PACES), 0.0, 0.5),
                CameraMove(rng.choice(calm), rng.choice(motion.PACES), 0.5, 1.0),
            )
    return (CameraMove(first, rng.choice(motion.PACES), 0.0, 1.0),)


def _draw_events(rng, things, layout, moving, wish) -> tuple[Event, ...] | None:
    """Events of the main thing (one or two in order) and of some others."""
    in_place = layout != "apart"

    def options(thing: Thing, place_bound: bool) -> list[str]:
        found = list(motion.IN_PLACE if place_bound else MOTIONS)
        if not looks_like_spinning(thing.shape, thing.texture):
            found.remove("spin")
        if wish.steady:
            found = [m for m in found if m not in motion.HIDING]
        return found

    def event(who, name, start, end):
        pace = None
        if name in motion.STRAIGHT:
            pace = wish.pace or rng.choice(motion.PACES)
        return Event(who, name, pace, start, end)

    allowed = options(things[0], in_place)
    first = wish.first_motion or rng.choice(allowed)
    if first not in allowed:
        return None
    two = rng.random() < wish.second_event * (0.6 if moving else 1.0)
    if two and first != "vanish":
        second = rng.choice([m for m in allowed if m not in (first, "appear")])
        events = [event(0, first, 0.0, 0.5), event(0, second, 0.5, 1.0)]
    else:
        start, end = rng.choice(((0.0, 1.0), (0.0, 1.0), (0.0, 0.5), (0.5, 1.0)))
        events = [event(0, first, start, end)]
    for who in range(1, len(things)):
        if who == 1 and in_place:
            continue
        if rng.random() < wish.other_events / (len(things) - 1):
            start, end = rng.choice(((0.0, 0.5), (0.5, 1.0)))
            events.append(
                event(who, rng.choice(options(things[who], True)), start, end)
            )
    return tuple(sorted(events, key=lambda e: (e.start, e.who)))


def _place(rng, things, events, layout) -> tuple[Thing, ...] | None:
    """Centres that keep things apart at the start and inside the view all along."""
    placed: list[Thing] = []
    for i, thing in enumerate(things):
        margin = min(SIZES[thing.size] / 2, 34) * 0.9
        mine = sorted((e for e in events if e.who == i), key=lambda e: e.start)
        left, right, up, down = motion.reach(mine, SIZES[thing.size])
        low_x, high_x = margin - left, VIEW - margin - right
        low_y, high_y = margin - up, VIEW - margin - down
        if low_x > high_x or low_y > high_y:
            return None
        if i == 0 and layout != "apart":
            low_x = low_y = 46
            high_x = high_y = VIEW - 46
        for _ in range(30):
            x, y = rng.uniform(low_x, high_x), rng.uniform(low_y, high_y)
            if i == 1 and layout == "inside":
                x, y = placed[0].x, placed[0].y
            elif i == 1 and layout == "in front of":
                # Half hidden behind the main thing: clearly overlapped, still readable.
                shift = 0.62 * SIZES[thing.size] / 2 + SIZES[things[0].size] * 0.22
                side = rng.choice(((1, 0), (-1, 0), (0, 1), (0, -1)))
                x = placed[0].x + side[0] * shift
                y = placed[0].y + side[1] * shift
                if not (margin <= x <= VIEW - margin and margin <= y <= VIEW - margin):
                    continue
            if layout != "apart" and i == 1:
                break
            gap = 0.56 * SIZES[thing.size]
            if all(
                max(abs(x - t.x), abs(y - t.y)) > gap + 0.5 * SIZES[t.size]
                for t in placed
            ):
                break
        else:
            return None
        placed.append(dataclasses.replace(thing, x=round(x, 1), y=round(y, 1)))
    return tuple(placed)


def _visible(scene: Scene) -> bool:
    """Whether each thing's centre is in view for most of the time it exists."""
    times = [k / 10 for k in range(11)]
    for i in range(len(scene.things)):
        inside = alive = 0
        for u in times:
            state = motion.state(scene, i, u)
            if state.alpha < 0.3:
                continue
            alive += 1
            x, y = motion.to_view(scene, state.x, state.y, u)
            inside += 6 <= x <= VIEW - 6 and 6 <= y <= VIEW - 6
        if not alive or inside < (0.85 if i == 0 else 0.7) * alive:
            return False
    return True
