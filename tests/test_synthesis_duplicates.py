"""Copies among the raw videos, and of the benchmark's videos."""

import itertools
import json
import pathlib
import shutil

import numpy as np
import pytest

from data_synthesis import draws, pipelines, shards, shingles
from data_synthesis.config import default_config
from data_synthesis.run import Run, open_run
from data_synthesis.stages import (
    benchmark,
    embed,
    groups,
    ingest,
    links,
    nearest,
    qc,
    texts,
)  # fmt: skip
from data_synthesis.stages import decide as deciding
from data_synthesis.stages.links import Member
from data_synthesis.world.encode import write_video
from gve_jax.types import UserError

IN_MEMORY = pipelines.beam_options([])
STAGES = (ingest, benchmark, qc, links, groups, embed, nearest, deciding)


def moving(seed: int, frames: int = 12) -> list[np.ndarray]:
    """A patterned square that crosses a patterned ground, 160 x 128."""
    rng = np.random.default_rng(seed)
    ground = np.kron(rng.integers(60, 200, (8, 10, 3)), np.ones((16, 16, 1)))
    square = np.kron(rng.integers(0, 256, (6, 6, 3)), np.ones((8, 8, 1)))
    out = []
    for i in range(frames):
        frame = ground.astype(np.uint8)
        frame[40:88, 4 + 8 * i : 52 + 8 * i] = square
        out.append(frame)
    return out


def video(path: pathlib.Path, seed: int, **options) -> pathlib.Path:
    frames = moving(seed)
    if options.pop("mirrored", False):
        frames = [np.ascontiguousarray(f[:, ::-1]) for f in frames]
    write_video(str(path), frames, **options)
    return path


def write_raw(root: pathlib.Path, told: dict[str, tuple[str, str]]) -> pathlib.Path:
    path = root / "raw.jsonl"
    rows = [{"id": n, "video": v, "text": t} for n, (v, t) in told.items()]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def write_benchmark(root: pathlib.Path, files: list[pathlib.Path]) -> None:
    """A folder in UVRB's layout, with one dataset of these videos."""
    folder = root / "MSRVTT"
    (folder / "jsonl").mkdir(parents=True)
    (folder / "videos").mkdir()
    for file in files:
        shutil.copy(file, folder / "videos")
    rows = {
        "corpus": [{"id": f"c{i}", "video": f.name} for i, f in enumerate(files)],
        "queries": [{"id": "q0", "text": "something"}],
        "instances": [{"qid": "q0", "pos": ["c0"]}],
    }
    for name, found in rows.items():
        text = "".join(json.dumps(row) + "\n" for row in found)
        (folder / "jsonl" / f"{name}.jsonl").write_text(text)


def run_stages(raw: pathlib.Path, output: pathlib.Path, **duplicates) -> Run:
    config = default_config()
    config.shard_size = 4
    config.motion.preset = "noise_free"
    config.duplicates.update(duplicates)
    run = open_run(config, raw, output, True)
    for stage in STAGES:
        pipelines.run(stage.work(run), IN_MEMORY)
    return run


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    """Raw videos, and a benchmark that four of them repeat."""
    root = tmp_path_factory.mktemp("raw")
    for seed, name in enumerate(("same", "coarse", "mirror", "own", "apart")):
        video(root / f"{name}.mp4", seed)
    # Nearer to the raw video than to the benchmark's; it goes with its cluster.
    video(root / "coarser.mp4", 1, crf=30)
    texts = {
        path.stem: (path.name, f"a patterned square called {path.stem} slides along")
        for path in sorted(root.glob("*.mp4"))
    }
    other = tmp_path_factory.mktemp("benchmark")
    (other / "broken.mp4").write_bytes((root / "own.mp4").read_bytes()[:500])
    write_benchmark(
        other / "UVRB",
        [
            shutil.copy(root / "same.mp4", other / "other_name.mp4"),
            video(other / "re_encoded.mp4", 1, crf=38),
            video(other / "mirrored.mp4", 2, mirrored=True),
            video(other / "unrelated.mp4", 99),
            other / "broken.mp4",
        ],
    )
    return write_raw(root, texts), str(other / "UVRB")


