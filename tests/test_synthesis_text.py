"""Annotation rectification: what is repaired, what is rejected and what is not."""

import hypothesis
import hypothesis.strategies as st
import pytest

from data_synthesis.config import default_config
from data_synthesis.rectify import language, normalised, rectify, repair, words_of

LIMITS = default_config().text


@pytest.mark.parametrize(
    ("raw", "text", "edit"),
    [
        ("cafÃ© with people talking", "café with people talking", "encoding"),
        ("A man &amp;amp; a dog run", "A man & a dog run", "entities"),
        ("e\u0301clair on a plate", "éclair on a plate", "nfc"),
        ("a red\u0007 ball rolls", "a red ball rolls", "control"),
        ("a dog runs <br/><b>fast</b>", "a dog runs fast", "tags"),
        ("a dog runs, see https://a.b/c?d=1 now", "a dog runs, see now", "urls"),
        ("a dog runs, write to me@mail.org", "a dog runs, write to", "urls"),
        ("a dog runs by @some.one today", "a dog runs by today", "handles"),
        ("aerial view of a forest #nature #4k", "aerial view of a forest", "hashtags"),
        ("#fyp #viral #4k", "", "hashtags"),
        ("a  dog\n\truns", "a dog runs", "spaces"),
        ("This video shows a woman slicing leeks", "A woman slicing leeks", "prefix"),
        ("In this video, we see a cat asleep", "A cat asleep", "prefix"),
    ],
)
def test_repairs(raw, text, edit):
    repaired, edits = repair(raw)
    assert repaired == text and edit in edits


@pytest.mark.parametrize(
    "text",
    [
        "A man rides a bike",
        "Episode of a dog chasing a red ball on the beach",
        "Top view of a city street at night with traffic",
        "Best friends walk along a sandy beach at sunset",
        "A man watches the video of a football match on TV in a living room",
        "Officials inspect the flooded bridge",
        "He's running at 10:30 past the red clock tower",
        "Subscribers line up at the kiosk for the newspaper",
        "part of a woman's face appears and she smiles",
        "Camera 2 records a parked car near the gate",
        "Untitled paintings hang on a white gallery wall",
    ],
)
def test_descriptions_stay_as_they_are(text):
    found = rectify(text, LIMITS)
    assert found.text == text and found.edits == () and found.reasons == ()


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "empty"),
        (" \n", "empty"),
        ("IMG_2033.MOV", "filename"),
        ("VID_2021_30", "filename"),
        ("Untitled project 3", "placeholder"),
        ("00:01:23 2021-03-04", "timecode"),
        ("?!? ... 123", "nonword"),
        ("www.example.com/watch", "url"),
        ("#dog #cat #fish", "hashtag"),
        ("@user123 @bob", "handle"),
        ("Free shipping on all orders - link in bio", "cta"),
        ("Watch till the end!!!", "cta"),
        ("Episode 12 (official)", "title"),
        ("Official Music Video [HD]", "title"),
        ("a cat", "too_short"),
        ("dog " + "runs over a green hill " * 60, "too_long"),
        ("a % $ % $ ^ & * dog = + = + sits", "special_characters"),
        ("run run run run run dog cat", "repeated_word"),
        ("red dog and " * 8, "repeated_bigram"),
        ("ein Mann fährt mit dem Fahrrad durch die Stadt", "language"),
        ("一只狗在公园里追球", "language"),
    ],
)
def test_what_does_not_describe_is_rejected(text, reason):
    assert reason in rectify(text, LIMITS).reasons


def test_no_script_is_rejected_where_any_language_may_be():
    limits = default_config().text
    limits.language = ""
    for text in ("一只狗在公园里追球", "собака бежит по пляжу", "كلب يركض على الشاطئ"):
        assert rectify(text, limits).reasons == ()


def test_short_or_doubtful_texts_keep_their_language():
    lang, confidence = language("a man rides a bike")
    assert lang != "en" and confidence < LIMITS.min_language_confidence
    assert rectify("a man rides a bike", LIMITS).reasons == ()
    assert rectify("ein Mann fährt Fahrrad", LIMITS).reasons == ()  # four words


def test_equal_texts_are_recognised():
    assert normalised("A red  Ball, rolls.") == normalised("a red ball rolls")
    assert normalised("a red ball") != normalised("a red balls")


def test_words():
    assert words_of("Well-known dog’s 3 bones") == ["well-known", "dog's", "bones"]
    assert words_of("狗 runs") == ["狗", "runs"]


@hypothesis.given(st.text(max_size=200))
@hypothesis.settings(max_examples=200, deadline=None)
def test_any_text_is_judged_and_repair_is_stable(raw):
    found = rectify(raw, LIMITS)
    assert found.text == " ".join(found.text.split())
    assert all(0 <= v <= 1 for k, v in found.scores.items() if k != "words")
    if found.text:
        again, _ = repair(found.text)
        assert len(again) <= len(found.text) + 8
