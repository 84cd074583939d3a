"""Probes: encoders whose weakness is known, vectors and worlds made by hand."""

import itertools
import json
import random

import jax
import numpy as np
import pytest
import small_uvrb as small
import tiny
from scipy import stats

from configs import uvrb_mini
from data_synthesis.world import captions, grammar, groups
from data_synthesis.world import lexicon_moves as moves
from data_synthesis.world.plan import make_plan
from eval import diagnose, loaders, run, uvrb
from eval.datasets import RetrievalSet
from eval.probes import PROBES, confusion, geometry, paired, wording, world
from eval.probes.records import NotRun, Subject, Variant
from eval.probes.table import table
from eval.protocol import evaluate
from eval.vectors import Sides
from gve_jax import build, media
from gve_jax.embed import Embedder
from gve_jax.preprocess import reorder
from gve_jax.sharding import make_mesh
from gve_jax.types import Item, UserError

N = 24


class FrameEncoder(small.FakeEmbedder):
    """Finds a video by its frames: by their sum, or by their bytes in order.

    A text "v3 ..." has the vector of the video v3 as it is; of the other parts of a
    query it sees the text only, and without one nothing.
    """

    reads_frame_order = True

    def __init__(self, root, blind: bool):
        super().__init__()
        self.root, self.blind = root, blind

    def embed(self, items, desc="embed", progress=True):
        self.calls.append(list(items))
        return small.Result(np.stack([self._vector(item) for item in items]), {})

    def _vector(self, item: Item) -> np.ndarray:
        order = item.frame_order
        path = item.video
        if item.text or not path:
            if not item.text:
                return self._of(item.image.encode())
            path, order = self.root / f"{item.text.split()[0]}.mp4", None
        frames = reorder(media.read_video(str(path), 8), order).pixels
        # Whole numbers: their sum is the same in every order.
        seen = frames.sum(0, dtype=np.int64) if self.blind else frames
        return self._of(np.ascontiguousarray(seen).tobytes())

    def _of(self, content: bytes) -> np.ndarray:
        seed = int.from_bytes(small.hashlib.sha256(content).digest()[:4])
        v = np.random.default_rng(seed).normal(size=small.DIM)
        return (v / np.linalg.norm(v)).astype(np.float32)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("uvrb")
    for name in ("CRB-T", "MS-TI", "LoVR-C2V"):
        small.write_dataset(root, name, N, uvrb.DATASETS[name].query_modality)
    return root


def probe(root, output, encoder, *names, datasets=("CRB-T",), **kwargs):
    config = uvrb_mini.get_config(str(root))
    config.eval.bootstrap = 200
    sets = run.read(config, loaders.names(list(datasets)))
    (output / "results").parent.mkdir(exist_ok=True)
    return diagnose.diagnose(config, sets, encoder, output, list(names), **kwargs)


def rows_of(found, probe_name, variant):
    return found["probes"][probe_name]["variants"][variant]["datasets"]


def near_chance(row):
    """Within three standard errors of chance."""
    sigma = np.sqrt(row["chance"] * (1 - row["chance"]) / row["num_queries"])
    return abs(row["score"] - row["chance"]) <= 3 * sigma


def test_an_order_blind_encoder_loses_nothing(root, tmp_path):
    encoder = FrameEncoder(root / "CRB-T" / "videos", blind=True)
    found = probe(root, tmp_path, encoder, "frame_order")
    for order in ("reversed", "shuffled"):
        row = rows_of(found, "frame_order", f"corpus {order}")["CRB-T"]
        assert row["baseline"] == row["score"] == 1 and row["survives"] == [1, 1, 1]
        assert row["difference"] == row["low"] == row["high"] == 0
        assert row["examples"] == []
    assert not any(v.startswith("queries") for v in _variants(found, "frame_order"))


def test_an_order_sensitive_encoder_falls_to_chance(root, tmp_path):
    encoder = FrameEncoder(root / "CRB-T" / "videos", blind=False)
    found = probe(root, tmp_path, encoder, "frame_order")
    for order in ("reversed", "shuffled", "single"):
        row = rows_of(found, "frame_order", f"corpus {order}")["CRB-T"]
        assert row["baseline"] == 1 and near_chance(row)
        assert row["high"] < -0.5 and row["survives"][0] < 0.3
        lost = row["examples"][0]
        assert lost["rank_before"] == 1 < lost["rank_after"]
    assert "corpus: frames run backwards" in table(found)


