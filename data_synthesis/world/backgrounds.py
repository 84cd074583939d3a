"""The ten backgrounds, painted once per scene on a canvas larger than the view.

Colours are muted so that things stand out; layout and light vary from scene to scene
of one theme, so a background tells the theme and little else.
"""

import math
import random

import cv2
import numpy as np

CANVAS = 264  # pixels: the view and room for camera moves on all sides
_AA = cv2.LINE_AA


def paint(theme: str, rng: random.Random) -> np.ndarray:
    """uint8 [CANVAS, CANVAS, 3] RGB of a theme, varied by the stream."""
    canvas = _PAINTERS[theme](rng)
    # Nuisance: light and hue of one theme differ from video to video.
    gain = rng.uniform(0.86, 1.12)
    tint = [rng.uniform(-9, 9) for _ in range(3)]
    keep = rng.uniform(0.62, 0.8)
    # Each channel towards the grey of its pixel, then light and hue: one matrix.
    matrix = gain * (keep * np.eye(3) + (1 - keep) / 3)
    return cv2.transform(canvas, np.column_stack([matrix, tint]))


def _gradient(top, bottom) -> np.ndarray:
    t = np.linspace(0, 1, CANVAS, dtype=np.float32)[:, None]
    rows = np.array(top, np.float32) * (1 - t) + np.array(bottom, np.float32) * t
    return np.repeat(rows.astype(np.uint8)[:, None], CANVAS, axis=1)


def _wave(y: float, height: float, period: float, phase: float) -> np.ndarray:
    """A closed polygon: all below a wavy line."""
    xs = np.arange(0, CANVAS + 8, 8)
    ys = y + height * np.sin(xs * 2 * math.pi / period + phase)
    line = np.stack([xs, ys], 1)
    corners = np.array([[CANVAS + 8, CANVAS], [0, CANVAS]])
    return np.concatenate([line, corners]).astype(np.int32)


def _fill(canvas, polygon, colour) -> None:
    cv2.fillPoly(canvas, [polygon], colour, _AA)


def _beach(rng) -> np.ndarray:
    c = _gradient((150, 205, 240), (205, 230, 245))
    sea = int(rng.uniform(0.36, 0.46) * CANVAS)
    c[sea:] = (60, 140, 185)
    for k in range(5):
        y = sea + 8 + 12 * k
        cv2.line(c, (int(rng.uniform(0, 90)), y), (CANVAS, y), (110, 175, 205), 1)
    shore = _wave(sea + rng.uniform(48, 70), 6, rng.uniform(90, 160), rng.uniform(0, 6))
    _fill(c, shore - [0, 5], (225, 238, 240))
    _fill(c, shore, (222, 200, 150))
    sun = (int(rng.uniform(40, CANVAS - 40)), int(rng.uniform(30, 62)))
    cv2.circle(c, sun, 15, (250, 240, 190), -1, _AA)
    return c


def _forest(rng) -> np.ndarray:
    c = _gradient((70, 105, 75), (38, 66, 40))
    for layer, colour in ((0, (52, 84, 56)), (1, (34, 58, 38))):
        x = rng.uniform(-20, 20)
        while x < CANVAS:
            width = rng.uniform(26, 44)
            top = rng.uniform(10, 70) + 40 * layer
            for k in range(3):
                y = top + k * 42
                peak = [[x, y], [x - width, y + 62], [x + width, y + 62]]
                _fill(c, np.array(peak, np.int32), colour)
            cv2.line(c, (int(x), int(top + 60)), (int(x), CANVAS), (62, 46, 32), 7)
            x += rng.uniform(40, 66)
    _fill(c, _wave(216, 5, 120, rng.uniform(0, 6)), (46, 60, 34))
    return c


