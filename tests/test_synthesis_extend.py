"""Task extension: pairs of seven tasks, what is checked of them, quotas and splits."""

import collections
import dataclasses
import hashlib
import json

import numpy as np
import pytest

from data_synthesis import draws, pipelines, quotas, shards
from data_synthesis.calibration import calibrated
from data_synthesis.config import default_config
from data_synthesis.record import Group, Source
from data_synthesis.splits import split_of
from data_synthesis.stages import (
    candidates,
    compose,
    extend,
    score_captions,
    select,
)
from data_synthesis.stages.candidates import (
    Reference,
    cluster_of,
    jaccard,
    phrases_shown,
    references,
)
from data_synthesis.tables import COMPOSED, TASKS, Pair, Ranks, task_counts
from gve_jax.types import UserError
from tests import stub_synthesis as stub

STAGES = (score_captions, select, candidates, compose, extend)


@pytest.fixture(scope="module")
def extended(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patched:
        stub.patch(patched)
        run, records = stub.begin(tmp_path_factory.mktemp("run"), spare=20.0)
        for stage in STAGES:
            pipelines.run(stage.work(run), pipelines.beam_options([]))
        yield run, {r.id: r for r in records}


def rows(run, stage="extend") -> list[Pair]:
    return list(shards.read_stage(run.layout, stage, Pair))


def test_every_record_gives_every_task_and_all_are_counted(extended):
    run, records = extended
    for stage in ("candidates", "compose", "extend"):
        found = collections.defaultdict(set)
        for pair in rows(run, stage):
            found[pair.task].add(pair.record)
        assert found == {task: set(records) for task in TASKS}
        counts = task_counts(run.layout, stage)
        for count in counts.values():
            count.check(stage)
        total = shards.stage_counts(run.layout, stage)
        assert total.entered == sum(c.entered for c in counts.values())
        assert total.kept == sum(p.alive for p in rows(run, stage))
    for task, count in task_counts(run.layout, "candidates").items():
        assert count.entered >= len(records), task


def test_what_pairs_are_made_of(extended):
    run, records = extended
    texts_of = [pair for pair in rows(run) if pair.task == "T2V"]
    for pair in rows(run):
        if not pair.alive:
            continue
        record = records[pair.record]
        video = pair.target.video
        assert pair.query.instruction and not pair.target.instruction
        if pair.task.endswith("2V"):
            assert video.sha256 == record.source.sha256 and video.raw
            assert video.absolute(run) == str(run.input.parent / record.source.uri)
        (chosen,) = [s for s in record.caption_sets if not s.media]
        texts = {c.style: c.text for c in chosen.captions}
        media = {m.sha256: m for m in record.media}
        if pair.task == "T2V":
            assert pair.query.text == texts[pair.style]
        elif pair.task == "T2T":
            style = {t: s for s, t in texts.items()}
            used = {style[pair.query.text], style[pair.target.text]}
            asks = {p.style for p in texts_of if p.record == record.id}
            assert len(used) == 2 and not used & asks
            assert jaccard(pair.query.text, pair.target.text) < 0.7
        elif pair.task == "T2I":
            still = pair.target.image.sha256
            (found,) = [s for s in record.caption_sets if s.media == still]
            assert pair.query.text in [c.text for c in found.captions]
        elif pair.task == "I2V":
            assert media[pair.query.image.sha256].role == "frame"
        elif pair.task == "V2V":
            clip = media[pair.query.video.sha256]
            assert clip.end - clip.start <= 0.6 * record.source.duration
        else:
            assert pair.relation and pair.query.text
            file = pair.query.image or pair.query.video
            reference = {m.sha256: m for m in records[pair.reference].media}
            medium = reference[file.sha256]
            assert medium.start <= pair.time <= medium.end
            if pair.relation == "continuation":
                assert pair.reference == pair.record
                assert pair.target.start >= medium.end
            else:
                assert pair.reference_cluster != pair.cluster
                assert pair.target.start is None


def test_continuations_and_other_references_both_occur(extended):
    run, _ = extended
    relations = collections.Counter(
        p.relation for p in rows(run, "candidates") if p.task == "TV2V" and p.alive
    )
    assert relations["continuation"] > 2
    assert sum(relations.values()) > relations["continuation"]


def test_no_source_or_cluster_is_in_two_splits(extended):
    run, records = extended
    splits = collections.defaultdict(set)
    for pair in rows(run):
        for record in filter(None, (pair.record, pair.reference)):
            splits[cluster_of(records[record])].add(pair.split)
            splits[records[record].source.sha256].add(pair.split)
    assert {len(found) for found in splits.values()} == {1}
    assert len({pair.split for pair in rows(run)}) == 2
    # Records of one cluster are in it together.
    assert len(splits) < 2 * len(records)


def brute_force(run, records, pair):
    """The three ranks by sorting all scores."""
    pool = sorted(
        records.values(), key=lambda r: draws.uniform(run.config.seed, r.id, "pool")
    )[: 2 * run.config.extend.pool]
    avoid = {pair.cluster, pair.reference_cluster}
    names = [r for r in pool if cluster_of(r) not in avoid][: run.config.extend.pool]
    if pair.reference != pair.record:
        names.append(records[pair.reference])
    others = [stub.vector(stub.said(int(r.name[1:]))) for r in names]
    whole = pair.query
    parts = (
        whole,
        dataclasses.replace(whole, image=None, video=None),
        dataclasses.replace(whole, text=""),
    )
    *queries, target = stub.embed(
        [s.item(run) for s in (*parts, pair.target)]
    ).vectors.astype(np.float64)
    found = []
    for query in queries:
        scores = [(-float(other.astype(np.float64) @ query), 0) for other in others]
        own = (-float(target @ query), 1)  # behind what scores the same
        place = sorted([*((round(s, 9), k) for s, k in scores), (round(own[0], 9), 1)])
        found.append(1 + place.index((round(own[0], 9), 1)))
    return found, len(names)


def test_composed_queries_need_both_halves(extended):
    run, records = extended
    # Pairs whose record has no T2V pair are in no pool; here all have one.
    outcomes = collections.Counter()
    for pair in rows(run, "compose"):
        if pair.task not in COMPOSED or pair.ranks is None:
            continue
        (both, text, media), pool = brute_force(run, records, pair)
        assert dataclasses.astuple(pair.ranks) == (both, text, media, pool)
        needed = both < text and both < media
        assert pair.alive == needed
        assert needed or pair.reasons == ("not_compositional",)
        outcomes[needed] += 1
    assert min(outcomes[True], outcomes[False]) > 2, outcomes


def test_what_scores_as_the_target_does_ranks_before_it():
    same, other = np.eye(4, dtype=np.float32)[:2]
    queries = [same, other, np.full(4, 0.5, np.float32)]
    assert compose.ranks(queries, same, np.stack([same, other])) == Ranks(2, 3, 3, 2)


def test_what_fails_is_an_error_with_its_request(extended):
    run, _ = extended
    failed = [p for p in rows(run) if p.outcome == "error"]
    assert failed
    for pair in failed:
        assert (pair.stage, pair.reasons) == ("compose", ("json",))
        assert pair.failure.request == pair.id and pair.generation.tokens_in == 30
        assert pair.generation.fingerprint == "stub"


def test_without_an_embedder_nothing_is_tested(tmp_path, monkeypatch):
    stub.patch(monkeypatch)
    run, _ = stub.begin(tmp_path, embedder=False)
    stub.go(run, STAGES)
    written = [p for p in rows(run) if p.query.text and p.task in COMPOSED]
    assert written and not any(p.ranks for p in rows(run))


def test_a_pool_that_is_too_small_tests_nothing(tmp_path, monkeypatch):
    stub.patch(monkeypatch)
    run, _ = stub.begin(tmp_path, number=12, pool=50)
    stub.go(run, STAGES)
    assert not any(p.ranks for p in rows(run))


# --- quotas ---


def test_quotas_take_the_first_of_the_seeded_order(tmp_path, monkeypatch):
    stub.patch(monkeypatch)
    table = dict(T2V=400, I2V=200, T2I=100, T2T=4000, V2V=0, TI2V=100, TV2V=50)
    run, _ = stub.begin(tmp_path, quotas=table, scale=0.05)
    stub.go(run, STAGES)
    for task, number in dict(T2V=20, I2V=10, T2I=5, T2T=200, V2V=0).items():
        had = [p for p in rows(run, "compose") if p.task == task and p.alive]
        had.sort(key=lambda p: p.order)
        kept = {p.id for p in rows(run) if p.task == task and p.alive}
        assert kept == {p.id for p in had[:number]}
    composed = collections.Counter(
        p.task for p in rows(run, "compose") if p.reasons != ("over_quota",)
    )
    assert composed["TI2V"] == 10 + sum(  # twice the quota was asked for
        p.task == "TI2V" and p.stage == "candidates" for p in rows(run)
    )
    had = sum(p.task == "T2T" and p.alive for p in rows(run, "compose"))
    told = json.loads((run.layout.root / "compose/quotas.json").read_text())
    assert told["tasks"]["T2T"] == {
        "table": 4000, "quota": 200, "available": had, "kept": had, "short": 200 - had,
    }  # fmt: skip


def test_by_default_the_largest_quota_takes_all(extended):
    run, _ = extended
    counts = task_counts(run.layout, "extend")
    assert counts["T2V"].kept == counts["T2V"].entered
    table = default_config().extend.quotas
    for task in TASKS:
        due = round(table[task] / table.T2V * counts["T2V"].kept)
        assert counts[task].kept == min(due, counts[task].entered)


@pytest.mark.parametrize("number", [0, 1, 3, 5, 9])
def test_a_limit_takes_so_many(number):
    orders = np.array([0.5, 0.1, 0.9, 0.3, 0.7])
    assert sum(orders <= quotas.limit(orders, number)) == min(number, 5)


@pytest.mark.parametrize("table", [{"X2V": 1}, {}, {"T2V": 0}, {"T2V": 2, "I2V": -1}])
def test_quotas_that_cannot_be_are_refused(tmp_path, table):
    run, _ = stub.begin(tmp_path, number=2)
    config = default_config()
    config.extend.quotas = table
    with pytest.raises(UserError, match=r"config\.extend\.quotas"):
        quotas.quotas(run._replace(config=config), dict.fromkeys(TASKS, 3))


def test_splits_keep_their_shares():
    shares = dict(train=0.8, validation=0.15, test=0.05)
    found = collections.Counter(split_of(3, f"c{i}", shares) for i in range(4000))
    for name, share in shares.items():
        assert abs(found[name] / 4000 - share) < 0.02
    with pytest.raises(UserError, match=r"config\.extend\.splits"):
        split_of(3, "c", dict(train=0.8))


# --- captions' consistency ---


def test_captions_are_scored_against_their_own_medium(extended):
    run, _ = extended
    for record in shards.read_stage(run.layout, "score_captions"):
        if not record.alive:
            continue
        for found in record.caption_sets:
            still = {m.sha256: m.path for m in record.media}.get(found.media)
            path = still or record.source.uri
            for caption in found.captions:
                one = stub.vector(stub.words_of(caption.text)).astype(float)
                expected = one @ stub.vector(stub.shown(path)).astype(float)
                assert abs(caption.score - expected) < 1e-6


def test_poor_captions_stay_but_are_not_chosen(extended):
    _, records = extended
    (one, *_) = [r for r in records.values() if r.name == "v3"]
    found, *_ = one.caption_sets
    scores = dict(zip("12345", (0.9, 0.2, 0.9, 0.9, 0.1), strict=True))
    found = dataclasses.replace(
        found,
        captions=tuple(
            dataclasses.replace(c, score=scores[c.style]) for c in found.captions
        ),
    )
    cut = {"filter": True, "tau": 0.5}
    off = {"filter": False, "why": "says nothing"}
    styles = collections.Counter()
    for seed in range(40):
        picked = select._selected(
            seed, one.id, found, {"video.2": cut, "video.1": cut, "video.5": off}
        )
        assert [c.style for c in picked.captions if c.faults] == ["2"]
        assert len(picked.captions) == 5
        styles[picked.selected] += 1
    assert not styles["2"] and min(styles[s] for s in "1345") > 0


def test_calibration_by_hand():
    config = default_config().consistency
    rng = np.random.default_rng(0)
    own, other = rng.normal(1, 0.3, 300), rng.normal(0, 0.3, 300)
    found = calibrated(own, other, config)
    by_hand = np.mean(
        (own[:, None] > other).astype(float) + 0.5 * (own[:, None] == other)
    )
    assert abs(found["auroc"] - by_hand) < 1e-12 and found["filter"]
    assert abs(found["tau"] - np.percentile(other, 99)) < 1e-12
    assert not calibrated(other, own, config)["filter"]
    assert not calibrated(own[:40], other[:40], config)["filter"]
    # A threshold of one's own is applied whatever the embedder is worth.
    config.tau = 0.25
    for few in (40, 300):
        found = calibrated(other[:few], own[:few], config)
        assert found["filter"] and found["tau"] == 0.25


# --- references ---


def test_references_share_telling_phrases_by_brute_force(extended):
    _, records = extended
    found = sorted(records.values(), key=lambda r: r.id)
    splits = {r.id: "train" if i % 3 else "test" for i, r in enumerate(found)}
    near = references(found, splits, "frame", 4)
    # As the stub words them: "small cat, forest today", of stills as well, and of the
    # video "cat runs".
    said = {r.id: stub.said(int(r.name[1:])) for r in found}
    told = {
        n: {f"small {a}", f"{a} {c}", f"{c} today"} for n, (a, _, c) in said.items()
    }
    stills = [(r, m) for r in found for m in r.media if m.role == "frame"]
    count = collections.Counter(p for r, _ in stills for p in told[r.id])
    weight = {p: round(1000 * np.log(len(stills) / n)) for p, n in count.items()}

    for record in found:
        others = [
            (r, m)
            for r, m in stills
            if told[r.id] & told[record.id]
            and splits[r.id] == splits[record.id]
            and cluster_of(r) != cluster_of(record)
        ]
        others.sort(
            key=lambda rm: -sum(weight[p] for p in told[rm[0].id] & told[record.id])
        )
        assert near[record.id] == others[:4]
    assert all(near.values())


def test_a_clip_is_told_by_the_stills_of_its_video(extended):
    _, records = extended
    record = next(r for r in records.values() if r.media[-1].role == "clip")
    noun, verb, place = stub.said(int(record.name[1:]))
    clip = Reference(record, record.media[-1])
    shown = {f"small {noun}", f"{noun} {place}", f"{place} today"}
    assert phrases_shown(clip) == shown
    bare = dataclasses.replace(record, caption_sets=record.caption_sets[:1])
    more = {f"{noun} {verb}", f"{verb} {place}"}
    assert phrases_shown(Reference(bare, record.media[-1])) == shown | more


def test_the_same_file_is_nobodys_reference(extended):
    _, records = extended
    a, *_, c = list(records.values())
    twin = dataclasses.replace(a, id="f" * 32, group=Group(cluster="other"))
    splits = dict.fromkeys((a.id, twin.id, c.id), "train")
    # What shares nothing serves where nothing else is there.
    for sha256, expected in ((a.source.sha256, c.id), ("another", twin.id)):
        source = Source("x.mp4", sha256)
        rows = [a, dataclasses.replace(twin, source=source), c]
        found = references(rows, splits, "frame", 5)[a.id]
        assert [one.record.id for one in found] == [expected] * 2


# --- resume and order ---


def _bytes(run) -> dict[str, str]:
    return {
        str(path.relative_to(run.layout.root)): hashlib.sha256(
            path.read_bytes()
        ).hexdigest()
        for stage in ("score_captions", "select", "candidates", "compose", "extend")
        for path in sorted((run.layout.root / stage).iterdir())
    }


def test_bytes_do_not_depend_on_what_was_done_before(extended, tmp_path, monkeypatch):
    stub.patch(monkeypatch)
    run, _ = extended
    again, _ = stub.begin(tmp_path, spare=20.0)
    # Interrupted in the middle of two stages: half of the shards are lost.
    stub.go(again, STAGES[:4])
    for stage in ("candidates", "compose"):
        again.layout.manifest(stage, 1).unlink()
        again.layout.table(stage, 2).write_bytes(b"broken")
    stub.go(again, STAGES)
    assert _bytes(again) == _bytes(run)
    assert stub.go(again, STAGES) == 0
