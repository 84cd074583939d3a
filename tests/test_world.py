"""The world's scene graphs and texts: splits, truth of captions, forms, edits."""

import dataclasses
import re

import pytest

from data_synthesis.world import captions, groups, plan, stories
from data_synthesis.world import scene as graph
from data_synthesis.world.facts import satisfies
from data_synthesis.world.scene import CameraMove, Event, Scene, Thing, Video


def scene(**changes) -> Scene:
    """A red star that moves right and then grows, left of a resting blue ring."""
    base = Scene(
        theme="beach",
        mood="warm",
        things=(
            Thing("star", "red", "medium", "plain", 40.0, 84.0),
            Thing("ring", "blue", "large", "striped", 120.0, 84.0),
        ),
        events=(
            Event(0, "right", "fast", 0.0, 0.5),
            Event(0, "grow", None, 0.5, 1.0),
        ),
        camera=(CameraMove("static", None, 0.0, 1.0),),
        layout="apart",
        seconds=4.0,
        nuisance=1,
    )
    return dataclasses.replace(base, **changes)


def video(*scenes: Scene, name: str = "v") -> Video:
    return Video(name, "train", "hand", scenes)


@pytest.fixture(scope="module")
def world():
    return plan.make_plan(3, 400)


def test_splits_share_no_combination(world):
    train = {s.combination for v in world.train for s in v.scenes}
    test = {s.combination for v in world.evaluation() for s in v.scenes}
    assert len(train) > 300 and len(test) > 200
    assert not train & test


def test_training_shows_every_single_attribute(world):
    scenes = [s for v in world.train for s in v.scenes]
    things = [t for s in scenes for t in s.things]
    assert {t.shape for t in things} == set(graph.SHAPES)
    assert {t.colour for t in things} == set(graph.COLOURS)
    assert {t.size for t in things} == set(graph.SIZES)
    assert {t.texture for t in things} == set(graph.TEXTURES)
    assert {s.theme for s in scenes} == set(graph.THEMES)
    assert {s.mood for s in scenes} == set(graph.MOODS)
    assert {e.motion for s in scenes for e in s.events} == set(graph.MOTIONS)
    assert {c.move for s in scenes for c in s.camera} == set(graph.CAMERA_MOVES)
    assert {len(s.things) for s in scenes} == {1, 2, 3, 4}
    relations = {
        graph.relation(s, i, j)
        for s in scenes
        for i in range(len(s.things))
        for j in range(len(s.things))
        if i != j
    }
    assert set(graph.RELATIONS) <= relations


def test_plans_follow_the_seed():
    assert plan.make_plan(5, 40) == plan.make_plan(5, 40)
    assert plan.make_plan(5, 40).train != plan.make_plan(6, 40).train


def test_graph_of_the_hand_made_scene():
    s = scene()
    assert (
        graph.relation(s, 0, 1) == "left of" and graph.relation(s, 1, 0) == "right of"
    )
    assert graph.place(s, 0) == "left" and graph.place(s, 1) == "right"
    assert s.combination == ("star", "red", "right", "beach")
    inside = scene(layout="inside")
    assert graph.relation(inside, 1, 0) == "around"


RIGHT = (0, "event", 0, "right", None)


@pytest.mark.parametrize(
    "fact, holds",
    [
        ((0, "theme", "beach"), True),
        ((0, "theme", "city"), False),
        ((0, "mood", "cold"), False),
        ((0, "count", 2), True),
        ((0, "count", 1), False),
        ((0, "camera", "static", None), True),
        ((0, "camera", "pan left", None), False),
        ((0, "cameras", ("pan left", "tilt up")), False),
        ((0, "thing", 0, (("shape", "star"), ("colour", "red"))), True),
        ((0, "thing", 0, (("shape", "star"), ("colour", "blue"))), False),
        ((0, "thing", 0, (("texture", "striped"),)), True),
        ((0, "place", 0, "upper"), False),
        (RIGHT, True),
        ((0, "event", 0, "right", "fast"), True),
        ((0, "event", 0, "right", "slow"), False),
        ((0, "before", (0, "right"), (0, "grow")), True),
        ((0, "before", (0, "grow"), (0, "right")), False),
        ((0, "still", 0), True),
        ((1, "theme", "beach"), True),  # the only scene may be any scene
    ],
)
def test_facts(fact, holds):
    assert satisfies(video(scene()), (fact,)) is holds


def test_facts_of_one_thing_must_meet_in_one_thing():
    red_star, star_rests = (0, "thing", 0, (("colour", "red"),)), (0, "still", 0)
    assert satisfies(video(scene()), (red_star,))
    assert satisfies(video(scene()), (star_rests,))
    assert not satisfies(video(scene()), (red_star, star_rests))
    blue = (0, "thing", 1, (("colour", "blue"),))
    assert satisfies(video(scene()), (red_star, blue, (0, "relation", 0, "left of", 1)))
    wrong = (0, "relation", 1, "left of", 0)
    assert not satisfies(video(scene()), (red_star, blue, wrong))