def test_a_video_of_the_benchmark_ends_the_run(raw, tmp_path):
    with pytest.raises(UserError) as error:
        run_stages(raw[0], tmp_path / "out", benchmark=raw[1])
    message = str(error.value)
    assert "3 raw records repeat" in message or "4 raw records repeat" in message
    for name in ("same", "coarse", "mirror"):
        assert f"{name!r} repeats MSRVTT/videos/" in message
    assert "'own'" not in message and "'apart'" not in message

    # Waived, they are dropped; the benchmark is not decoded again.
    run = run_stages(raw[0], tmp_path / "out", benchmark=raw[1], waive=True)
    assert pipelines.run(benchmark.work(run), IN_MEMORY) == 0
    rows = {r.name: r for r in shards.read_stage(run.layout, "decide")}
    hit = {n for n, r in rows.items() if "benchmark" in r.decision.reasons}
    assert hit == {"same", "coarse", "coarser", "mirror"}
    assert rows["same"].group.benchmark == "MSRVTT/videos/other_name.mp4"
    assert rows["mirror"].group.benchmark == "MSRVTT/videos/mirrored.mp4"
    assert rows["own"].alive and rows["apart"].alive
    counts = shards.stage_counts(run.layout, "benchmark")
    assert (counts.entered, counts.kept, counts.errors) == (5, 4, 1)


def test_a_benchmark_that_is_not_whole_is_refused(raw, tmp_path):
    config = default_config()
    config.duplicates.benchmark = str(tmp_path / "copy")
    run = open_run(config, raw[0], tmp_path / "out", True)
    (tmp_path / "copy").mkdir()
    with pytest.raises(UserError, match="no dataset in"):
        benchmark.work(run)
    shutil.copytree(raw[1], tmp_path / "copy", dirs_exist_ok=True)
    assert len(benchmark.media(run)) == 5
    (tmp_path / "copy" / "MSRVTT" / "videos" / "mirrored.mp4").unlink()
    with pytest.raises(UserError, match=r"mirrored\.mp4 is not there"):
        benchmark.work(run)


def test_a_copy_with_a_useless_text_does_not_stand_for_the_others(tmp_path):
    file = video(tmp_path / "v.mp4", 0)
    digest = shards.file_sha256(file)
    bad, good = "Episode 12 (official)", "a patterned square slides over a wall"
    own = draws.identity(digest, "good", good)
    names = (f"bad{i}" for i in range(1000))
    name = next(n for n in names if draws.identity(digest, n, bad) < own)
    texts = {"good": ("v.mp4", good), name: ("v.mp4", bad)}
    run = run_stages(write_raw(tmp_path, texts), tmp_path / "out")
    rows = {r.name: r for r in shards.read_stage(run.layout, "decide")}
    assert rows["good"].alive
    assert rows["good"].group.cluster == rows[name].group.cluster == rows[name].id
    assert {"duplicate_bytes", "title"} <= set(rows[name].decision.reasons)


def members(seed: int) -> list[Member]:
    """Of few records, some of them mirrored or twice, with hashes near each other."""
    rng = np.random.default_rng(seed)
    bases = rng.integers(0, 256, (4, 64), np.uint8)
    found = []
    for _ in range(rng.integers(1, 14)):
        packed = bases[rng.integers(4)].copy()
        for place in rng.integers(0, 64, rng.integers(60)):
            packed[place] ^= 1 << rng.integers(8)
        name, turned = f"r{rng.integers(9)}", bool(rng.integers(2))
        found.append(Member(name, hashes=packed.tobytes(), turned=turned))
    return sorted(found)


