"""Embeddings of records: kept when thresholds change, searched for semantic copies."""

import dataclasses

import numpy as np
import pytest

from data_synthesis import draws, shards
from data_synthesis.config import default_config
from data_synthesis.embedding import Client, Embedded, fingerprint
from data_synthesis.record import Record, Score, Source, Text
from data_synthesis.run import Run, open_run
from data_synthesis.searching import nearest_before
from data_synthesis.shards import Key
from data_synthesis.stages import decide, embed, nearest
from data_synthesis.stages.embed import Vector
from tests import stub_synthesis as stub

DIM = 32
SCORES = {
    "motion.share": 1.0, "motion.freeze": 0.0, "video.declared": 20.0,
    "text.words": 6.0,
}  # fmt: skip


def unit(rng: np.random.Generator, *shape: int) -> np.ndarray:
    x = rng.normal(size=shape)
    return (x / np.linalg.norm(x, axis=-1, keepdims=True)).astype(np.float32)


def record(name: str, text: str = "a red ball rolls down") -> Record:
    return Record(
        draws.identity(name),
        Source("v.mp4", name, width=320, height=240, num_frames=20, duration=2.0),
        Text(text, text, (), "en", 0.9),
        name=name,
        scores={key: Score(value) for key, value in SCORES.items()},
    )


def begin(root, **config) -> Run:
    root.mkdir(exist_ok=True)
    (root / "raw.jsonl").write_text("{}\n" * 9)
    (root / "v.mp4").touch()
    c = default_config()
    c.shard_size, c.consistency.embedder = 3, "stub"
    c.update_from_flattened_dict(config)
    return open_run(c, root / "raw.jsonl", root / "out", True)


def put(run: Run, stage: str, rows: list, kind: type = Record) -> None:
    for shard in range(run.layout.shards):
        here = [row for row in rows if run.layout.shard_of(row.id) == shard]
        shards.write_shard(run.layout, Key(stage, 1, "", {}), shard, here, kind)


def test_the_nearest_before_is_found_exactly(monkeypatch):
    monkeypatch.setattr("data_synthesis.searching._BLOCK", 7)
    rng = np.random.default_rng(0)
    corpus = unit(rng, 60, DIM)
    corpus[40], corpus[12] = corpus[3], corpus[3]  # equal scores: the first
    exactly = corpus.astype(np.float64) @ corpus.astype(np.float64).T
    places = np.array([0, 1, 12, 13, 40, 41, 59])
    scores, rows = nearest_before(places, corpus)
    assert scores[0] == -np.inf and rows[0] == -1
    for place, score, row in zip(places[1:], scores[1:], rows[1:], strict=True):
        assert row == exactly[place, :place].argmax()
        assert score == pytest.approx(exactly[place, row], abs=1e-12)
    assert rows[places.tolist().index(40)] == 3


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    """Records of random videos, of which some are nearly others; two texts are wrong.

    The embedder tells texts of one video from those of another.
    """
    run = begin(tmp_path_factory.mktemp("run"))
    rng = np.random.default_rng(1)
    rows = sorted((record(f"r{i}") for i in range(80)), key=lambda r: r.id)
    videos = unit(rng, 80, DIM)
    for first, second in ((3, 9), (9, 20), (30, 31), (31, 33), (50, 60)):
        videos[second] = videos[first] + 0.08 * unit(rng, DIM)
    videos /= np.linalg.norm(videos, axis=1, keepdims=True)
    texts = videos + 0.3 * unit(rng, 80, DIM)
    texts[[30, 50]] = unit(rng, 2, DIM)  # 30 and 50 do not match theirs
    texts /= np.linalg.norm(texts, axis=1, keepdims=True)
    matched = [
        dataclasses.replace(
            row, scores=row.scores | {"match.video": Score(float(text @ video), "m")}
        )
        for row, text, video in zip(rows, texts, videos, strict=True)
    ]
    put(run, "embed", matched)
    vectors = [
        Vector(row.id, role, x.astype(np.float32).tobytes())
        for row, text, video in zip(rows, texts, videos, strict=True)
        for role, x in (("text", text), ("video", video))
    ]
    put(run, "vectors", vectors, Vector)
    return run, [row.id for row in rows], videos.astype(np.float32)


def test_of_what_is_alike_the_first_stays(compared):
    run, ids, videos = compared
    assert stub.go(run, (nearest, decide)) == 2 * run.layout.shards
    rows = {r.id: r for r in shards.read_stage(run.layout, "decide")}
    reasons = {ids.index(n): r.decision.reasons for n, r in rows.items() if not r.alive}
    # 31 stands for 30 and 60 for 50, which the filter of consistency drops; 20 is near
    # to 9 alone, which is dropped as well.
    assert reasons == {
        9: ("duplicate_semantic",), 20: ("duplicate_semantic",),
        33: ("duplicate_semantic",), 30: ("inconsistent",), 50: ("inconsistent",),
    }  # fmt: skip
    kept = [i for i in range(80) if i not in (30, 50)]
    cosines = videos.astype(np.float64) @ videos.astype(np.float64).T
    for i in kept[1:]:
        before = [j for j in kept if j < i]
        found = rows[ids[i]].scores["match.nearest"]
        assert found.value == pytest.approx(cosines[i, before].max(), abs=1e-12)
        assert found.model_id == "m"
    for i in (kept[0], 30, 50):
        assert "match.nearest" not in rows[ids[i]].scores
    alive = [i for i in range(80) if rows[ids[i]].alive]
    assert np.triu(cosines[np.ix_(alive, alive)], 1).max() < 0.99


