"""Scene graph -> frames: uint8 RGB, antialiased, a pure function of the graph."""

import math
import random
from collections.abc import Iterator

import cv2
import numpy as np

from data_synthesis.world import backgrounds, motion
from data_synthesis.world.scene import SIZES, VIEW, Scene, Thing

RGB = {
    "red": (222, 36, 36),
    "orange": (248, 132, 28),
    "yellow": (252, 218, 40),
    "green": (44, 170, 62),
    "cyan": (44, 210, 218),
    "blue": (42, 82, 222),
    "purple": (134, 56, 196),
    "pink": (248, 132, 192),
    "brown": (124, 74, 34),
    "white": (246, 246, 246),
    "black": (26, 26, 28),
}
# Mood -> (gain per channel, haze 0..1 towards white, vignette 0..1).
MOOD_GRADE = {
    "cheerful": ((1.14, 1.14, 1.08), 0.06, 0.0),
    "gloomy": ((0.6, 0.61, 0.64), 0.0, 0.0),
    "warm": ((1.2, 0.98, 0.72), 0.0, 0.0),
    "cold": ((0.74, 0.93, 1.22), 0.0, 0.0),
    "dreamy": ((1.0, 0.97, 1.02), 0.42, 0.0),
    "mysterious": ((0.86, 0.84, 0.92), 0.0, 0.75),
}
THING_GRADE = 0.3  # share of the mood that reaches the things: colours stay readable
SPRITE = 128  # pixels of a sprite, its thing spanning SPRITE_SPAN of them
SPRITE_SPAN = 108
_SHIFT = 4  # sub-pixel bits of cv2's fixed-point coordinates


class Stage:
    """A scene made ready: painted background, sprites, light."""

    def __init__(self, scene: Scene):
        self.scene = scene
        rng = random.Random(scene.nuisance)
        gains, haze, vignette = MOOD_GRADE[scene.mood]
        background = backgrounds.paint(scene.theme, rng)
        self.background = _grade(background, gains, haze, 1.0)
        self.sprites = [
            _grade_sprite(_sprite(t, rng), gains, haze) for t in scene.things
        ]
        self.mask = None
        if vignette:
            y, x = np.mgrid[:VIEW, :VIEW].astype(np.float32) / VIEW - 0.5
            fall = np.clip(1.12 - vignette * 2.6 * (x * x + y * y), 0.15, 1.0)
            self.mask = np.repeat((fall * 255).astype(np.uint8)[:, :, None], 3, 2)

    def frames(self) -> Iterator[np.ndarray]:
        """Yields the `scene.num_frames` frames of the scene."""
        last = max(1, self.scene.num_frames - 1)
        for k in range(self.scene.num_frames):
            yield self.frame(k / last)

    def frame(self, u: float) -> np.ndarray:
        """The frame at time u in 0..1: uint8 [VIEW, VIEW, 3] RGB."""
        scene, camera = self.scene, motion.view(self.scene, u)
        turn = math.radians(camera.angle)
        cos, sin = math.cos(turn) * camera.zoom, math.sin(turn) * camera.zoom
        # World point (wx, wy) -> view; the canvas extends the world on all sides.
        pad = (backgrounds.CANVAS - VIEW) / 2
        cx, cy = camera.x + pad, camera.y + pad
        half = VIEW / 2
        matrix = np.array(
            [
                [cos, sin, half - cos * cx - sin * cy],
                [-sin, cos, half + sin * cx - cos * cy],
            ]
        )
        out = cv2.warpAffine(
            self.background,
            matrix,
            (VIEW, VIEW),
            flags=cv2.INTER_LINEAR,
            borderMode=cv2.BORDER_REFLECT_101,
        )
        # The main thing is nearest, so it is drawn last; "inside" needs that too.
        for who in reversed(range(len(scene.things))):
            state = motion.state(scene, who, u)
            if state.alpha <= 0:
                continue
            x, y = motion.to_view(scene, state.x, state.y, u)
            size = SIZES[scene.things[who].size] * state.scale * camera.zoom
            size *= camera.near
            # Screen angles are clockwise (y points down), as is a spin.
            angle = state.angle - camera.angle
            _draw(out, self.sprites[who], x, y, size, angle, state.alpha)
        if self.mask is not None:
            out = cv2.multiply(out, self.mask, scale=1 / 255)
        return out


def _grade(image: np.ndarray, gains, haze: float, share: float) -> np.ndarray:
    values = np.arange(256, dtype=np.float32)
    tables = []
    for gain in gains:
        level = values * (1 + (gain - 1) * share)
        tables.append(level + (244 - level) * haze * share)
    table = np.clip(np.stack(tables, 1), 0, 255).astype(np.uint8)[None]
    return cv2.LUT(image, table)


def _grade_sprite(sprite: np.ndarray, gains, haze: float) -> np.ndarray:
    colour = _grade(np.ascontiguousarray(sprite[..., :3]), gains, haze, THING_GRADE)
    opacity = sprite[..., 3]
    # Premultiplied: what blending and interpolation want.
    colour = cv2.multiply(
        colour, cv2.cvtColor(opacity, cv2.COLOR_GRAY2RGB), scale=1 / 255
    )
    return np.dstack([colour, opacity])


