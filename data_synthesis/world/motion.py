"""How things and cameras move: closed-form states at a time, no simulation.

Amplitudes are chosen so that each motion shows in eight frames spread over the scene:
periods stay well over twice the time between two of them.
"""

import math
from typing import NamedTuple

MOTIONS = (
    "left",
    "right",
    "up",
    "down",
    "bounce",
    "zigzag",
    "orbit",
    "sway",
    "spin",
    "grow",
    "shrink",
    "pulse",
    "appear",
    "vanish",
    "flash",
)
STRAIGHT = ("left", "right", "up", "down")
TRAVELLING = (*STRAIGHT, "zigzag")
# After these a thing may be elsewhere or gone.
LEAVING = (*TRAVELLING, "vanish")
# Motions that leave the centre where it is.
IN_PLACE = ("spin", "grow", "shrink", "pulse", "appear", "vanish", "flash")
# Motions during which a thing is out of sight for a while.
HIDING = ("appear", "vanish", "flash")
PACES = ("slow", "fast")
CAMERA_MOVES = (
    "static",
    "pan left",
    "pan right",
    "tilt up",
    "tilt down",
    "zoom in",
    "zoom out",
    "dolly in",
    "dolly out",
    "roll clockwise",
    "roll counterclockwise",
    "shake",
)
OPPOSITE = {
    "pan left": "pan right",
    "pan right": "pan left",
    "tilt up": "tilt down",
    "tilt down": "tilt up",
    "zoom in": "zoom out",
    "zoom out": "zoom in",
    "dolly in": "dolly out",
    "dolly out": "dolly in",
    "roll clockwise": "roll counterclockwise",
    "roll counterclockwise": "roll clockwise",
}
DISTANCE = {"slow": 36.0, "fast": 78.0}  # pixels of a straight motion
FAST_SHARE = 0.55  # of its span a fast motion needs
CENTRE = 84.0


class State(NamedTuple):
    """Of a thing at one time: centre in pixels, scale, degrees, opacity 0..1."""

    x: float
    y: float
    scale: float
    angle: float
    alpha: float


class View(NamedTuple):
    """The camera: world point at the view's centre, magnification, roll in degrees.

    `near` magnifies things beyond `zoom`: a dolly brings them closer than the scenery.
    """

    x: float
    y: float
    zoom: float
    angle: float
    near: float


def reach(events, size: float) -> tuple[float, float, float, float]:
    """Largest offsets (left <= 0, right, up <= 0, down) of a thing's path."""
    xs, ys = [0.0], [0.0]
    for k in range(41):
        state = _follow(0.0, 0.0, events, k / 40, size)
        xs.append(state.x)
        ys.append(state.y)
    return min(xs), max(xs), min(ys), max(ys)


def state(scene, who: int, u: float) -> State:
    """The state of thing `who` at time u in 0..1."""
    thing = scene.things[who]
    events = scene.events_of(who)
    return _follow(thing.x, thing.y, events, u, {"large": 76}.get(thing.size, 50))