def _desert(rng) -> np.ndarray:
    c = _gradient((235, 205, 160), (245, 225, 185))
    for k, colour in enumerate(((214, 164, 100), (200, 146, 84), (184, 128, 70))):
        y = 105 + 48 * k + rng.uniform(-8, 8)
        wave = _wave(y, 14, rng.uniform(140, 230), rng.uniform(0, 6))
        _fill(c, wave, colour)
    for _ in range(2):
        x, y = int(rng.uniform(20, CANVAS - 20)), int(rng.uniform(130, 200))
        cv2.line(c, (x, y), (x, y - 34), (95, 120, 70), 7, _AA)
        cv2.line(c, (x, y - 12), (x + 13, y - 12), (95, 120, 70), 5, _AA)
        cv2.line(c, (x + 13, y - 12), (x + 13, y - 24), (95, 120, 70), 5, _AA)
    return c


def _city(rng) -> np.ndarray:
    c = _gradient((130, 140, 160), (175, 178, 188))
    x = -rng.uniform(0, 30)
    while x < CANVAS:
        width, top = rng.uniform(28, 52), rng.uniform(36, 130)
        shade = int(rng.uniform(62, 100))
        colour = (shade, shade + 4, shade + 14)
        cv2.rectangle(c, (int(x), int(top)), (int(x + width), CANVAS), colour, -1)
        for wy in range(int(top) + 8, 214, 15):
            for wx in range(int(x) + 6, int(x + width) - 6, 11):
                if rng.random() < 0.6:
                    c[wy : wy + 7, max(wx, 0) : wx + 5] = (206, 196, 140)
        x += width + rng.uniform(0, 8)
    cv2.rectangle(c, (0, 218), (CANVAS, CANVAS), (70, 70, 74), -1)
    for k in range(0, CANVAS, 36):
        cv2.line(c, (k, 240), (k + 18, 240), (190, 190, 180), 3)
    return c


def _meadow(rng) -> np.ndarray:
    c = _gradient((140, 195, 235), (200, 225, 240))
    _fill(c, _wave(100, 16, 200, rng.uniform(0, 6)), (120, 170, 96))
    _fill(c, _wave(140, 10, 150, rng.uniform(0, 6)), (132, 190, 92))
    for _ in range(46):
        x, y = int(rng.uniform(0, CANVAS)), int(rng.uniform(160, CANVAS))
        flower = rng.choice(((235, 225, 150), (235, 200, 215), (240, 240, 235)))
        cv2.circle(c, (x, y), 3, flower, -1, _AA)
    for _ in range(3):
        centre = (int(rng.uniform(0, CANVAS)), int(rng.uniform(20, 74)))
        cv2.ellipse(c, centre, (30, 10), 0, 0, 360, (238, 243, 246), -1, _AA)
    return c


def _snow(rng) -> np.ndarray:
    c = _gradient((172, 190, 210), (214, 222, 232))
    for k in range(3):
        x = 40 + 90 * k + rng.uniform(-25, 25)
        top, width = rng.uniform(36, 70), rng.uniform(66, 92)
        peak = np.array([[x, top], [x - width, 170], [x + width, 170]], np.int32)
        _fill(c, peak, (136, 148, 168))
        t = 0.34
        cap = np.array(
            [
                [x, top],
                [x - width * t, top + (170 - top) * t],
                [x, top + (170 - top) * t * 0.7],
                [x + width * t, top + (170 - top) * t],
            ],
            np.int32,
        )
        _fill(c, cap, (240, 244, 248))
    _fill(c, _wave(158, 8, 170, rng.uniform(0, 6)), (228, 234, 242))
    for _ in range(70):
        x, y = int(rng.uniform(0, CANVAS)), int(rng.uniform(0, CANVAS))
        cv2.circle(c, (x, y), 2, (250, 252, 255), -1, _AA)
    return c