def test_query_clips_are_changed_apart_from_the_corpus(root, tmp_path):
    encoder = small.FakeEmbedder()
    found = probe(root, tmp_path, encoder, "frame_order", datasets=["LoVR-C2V"])
    assert "reads_frame_order" in found["probes"]["frame_order"]["not_run"]
    encoder.reads_frame_order = True
    found = probe(root, tmp_path, encoder, "frame_order", datasets=["LoVR-C2V"])
    assert len(_variants(found, "frame_order")) == 6
    orders = {(item.video[-8:-4], item.frame_order) for item in encoder.items}
    shown = {order for _, order in orders}
    assert shown == {None, "reversed", "shuffled", "single"}


def _variants(found, name):
    return found["probes"][name]["variants"]


def test_a_text_only_encoder_needs_its_text(root, tmp_path):
    encoder = FrameEncoder(root / "MS-TI" / "videos", blind=True)
    found = probe(root, tmp_path, encoder, "query_parts", datasets=["MS-TI", "CRB-T"])
    text = rows_of(found, "query_parts", "text only")
    assert text.keys() == {"MS-TI"}  # CRB-T has no parts
    assert text["MS-TI"]["score"] == 1 and text["MS-TI"]["difference"] == 0
    image = rows_of(found, "query_parts", "media only")["MS-TI"]
    assert image["baseline"] == 1 and near_chance(image)


def test_instructions(root, tmp_path):
    encoder = small.FakeEmbedder()  # images are found by name only with an instruction
    found = probe(
        root, tmp_path, encoder, "no_instruction", "wrong_instruction",
        datasets=["MS-TI", "CRB-T"],
    )  # fmt: skip
    rows = rows_of(found, "no_instruction", "none")
    assert rows["MS-TI"]["baseline"] == 1 and near_chance(rows["MS-TI"])
    assert rows["CRB-T"]["difference"] == 0
    rows = rows_of(found, "wrong_instruction", "of another dataset")
    assert all(row["difference"] == 0 for row in rows.values())
    asked = {item.instruction for item in encoder.items if item.text}
    every = {d.instruction for d in uvrb.DATASETS.values()}
    own = {uvrb.DATASETS[name].instruction for name in ("MS-TI", "CRB-T")}
    assert None in asked and own < asked - {None} <= every


def test_paraphrases_from_a_file(root, tmp_path):
    texts = {f"CRB-T_query_{i}": f"v{(i + 1) % N} in other words" for i in range(N)}
    given = {"CRB-T": texts}
    found = probe(root, tmp_path, small.FakeEmbedder(), "paraphrase", paraphrases=given)
    row = rows_of(found, "paraphrase", "file")["CRB-T"]
    assert row["baseline"] == 1 and row["score"] == 0  # each asks for the next video
    assert row["examples"][0]["text"].endswith("in other words")
    del texts["CRB-T_query_5"]
    with pytest.raises(UserError, match=r"no text for 'CRB-T_query_5'.*1 lacking"):
        probe(root, tmp_path, small.FakeEmbedder(), "paraphrase", paraphrases=given)


def test_what_cannot_run_says_why(root, tmp_path):
    found = probe(
        root, tmp_path, small.FakeEmbedder(), "query_parts", "paraphrase", "confusion"
    )
    reasons = {name: r["not_run"] for name, r in found["probes"].items()}
    assert "text and media together" in reasons["query_parts"]
    assert "--paraphrases=FILE" in reasons["paraphrase"]
    assert "truth.jsonl" in reasons["confusion"]
    assert json.loads((tmp_path / "probes.json").read_text()) == found
    assert table(found).count("not run: ") == 3


def test_results_of_other_probes_are_kept(root, tmp_path):
    encoder = small.FakeEmbedder()
    probe(root, tmp_path, encoder, "hubness")
    found = probe(root, tmp_path, encoder, "anisotropy")
    assert list(found["probes"]) == ["hubness", "anisotropy"]
    other = probe(root, tmp_path, small.FakeEmbedder(weights="x"), "modality_gap")
    assert list(other["probes"]) == ["modality_gap"]


