"""Foils: near to the truth, and false."""

import random

import pytest

from data_synthesis.world import captions, foils, plan
from data_synthesis.world.facts import satisfies
from data_synthesis.world.scene import stream
from tests.test_world import scene, video


def writer(form, *key):
    return lambda scene: captions.of_scene(scene, form, stream(*key))


@pytest.mark.parametrize("form", ["event", "camera", "short"])
def test_a_foil_is_no_wording_of_the_truth(form):
    shown = scene()
    true = {writer(form, 7, k)(shown).text for k in range(3000)}
    for k in range(40):
        found = foils.foils(shown, writer(form, 1, k), 3, random.Random(k))
        assert len(found) == len(set(found)) == 3
        assert not true & set(found)


def test_foils_are_false_of_the_video_in_every_form():
    for shown in plan.make_plan(5, 60).train:
        for form in captions.SHORT_FORMS:
            told = {}

            def write(scene, form=form, told=told):
                caption = writer(form, 2, form)(scene)
                told[caption.text] = caption.facts
                return caption

            found = foils.foils(shown.scenes[0], write, 2, random.Random(3))
            assert found
            first = video(shown.scenes[0])
            assert not any(satisfies(first, told[text]) for text in found)


def test_one_respect_differs():
    shown = scene()
    claims = {}

    def write(scene):
        told = writer("event", 0, "event")(scene)
        claims[told.text] = set()
        for _, kind, _, *values in told.facts:
            claims[told.text] |= set(values[0]) if kind == "thing" else {(*values,)}
        return told

    true = claims[write(shown).text]
    found = foils.foils(shown, write, 20, random.Random(0))
    assert len(found) == 20
    assert all(len(true - claims[text]) == 1 for text in found)
    # Each of them is changed in some foil.
    assert not true.intersection(*(claims[text] for text in found))


def test_a_layout_is_mirrored_and_identities_trade():
    shown = scene()
    places = {tuple((t.x, t.y) for t in shown.things)}
    for seed in range(9):
        mirrored = foils._mirror(shown, random.Random(seed))
        places.add(tuple((t.x, t.y) for t in mirrored.things))
    # Both stand at half height, so upside down they stay where they are.
    assert places == {((40, 84), (120, 84)), ((128, 84), (48, 84))}
    traded = foils._identities(shown, random.Random(0))
    kinds = {(t.shape, t.colour) for t in traded.things}
    assert kinds in ({("star", "blue"), ("ring", "red")},)
    assert foils._identities(scene(things=shown.things[:1]), random.Random(0)) is None
    ordered = foils._order(shown, random.Random(0))
    assert [e.motion for e in ordered.events_of(0)] == ["grow", "right"]