def _ocean(rng) -> np.ndarray:
    c = _gradient((52, 130, 165), (14, 44, 84))
    for _ in range(4):
        x = rng.uniform(0, CANVAS)
        ray = [[x, 0], [x + 22, 0], [x - 20, CANVAS], [x - 70, CANVAS]]
        layer = c.copy()
        _fill(layer, np.array(ray, np.int32), (110, 175, 195))
        cv2.addWeighted(layer, 0.25, c, 0.75, 0, c)
    for _ in range(24):
        centre = (int(rng.uniform(0, CANVAS)), int(rng.uniform(0, 220)))
        cv2.circle(c, centre, int(rng.uniform(2, 6)), (140, 195, 210), 1, _AA)
    for _ in range(9):
        x, y = rng.uniform(0, CANVAS), CANVAS
        for k in range(5):
            tip = (int(x + 6 * math.sin(k * 1.3)), int(y - 14))
            cv2.line(c, (int(x), int(y)), tip, (36, 88, 78), 5, _AA)
            x, y = tip
    return c


def _space(rng) -> np.ndarray:
    c = _gradient((22, 18, 44), (38, 26, 58))
    for _ in range(120):
        x, y = int(rng.uniform(0, CANVAS)), int(rng.uniform(0, CANVAS))
        level = int(rng.uniform(120, 240))
        cv2.circle(c, (x, y), rng.choice((1, 1, 2)), (level,) * 3, -1, _AA)
    x, y = int(rng.uniform(60, 204)), int(rng.uniform(60, 110))
    cv2.circle(c, (x, y), 26, (120, 104, 140), -1, _AA)
    cv2.ellipse(c, (x, y), (42, 9), -18, 0, 360, (160, 146, 168), 2, _AA)
    return c


def _room(rng) -> np.ndarray:
    c = np.full((CANVAS, CANVAS, 3), (206, 190, 172), np.uint8)
    step = int(rng.uniform(22, 34))
    for x in range(int(rng.uniform(0, step)), CANVAS, step):
        cv2.line(c, (x, 0), (x, 186), (192, 174, 156), 4)
    cv2.rectangle(c, (0, 186), (CANVAS, CANVAS), (136, 100, 74), -1)
    for y in range(200, CANVAS, 16):
        cv2.line(c, (0, y), (CANVAS, y), (114, 82, 60), 2)
    x = int(rng.uniform(50, 150))
    cv2.rectangle(c, (x, 52), (x + 62, 124), (236, 230, 220), -1)
    cv2.rectangle(c, (x + 5, 57), (x + 57, 119), (150, 186, 208), -1)
    cv2.line(c, (x + 31, 52), (x + 31, 124), (236, 230, 220), 4)
    return c


def _volcano(rng) -> np.ndarray:
    c = _gradient((70, 34, 36), (96, 44, 34))
    x = rng.uniform(90, 174)
    hill = [[x - 20, 70], [x + 20, 70], [x + 120, 200], [x - 120, 200]]
    _fill(c, np.array(hill, np.int32), (46, 34, 36))
    y0, x0 = 70.0, x
    for _ in range(7):
        x1, y1 = x0 + rng.uniform(-14, 14), y0 + 18
        end = (int(x1), int(y1))
        cv2.line(c, (int(x0), int(y0)), end, (226, 110, 40), 7, _AA)
        x0, y0 = x1, y1
    cv2.ellipse(c, (int(x), 66), (20, 7), 0, 0, 360, (240, 150, 60), -1, _AA)
    _fill(c, _wave(200, 7, 110, rng.uniform(0, 6)), (40, 28, 30))
    for _ in range(7):
        centre = (int(rng.uniform(0, CANVAS)), int(rng.uniform(212, 256)))
        axes = (int(rng.uniform(14, 30)), 4)
        cv2.ellipse(c, centre, axes, 0, 0, 360, (214, 92, 34), -1, _AA)
    return c


_PAINTERS = {
    "beach": _beach,
    "forest": _forest,
    "desert": _desert,
    "city": _city,
    "meadow": _meadow,
    "snow": _snow,
    "ocean": _ocean,
    "space": _space,
    "room": _room,
    "volcano": _volcano,
}