def test_faults_of_the_command(tmp_path):
    with pytest.raises(UserError, match="no probe 'frames'; choose from frame_order"):
        diagnose.check_names(["frames"])
    assert diagnose.check_names([]) == list(PROBES)
    with pytest.raises(UserError, match="python -m eval"):
        diagnose.finished(tmp_path)
    file = tmp_path / "p.json"
    file.write_text('{"MSRVTT": ["text"]}')
    with pytest.raises(UserError, match="in other words"):
        diagnose.read_paraphrases(str(file))


# Paired differences.


def _set(name, n):
    return RetrievalSet(
        facts=uvrb.DATASETS[name],
        queries=tuple(Item(id=f"q{i}", text="x") for i in range(n)),
        corpus=tuple(Item(id=f"c{i}", video="x") for i in range(n)),
        positives=tuple(np.array([i]) for i in range(n)),
    )


def test_differences_by_hand():
    data = [_set("CRB-T", 10), _set("CMRB", 10)]
    eye = np.eye(10, dtype=np.float32)
    wrong = eye.copy()
    wrong[:4] = -1 / np.sqrt(10)  # these four are found last
    score = lambda d, q: evaluate(d, q, eye, resamples=500, seed=0)  # noqa: E731
    subject = Subject(
        tuple(data), None, {d.name: score(d, eye) for d in data}, resamples=500
    )
    after = {"CRB-T": score(data[0], wrong)}
    found = paired.compare(subject, Variant("four lost", (data[0],)), after)
    row = found["datasets"]["CRB-T"]
    assert (row["baseline"], row["score"]) == (1, 0.6)
    assert np.isclose(row["difference"], -0.4) and row["num_queries"] == 10
    # 4 of 10 lost: the bootstrap of a share of 0.4 of ten queries.
    low, high = stats.binom(10, 0.4).ppf([0.025, 0.975]) / 10
    assert np.isclose(row["low"], -high, atol=0.1 + 1e-9)
    assert np.isclose(row["high"], -low, atol=0.1 + 1e-9)
    assert np.isclose(row["survives"][0], (0.6 - 0.1) / (1 - 0.1))
    # T is the mean of CRB-T and of CMRB, which stays.
    assert found["abilities"].keys() == {"T"}
    assert np.isclose(found["abilities"]["T"]["difference"], -0.2)
    assert len(row["examples"]) == 3


# The space.


def unit(x):
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


def test_hubness_by_hand():
    rng = np.random.default_rng(0)
    queries = unit(rng.normal(size=(60, 8)) + 0.7)
    corpus = unit(rng.normal(size=(40, 8)))
    corpus[3] = unit(queries.mean(0, keepdims=True))[0]  # a hub
    corpus[7] = np.nan
    row = geometry.hubness(queries, corpus, 5)
    cosines = np.where(np.isnan(corpus[:, 0]), -9, queries @ np.nan_to_num(corpus).T)
    best = np.argsort(-cosines, axis=1)[:, :5]
    counts = np.bincount(best.ravel(), minlength=40)
    assert np.array_equal(row["counts"], counts) and counts.argmax() == 3
    there = np.delete(counts, 7)
    assert np.isclose(row["skewness"], stats.skew(there))
    assert np.isclose(row["never"], (there == 0).mean())
    assert np.isclose(row["most"], counts[3] / (60 * 5 / 39))
    assert np.isclose(row["skewness_at_random"], stats.binom(60, 5 / 39).stats("s"))
    assert np.isclose(row["never_at_random"], stats.binom(60, 5 / 39).pmf(0))