def test_a_changed_limit_searches_nothing_anew(compared):
    run, _, _ = compared
    stub.go(run, (nearest, decide))
    other = begin(run.input.parent, **{"duplicates.min_cosine": 2.0})
    assert stub.go(other, (nearest,)) == 0
    assert stub.go(other, (decide,)) == run.layout.shards
    assert shards.stage_counts(run.layout, "decide").dropped == 2
    # Without consistency the two stand for what they repeat.
    tau = begin(run.input.parent, **{"consistency.tau": -1.0})
    assert stub.go(tau, (nearest, decide)) == 2 * run.layout.shards
    assert shards.stage_counts(run.layout, "decide").dropped == 5


def test_where_calibration_is_off_nothing_is_compared(compared):
    run = begin(compared[0].input.parent, **{"consistency.min_auroc": 1.0})
    stub.go(run, (nearest, decide))
    assert list(shards.read_stage(run.layout, "nearest", nearest.Nearest)) == []
    assert shards.stage_counts(run.layout, "decide").dropped == 0


class Counting:
    """Vectors of texts and of videos; it knows what it was asked."""

    def __init__(self):
        self.contract, self.asked = {"weights_hash": "m"}, []

    def embed(self, items) -> Embedded:
        self.asked += [item.text for item in items if item.text]
        seeds = [[*(item.text or "video").encode(), item.start or 0] for item in items]
        seeds = [[int(1000 * x) for x in seed] for seed in seeds]
        rows = [unit(np.random.default_rng(seed), DIM) for seed in seeds]
        return Embedded(np.array(rows), {})


def test_changed_thresholds_embed_only_what_they_let_in(tmp_path, monkeypatch):
    client = Counting()
    monkeypatch.setattr(Client, "shared", classmethod(lambda cls, *a: client))

    def run_with(least: int, root, rows) -> list[str]:
        run = begin(root, **{"text.min_words": least})
        put(run, "groups", rows)
        client.asked.clear()
        stub.go(run, (embed,))
        return sorted(client.asked)

    def written(root):
        return [
            path.read_bytes()
            for stage in ("embed", "vectors")
            for path in sorted((root / "out" / stage).iterdir())
        ]

    texts = [f"a red ball number {'x' * i} rolls{' on' * (i % 3)}" for i in range(9)]
    rows = sorted((record(f"r{i}", t) for i, t in enumerate(texts)), key=lambda r: r.id)
    long, longer = sorted(t for t in texts if len(t.split()) > 6), texts[2::3]
    one, two = tmp_path / "one", tmp_path / "two"
    assert run_with(7, one, rows) == long
    assert run_with(3, one, rows) == sorted(set(texts) - set(long))
    assert run_with(8, one, rows) == []
    assert run_with(7, one, rows) == sorted(set(long) - set(longer))
    run_with(7, two, rows)
    assert written(one) == written(two)
    # Another text of a record, and a table that is not what its manifest says.
    text = "a quite other text of so many words"
    other = dataclasses.replace(rows[0], text=Text(text, text, (), "en", 0.9))
    assert run_with(7, two, [other, *rows[1:]]) == [text]
    for path in (two / "out" / "vectors").glob("*.parquet"):
        path.write_bytes(b"broken")
    run_with(7, two, rows)
    assert written(one) == written(two)


def test_another_embedder_at_the_same_place_is_noticed(tmp_path):
    assert fingerprint("") == "" and fingerprint("org/name") == "org/name"
    (tmp_path / "contract.json").write_text('{"weights_hash": "a"}')
    (tmp_path / "checkpoints" / "100").mkdir(parents=True)
    found = {fingerprint(str(tmp_path))}
    (tmp_path / "metrics.jsonl").write_text("{}")  # tells nothing of the weights
    assert fingerprint(str(tmp_path)) in found
    (tmp_path / "checkpoints" / "200").mkdir()
    found.add(fingerprint(str(tmp_path)))
    (tmp_path / "contract.json").write_text('{"weights_hash": "b"}')
    found.add(fingerprint(str(tmp_path)))
    (tmp_path / "contract.json").unlink()
    (tmp_path / "model.safetensors").write_bytes(b"abc")
    found.add(fingerprint(str(tmp_path)))
    (tmp_path / "config.json").write_text("{}")
    found.add(fingerprint(str(tmp_path)))
    assert len(found) == 5
