"""Captioners: the truth's own, faults, a server that misbehaves, a model aside."""

import base64
import json
import random
import time

import cv2
import numpy as np
import pytest

from data_synthesis import claims, profiles, validation
from data_synthesis.captioners import choice, templates
from data_synthesis.captioners.base import Medium, Outcome, Request, Response
from data_synthesis.captioners.cache import Cached, forget
from data_synthesis.captioners.fake import FAULTS, Fake
from data_synthesis.captioners.flax import Flax
from data_synthesis.captioners.groundtruth import GroundTruth, moment, video_of
from data_synthesis.captioners.http import Http
from data_synthesis.captioners.limits import Breaker, Bucket
from data_synthesis.config import default_config
from data_synthesis.world.scene import Video, sample_scene, stream
from gve_jax.types import Item, UserError
from tests import tiny
from tests.stub_server import CUT, DRIP, HANG, RESET, Server, serving

SHARES = {"spatial": 0.3, "temporal": 0.6, "other": 0.1}


def video(i: int, scenes: int = 1) -> Video:
    rng = stream(4, "captioners", i)
    return Video(f"v{i}", "train", "t", tuple(
        sample_scene(rng, "train") for _ in range(scenes)
    ))  # fmt: skip


@pytest.fixture(scope="module")
def truth(tmp_path_factory):
    path = tmp_path_factory.mktemp("truth") / "truth.jsonl"
    rows = [video(i, 1 + (i % 3 == 0) * 2).to_json() for i in range(12)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def request(i=0, kind="video", seed=5, **facts) -> Request:
    facts = {"name": f"v{i}", "readability": "standard"} | facts
    keys = validation.STYLES if kind in ("video", "frame") else ("query",)
    return Request(
        f"r{i}", kind, "S", "P", (), (), validation.object_schema(keys), facts, seed,
        64, 0.7,
    )  # fmt: skip


def answers(captioner, requests) -> list[Response]:
    found = dict(captioner.generate(requests))
    assert sorted(found) == list(range(len(requests)))
    return [found[i] for i in range(len(requests))]


# --- ground truth ---


def test_scene_graphs_come_back_from_the_truth():
    shown = video(0, 3)
    row = json.loads(json.dumps(shown.to_json()))
    assert video_of(row) == shown
    (_, first), (_, second), _ = shown.spans()
    assert moment(shown, (first + second) / 2)[0] == shown.scenes[1]
    assert moment(shown, first)[1] == 0.0
    assert moment(shown, 999)[1] == 1.0


def test_captions_are_valid_and_always_the_same(truth):
    captioner = GroundTruth(truth)
    wanted = [
        request(i, kind, seed, readability=level, time="1.3")
        for i, level in enumerate(profiles.READABILITY * 2)
        for kind, seed in (("video", 1), ("video", 2), ("frame", 3))
    ]
    found = answers(captioner, wanted)
    assert found == answers(GroundTruth(truth), wanted)
    assert len({r.text for r in found}) == len(found)
    for asked, response in zip(wanted, found, strict=True):
        answer = validation.parse(response.text, validation.CAPTION_SCHEMA)
        frame = asked.kind == "frame"
        assert validation.captions(answer.value, frame=frame, raw="") == ()


def test_reading_levels_and_profiles_show_in_the_texts():
    def rich(i, shares, level):
        return templates.of_video(video(i), shares, level, random.Random(i))["2"]

    medians = [
        np.median([profiles.grade(rich(i, SHARES, level)) for i in range(10)])
        for level in range(5)
    ]
    assert medians == sorted(medians) and medians[4] - medians[0] > 5
    only = [dict.fromkeys(profiles.PARTS, 0.0) | {part: 1.0} for part in profiles.PARTS]
    about = [
        np.mean(
            [
                [profiles.estimate(rich(i, shares, 0))[part] for part in profiles.PARTS]
                for i in range(10)
            ],
            axis=0,
        )
        for shares in only
    ]
    # Each part is most told of where it is asked for.
    assert list(np.argmax(about, axis=0)) == [0, 1, 2]


def test_stills_tell_what_is_in_sight_and_nothing_that_moves():
    for i in range(25):
        (scene,) = video(i).scenes
        shown = {scene.things[k].colour for k, _, _ in templates.seen(scene, 0.4)}
        hidden = {t.colour for t in scene.things} - shown
        texts = templates.of_still(scene, 0.4, 0, random.Random(i))
        for text in texts.values():
            told = claims.told(text)
            assert not told["direction"] and not told["order"]
            assert not {colour for _, colour in told["colour"]} & hidden


@pytest.mark.parametrize("kind", ["image_query", "clip_query"])
def test_queries_are_valid(truth, kind):
    captioner = GroundTruth(truth)
    wanted = [
        request(i, kind, reference=f"v{j}", time="0.8", relation=relation)
        for i in range(12)
        for j, relation in ((i, "continuation"), ((i + 5) % 12, "new_action"))
    ]
    for response in answers(captioner, wanted):
        value = validation.parse(response.text, validation.QUERY_SCHEMA).value
        found = validation.query(value, clip=kind == "clip_query")
        assert not validation.fatal(found)


def test_what_the_truth_lacks_is_an_error_of_the_request(truth, tmp_path):
    (response,) = answers(GroundTruth(truth), [request(99)])
    assert response.outcome is Outcome.FATAL and "v99" in response.detail
    (tmp_path / "bad").write_text("{}\n")
    for path in (tmp_path / "none", tmp_path / "bad"):
        with pytest.raises(UserError, match=r"config\.caption\.truth"):
            GroundTruth(path)


# --- faults ---


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_spoils_the_answer(truth, fault):
    fake = Fake(GroundTruth(truth), {fault: 1.0}, seed=1)
    (response,) = answers(fake, [request()])
    outcomes = {"cut_off": "truncated", "blocked": "blocked", "fatal": "fatal"}
    outcomes |= dict.fromkeys(("429", "500", "hang"), "transient")
    assert response.outcome == outcomes.get(fault, "success")
    if response.outcome is Outcome.SUCCESS:
        answer = validation.parse(response.text, validation.CAPTION_SCHEMA)
        assert answer.value is None or validation.captions(
            answer.value, frame=False, raw=""
        )
    assert fake.tries == (6 if response.outcome is Outcome.TRANSIENT else 1)


def test_faults_follow_from_the_requests_alone(truth):
    faults = {"429": 0.3, "bad_json": 0.2, "prose": 0.1}
    wanted = [request(i % 12, seed=i) for i in range(60)]
    fake = Fake(GroundTruth(truth), faults, seed=1)
    found = answers(fake, wanted)
    again = answers(Fake(GroundTruth(truth), faults, seed=1), wanted[::-1])
    assert found == again[::-1]
    bad = sum('" = ' in r.text for r in found)
    assert 5 < bad < 30 and 60 < fake.tries < 120
    for faults in ({"typo": 0.1}, {"429": 0.6, "500": 0.6}, {"429": -1}):
        with pytest.raises(UserError, match=r"config\.caption\.faults"):
            Fake(GroundTruth(truth), faults, seed=1)


# --- the cache ---


class Counting:
    """Answers with what it was asked; ends after `most` answers."""

    id = fingerprint = "counting"

    def __init__(self, most=10**6, outcome=Outcome.SUCCESS):
        self.asked, self.most, self.outcome = [], most, outcome

    def generate(self, requests):
        for i, one in enumerate(requests):
            if len(self.asked) == self.most:
                raise KeyboardInterrupt
            self.asked.append(one)
            yield i, Response(self.outcome, f"{one.id} é", 1, 2)

    def close(self):
        pass


def test_a_cache_asks_only_what_is_missing(tmp_path):
    wanted, path = [request(i) for i in range(8)], tmp_path / "r" / "0.jsonl"
    first = Counting(most=3)
    cached = Cached(first, path)
    with pytest.raises(KeyboardInterrupt):
        answers(cached, wanted)
    # Killed while it wrote a fourth line.
    with open(path, "ab") as f:
        f.write(b'{"key": "abc", "id": "r3", "outco')
    second = Counting()
    cached = Cached(second, path)
    found = answers(cached, wanted)
    assert [r.text for r in found] == [f"r{i} é" for i in range(8)]
    assert second.asked == wanted[3:] and cached.paid == (3, 5, 5, 10)
    cached.close()
    third = Counting()
    assert answers(Cached(third, path), wanted[::-1]) == found[::-1]
    assert third.asked == []
    changes = (
        {"prompt": "Q"}, {"system": "T"}, {"seed": 6}, {"max_tokens": 65},
        {"temperature": 0.8}, {"schema": {}}, {"facts": {}}, {"kind": "frame"},
        {"images": (Medium("a", "1"),)}, {"id": "x"},
    )  # fmt: skip
    for change in changes:
        fourth = Counting()
        answers(Cached(fourth, path), [wanted[0]._replace(**change)])
        assert len(fourth.asked) == 1, change
    moved = [wanted[0]._replace(images=(Medium("elsewhere/a", "1"),))]
    fifth = Counting()
    answers(Cached(fifth, path), moved)
    assert fifth.asked == []


@pytest.mark.parametrize("outcome", Outcome)
def test_only_what_is_settled_is_kept(tmp_path, outcome):
    path = tmp_path / "0.jsonl"
    for asked in (1, outcome is Outcome.TRANSIENT):
        captioner = Counting(outcome=outcome)
        (found,) = answers(Cached(captioner, path), [request()])
        assert found.outcome is outcome and len(captioner.asked) == asked


def test_answers_are_forgotten_by_request(tmp_path):
    path, wanted = tmp_path / "0.jsonl", [request(i) for i in range(3)]
    answers(Cached(Counting(), path), wanted)
    assert forget(path, {"r1", "none"}) == 1
    again = Counting()
    answers(Cached(again, path), wanted)
    assert again.asked == [wanted[1]]
    path.write_text('{"key": 1}\n')
    with pytest.raises(UserError, match="no answer"):
        Cached(Counting(), path)


# --- limits ---


class Clock:
    """A time that passes by sleeping only."""

    def __init__(self):
        self.now, self.slept = 0.0, []

    def __call__(self):
        return self.now

    def sleep(self, seconds):
        self.slept.append(seconds)
        self.now += seconds


def test_a_bucket_keeps_to_its_rate():
    clock = Clock()
    bucket = Bucket(60, clock, clock.sleep)
    for _ in range(180):
        bucket.take(1)
    assert clock.now == pytest.approx(120)  # the first 60 at once
    bucket.settle(30)
    for _ in range(30):
        bucket.take(1)
    assert clock.now == pytest.approx(120)
    clock.now += 60
    bucket.take(90)  # more than it can hold: the next one pays
    assert clock.now == pytest.approx(180)
    bucket.take(1)
    assert clock.now == pytest.approx(211)
    free = Bucket(0, clock, clock.sleep)
    free.take(10**9)
    assert clock.now == pytest.approx(211)


def test_a_breaker_counts_failures_in_a_row():
    breaker = Breaker(3, "server")
    for _ in range(5):
        breaker.failed("x")
        breaker.failed("x")
        breaker.passed()
    breaker.failed("x")
    breaker.failed("x")
    with pytest.raises(UserError, match="3 failures in a row, the last: boom"):
        breaker.failed("boom")


# --- a server ---

ANSWER = json.dumps({"query": "From the reference image, now it rolls."})


@pytest.fixture(scope="module")
def still(tmp_path_factory):
    path = tmp_path_factory.mktemp("still") / "a.jpg"
    cv2.imwrite(str(path), np.full((32, 32, 3), 90, np.uint8))
    return Medium(str(path), "aa")


def client(url, environment=(), slept=None, **changes) -> Http:
    config = default_config()
    config.caption.update(
        captioner="http", url=url, model="m", concurrency=1, **changes
    )
    slept = [] if slept is None else slept
    return Http(config, dict(environment), sleep=slept.append)


def asked(still, number=1):
    return [
        request(i, "image_query")._replace(images=(still,)) for i in range(number)
    ]  # fmt: skip


def test_a_server_is_asked_as_it_wants_to_be(still):
    server = Server(lambda body: ANSWER)
    with serving(server) as url:
        http = client(url, {"OPENAI_API_KEY": "s3cret"})
        (response,) = answers(http, asked(still))
        http.close()
    assert response == Response(Outcome.SUCCESS, ANSWER, 7, 3)
    (body,) = server.bodies
    assert (body["model"], body["seed"], body["max_tokens"]) == ("m", 5, 64)
    system, user = body["messages"]
    assert system == {"role": "system", "content": "S"}
    picture, text = user["content"]
    head, data = picture["image_url"]["url"].split(",")
    assert head == "data:image/jpeg;base64" and text == {"type": "text", "text": "P"}
    with open(still.path, "rb") as f:
        assert base64.b64decode(data) == f.read()
    form = body["response_format"]["json_schema"]
    assert form["strict"] and form["schema"]["required"] == ["query"]
    assert server.headers[0]["Authorization"] == "Bearer s3cret"


def test_a_video_is_sent_as_frames(tmp_path):
    tiny.write_video(tmp_path / "v.mp4", frames=20, size=64)
    wanted = request()._replace(videos=(Medium(str(tmp_path / "v.mp4"), "v"),))
    missing = request()._replace(videos=(Medium(str(tmp_path / "w.mp4"), "w"),))
    server = Server(lambda body: ANSWER)
    with serving(server) as url:
        first, second = answers(client(url), [wanted, missing])
    assert first.outcome is Outcome.SUCCESS
    assert second.outcome is Outcome.FATAL and "no such file" in second.detail
    *pictures, _ = server.bodies[0]["messages"][1]["content"][1:]
    assert len(pictures) == 8
    data = pictures[0]["image_url"]["url"].split(",")[1]
    frame = cv2.imdecode(np.frombuffer(base64.b64decode(data), np.uint8), 1)
    assert frame.shape == (64, 64, 3)


@pytest.mark.parametrize(
    "step",
    [
        (429, {"Retry-After": "7"}, b"busy"),
        (408, {}, b""), (409, {}, b""), (425, {}, b""),
        (500, {}, b"oops"), (503, {}, b""),
        (200, {}, b"<html>no json</html>"),
        (200, {}, b'{"choices": []}'),
        CUT, RESET,
    ],
    ids=str,
)  # fmt: skip
def test_what_may_pass_is_tried_again(still, step):
    slept: list[float] = []
    server = Server(lambda body: ANSWER, [step, step])
    with serving(server) as url:
        (response,) = answers(client(url, slept=slept), asked(still))
    assert response.text == ANSWER and len(server.bodies) == 3
    if step[0] == 429:
        assert slept == [7.0, 7.0]
    else:
        assert len(slept) == 2 and slept[0] <= 1 and slept[1] <= 2


@pytest.mark.parametrize("step", [HANG, DRIP])
def test_a_server_that_hangs_costs_a_deadline_and_no_more(still, step):
    server = Server(lambda body: ANSWER, [step] * 9)
    start = time.monotonic()
    with serving(server) as url:
        http = client(url, deadline=2.2)
        (response,) = answers(http, asked(still))
    assert response.outcome is Outcome.TRANSIENT
    assert 2 <= len(server.bodies) <= 6 and time.monotonic() - start < 20


def test_waits_grow_at_random_and_end(still):
    slept: list[float] = []
    server = Server(lambda body: ANSWER, [(500, {}, b"")] * 6)
    with serving(server) as url:
        first, second = answers(client(url, slept=slept), asked(still, 2))
    assert first.outcome is Outcome.TRANSIENT and second.text == ANSWER
    assert len(server.bodies) == 7 and len(slept) == 5
    assert all(s <= 2**i for i, s in enumerate(slept)) and len(set(slept)) == 5


@pytest.mark.parametrize("status", [400, 413, 422])
def test_what_cannot_pass_is_not_tried_again(still, status):
    server = Server(lambda body: ANSWER, [(status, {}, b"no")])
    with serving(server) as url:
        first, second = answers(client(url), asked(still, 2))
    assert first.outcome is Outcome.FATAL and str(status) in first.detail
    assert second.outcome is Outcome.SUCCESS and len(server.bodies) == 2


@pytest.mark.parametrize("status", [302, 401, 403, 404])
def test_wrong_settings_end_the_run_and_hide_the_key(still, status):
    body = b"Incorrect API key provided: s3cret"
    server = Server(lambda body: ANSWER, [(status, {"Location": "/x"}, body)])
    with (
        serving(server) as url,
        pytest.raises(UserError, match=rf"status {status}") as caught,
    ):
        answers(client(url, {"OPENAI_API_KEY": "s3cret"}), asked(still))
    assert "s3cret" not in str(caught.value) and "***" in str(caught.value)
    assert len(server.bodies) == 1


def test_an_outage_ends_the_run(still):
    server = Server(lambda body: ANSWER, [(503, {}, b"")] * 99, alive=False)
    with (
        serving(server) as url,
        pytest.raises(UserError, match=r"does not answer.*503.*run the same command"),
    ):
        answers(client(url), asked(still, 9))
    assert len(server.bodies) == 6
    with pytest.raises(UserError, match="does not answer"):
        answers(client(url), asked(still))  # nobody listens there now


def test_a_server_that_is_there_but_always_fails_trips_the_breaker(still):
    server = Server(lambda body: ANSWER, [(500, {}, b"")] * 999)
    with serving(server) as url, pytest.raises(UserError, match="4 failures in a row"):
        answers(client(url, breaker=4), asked(still, 99))
    assert len(server.bodies) == 24


def test_filters_and_lengths_are_outcomes(still):
    server = Server(lambda body: ANSWER)
    with serving(server) as url:
        http = client(url)
        server.finish = "length"
        assert answers(http, asked(still))[0].outcome is Outcome.TRUNCATED
        server.finish = "content_filter"
        assert answers(http, asked(still))[0].outcome is Outcome.BLOCKED
        server.finish, server.message = "stop", {"refusal": "No."}
        assert answers(http, asked(still))[0].outcome is Outcome.BLOCKED
        server.script = [(400, {}, b'{"error": {"code": "content_filter"}}')]
        assert answers(http, asked(still))[0].outcome is Outcome.BLOCKED
        assert len(server.bodies) == 4


def test_a_server_without_schemas_is_noticed(still, capsys):
    server = Server(lambda body: "Here you are: a ball.")
    with serving(server) as url:
        answers(client(url), asked(still, 2))
        assert capsys.readouterr().err.count("ignores response_format") == 1
        server.bodies.clear()
        server.script = [(400, {}, b"unknown field response_format")]
        found = answers(client(url), asked(still, 2))
        assert "refuses response_format" in capsys.readouterr().err
    assert [r.outcome for r in found] == [Outcome.SUCCESS] * 2
    assert ["response_format" in body for body in server.bodies] == [True, False, False]


def test_rates_are_shared_by_the_workers(still):
    slept: list[float] = []
    server = Server(lambda body: ANSWER)
    with serving(server) as url:
        http = client(url, slept=slept, requests_per_minute=4, workers=2)
        answers(http, asked(still, 4))
    assert len(slept) == 2 and 25 < slept[0] <= 30 and 55 < slept[1] <= 60


@pytest.mark.parametrize(
    ("url", "match"),
    [
        ("127.0.0.1:80", "give an address"),
        ("file:///etc", "give an address"),
        ("http://user:pw@host/v1", "holds a password"),
        ("http://example.com/v1", "only sent over https"),
    ],
)
def test_addresses_are_checked(url, match):
    with pytest.raises(UserError, match=match) as caught:
        client(url, {"OPENAI_API_KEY": "k"})
    assert "pw" not in str(caught.value).replace("password", "")


# --- which one ---


def test_the_captioner_of_a_configuration_is_opened_once(truth):
    config = default_config()
    config.caption.truth = str(truth)
    try:
        with choice.opened(config) as one:
            pass
        with choice.opened(config) as two:
            assert one is two and one.id == "groundtruth"
        config.caption.update(captioner="fake", faults='{"429": 0.1}')
        before = choice.fingerprint(config)
        with choice.opened(config) as three:
            assert three.id == "fake groundtruth"
        config.caption.faults = "[]"
        assert choice.fingerprint(config) != before
        for change in ({"faults": "{"}, {"faults": "[]"}, {"captioner": "x"}):
            config.caption.update(change)
            with (
                pytest.raises(UserError, match=r"config\.caption"),
                choice.opened(config),
            ):
                pass
    finally:
        choice.close()


# --- a model in a process of its own ---


@pytest.mark.slow
def test_a_model_aside_says_what_it_says_here(tmp_path, still):
    from tests import test_generate

    folder = tmp_path / "model"
    folder.mkdir()
    test_generate.save("qwen2_5_vl", folder)
    tiny.write_video(tmp_path / "v.mp4")
    clip = Medium(str(tmp_path / "v.mp4"), "v")
    config = default_config()
    config.caption.update(
        captioner="flax", checkpoint=str(folder), batch_size=2,
        flags=(
            "--dtype=float32", "--config.preprocess.num_frames=4",
            f"--config.preprocess.min_pixels={56 * 56}",
            f"--config.preprocess.max_pixels={64 * 64}",
            "--config.preprocess.patch_buckets=(64,)",
            "--config.preprocess.token_buckets=(64, 128, 256)",
        ),
    )  # fmt: skip
    wanted = [
        request(1)._replace(videos=(clip,), temperature=0.0, max_tokens=12),
        request(2, "frame")._replace(images=(still,), temperature=0.0, max_tokens=12),
        request(3)._replace(videos=(clip,), temperature=0.0, max_tokens=6),
        request(4)._replace(videos=(Medium("none.mp4", ""),), temperature=0.0,
                            max_tokens=12),
        request(1)._replace(videos=(clip,), temperature=1.0, max_tokens=12),
        request(1, seed=6)._replace(videos=(clip,), temperature=1.0, max_tokens=12),
    ]  # fmt: skip
    captioner = Flax(config)
    try:
        found = answers(captioner, wanted)
        assert answers(captioner, wanted) == found
    finally:
        captioner.close()
    generator = test_generate.load(folder)
    items = [
        Item("1", "P", video=clip.path, instruction="S"),
        Item("2", "P", image=still.path, instruction="S"),
    ]
    here = generator.generate(items, progress=False)
    assert [r.text for r in found[:2]] == here.texts
    assert [(r.tokens_in, r.tokens_out) for r in found[:2]] == here.tokens
    assert here.texts[0].startswith(found[2].text) and found[2].tokens_out <= 6
    cut = {Outcome.TRUNCATED if n == 12 else Outcome.SUCCESS for _, n in here.tokens}
    assert {r.outcome for r in found[:2]} == cut
    assert found[3].outcome is Outcome.FATAL and "none.mp4" in found[3].detail
    assert found[4].text != found[5].text  # another attempt draws anew
    assert captioner.fingerprint == Flax(config).fingerprint
    (folder / "config.json").write_text((folder / "config.json").read_text() + " ")
    assert captioner.fingerprint != Flax(config).fingerprint
    config.caption.checkpoint = str(tmp_path / "none")
    with pytest.raises(UserError, match=r"ended with code 1.*no such folder"):
        answers(Flax(config), wanted[:1])
