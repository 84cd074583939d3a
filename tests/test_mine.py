"""gve_jax.mine: against plain loops, by hand, and through the command."""

import collections
import dataclasses
import json
import os
import pathlib
import shutil
import subprocess
import sys
import zlib

import jax
import numpy as np
import pytest

from gve_jax.data.records import read_pairs
from gve_jax.embed import Embedder
from gve_jax.mine import (
    Corpus,
    MineOptions,
    equal_files,
    mine,
    mine_to_folder,
    store,
    write_pairs,
)
from gve_jax.train.loop import train
from gve_jax.types import Item, Pair, UserError
from tests import tiny
from tests.mine_witness import brute_force

ROOT = pathlib.Path(__file__).parents[1]


# Against the witness.


def exact_vector(item):
    """A unit vector by content; products of any two are exact, and often tie."""
    rng = np.random.default_rng(zlib.crc32(repr(item.content).encode()))
    if rng.random() < 0.05:
        return np.full(8, np.nan, np.float32)
    out = np.zeros(8, np.float32)
    # Mostly of one sign, so that most scores are above 0.
    out[rng.choice(8, 4, replace=False)] = rng.choice([0.5] * 7 + [-0.5], 4)
    return out


def exact_embed(items):
    assert len({item.content for item in items}) == len(items)
    assert len({item.id for item in items}) == len(items)
    return np.stack([exact_vector(item) for item in items])


def wild_pairs(rng, n, keep):
    """Pairs with few queries and sources, and targets of all kinds."""

    def text(k):
        words = rng.choice([f"a word {k}", f"A  word {k}", f"a Word {k} "])
        return Item(f"t{k}", text=str(words))

    def target():
        k = int(rng.integers(n))
        if rng.random() < 0.5:
            return text(k)
        instruction = rng.choice(["Find it.", None])
        start = rng.choice([None, 1.0])
        return Item("", video=f"/v{k}.mp4", start=start, instruction=instruction)

    targets = [target() for _ in range(n)]
    pairs = []
    for i in range(n):
        query = text(int(rng.integers(n)))
        if rng.random() < 0.5:
            query = query._replace(instruction="Which?")
        earlier = rng.integers(n, size=rng.integers(5) if keep else 0)
        negatives = tuple(targets[k] for k in earlier)
        source = None if rng.random() < 0.3 else f"s{rng.integers(n // 4)}"
        pairs.append(Pair(f"p{i}", query, targets[i], negatives, "T", source))
    return pairs


def test_it_equals_plain_loops():
    all_met = collections.Counter()
    for seed in range(16):
        rng = np.random.default_rng(seed)
        options = MineOptions(
            negatives=int(rng.integers(1, 7)),
            ceiling=float(rng.choice([0.75, 1.0, 2.0])),
            first_rank=int(rng.choice([1, 3])),
            last_rank=int(rng.choice([4, 9, 60])),
            near_duplicate=float(rng.choice([0.75, 1.0, 2.0])),
            keep=seed % 2 == 1,
        )
        pairs = wild_pairs(rng, 60, options.keep)
        corpus = [
            *(Item(str(i), text=f"A word {i}") for i in range(0, 120, 3)),
            Item("image", image="/i.jpg"),
        ]
        twins = {"/v1.mp4": "/v0.mp4", "/v5.mp4": "/v4.mp4", "/v4.mp4": "/v4.mp4"}
        vectors = np.stack([exact_vector(item) for item in corpus])
        found = mine(pairs, exact_embed, options, Corpus(corpus, vectors), twins)
        expected, met = brute_force(pairs, exact_vector, options, corpus, twins)
        for pair, mined, (negatives, scores) in zip(
            pairs, found.pairs, expected, strict=True
        ):
            assert mined.negatives == tuple(negatives)
            assert mined.scores == tuple(scores)
            assert mined._replace(negatives=(), scores=()) == pair._replace(
                negatives=()
            )
        audit = found.audit
        assert {k: v for k, v in audit.verdicts.items() if v} == met
        all_met.update(met)
        assert audit.short_pairs == sum(
            len(negatives) < options.negatives for negatives, _ in expected
        )
        assert audit.unreadable_pairs == sum(not scores for _, scores in expected) > 0
        assert audit.other_modality == 1
    # The cases are wild enough for every reason to be met.
    assert all(all_met[name] > 5 for name in found.audit.verdicts), all_met