def _draw(out, sprite, x, y, size, angle, alpha) -> None:
    """Blends a premultiplied sprite onto the frame, centred at (x, y), in place."""
    scale = size / SPRITE_SPAN
    reach = SPRITE / 2 * scale * 1.42 + 1
    x0, y0 = max(0, math.floor(x - reach)), max(0, math.floor(y - reach))
    x1, y1 = min(VIEW, math.ceil(x + reach)), min(VIEW, math.ceil(y + reach))
    if x1 <= x0 or y1 <= y0:
        return
    turn = math.radians(angle)
    cos, sin = math.cos(turn) * scale, math.sin(turn) * scale
    half = SPRITE / 2
    matrix = np.array(
        [
            [cos, -sin, x - x0 - cos * half + sin * half],
            [sin, cos, y - y0 - sin * half - cos * half],
        ]
    )
    patch = cv2.warpAffine(sprite, matrix, (x1 - x0, y1 - y0), flags=cv2.INTER_LINEAR)
    if alpha < 1:
        patch = cv2.convertScaleAbs(patch, alpha=alpha)
    under = out[y0:y1, x0:x1]
    clear = cv2.cvtColor(255 - patch[..., 3], cv2.COLOR_GRAY2RGB)
    rest = cv2.multiply(under, clear, scale=1 / 255)
    under[...] = cv2.add(rest, cv2.cvtColor(patch, cv2.COLOR_RGBA2RGB))


def _sprite(thing: Thing, rng: random.Random) -> np.ndarray:
    """uint8 [SPRITE, SPRITE, 4]: textured shape with a contrasting rim."""
    base = np.array(RGB[thing.colour], np.float32)
    base = np.clip(base + [rng.uniform(-8, 8) for _ in range(3)], 0, 255)
    light = base.mean() > 120
    second = base * 0.45 if light else base + (255 - base) * 0.5
    body = np.empty((SPRITE, SPRITE, 3), np.float32)
    body[:] = base
    body[_pattern(thing.texture, rng)] = second
    shape = _mask(thing.shape, SPRITE_SPAN / 2)
    rim_colour = (22, 22, 24) if light else (240, 240, 240)
    # The rim keeps a thing apart from a background of its own colour.
    rim = cv2.dilate(shape, np.ones((9, 9), np.uint8))
    inner = shape.astype(np.float32)[..., None] / 255
    colour = body * inner + np.array(rim_colour, np.float32) * (1 - inner)
    sprite = np.dstack([colour.astype(np.uint8), rim])
    # Drawn at one size and warped down by up to 4: smooth once against aliasing.
    target = SIZES[thing.size] / SPRITE_SPAN
    if target < 0.5:
        kernel = 2 * round(0.5 / target) + 1
        sprite = cv2.GaussianBlur(sprite, (kernel, kernel), 0)
    return np.ascontiguousarray(sprite)


def _pattern(texture: str, rng: random.Random) -> np.ndarray:
    """bool [SPRITE, SPRITE]: where the second colour goes."""
    y, x = np.mgrid[:SPRITE, :SPRITE]
    phase = rng.randrange(24)
    if texture == "striped":
        return ((x + phase) // 15) % 2 == 1
    if texture == "checkered":
        return (((x + phase) // 25) + ((y + phase) // 25)) % 2 == 1
    if texture == "dotted":
        u, v = (x + phase) % 30 - 15, (y + phase) % 30 - 15
        return u * u + v * v < 76
    if texture == "two-tone":
        return y > SPRITE / 2
    return np.zeros((SPRITE, SPRITE), bool)


def _mask(shape: str, r: float) -> np.ndarray:
    """uint8 [SPRITE, SPRITE]: 255 inside the shape of half-width r."""
    mask = np.zeros((SPRITE, SPRITE), np.uint8)
    c = SPRITE / 2
    one = 1 << _SHIFT

    def fill(points, value=255):
        fixed = np.round((np.array(points) * r + c) * one).astype(np.int32)
        cv2.fillPoly(mask, [fixed], value, cv2.LINE_AA, _SHIFT)

    def disc(radius, x=0.0, y=0.0, value=255):
        centre = (round((c + x * r) * one), round((c + y * r) * one))
        cv2.circle(mask, centre, round(radius * r * one), value, -1, cv2.LINE_AA, 4)

    if shape == "circle":
        disc(1.0)
    elif shape == "square":
        fill([(-0.88, -0.88), (0.88, -0.88), (0.88, 0.88), (-0.88, 0.88)])
    elif shape == "triangle":
        fill([(0, -0.95), (1.0, 0.85), (-1.0, 0.85)])
    elif shape == "star":
        points = []
        for k in range(10):
            radius, turn = (1.05, 0.46)[k % 2], math.pi * k / 5
            points.append((radius * math.sin(turn), -radius * math.cos(turn)))
        fill(points)
    elif shape == "heart":
        t = np.linspace(0, 2 * math.pi, 60)
        x = 16 * np.sin(t) ** 3
        y = 13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)
        fill(np.stack([x / 16, -(y + 2) / 15], 1))
    elif shape == "diamond":
        fill([(0, -1.05), (0.72, 0), (0, 1.05), (-0.72, 0)])
    elif shape == "cross":
        w = 0.36
        fill(
            [
                *[(-w, -1), (w, -1), (w, -w), (1, -w), (1, w), (w, w)],
                *[(w, 1), (-w, 1), (-w, w), (-1, w), (-1, -w), (-w, -w)],
            ]
        )
    elif shape == "ring":
        disc(1.0)
        disc(0.58, value=0)
    elif shape == "crescent":
        disc(1.0)
        disc(0.82, x=0.52, value=0)
    elif shape == "arrow":
        fill(
            [
                *[(0, -1.05), (0.95, -0.05), (0.4, -0.05), (0.4, 1.0)],
                *[(-0.4, 1.0), (-0.4, -0.05), (-0.95, -0.05)],
            ]
        )
    else:
        raise ValueError(f"no such shape: {shape}")
    return mask