def test_anisotropy_by_hand():
    # Both directions of each axis: no direction is preferred, all are used equally.
    axes = np.concatenate([np.eye(6), -np.eye(6)]).astype(np.float32)
    row = geometry.anisotropy(axes)
    cosines = (axes @ axes.T)[~np.eye(12, dtype=bool)]
    assert np.isclose(row["mean_cosine"], cosines.mean())
    assert np.isclose(row["participation_ratio"], 6)
    assert np.isclose(row["effective_rank"], 6) and row["limit"] == 6
    for shape in ((9, 20), (50, 7)):  # either Gram matrix
        x = unit(
            np.random.default_rng(1).normal(size=shape) * np.arange(1, shape[1] + 1)
        )
        row = geometry.anisotropy(np.concatenate([x, np.full((2, shape[1]), np.nan)]))
        values = np.linalg.eigvalsh(np.cov(x.T.astype(np.float64)))
        p = np.maximum(values, 0) / values.sum()
        assert np.isclose(row["participation_ratio"], 1 / (p**2).sum())
        entropy = stats.entropy(p[p > 1e-12])
        assert np.isclose(row["effective_rank"], np.exp(entropy), rtol=1e-3)
    same = geometry.anisotropy(np.tile(axes[:1], (5, 1)))
    assert same["mean_cosine"] == 1 and same["effective_rank"] == 0


def test_modality_gap_by_hand():
    rng = np.random.default_rng(2)
    noise = rng.normal(size=(400, 16))
    mixed = geometry.gap(unit(noise[:200]), unit(noise[200:]))
    assert abs(mixed["separable"] - 0.5) < 0.1 and mixed["distance"] < 0.2
    a, b = unit(noise[:200] + 9 * np.eye(16)[0]), unit(noise[200:] + 9 * np.eye(16)[1])
    apart = geometry.gap(a, b)
    assert apart["separable"] == 1
    assert np.isclose(apart["distance"], np.linalg.norm(a.mean(0) - b.mean(0)))
    assert np.isclose(apart["between"], (a @ b.T).mean(), atol=1e-6)
    pairs = (a @ a.T)[~np.eye(200, dtype=bool)]
    assert np.isclose(apart["within_queries"], pairs.mean(), atol=1e-6)


def test_a_dataset_without_vectors_is_left_out():
    eye, data = np.eye(4, dtype=np.float32), [_set("CRB-T", 4), _set("CMRB", 4)]
    none = np.full((4, 4), np.nan, np.float32)
    sides = Sides({"CRB-T": eye, "CMRB": none}, {"CRB-T": eye, "CMRB": eye}, {}, {})
    subject = Subject(tuple(data), sides, {})
    for name in ("hubness", "modality_gap", "anisotropy"):
        found = PROBES[name].measure(subject)
        assert list(found["datasets"]) == ["CRB-T"] and list(found["left_out"]) == [
            "CMRB"
        ]
        text = table({"probes": {name: {"what": ""} | found}})
        assert "left out: CMRB, fewer than two vectors" in text


# Worlds.


def _scene(shape="star", colour="red", motions=("left",), theme="beach", things=1):
    thing = dict(shape=shape, colour=colour, size="small", texture="plain", x=20, y=20)
    other = thing | {"shape": "ring", "x": 90.0}
    return {
        "theme": theme,
        "mood": "warm",
        "things": [thing] + [other] * (things - 1),
        "events": [
            dict(who=0, motion=m, pace=None, start=i / 2, end=(i + 1) / 2)
            for i, m in enumerate(motions)
        ],
        "camera": [dict(move="static", pace=None, start=0.0, end=1.0)],
        "layout": "apart",
        "seconds": 3.0,
        "nuisance": 1,
    }


WORLD = {
    "web_0": [_scene()],
    "web_1": [_scene(colour="blue")],
    "web_2": [_scene(colour="blue", theme="city")],
    "web_3": [_scene("heart", "green", theme="city", things=2)],
    "long_0": [_scene(), _scene(theme="snow")],
    "web_4": [_scene(motions=("left", "up"))],
    "web_5": [_scene(motions=("up", "left"))],
}


@pytest.fixture
def made_world(tmp_path):
    rows = [
        {"file": f"uvrb_mini/MSRVTT/videos/{name}.mp4", "id": name, "scenes": scenes}
        for name, scenes in WORLD.items()
    ]
    rows.append({"file": "raw/videos/x.mp4", "id": "web_0", "scenes": []})
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (tmp_path / "truth.jsonl").write_text(text)
    (tmp_path / "uvrb_mini").mkdir()
    found = world.find(str(tmp_path / "uvrb_mini"))
    assert found == tmp_path and world.find(str(tmp_path)) is None
    return world.read(found)