def test_a_large_source_does_not_empty_the_window():
    """The search goes deeper than what stands above the window."""
    pairs = [
        Pair(f"p{i}", Item("", text=f"q{i % 7}"), Item("", text=f"t{i}"), (), "T", s)
        for i, s in enumerate(["film"] * 200 + ["other"] * 50)
    ]
    options = MineOptions(negatives=2, ceiling=2.0, last_rank=3, near_duplicate=2)
    found = mine(pairs, exact_embed, options)
    expected, met = brute_force(pairs, exact_vector, options)
    assert [m.negatives for m in found.pairs] == [tuple(n) for n, _ in expected]
    assert met["other_positive"] > 500


# By hand.


def angle_embed(items):
    """Texts that name an angle in degrees."""
    angles = np.deg2rad([float(item.text.split()[-1]) for item in items])
    return np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)


@pytest.mark.parametrize(
    "options, expected",
    [
        # The positive scores cos 40 = 0.766, of which 0.95 is the cosine of 43.3.
        ({}, [44, -46]),
        ({"ceiling": 0.9}, [50, 89]),  # 0.689, the cosine of 46.4
        ({"ceiling": 2}, [10, -43]),
        ({"ceiling": 2, "first_rank": 2}, [-43, 44]),
        ({"ceiling": 2, "first_rank": 2, "last_rank": 2}, [-43]),
        ({"near_duplicate": 0.995}, [-46, 50]),  # cos 4 = 0.998, cos 10 = 0.985
        ({"near_duplicate": 0.98}, [-46, 89]),
    ],
)
def test_limits_by_hand(options, expected):
    ask = Pair("p", Item("", text="query 0"), Item("", text="at 40"))
    others = [
        Pair(str(angle), Item("", text="away 180"), Item("", text=f"at {angle}"))
        for angle in (10, -43, 44, -46, 50, 89)
    ]
    options = MineOptions(**{"negatives": 2, "near_duplicate": 2.0, **options})
    found = mine([ask, *others], angle_embed, options)
    assert [item.text for item in found.pairs[0].negatives] == [
        f"at {angle}" for angle in expected
    ]
    scores = np.cos(np.deg2rad([40, *expected]))
    np.testing.assert_allclose(found.pairs[0].scores, scores, atol=1e-6)
    # The others point away from their targets: no share of such a score is a limit.
    assert found.audit.nonpositive_pairs == 6
    assert all(not m.negatives and len(m.scores) == 1 for m in found.pairs[1:])
    assert found.audit.short_pairs == 6 + (len(expected) < 2)


def test_near_duplicates_never_come_back():
    rng = np.random.default_rng(0)

    def unit(x):
        return (x / np.linalg.norm(x, axis=-1, keepdims=True)).astype(np.float32)

    n, d = 300, 64
    targets = unit(rng.normal(size=(n, d)))
    queries = unit(targets + 0.1 * rng.normal(size=(n, d)))
    copies = unit(targets + 0.012 * rng.normal(size=(n, d)))  # cosine about 0.995
    table = {f"q{i}": q for i, q in enumerate(queries)}
    table |= {f"t{i}": t for i, t in enumerate(targets)}
    pairs = [
        Pair(f"p{i}", Item("", text=f"q{i}"), Item("", text=f"t{i}")) for i in range(n)
    ]
    corpus = Corpus([Item(f"c{i}", text=f"c{i}") for i in range(n)], copies)

    def came_back(near):
        found = mine(
            pairs,
            lambda items: np.stack([table[item.text] for item in items]),
            MineOptions(negatives=3, ceiling=10.0, near_duplicate=near),
            corpus,
        )
        assert all(len(pair.negatives) == 3 for pair in found.pairs)
        return [
            f"c{i}" in [n.id for n in p.negatives] for i, p in enumerate(found.pairs)
        ]

    assert np.mean(came_back(2.0)) > 0.99  # they would: little is as near
    assert not any(came_back(0.985))


