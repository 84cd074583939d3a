"""The world's pictures, measured in pixels of the encoded files."""

import dataclasses
import io
import itertools

import av
import cv2
import numpy as np
import pytest
from PIL import Image

from data_synthesis.world import encode, motion, render
from data_synthesis.world import scene as graph
from data_synthesis.world.scene import CameraMove, Event, Scene, Thing

STATIC = (CameraMove("static", None, 0.0, 1.0),)


def scene(name, pace=None, camera=STATIC, shape="square", **changes) -> Scene:
    base = Scene(
        theme="snow",
        mood="cheerful",
        things=(Thing(shape, "red", "medium", "plain", 84.0, 84.0),),
        events=(Event(0, name, pace, 0.0, 1.0),) if name else (),
        camera=camera,
        layout="apart",
        seconds=4.0,
        nuisance=7,
    )
    return dataclasses.replace(base, **changes)


def shown(s: Scene, tmp_path) -> np.ndarray:
    """Eight frames of the scene as a reader of its file would get them."""
    path = str(tmp_path / "v.mp4")
    encode.write_video(path, render.Stage(s).frames())
    with av.open(path) as file:
        stream = file.streams.video[0]
        assert stream.codec_context.name == "h264"
        frames = [f.to_ndarray(format="rgb24") for f in file.decode(video=0)]
    assert len(frames) == s.num_frames
    picked = np.linspace(0, len(frames) - 1, 8).round().astype(int)
    return np.stack([frames[i] for i in picked])


def red(frames: np.ndarray):
    """(areas, xs, ys) of what is red in each frame."""
    rgb = frames.astype(int)
    mask = (rgb[..., 0] > 140) & (rgb[..., 1] < 110) & (rgb[..., 2] < 110)
    areas = mask.sum((1, 2))
    y, x = np.mgrid[: frames.shape[1], : frames.shape[2]]
    weights = np.maximum(areas, 1)
    return areas, (mask * x).sum((1, 2)) / weights, (mask * y).sum((1, 2)) / weights


@pytest.mark.parametrize("pace, least", [("slow", 30), ("fast", 60)])
@pytest.mark.parametrize(
    "name, axis, sign",
    [
        ("left", 1, -1),
        ("right", 1, 1),
        ("up", 2, -1),
        ("down", 2, 1),
    ],
)
def test_straight_motions_go_their_way(name, axis, sign, pace, least, tmp_path):
    start = graph.VIEW / 2 - sign * 40
    place = {"x": start} if axis == 1 else {"y": start}
    thing = dataclasses.replace(scene(name).things[0], **place)
    moved = red(shown(scene(name, pace, things=(thing,)), tmp_path))
    way = moved[axis] * sign
    assert way[-1] - way[0] > least
    assert (np.diff(way) > -1).all()
    across = moved[3 - axis]
    assert np.ptp(across) < 4


def test_motions_in_place_show_in_eight_frames(tmp_path):
    def areas(name):
        return red(shown(scene(name), tmp_path))[0]

    grow, shrink = areas("grow"), areas("shrink")
    assert (np.diff(grow) > 0).all() and grow[-1] > 4 * grow[0]
    assert (np.diff(shrink) < 0).all() and shrink[0] > 4 * shrink[-1]
    appear, vanish = areas("appear"), areas("vanish")
    assert appear[0] == 0 and appear[-1] > 1000
    assert vanish[0] > 1000 and vanish[-1] == 0
    flash = areas("flash") > 500
    assert flash[0] and 2 <= flash.sum() <= 6 and np.diff(flash).sum() >= 3
    pulse = np.diff(areas("pulse"))
    assert (pulse > 300).any() and (pulse < -300).any()


def test_wandering_motions_show_in_eight_frames(tmp_path):
    _, x, y = red(shown(scene("orbit"), tmp_path))
    assert np.ptp(x) > 45 and np.ptp(y) > 45
    _, x, y = red(shown(scene("sway"), tmp_path))
    assert np.ptp(x) > 35 and np.ptp(y) < 4
    _, x, y = red(shown(scene("bounce"), tmp_path))
    assert np.ptp(x) < 4 and np.ptp(y) > 25
    thing = dataclasses.replace(scene("zigzag").things[0], x=40.0)
    _, x, y = red(shown(scene("zigzag", things=(thing,)), tmp_path))
    assert x[-1] - x[0] > 70 and np.ptp(y) > 25


def test_spin_turns_the_thing(tmp_path):
    frames = shown(scene("spin", shape="arrow"), tmp_path)
    areas, x, y = red(frames)
    assert np.ptp(x) < 12 and np.ptp(y) < 12 and np.ptp(areas) < 0.1 * areas[0]
    change = np.abs(np.diff(frames.astype(int), axis=0)).sum(3) > 60
    assert (change.sum((1, 2)) > 400).all()


def shift(frames: np.ndarray) -> tuple[float, float]:
    """(dx, dy) of the scenery from the first to the last frame, by correlation."""
    grey = [cv2.cvtColor(f, cv2.COLOR_RGB2GRAY).astype(np.float32) for f in frames]
    window = cv2.createHanningWindow(grey[0].shape, cv2.CV_32F)
    steps = [cv2.phaseCorrelate(a, b, window)[0] for a, b in itertools.pairwise(grey)]
    return tuple(np.sum(steps, axis=0))


@pytest.mark.parametrize(
    "move, axis, sign",
    # The scenery goes the other way than the camera.
    [("pan left", 0, 1), ("pan right", 0, -1), ("tilt up", 1, 1), ("tilt down", 1, -1)],
)
def test_camera_pans_move_the_scenery(move, axis, sign, tmp_path):
    camera = (CameraMove(move, "fast", 0.0, 1.0),)
    moved = shift(shown(scene("", camera=camera, theme="city"), tmp_path))
    assert 40 < sign * moved[axis] < 70
    assert abs(moved[1 - axis]) < 6