def codes_of(truth, *names):
    items = [Item(id=n, video=f"/x/MSRVTT/videos/{n}.mp4") for n in names]
    return confusion.encode(world.scenes_of(items, truth))


def attribute(name):
    return world.ATTRIBUTES.index(name)


def test_what_differs_by_hand(made_world):
    codes = codes_of(made_world, "web_0", "web_1", "web_3", "long_0")
    wrong = confusion.differ(codes, np.array([0]))
    as_dict = lambda row: dict(zip(world.ATTRIBUTES, row, strict=True))  # noqa: E731
    assert not np.nansum(wrong[0])
    assert [a for a, x in as_dict(wrong[1]).items() if x == 1] == ["colour"]
    assert [a for a, x in as_dict(wrong[2]).items() if x == 1] == [
        "shape", "colour", "number", "scene",
    ]  # fmt: skip
    # No pace, no relation and no order to compare in the true video.
    nothing = [a for a, x in as_dict(wrong[1]).items() if np.isnan(x)]
    assert nothing == ["pace", "order", "relation"]
    # Two scenes: the first is right; and there is no second in the others.
    long = confusion.differ(codes, np.array([3]))
    assert long[0, attribute("scene")] == 0.5 and long[0, attribute("shape")] == 0.5
    # Of several true videos the nearest counts, attribute by attribute.
    either = confusion.differ(codes, np.array([0, 2]))
    assert either[1, attribute("colour")] == 1 and either[1, attribute("scene")] == 0


def test_order_is_compared_between_equal_motions(made_world):
    codes = codes_of(made_world, "web_4", "web_5", "web_0")
    wrong = confusion.differ(codes, np.array([0]))
    assert wrong[:, attribute("order")].tolist()[:2] == [0, 1]
    assert np.isnan(wrong[2, attribute("order")])  # it moves otherwise
    assert wrong[:, attribute("motion")].tolist() == [0, 0, 1]


def test_a_clip_shows_one_scene_of_its_video(made_world):
    clip = Item(id="c", video="/LoVR-TH/videos/long_0/long_0-Scene-002.mp4")
    (scenes,) = world.scenes_of([clip], made_world)
    assert [s.theme for s in scenes] == ["snow"]
    with pytest.raises(NotRun, match="does not tell what c shows"):
        world.scenes_of([Item(id="c", video="other_1.mp4")], made_world)


def test_confusion_by_hand(made_world):
    names = ("web_0", "web_1", "web_2", "web_3")
    data = _set("MSRVTT", 4)
    codes = codes_of(made_world, *names)
    answers = np.array([1, 1, 1, -1])  # query 1 is right, query 3 failed
    queries, seen, chance = confusion.confusion(data, answers, codes)
    assert queries.tolist() == [0, 2]
    colour, scene = attribute("colour"), attribute("scene")
    assert seen[:, colour].tolist() == [1, 0] and seen[:, scene].tolist() == [0, 1]
    # web_0: all three others have another colour, two another scene;
    # web_2: web_0 and web_3 another colour, web_0 and web_1 another scene.
    assert np.allclose(chance[:, colour], [1, 2 / 3])
    assert np.allclose(chance[:, scene], [2 / 3, 2 / 3])
    row = confusion.compare(seen, chance, 200, 0)
    assert np.isclose(row["colour"]["ratio"], 0.5 / (5 / 6))
    assert np.isclose(row["scene"]["ratio"], 0.5 / (2 / 3))
    assert row["colour"]["cases"] == 2 and row["order"] == {"cases": 0}
    assert row["scene"]["low"] <= row["scene"]["ratio"] <= row["scene"]["high"]