@pytest.mark.parametrize("seed", range(30))
def test_links_join_what_is_near_by_brute_force(seed):
    found, near, mirrored = members(seed), set(), set()
    for one, two in itertools.combinations(found, 2):
        bits = int.from_bytes(one.hashes) ^ int.from_bytes(two.hashes)
        if one.name != two.name and bits.bit_count() / 8 <= 6:
            pair = frozenset((one.name, two.name))
            if not one.turned and not two.turned:
                near.add(pair)
            elif not (one.turned and two.turned):
                mirrored.add(pair)
    expected = {name: {name} for pair in near | mirrored for name in pair}
    for one, two in sorted(map(sorted, near | mirrored)):
        joined = expected[one] | expected[two]
        expected |= dict.fromkeys(joined, joined)
    got = list(links._near(found, 6.0))
    cluster, kinds, _ = groups._clusters(iter(got))
    assert cluster == {name: min(joined) for name, joined in expected.items()}
    with_near = set().union(*near)
    assert {n for n, kind in kinds.items() if kind == "near"} == with_near
    assert len(got) < max(1, len({m.name for m in found}))


def test_what_is_not_compared_is_counted(tmp_path, monkeypatch):
    monkeypatch.setattr(links, "_MOST", 3)
    layout = shards.Layout(tmp_path, 1)
    same = [Member(f"{i:032x}", hashes=bytes(64)) for i in range(8)]
    found = [link for _, link in links._meet(layout, 8.0, ("band", "0.00ff"), same)]
    cut = [link for link in found if link.kind == "cut"]
    assert cut == [links.Link(same[3].name, "cut", "band 0.00ff", number=5)]
    assert [link.other for link in found if link.kind == "near"] == [same[0].name] * 2
    (one,) = groups._clusters(iter(cut))[:1]
    assert one == {}  # a cut joins nothing


TOLD = "a brown dog runs along the sandy beach and jumps over a small wave"


@pytest.mark.parametrize(
    ("other", "same"),
    [
        (TOLD, True),
        (TOLD.replace("small wave", "small waves"), True),
        (TOLD.replace("brown", "black"), False),
        (TOLD.replace("brown dog", "young man").replace("jumps", "climbs"), False),
        ("a cat sleeps on a red sofa", False),
    ],
)
def test_texts_in_nearly_the_same_words_meet(other, same):
    a, b = ({t[i : i + 5] for i in range(len(t) - 4)} for t in (TOLD, other))
    exactly = len(a & b) / len(a | b)
    assert shingles.jaccard(shingles.grams(TOLD), shingles.grams(other)) == exactly
    assert (exactly >= shingles.SAME) == same
    one, two = shingles.signature(TOLD), shingles.signature(other)
    assert np.mean(one == two) == pytest.approx(exactly, abs=0.15)
    if same:
        assert set(shingles.bands(TOLD)) & set(shingles.bands(other))


def test_nearly_equal_texts_meet_by_their_file_and_across_files(monkeypatch):
    layout, nearly = shards.Layout(pathlib.Path(), 1), TOLD.replace("wave", "waves")
    x, again, y, equal, other = (
        (f"{i:032x}", sha256, text)
        for i, (sha256, text) in enumerate(
            [("x", TOLD), ("x", nearly), ("y", nearly), ("z", TOLD), ("z", "else")]
        )
    )

    def met(kind: str, *rows) -> list[tuple]:
        found = [link for _, link in texts._meet(layout, (kind, "k"), iter(rows))]
        return [(link.id, link.kind, link.other) for link in found]

    assert met("within", again, x) == [(again[0], "within", x[0])]
    assert met("across", y, x, other) == [(y[0], "across", x[0])]
    # Equal texts are shared ones; those of one file meet by it.
    assert met("across", equal, x, again) == []
    monkeypatch.setattr(texts, "_MOST", 1)
    assert met("across", x, y, other) == [(y[0], "cut", "across k")]