def test_scenes_count_in_order():
    beach, city = scene(), scene(theme="city")
    both = ((0, "theme", "beach"), (1, "theme", "city"))
    assert satisfies(video(beach, city), both)
    assert satisfies(video(beach, scene(theme="room"), city), both)
    assert not satisfies(video(city, beach), both)


def test_captions_are_true_and_as_long_as_their_form_says(world):
    for v in world.train[:160]:
        for form in captions.SHORT_FORMS if len(v.scenes) == 1 else ():
            told = captions.caption(v, form, graph.stream(0, form, v.id))
            low, high = stories.WORDS[form]
            assert low <= told.words <= high, told
            assert satisfies(v, told.facts), told
            assert "{" not in told.text and "  " not in told.text
            assert not re.search(r"\ba [aeio]\w+|\ban [^aeiou]", told.text), told.text


def test_captions_of_several_scenes(world):
    for name, form in (("moments", "moments"), ("long", "long")):
        for v in world.pools[name]:
            told = captions.caption(v, form, graph.stream(0, form, v.id))
            low, high = stories.WORDS[form]
            assert low <= told.words <= high, told
            assert satisfies(v, told.facts)
            assert {f[0] for f in told.facts} == set(range(len(v.scenes)))


def test_the_five_styles_keep_the_captioning_contract(world):
    assert len(captions.FIVE) == 5
    for v in world.train[:40]:
        texts = [
            captions.caption(v, form, graph.stream(1, form, v.id))
            for form in captions.FIVE
        ]
        assert min(t.words for t in texts) < 20 and max(t.words for t in texts) > 100
        assert "." not in texts[3].text  # keywords only


def test_captions_tell_scenes_apart(world):
    """A caption that names colour and shape stops holding when these change."""
    for v in world.train[:60]:
        s = v.scenes[0]
        told = captions.caption(v, "short", graph.stream(0, "apart", v.id))
        colours = [c for c in graph.COLOURS if all(c != t.colour for t in s.things)]
        other = dataclasses.replace(s.things[0], colour=colours[0])
        changed = dataclasses.replace(s, things=(other, *s.things[1:]))
        assert not satisfies(dataclasses.replace(v, scenes=(changed,)), told.facts)


def test_wording_varies():
    v = video(scene())
    texts = {captions.caption(v, "short", graph.stream(k, "x")).text for k in range(60)}
    assert len(texts) > 40
    assert len({t.split()[0] for t in texts}) >= 3


def test_vocabulary_has_the_planned_size(world):
    words = set()
    for v in world.train:
        forms = captions.SHORT_FORMS if len(v.scenes) == 1 else ()
        for form in forms:
            text = captions.caption(v, form, graph.stream(2, form, v.id)).text
            words.update(re.findall(r"[a-z'-]+", text.lower()))
    assert 450 < len(words) < 1200


def test_frame_captions_tell_only_what_is_in_sight():
    hidden = scene(events=(Event(0, "vanish", None, 0.0, 0.5),))
    assert captions.frame(hidden, 1.0, graph.stream(0, "f")) is None
    text = captions.frame(hidden, 0.0, graph.stream(0, "f")).text
    assert re.search(r"\b(star|five-pointed)\b", text)
    gone = scene(events=(Event(1, "vanish", None, 0.0, 0.5), scene().events[0]))
    for k in range(20):
        told = captions.frame(gone, 1.0, graph.stream(k, "f"))
        assert not any(f[1] == "thing" and f[2] == 1 for f in told.facts)


def test_composed_texts_need_their_reference(world):
    """Text and look single out one of ten; neither does alone."""
    names = {w for s in graph.SHAPES for w in captions.lex.SHAPES[s]}
    for number, found in enumerate(world.groups):
        group = found.group
        assert len(group.candidates) == groups.CANDIDATES == 10
        for look in range(groups.LOOKS):
            for setting in range(groups.SETTINGS):
                rng = graph.stream(number, look, setting)
                told = groups.edit(group, look, setting, "image", rng)
                assert groups.is_unique(group, look, setting, told)
                assert "reference image" in told.text
                target = group.candidates[look * groups.SETTINGS + setting]
                hero = target.things[0]
                main = [f for f in told.facts if f[1] == "thing" and f[2] == 0]
                assert all({k for k, _ in f[3]} <= {"texture"} for f in main)
                if len(target.things) == 1:
                    assert hero.colour not in told.text.split()
                    assert not names & set(told.text.rstrip(".").split())
                fits = [s for s in group.candidates if satisfies(video(s), told.facts)]
                assert len(fits) >= groups.LOOKS  # the text alone leaves every look
                same = [
                    s
                    for s in group.candidates
                    if s.things[0] == hero or (s.things[0].identity == hero.identity)
                ]
                assert len(same) == groups.SETTINGS  # as does the look alone


def test_references_show_the_look_alone_and_elsewhere(world):
    for found in world.groups:
        for look, reference in enumerate(found.group.references):
            assert len(reference.things) == 1
            shown = found.group.candidates[look * groups.SETTINGS]
            assert reference.things[0].identity == shown.things[0].identity
            assert all(reference.theme != s.theme for s in found.group.candidates)