def test_samples_show_what_was_passed_over():
    pairs = [
        Pair(
            f"p{i}", Item("", text=f"q {i}"), Item("", text=f"t {10 * i}"), source_id=s
        )
        for i, s in enumerate("aabcd")
    ]
    found = mine(
        pairs, angle_embed, MineOptions(ceiling=0.99, near_duplicate=2.0, samples=2)
    )
    first, last = found.samples
    assert (first.pair.id, last.pair.id) == ("p0", "p4")
    assert [(j.item.text, j.rank, j.verdict.name) for j in first.candidates] == [
        ("t 0", 0, "OWN_TARGET"),
        ("t 10", 0, "SAME_SOURCE"),
        ("t 20", 1, "TAKEN"),
    ]
    assert first.candidates[2].score == pytest.approx(np.cos(np.deg2rad(20)))


@pytest.mark.parametrize(
    "options, message",
    [
        ({"negatives": 0}, "negatives=0: must be above 0"),
        ({"ceiling": float("nan")}, "ceiling=nan"),
        ({"first_rank": 5, "last_rank": 4}, "last_rank=4: must be at least"),
    ],
)
def test_options_out_of_range(options, message):
    with pytest.raises(UserError, match=message):
        mine([], angle_embed, MineOptions(**options))


# Files.


def test_equal_files(tmp_path):
    for name, data in {"a": b"12", "b": b"21", "c": b"12", "d": b"123"}.items():
        (tmp_path / name).write_bytes(data)
    a, b, c, d, gone = (str(tmp_path / name) for name in ("a", "b", "c", "d", "gone"))
    assert equal_files([d, c, gone, b, a, c]) == {c: c, a: c}


@pytest.mark.parametrize("linked", [False, True])
def test_pairs_are_read_as_written(tmp_path, linked):
    (tmp_path / "media").mkdir()
    clip = tmp_path / "media" / "clip.mp4"
    clip.write_bytes(b"x")
    out = tmp_path / "deep" / "er"
    out.mkdir(parents=True)
    if linked:
        (tmp_path / "link").symlink_to(out)
        out = tmp_path / "link"
    clips = [Item("", video=str(clip), start=0.0, end=e) for e in (1.0, 2.0)]
    query = Item("q", text="ä\u2028b", image=str(clip), instruction="Find it.")
    pairs = [
        Pair("p", query, clips[0], (clips[1],), "T", "s", "c", (0.5, -0.25)),
        Pair("r", query, clips[1], task="T"),
    ]
    write_pairs(out / "T.jsonl", pairs)
    assert read_pairs(out / "T.jsonl") == pairs
    assert (str(tmp_path) in (out / "T.jsonl").read_text()) == linked


# With a real checkpoint.


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """The tiny pairs, and another whose target is broken."""
    folder = tiny.write_pairs(tmp_path_factory.mktemp("data") / "train")
    (folder / "broken.mp4").write_bytes(b"no video")
    with open(folder / "T2V.jsonl", "a", encoding="utf-8") as f:
        row = {
            "id": "bad",
            "query": {"text": "gone"},
            "target": {"video": "broken.mp4"},
        }
        f.write(json.dumps(row) + "\n")
    return folder