def test_camera_zooms_and_dollies_differ_in_the_scenery(tmp_path):
    def growth(move):
        camera = (CameraMove(move, "fast", 0.0, 1.0),)
        s = scene("", camera=camera)
        stage = render.Stage(s)
        areas = red(np.stack([stage.frame(0.0), stage.frame(1.0)]))[0]
        stage.sprites = [np.zeros_like(p) for p in stage.sprites]
        scenery = motion.view(s, 1.0).zoom / motion.view(s, 0.0).zoom
        return areas[1] / areas[0], scenery

    thing, scenery = growth("zoom in")
    assert thing > 2 and scenery > 1.5
    thing, scenery = growth("dolly in")
    assert thing > 2 and scenery < 1.1
    assert growth("zoom out")[0] < 0.5 and growth("dolly out")[0] < 0.5


def test_a_clockwise_roll_turns_the_world_the_other_way():
    thing = Thing("square", "red", "small", "plain", 130.0, 84.0)
    camera = (CameraMove("roll clockwise", "fast", 0.0, 1.0),)
    stage = render.Stage(scene("", camera=camera, things=(thing,)))
    _, x, y = red(np.stack([stage.frame(0.0), stage.frame(1.0)]))
    assert x[0] == pytest.approx(130, abs=2) and y[0] == pytest.approx(84, abs=2)
    # What was on the right has gone up.
    assert x[1] < x[0] - 8 and y[1] < y[0] - 25


def test_inside_and_in_front_are_drawn_in_that_order():
    things = (
        Thing("square", "red", "small", "plain", 84.0, 84.0),
        Thing("square", "blue", "large", "plain", 84.0, 84.0),
    )
    frame = render.Stage(scene("", things=things, layout="inside")).frame(0.0)
    assert frame[84, 84, 0] > 150 and frame[84, 84, 2] < 110
    assert frame[84, 114, 2] > 150 and frame[84, 114, 0] < 110


@pytest.mark.parametrize("mood", graph.MOODS)
def test_colours_keep_their_names_in_every_mood(mood):
    names = [c for c in graph.COLOURS]
    table = np.array([render.RGB[c] for c in names], float)
    for k, colour in enumerate(names):
        thing = Thing("square", colour, "large", "plain", 84.0, 84.0)
        frame = render.Stage(scene("", things=(thing,), mood=mood)).frame(0.0)
        seen = frame[70:98, 70:98].reshape(-1, 3).mean(0)
        # Chroma and lightness together: brightness alone may change with the mood.
        distance = np.linalg.norm(table - seen, axis=1)
        assert distance.argmin() == k, (mood, colour, names[distance.argmin()], seen)


def test_shapes_differ_at_model_size():
    """At 84 x 84 pixels, plain and of one colour, no two shapes look alike."""
    pictures = {}
    for shape in graph.SHAPES:
        thing = Thing(shape, "red", "medium", "plain", 84.0, 84.0)
        frame = render.Stage(scene("", things=(thing,))).frame(0.0)
        small = cv2.resize(frame, (84, 84), interpolation=cv2.INTER_AREA)
        rgb = small.astype(int)
        pictures[shape] = (rgb[..., 0] > 130) & (rgb[..., 1] < 120)
    for a in graph.SHAPES:
        for b in graph.SHAPES:
            both = (pictures[a] & pictures[b]).sum() / (pictures[a] | pictures[b]).sum()
            assert (both < 0.86) == (a != b), (a, b, both)


def test_videos_do_not_give_themselves_away_by_their_background():
    """Frames of two videos of a theme and mood are closer than themes are."""

    def background(theme, nuisance):
        s = scene("", theme=theme, nuisance=nuisance, mood="cheerful", things=())
        return render.Stage(s).frame(0.0).reshape(-1, 3).mean(0)

    means = np.array([[background(t, k) for k in range(6)] for t in graph.THEMES])
    within = np.linalg.norm(means - means.mean(1, keepdims=True), axis=2).mean()
    assert within > 5  # light and hue vary inside a theme


def test_jitter_keeps_its_focus_in_the_picture():
    frame = np.zeros((graph.VIEW, graph.VIEW, 3), np.uint8)
    frame[10:40, 120:150] = (220, 30, 30)
    for k in range(40):
        look = encode.Jitter(graph.stream(k, "jitter"), (135.0, 25.0))
        seen = look(frame)
        assert seen.shape == frame.shape
        assert (seen[..., 0].astype(int) - seen[..., 1] > 60).sum() > 600


def test_files_are_written_whole_and_the_same(tmp_path):
    s = scene("spin", shape="star")
    one, two = tmp_path / "a.mp4", tmp_path / "b.mp4"
    for path in (one, two):
        encode.write_video(str(path), render.Stage(s).frames())
    assert one.read_bytes() == two.read_bytes()

    def broken():
        yield from list(render.Stage(s).frames())[:5]
        raise OSError("disk full")

    with pytest.raises(OSError):
        encode.write_video(str(tmp_path / "c.mp4"), broken())
    assert not (tmp_path / "c.mp4").exists()
    encode.write_image(str(tmp_path / "i.jpg"), render.Stage(s).frame(0.0))
    with Image.open(io.BytesIO((tmp_path / "i.jpg").read_bytes())) as image:
        assert image.size == (graph.VIEW, graph.VIEW) and image.format == "JPEG"
        centre = image.getpixel((84, 84))
    assert centre[0] > 170 and centre[2] < 110  # RGB, not BGR