def test_an_encoder_that_knows_colours_only(made_world):
    rng = np.random.default_rng(0)
    names = [f"web_{i}" for i in range(4)] * 50
    data = _set("MSRVTT", 200)
    codes = codes_of(made_world, *names)
    colour = codes[:, 0, attribute("colour")]
    answers = np.array(
        [rng.choice(np.flatnonzero(colour == colour[i])) for i in range(200)]
    )
    _, seen, chance = confusion.confusion(data, answers, codes)
    found = confusion.compare(seen, chance, 200, 0)
    assert found["colour"]["ratio"] == 0
    blind = rng.integers(0, 200, 200)
    _, seen, chance = confusion.confusion(data, blind, codes)
    for row in confusion.compare(seen, chance, 200, 0).values():
        assert row["cases"] == 0 or "ratio" not in row or abs(row["ratio"] - 1) < 0.25


# Wording.


def test_rewording_by_hand():
    for text, other in (
        ("a small red star spins", "a little crimson five-pointed star rotates in "
         "place"),
        ("An orange ring is above it.", "A tangerine hoop is higher than it."),
        ("Blue sky", "Deep blue sky"),
        ("The light is dim and gloomy.", "Everything looks dull and dark."),
        ("No other object is around.", "No other object is around."),
        ("the long arm of a hand", "the long arm of a hand"),
    ):  # fmt: skip
        assert wording.reword(text) == other


def test_rewording_says_what_the_grammar_would(monkeypatch):
    """The witness is the grammar: told to take the next entry of each list."""
    lists = {
        options
        for table in wording._SWAPPED
        for options in table.values()
    } | set(moves.MOVES.values()) | set(moves.MOVE_KEYWORDS.values())  # fmt: skip
    plain = grammar.pick

    def next_one(rng, options):
        found = plain(rng, options)
        if options not in lists:
            return found
        return options[(options.index(found) + 1) % len(options)]

    # No caption is too long or too short: none is tried again in other words.
    monkeypatch.setattr(captions, "WORDS", dict.fromkeys(captions.WORDS, (0, 99)))
    plan = make_plan(0, 40)
    scenes = [v.scenes[0] for pool in plan.pools.values() for v in pool]
    forms = ("short", "concise", "camera", "event")
    sentences = ("opening", "mood_sentence", "colours", "summary", "camera_sentence")

    def write():
        made = []
        for i, scene in enumerate(scenes):
            for form in forms:
                made.append(captions.of_scene(scene, form, random.Random(i)).text)
            teller = grammar.Teller(scene, random.Random(i))
            made += [getattr(teller, name)() for name in sentences]
            made += [teller.thing(0), teller.events(0), teller.timing(0)]
            if len(scene.things) > 1 and teller.relation(0, 1):
                made.append(teller.relation_sentence(0, 1))
        for group, look in itertools.product(plan.groups, range(3)):
            rng = random.Random(look)
            made.append(groups.edit(group.group, look, 1, "clip", rng).text)
        return made

    before = write()
    for module in (grammar, captions):
        monkeypatch.setattr(module, "pick", next_one)
    after = write()
    assert len(before) > 500
    for text, other in zip(before, after, strict=True):
        assert wording.reword(text) == other, text


# With our own encoder.


class Packed(list):
    """Instead of a model: what is packed is all that counts here."""

    def __call__(self, params, row):
        self.append(row)
        return np.ones((8, 32))

    def _cache_size(self):
        return 0


def test_items_of_one_video_in_several_orders_are_packed_apart(tmp_path):
    """Media that items of a row have in common are packed once: not across orders."""
    config = tiny.config("unused")
    tokenizer = build.make_tokenizer(config, ["a red square goes left"])
    model = build.ModelConfig.from_config(config.model, tokenizer.vocab_size)
    contract = build.make_contract(config, model)
    processor = build.make_processor(config, tokenizer, contract, model)
    mesh = make_mesh(config.mesh, jax.devices()[:1])
    embedder = Embedder(None, None, processor, contract, tokens=2048, mesh=mesh)
    given = embedder._function = Packed()
    tiny.write_video(tmp_path / "v.mp4")
    item = Item("a", text="a red square", video=str(tmp_path / "v.mp4"))
    orders = (None, "reversed", "shuffled", "single")
    items = [item._replace(frame_order=order) for order in orders]
    embedder.embed([*items, item._replace(text="square goes left")], progress=False)
    (row,) = given  # one row for all
    shown = np.unique(row.visual_index)[1:]  # all but -1, of text
    assert len(shown) == 4 * (2 * 2 * 2)  # four videos of two frame pairs