@pytest.fixture(scope="module")
def workdir(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "run"
    # Untrained: nothing here depends on what the weights are.
    config = tiny.config(data, optim__warmup_steps=0, train__steps=0)
    train(config, folder, jax.devices()[:1])
    return folder


@pytest.fixture(scope="module")
def prober(workdir):
    return Embedder.from_checkpoint(workdir)


OPTIONS = MineOptions(negatives=2, ceiling=10.0, near_duplicate=2.0)


def tasks_of(folder):
    return {name: read_pairs(folder / f"{name}.jsonl") for name in ("T2T", "T2V")}


def files_of(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.suffix != ".npz"
    }


@pytest.fixture(scope="module")
def mined(prober, data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("mined") / "out"
    mine_to_folder(prober, tasks_of(data), folder, OPTIONS)
    return folder


def test_the_folder_holds_what_the_function_finds(mined, prober, data):
    for task, pairs in tasks_of(data).items():
        there = read_pairs(mined / "pairs" / f"{task}.jsonl")
        vectors = {}
        for item in [x for p in pairs for x in (p.query, p.target)]:
            vectors[item.content] = prober.embed([item], progress=False).vectors[0]
        expected, _ = brute_force(
            pairs, lambda x, table=vectors: table[x.content], OPTIONS
        )
        for pair, (negatives, scores) in zip(there, expected, strict=True):
            # Scores nearly tie in so small a model: compared are those, not names.
            np.testing.assert_allclose(pair.scores, scores, atol=1e-5)
            for item, score in zip(pair.negatives, pair.scores[1:], strict=True):
                exact = vectors[pair.query.content] @ vectors[item.content]
                assert abs(exact - score) < 1e-5
            assert len(pair.negatives) == len(negatives)


def test_what_a_folder_tells(mined, data):
    audit = json.loads((mined / "audit.json").read_text())
    assert (
        audit["contract"] == json.loads((mined / "inputs.json").read_text())["contract"]
    )
    videos = audit["tasks"]["T2V"]
    assert (videos["pairs"], videos["candidates"]) == (25, 13)
    assert videos["unreadable_pairs"] == videos["unreadable_candidates"] == 1
    assert videos["dropped"] == 24  # those the pairs came with
    assert videos["verdicts"]["taken"] == 48
    assert set(videos["negative_scores"]) >= {"0%", "50%", "100%"}
    failures = [
        json.loads(x) for x in (mined / "failures.jsonl").read_text().splitlines()
    ]
    assert audit["unreadable_items"] == len(failures) == 1
    assert failures[0]["task"] == "T2V" and "broken" in failures[0]["item"]
    bad = read_pairs(mined / "pairs" / "T2V.jsonl")[-1]
    assert bad.id == "bad" and not bad.negatives and not bad.scores
    samples = [json.loads(x) for x in (mined / "audit.jsonl").read_text().splitlines()]
    assert {row["task"] for row in samples} == {"T2T", "T2V"}
    taken = [c for c in samples[-2]["candidates"] if c["verdict"] == "taken"]
    assert len(taken) == 2 and (mined / taken[0]["item"]["video"]).is_file()
    page = (mined / "audit.html").read_text()
    assert "data:image/jpeg;base64," in page and "own target" in page
    assert "goes right" in page and "broken.mp4" in page and "http" not in page


def test_mined_pairs_train(mined, tmp_path):
    pairs = read_pairs(mined / "pairs" / "T2V.jsonl")
    write_pairs(tmp_path / "T2V.jsonl", pairs[:-1])  # without the broken one
    config = tiny.config(tmp_path, data__num_negatives=2, train__steps=2)
    train(config, tmp_path / "run", jax.devices()[:1])
    rows = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert np.isfinite(json.loads(rows[-1])["loss"])


def test_an_interrupted_run_goes_on(mined, prober, data, tmp_path, monkeypatch):
    calls = []

    def interrupted(embedder, items, folder, desc):
        calls.append(desc)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return embed_to_folder(embedder, items, folder, desc)

    embed_to_folder = store.embed_to_folder
    monkeypatch.setattr(store, "embed_to_folder", interrupted)
    out = mined.parent / "again"  # beside, so that relative paths are the same
    with pytest.raises(KeyboardInterrupt):
        mine_to_folder(prober, tasks_of(data), out, OPTIONS)
    assert not (out / "audit.json").exists()
    mine_to_folder(prober, tasks_of(data), out, OPTIONS)
    assert calls == ["embed T2T", "embed T2V", "embed T2V"]
    assert files_of(out) == files_of(mined)
    # Finished: nothing is embedded, nothing changes.
    audit = mine_to_folder(prober, tasks_of(data), out, OPTIONS)
    assert len(calls) == 3 and audit == json.loads((out / "audit.json").read_text())


def test_other_inputs_are_refused(mined, prober, data, monkeypatch):
    before = files_of(mined)
    tasks = tasks_of(data)
    with pytest.raises(UserError, match=r"mined with --ceiling=10\.0, not 0\.5"):
        mine_to_folder(prober, tasks, mined, OPTIONS._replace(ceiling=0.5))
    with pytest.raises(UserError, match="of other pairs, corpus or media"):
        mine_to_folder(prober, {"T2T": tasks["T2T"]}, mined, OPTIONS)
    with pytest.raises(UserError, match="of other pairs, corpus or media"):
        mine_to_folder(prober, tasks, mined, OPTIONS, [Item("c", text="more")])
    with pytest.raises(UserError, match=r"holds T2T\.jsonl, not negatives"):
        mine_to_folder(prober, tasks, data, OPTIONS)
    other = dataclasses.replace(prober.contract, weights_hash="other")
    monkeypatch.setattr(prober, "contract", other)
    with pytest.raises(UserError, match="different contracts"):
        mine_to_folder(prober, tasks, mined, OPTIONS)
    assert files_of(mined) == before


def test_vectors_may_be_taken_along(mined, prober, data, tmp_path, monkeypatch):
    """To mine anew with other options, nothing is embedded again."""
    shutil.copytree(mined / "vectors", tmp_path / "out" / "vectors")
    monkeypatch.setattr(prober, "embed", None)
    audit = mine_to_folder(
        prober, tasks_of(data), tmp_path / "out", OPTIONS._replace(negatives=1)
    )
    assert audit["tasks"]["T2V"]["verdicts"]["taken"] == 24


def test_no_readable_pair_is_a_failure(prober, data, tmp_path):
    pairs = [p for p in read_pairs(data / "T2V.jsonl") if p.id == "bad"]
    with pytest.raises(UserError, match=r"task T2V: no pair can be read.*broken\.mp4"):
        mine_to_folder(prober, {"T2V": pairs}, tmp_path / "out", OPTIONS)


def test_the_command(workdir, data, tmp_path):
    corpus = tmp_path / "corpus.jsonl"
    rows = [{"id": "more", "text": "a black square"}, {"id": "x", "video": "x.mp4"}]
    tiny.write_video(tmp_path / "x.mp4", (0, 0, 0))
    corpus.write_text("".join(json.dumps(row) + "\n" for row in rows))

    def command(*more):
        return subprocess.run(
            [
                sys.executable, "-m", "gve_jax.cli", "mine", f"--checkpoint={workdir}",
                f"--pairs={data}", f"--output={tmp_path / 'out'}",
                f"--corpus={corpus}", *more,
            ],
            cwd=ROOT, env=os.environ | {"XLA_FLAGS": ""}, capture_output=True,
            text=True,
        )  # fmt: skip

    options = "--negatives=3", "--ceiling=2", "--near_duplicate=2", "--keep"
    done = command(*options)
    assert done.returncode == 0, done.stderr
    assert "T2V: 25 pairs, " in done.stdout and "among 14 candidates" in done.stdout
    assert "1 items could not be read" in done.stdout
    assert "embed the corpus 1/1: 2/2 items" in done.stderr
    there = read_pairs(tmp_path / "out" / "pairs" / "T2V.jsonl")
    before = read_pairs(data / "T2V.jsonl")
    assert [p.negatives[:1] for p in there] == [p.negatives for p in before]
    assert {len(p.negatives) for p in there[:-1]} == {3}
    again = command(*options)
    assert again.returncode == 0 and again.stdout == done.stdout
    assert "embed T2V" not in again.stderr
    other = command("--negatives=2", *options[1:])
    assert other.returncode == 1 and "--negatives=3" in other.stderr
    assert "Traceback" not in other.stderr
    assert command("--ceiling=0").returncode == 1