def _follow(x, y, events, u, size) -> State:
    scale, angle, alpha = 1.0, 0.0, 1.0
    for event in events:
        span = event.end - event.start
        p = min(1.0, max(0.0, (u - event.start) / span))
        # Cycles: a whole scene of some four seconds holds twice those of a half.
        cycles = 2.5 if span > 0.75 else 1.25
        name = event.motion
        if name in STRAIGHT:
            # Covering the way sooner, and further, is what "fast" means.
            share = FAST_SHARE * (0.7 if span > 0.75 else 1.0)
            q = min(1.0, p / share) if event.pace == "fast" else p
            way = DISTANCE[event.pace] * q * (1.25 if span > 0.75 else 1.0)
            x += {"left": -way, "right": way}.get(name, 0.0)
            y += {"up": -way, "down": way}.get(name, 0.0)
        elif name == "bounce":
            hops = 3 if span > 0.75 else 1.5
            y -= 44 * abs(math.sin(math.pi * hops * p)) if p < 1 else 0.0
        elif name == "zigzag":
            x += 84 * p
            y += 24 * (2 / math.pi) * math.asin(math.sin(2 * math.pi * cycles * p))
        elif name == "orbit":
            turn = 2 * math.pi * p * (2 if span > 0.75 else 1)
            x += 34 * math.sin(turn)
            y += 34 * (1 - math.cos(turn))
        elif name == "sway":
            x += 30 * math.sin(2 * math.pi * cycles * p) if p < 1 else 0.0
        elif name == "spin":
            # 50 degrees between two of eight frames: no shape looks alike after that.
            angle += (350 if span > 0.75 else 175) * p
        elif name == "grow":
            top = 1.3 if size > 60 else 1.7
            scale *= 0.55 + (top - 0.55) * p
        elif name == "shrink":
            top = 1.25 if size > 60 else 1.6
            scale *= top - (top - 0.5) * p
        elif name == "pulse":
            scale *= 1 + 0.38 * math.sin(2 * math.pi * cycles * p) if p < 1 else 1.0
        elif name == "appear":
            alpha *= _ramp(p, 0.45, 0.65)
        elif name == "vanish":
            alpha *= 1 - _ramp(p, 0.35, 0.55)
        elif name == "flash":
            phase = (p * (5 if span > 0.75 else 2.5)) % 1.0
            alpha *= 0.0 if 0.25 < phase < 0.75 and 0 < p < 1 else 1.0
    return State(x, y, scale, angle, alpha)


def _ramp(p: float, low: float, high: float) -> float:
    return min(1.0, max(0.0, (p - low) / (high - low)))


def view(scene, u: float) -> View:
    """The camera at time u in 0..1."""
    x = y = CENTRE
    zoom, angle, near = 1.0, 0.0, 1.0
    moves = scene.camera
    for k, seg in enumerate(moves):
        p = min(1.0, max(0.0, (u - seg.start) / (seg.end - seg.start)))
        fast = seg.pace == "fast"
        half = len(moves) > 1
        # One long move is centred on the layout; in a pair each starts from it.
        lead = 0.0 if half else 0.5
        if seg.move in ("pan left", "pan right", "tilt up", "tilt down"):
            way = (56.0 if fast else 26.0) * (0.75 if half else 1.0) * (p - lead)
            if half and k == 0:
                way -= (56.0 if fast else 26.0) * 0.375
            x += {"pan left": -way, "pan right": way}.get(seg.move, 0.0)
            y += {"tilt up": -way, "tilt down": way}.get(seg.move, 0.0)
        elif seg.move == "zoom in":
            zoom *= 1 + (0.6 if fast else 0.25) * p
        elif seg.move == "zoom out":
            zoom *= 1 + (0.6 if fast else 0.25) * (1 - p)
        elif seg.move == "dolly in":
            near *= 0.8 + (0.75 if fast else 0.35) * p
            zoom *= 1 + 0.08 * p
        elif seg.move == "dolly out":
            near *= 0.8 + (0.75 if fast else 0.35) * (1 - p)
            zoom *= 1.08 - 0.08 * p
        elif seg.move == "roll clockwise":
            angle += (44 if fast else 20) * p
        elif seg.move == "roll counterclockwise":
            angle -= (44 if fast else 20) * p
        elif seg.move == "shake":
            size = 11.0 if fast else 6.0
            x += size * math.sin(37.7 * u + 1.0)
            y += size * math.sin(53.1 * u + 2.0)
    return View(x, y, zoom, angle, near)


def seen_at(scene, who: int, u: float) -> tuple[float, float]:
    """Where thing `who` is in the view at time u, in pixels."""
    thing = state(scene, who, u)
    return to_view(scene, thing.x, thing.y, u)


def to_view(scene, x: float, y: float, u: float) -> tuple[float, float]:
    """World coordinates -> view coordinates, in pixels."""
    camera = view(scene, u)
    turn = math.radians(camera.angle)
    cos, sin = math.cos(turn), math.sin(turn)
    # A dolly spreads near things apart, though less than it enlarges them.
    spread = camera.zoom * (1 + 0.4 * (camera.near - 1))
    dx, dy = (x - camera.x) * spread, (y - camera.y) * spread
    # A camera rolling clockwise sees the world turn counterclockwise.
    return CENTRE + cos * dx + sin * dy, CENTRE - sin * dx + cos * dy
