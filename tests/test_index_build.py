"""Folders to an index: windows as they would be read alone; kept up to date, killed."""

import collections
import contextlib
import dataclasses
import hashlib
import itertools
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import av
import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from gve_jax import media, presets
from gve_jax.embed import Embedder
from gve_jax.index import recall, spans, update
from gve_jax.index.spans import End, Job, Part
from gve_jax.index.store import Writer, open_index, path_text, shorten, writer
from gve_jax.index.update import Update
from gve_jax.index.walk import walk
from gve_jax.index.windows import ShotCuts, Windows, windows_of
from gve_jax.preprocess import Processor, train_tokenizer
from gve_jax.train.loop import train
from gve_jax.types import Item, UserError
from tests import tiny

ROOT = pathlib.Path(__file__).parents[1]
RULE = Windows(2.0, 1.0, True)


def write_shots(path, shots, rate=8, size=56, **options):
    """A video of slow shots, each (seconds, seed)."""
    with av.open(str(path), "w", **options) as out:
        stream = out.add_stream("libx264", rate=rate, options={"threads": "1"})
        stream.width = stream.height = size
        stream.pix_fmt = "yuv420p"
        for seconds, seed in shots:
            blocks = np.random.default_rng(seed).integers(0, 255, (7, 7, 3), np.uint8)
            image = np.kron(blocks, np.ones((size // 7, size // 7, 1), np.uint8))
            for k in range(round(seconds * rate)):
                moved = np.roll(image, k, axis=1)
                frame = av.VideoFrame.from_ndarray(moved, format="rgb24")
                out.mux(stream.encode(frame))
        out.mux(stream.encode())
    return path


def write_sound(path):
    """A video file by its first bytes, without a picture."""
    with av.open(str(path), "w") as out:
        stream = out.add_stream("aac", rate=16000, layout="mono")
        for i in range(9):
            tone = av.AudioFrame.from_ndarray(
                np.zeros((1, 1024), np.float32), format="fltp", layout="mono"
            )
            tone.rate, tone.pts = 16000, i * 1024
            out.mux(stream.encode(tone))
        out.mux(stream.encode())


SHOTS = [(1.75, 1), (2.5, 2), (1.25, 3), (1.5, 4)]  # 7 s


@pytest.fixture(scope="module")
def processor():
    contract = dataclasses.replace(
        presets.PRESETS["gve"], num_frames=4, min_pixels=56 * 56, max_pixels=56 * 56
    )
    tokenizer = train_tokenizer(["a red square goes left"] * 9, 300)
    buckets = dict(token_buckets=(256,), patch_buckets=(1024,))
    return Processor(tokenizer, contract, **buckets)


# Windows.


@given(
    window=st.floats(0.5, 30),
    part=st.floats(0.05, 1),
    length=st.floats(0.1, 12),
    cuts=st.lists(st.floats(0, 1), max_size=30),
)
@settings(max_examples=150, deadline=None)
def test_windows_cover_a_video_and_are_not_too_short_or_long(
    window, part, length, cuts
):
    duration, stride = window * length, window * part
    cuts = sorted(cut * duration for cut in cuts)
    found = windows_of(duration, Windows(window, stride, True), cuts)
    if duration <= window:
        assert found == []
        return
    assert found[0][0] == 0 and found[-1][1] == duration
    assert len(set(found)) == len(found)
    for (start, end), (after, last) in itertools.pairwise(found):
        assert start <= after <= end <= last
    for start, end in found:
        assert window / 2 - 1e-9 <= end - start <= window * 1.5 + 1e-9
    # Each border is a cut, or an even step with no cut that is near enough.
    even = [i * stride + end for i in range(300) for end in (0, window)]
    even.append(duration - window)
    near = min(window / 4, stride / 2) - 1e-9
    for border in {b for pair in found for b in pair} - {0.0, duration}:
        if border not in cuts:
            assert any(abs(border - step) < 1e-5 for step in even)
            assert all(abs(cut - border) > near for cut in cuts)


def test_windows_by_hand():
    rule = Windows(10.0, 5.0, True)
    assert windows_of(10.0, rule) == []
    assert windows_of(22.0, rule) == [(0, 10), (5, 15), (10, 20), (12, 22)]
    assert windows_of(22.0, rule, [4.0, 9.0, 16.0]) == [
        (0, 9), (4, 16), (9, 20), (12, 22),
    ]  # fmt: skip


def frames_of(*levels):
    noise = np.random.default_rng(0).integers(-3, 4, (len(levels), 18, 32, 3))
    return (np.array(levels)[:, None, None, None] + noise).clip(0, 255).astype(np.uint8)


@pytest.mark.parametrize(
    "levels, cuts",
    [
        ([50] * 10 + [120] * 10, [10]),
        ([50] * 10 + [120] * 5 + [60] * 9, [10, 15]),
        ([50] * 10, []),
        ([50] * 10 + [220] + [50] * 10, []),  # a flash
        (list(range(0, 250, 10)), []),  # a fade, or steady motion
        ([50] * 10 + [54] * 10, []),  # hardly anything
        ([10, 200] * 10, []),  # flicker, a time lapse
        ([], []),
        ([7], []),
    ],
)
def test_shot_cuts(levels, cuts):
    found = ShotCuts()
    for frame in frames_of(*levels):
        found.see(frame)
    assert found.numbers() == cuts


# A file to spans.


@pytest.mark.parametrize("name", ["a.mp4", "a.ts", "turned.mkv"])
def test_each_span_is_encoded_as_if_it_were_read_alone(name, processor, tmp_path):
    path = str(write_shots(tmp_path / name, SHOTS))
    parts = list(spans.read(processor, RULE, Job(path, "video")))
    assert parts[-1] == End()
    shares = [part for part in parts if isinstance(part, float)]
    assert shares == sorted(shares) and shares[-1] == 1
    found = {(p.span.start, p.span.end): p for p in parts if isinstance(p, Part)}
    duration = media.read_video(path).duration
    windows = windows_of(duration, RULE, [1.75, 4.25, 5.5])
    of_windows = sorted(key for key in found if key[0] is not None)
    np.testing.assert_allclose(of_windows, windows, atol=1e-9)
    assert len(windows) == 6 and (1.75, 4.25) in windows
    for (start, end), part in found.items():
        assert part.span.kind == ("video" if start is None else "window")
        assert part.span.duration == duration
        alone = processor.encode(Item("x", video=path, start=start, end=end))
        for a, b in zip(part.encoded, alone, strict=True):
            np.testing.assert_array_equal(a, b)


def test_what_is_done_is_left_out_and_what_is_short_is_whole(processor, tmp_path):
    path = str(write_shots(tmp_path / "a.mp4", SHOTS))

    def of(rule, *job):
        parts = spans.read(processor, rule, Job(path, *job))
        return [part.span[1:3] for part in parts if isinstance(part, Part)]

    everything = of(RULE, "video")
    done = frozenset(everything[1:4])
    assert set(of(RULE, "video", done)) == set(everything) - done
    assert of(Windows(0.0, 0.0, True), "video") == [(None, None)]
    assert of(Windows(7.0, 1.0, True), "video") == [(None, None)]
    assert of(RULE._replace(snap=False), "video")[0] == (0.0, 2.0)
    assert of(RULE._replace(snap=False), "video", done)[1:]


def test_what_cannot_be_read_ends_in_its_reason(processor, tmp_path):
    def end(name, kind="video"):
        *parts, last = spans.read(processor, RULE, Job(str(tmp_path / name), kind))
        assert all(isinstance(p.encoded, str) for p in parts)
        return last, [p.encoded for p in parts]

    (tmp_path / "cut.mp4").write_bytes(
        write_shots(tmp_path / "a.mp4", SHOTS).read_bytes()[:5000]
    )
    assert "cut off" in end("cut.mp4")[0].error and not end("cut.mp4")[0].silent
    (tmp_path / "bad.png").write_bytes(b"\x89PNG\r\n\x1a\n no")
    assert "bad.png" in end("bad.png", "image")[1][0]
    write_sound(tmp_path / "sound.mp4")
    assert end("sound.mp4")[0].silent


# Folders. A stand-in for the model, and reading in this process, make it quick.


class Stub:
    """Vectors that are a hash of what was encoded; three at a time."""

    dim, dims = 8, (4, 8)

    def __init__(self, processor):
        self.processor = processor
        self.contract = dataclasses.replace(processor.contract, dim=8)
        self.seen = []

    @classmethod
    def vector(cls, encoded):
        digest = hashlib.sha256()
        for array in encoded[:5]:
            digest.update(np.ascontiguousarray(array).tobytes())
        seed = int.from_bytes(digest.digest()[:8], "big")
        vector = np.random.default_rng(seed).normal(size=cls.dim).astype(np.float32)
        return vector / np.linalg.norm(vector)

    def stream(self, items):
        waiting = []
        for item in items:
            if item is not None:
                self.seen.append(item.media)
                waiting.append(item)
            if item is None or len(waiting) == 3:
                yield from ((w.name, self.vector(w.encoded)) for w in waiting)
                waiting = []
        yield from ((w.name, self.vector(w.encoded)) for w in waiting)


class Inline:
    """As `gve_jax.preprocess.Reader.stream`, here."""

    def __init__(self, read, *_):
        self._read = read

    def stream(self, jobs):
        for job in jobs:
            for part in self._read(job):
                yield job, part


@pytest.fixture
def inline(monkeypatch):
    monkeypatch.setattr(update, "Reader", Inline)


@pytest.fixture
def stub(processor, inline):
    return Stub(processor)


def build(stub, index, *folders, drop_gone=True, dtype="float32", dim=8):
    found = walk([str(folder) for folder in folders], index)
    with writer(index, stub.contract, dim, dtype, RULE._asdict()) as w:
        run = Update(w, stub, RULE, found, drop_gone)
        run.run()
        return run


def content(index):
    """(file, kind, start, end) -> vector, of all items."""
    index = open_index(index)
    vectors = index.vectors()
    return {
        (r["file"], r["kind"], r["start"], r["end"]): vectors[r["row"]].tobytes()
        for r in index.items.to_pylist()
    }


def names(index):
    return sorted({pathlib.Path(key[0]).name for key in content(index)})


def failures(index):
    return [json.loads(x) for x in (index / "failures.jsonl").read_text().splitlines()]


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "videos"
    (folder / "deep" / "er").mkdir(parents=True)
    write_shots(folder / "long.mp4", SHOTS)
    write_shots(folder / "deep" / "short.mp4", [(1.0, 9)])
    write_shots(folder / "deep" / "er" / "other.mkv", [(2.0, 7), (1.5, 8)])
    Image.new("RGB", (60, 60), (9, 99, 200)).save(folder / "deep" / "picture.png")
    (folder / "notes.txt").write_text("not a video")
    (folder / "deep" / "broken.mp4").write_bytes(b"\0\0\0\x18ftypmp42" + bytes(99))
    return folder


def test_all_of_a_folder(folder, stub, tmp_path):
    index = tmp_path / "index"
    run = build(stub, index, folder)
    assert names(index) == ["long.mp4", "other.mkv", "picture.png", "short.mp4"]
    found = open_index(index)
    assert found.settings == RULE._asdict()
    kinds = collections.Counter(found.items["kind"].to_pylist())
    assert kinds == {"video": 3, "image": 1, "window": 6 + 3}
    for row in found.items.to_pylist():
        path, kind = row["file"], row["kind"]
        item = Item("", image=path) if kind == "image" else Item(
            "", video=path, start=row["start"], end=row["end"]
        )  # fmt: skip
        wanted = stub.vector(stub.processor.encode(item))
        np.testing.assert_array_equal(found.vectors()[row["row"]], wanted)
        file = pathlib.Path(path)
        assert row["hash"] == hashlib.sha256(file.read_bytes()).hexdigest()
        assert row["size"] == file.stat().st_size and row["root"] == str(folder)
        assert row["mtime_ns"] == file.stat().st_mtime_ns
        seconds = {"long": 7, "other": 3.5, "short": 1, "picture": 0}[file.stem]
        assert row["duration"] == pytest.approx(seconds)
    (bad,) = failures(index)
    assert bad["file"].endswith("broken.mp4") and bad["error"] and not bad["again"]
    report = run.report()
    assert "3 videos (0.00 h), 9 windows, 1 images" in report
    assert "1 could not be read" in report and "1 .txt" in report
    assert "\n\n" not in report


def test_only_what_is_new_is_read(folder, stub, tmp_path, monkeypatch):
    index = tmp_path / "index"
    build(stub, index, folder)
    before, stub.seen = content(index), []
    generation = open_index(index).generation

    # Nothing is new: no file is opened, nothing is written.
    hashed = []
    key = media.content_key
    monkeypatch.setattr(media, "content_key", lambda p: hashed.append(p) or key(p))
    run = build(stub, index, folder)
    assert not hashed and not stub.seen and open_index(index).generation == generation
    assert "4 unchanged" in run.report() and "1 could not be read" in run.report()

    # Moved, copied (also by a link), touched, renamed over another.
    (folder / "long.mp4").rename(folder / "deep" / "moved.mp4")
    shutil.copy(folder / "deep" / "picture.png", folder / "copy.png")
    (folder / "link.png").symlink_to(folder / "copy.png")
    os.utime(folder / "deep" / "short.mp4", (5, 5))
    run = build(stub, index, folder)
    assert not stub.seen and "1 moved, 2 copies" in run.report()
    after = content(index)
    assert names(index) == [
        "copy.png", "link.png", "moved.mp4", "other.mkv", "picture.png", "short.mp4",
    ]  # fmt: skip
    moved = {(k[0].replace("deep/moved", "long"), *k[1:]): v for k, v in after.items()}
    assert before.items() <= moved.items()
    items = open_index(index).items.to_pylist()
    assert len(items) == 15 and len({row["row"] for row in items}) == 13
    assert {r["mtime_ns"] for r in items if "short" in r["file"]} == {5 * 10**9}

    # Changed content under an old name; deleted; mended.
    write_shots(folder / "deep" / "short.mp4", [(1.0, 33)])
    (folder / "copy.png").unlink()
    (folder / "link.png").unlink()
    shutil.copy(folder / "deep" / "short.mp4", folder / "deep" / "broken.mp4")
    run = build(stub, index, folder)
    assert len(stub.seen) == 1 and "1 copies, 2 removed" in run.report()
    assert failures(index) == []
    last = content(index)
    short = next(k for k in last if "short" in k[0])
    assert last[short] != after[short]
    assert len(last) == len(open_index(index).items) == 14

    # It is what a fresh build would say.
    build(stub, tmp_path / "fresh", folder)
    assert content(tmp_path / "fresh") == last


def test_add_takes_nothing_out_and_build_only_of_its_folders(folder, stub, tmp_path):
    index, deep = tmp_path / "index", folder / "deep"
    build(stub, index, folder)
    (folder / "long.mp4").unlink()
    (deep / "short.mp4").unlink()
    write_shots(tmp_path / "one.mp4", [(1.0, 77)])
    build(stub, index, tmp_path / "one.mp4", drop_gone=False)
    assert "long.mp4" in names(index) and "one.mp4" in names(index)
    assert failures(index)  # of other folders: they stay
    build(stub, index, deep)
    assert names(index) == ["long.mp4", "one.mp4", "other.mkv", "picture.png"]
    build(stub, index, folder)
    assert names(index) == ["one.mp4", "other.mkv", "picture.png"]


def test_a_file_that_moved_to_what_is_added(folder, stub, tmp_path):
    index, other = tmp_path / "index", tmp_path / "other"
    build(stub, index, folder)
    other.mkdir()
    stub.seen = []
    (folder / "long.mp4").rename(other / "a.mp4")
    shutil.copy(other / "a.mp4", other / "b.mp4")
    run = build(stub, index, other, drop_gone=False)
    assert "1 moved, 1 copies" in run.report() and not stub.seen
    assert names(index)[:2] == ["a.mp4", "b.mp4"] and "long.mp4" not in names(index)


def test_sound_and_copies_of_what_fails(folder, stub, tmp_path):
    write_sound(folder / "a.mp4")
    for name, source in [("b.mp4", "a.mp4"), ("z.mp4", "deep/broken.mp4")]:
        shutil.copy(folder / source, folder / name)
    run = build(stub, tmp_path / "index", folder)
    assert "2 .mp4 without pictures" in run.report()
    bad = failures(tmp_path / "index")
    assert len(bad) == 2 and bad[0]["error"] == bad[1]["error"]
    assert not bad[0]["again"] and not bad[1]["again"]


def test_a_file_that_changes_while_it_is_read(folder, stub, tmp_path, monkeypatch):
    class Growing(Inline):
        def stream(self, jobs):
            for job, part in super().stream(jobs):
                if "long" in job.path and isinstance(part, End):
                    os.utime(job.path, (9, 9))
                yield job, part

    monkeypatch.setattr(update, "Reader", Growing)
    build(stub, tmp_path / "index", folder)
    (lost,) = (f for f in failures(tmp_path / "index") if f["again"])
    assert "changed or moved while" in lost["error"] and "long" in lost["file"]
    assert ("video", None) not in {
        key[1:3] for key in content(tmp_path / "index") if "long" in key[0]
    }
    monkeypatch.setattr(update, "Reader", Inline)
    build(stub, tmp_path / "index", folder)
    build(stub, tmp_path / "fresh", folder)
    assert content(tmp_path / "index") == content(tmp_path / "fresh")
    assert len(open_index(tmp_path / "index").items) == 13


def test_two_files_that_swapped_names_and_a_name_used_again(folder, stub, tmp_path):
    index, a, b = tmp_path / "index", folder / "long.mp4", folder / "deep" / "short.mp4"
    build(stub, index, folder)
    stub.seen = []
    a.rename(folder / "x")
    b.rename(a)
    (folder / "x").rename(b)
    os.utime(a, (7, 7))
    build(stub, index, folder)
    assert not stub.seen
    # What was there lives on elsewhere, and its name is another's.
    b.rename(folder / "elsewhere.mp4")
    write_shots(b, [(1.0, 50)])
    build(stub, index, folder)
    assert len(stub.seen) == 1
    build(stub, tmp_path / "fresh", folder)
    assert content(index) == content(tmp_path / "fresh")


def test_hostile_folders(folder, stub, tmp_path, monkeypatch):
    odd = folder / "odd"
    odd.mkdir()
    # Loops, a link to a folder that is walked anyway, and one from outside.
    (odd / "loop").symlink_to(folder)
    (odd / "self").symlink_to("self")
    (odd / "gone").symlink_to("nowhere.mp4")
    (odd / "again").symlink_to(folder / "deep")
    outside = tmp_path / "outside"
    outside.mkdir()
    write_shots(outside / "far.mp4", [(1.0, 21)])
    (odd / "far").symlink_to(outside)
    os.mkfifo(odd / "pipe.mp4")
    (odd / "empty.mp4").touch()
    strange, bad = (
        os.fsdecode(os.fsencode(odd) + name)
        for name in (b"/\xe9 \xff.mp4", b"/\xfe.mp4")
    )
    shutil.copy(outside / "far.mp4", strange)
    pathlib.Path(bad).write_bytes(b"\0\0\0\x18ftypmp42" + bytes(99))
    long_name, wide_name = "n" * 251 + ".mp4", "映像 \n «x».mp4"
    write_shots(odd / wide_name, [(1.0, 22)])
    write_shots(odd / long_name, [(1.0, 23)])
    locked = folder / "locked"
    locked.mkdir()
    write_shots(locked / "secret.mp4", [(1.0, 24)])

    index = folder / "index"  # it is not looked into
    build(stub, index, folder)
    # What is not UTF-8 is kept as a URI. Each file is there once, by its own name.
    assert names(index) == sorted(
        [
            "far.mp4", "long.mp4", "other.mkv", "picture.png", "secret.mp4",
            "short.mp4", "%E9%20%FF.mp4", long_name, wide_name,
        ]
    )  # fmt: skip
    files = {key[0] for key in content(index)}
    assert len(files) == 9 and path_text(strange) in files
    assert str(folder / "deep" / "short.mp4") in files
    assert {f["file"] for f in failures(index)} == {
        str(folder / "deep" / "broken.mp4"), path_text(bad),
    }  # fmt: skip
    report = build(stub, index, folder).report()
    assert "2 broken links" in report and "1 devices, pipes and sockets" in report
    assert "1 .mp4" in report  # the empty one
    report.encode()

    # A folder that can no longer be read hides its files; they are not gone.
    scandir = os.scandir

    def refuse(path):
        if str(path) == str(locked):
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    build(stub, index, folder)
    assert "secret.mp4" in names(index)
    errors = {f["file"]: f["error"] for f in failures(index)}
    assert errors[str(locked)] == "cannot be read (Permission denied)"


def test_folders_that_are_empty_or_not_there(folder, stub, tmp_path):
    index = tmp_path / "index"
    with pytest.raises(UserError, match="nowhere: No such file"):
        build(stub, index, tmp_path / "nowhere")
    empty = tmp_path / "empty"
    empty.mkdir()
    (empty / "a.txt").write_text("words")
    with pytest.raises(UserError, match=r"neither video nor image: 1 \.txt"):
        build(stub, index, empty)
    (empty / "bad.mp4").write_bytes(b"\0\0\0\x18ftypmp42" + bytes(99))
    for _ in range(2):  # known to be bad, the second time
        with pytest.raises(UserError, match=r"nothing could be embedded, first: .*bad"):
            build(stub, index, empty)
    build(stub, index, folder)
    before = content(index)
    shutil.move(folder, tmp_path / "unplugged")
    folder.mkdir()  # the mount point
    with pytest.raises(UserError, match="but 4 in the index: is it mounted"):
        build(stub, index, folder)
    assert content(index) == before


def test_lost_readers_and_faults_of_parts(folder, stub, tmp_path, monkeypatch):
    """A reader that dies in the middle: what came is kept, the rest comes next time."""

    class Dying(Inline):
        def stream(self, jobs):
            for job in jobs:
                for i, part in enumerate(self._read(job)):
                    if "long" in job.path and i == 9:
                        yield job, update.Lost("reading took over 3 s")
                        break
                    yield job, part

    index = tmp_path / "index"
    monkeypatch.setattr(update, "Reader", Dying)
    build(stub, index, folder)
    partial = [key for key in content(index) if "long" in key[0]]
    assert 0 < len(partial) < 6 and {key[1] for key in partial} == {"window"}
    lost = next(f for f in failures(index) if "long" in f["file"])
    assert lost["again"] and lost["error"] == "reading took over 3 s"
    monkeypatch.setattr(update, "Reader", Inline)
    stub.seen = []
    build(stub, index, folder)
    assert len(stub.seen) == 7 - len(partial)
    assert not [f for f in failures(index) if "long" in f["file"]]
    build(stub, tmp_path / "fresh", folder)
    assert content(index) == content(tmp_path / "fresh")


# Interrupted.


class Killed(BaseException):
    pass


def test_killed_at_any_moment_the_same_command_goes_on(
    folder, stub, tmp_path, monkeypatch
):
    """Each third call that changes the index is once the last one."""
    monkeypatch.setattr(update, "_COMMIT_S", 0.0)
    monkeypatch.setattr(update, "_COMMIT_TIMES", 0.0)
    shutil.rmtree(folder / "deep" / "er")
    (folder / "deep" / "short.mp4").unlink()
    # At first two of the three files were others.
    write_shots(folder / "twin.mp4", [(1.0, 60)])
    (folder / "long.mp4").rename(tmp_path / "long.mp4")
    write_shots(folder / "long.mp4", [(1.5, 61), (1.0, 62)])
    build(stub, tmp_path / "first", folder)
    shutil.copy(tmp_path / "long.mp4", folder / "long.mp4")
    shutil.copy(tmp_path / "long.mp4", folder / "twin.mp4")
    first = content(tmp_path / "first")
    build(stub, tmp_path / "whole", folder)
    whole = content(tmp_path / "whole")

    def guarded(function, left):
        def call(*args):
            left[0] -= 1
            if left[0] == 0:
                raise Killed
            return function(*args)

        return call

    class Remembering(Inline):
        parts = {}  # noqa: RUF012

        def stream(self, jobs):
            for job in jobs:
                parts = self.parts.get(job) or list(self._read(job))
                for part in self.parts.setdefault(job, parts):
                    yield job, part

    monkeypatch.setattr(update, "Reader", Remembering)
    kills = 0
    for count in itertools.count(1, 3):  # not a multiple of what happens in turn
        index, left = tmp_path / f"i{count}", [count]
        shutil.copytree(tmp_path / "first", index)
        with monkeypatch.context() as m:
            for name in ("append", "share", "drop", "commit"):
                m.setattr(Writer, name, guarded(getattr(Writer, name), left))
            with contextlib.suppress(Killed):
                build(stub, index, folder)
        assert content(index).items() <= first.items() | whole.items()
        stub.seen = []
        build(stub, index, folder)
        assert content(index) == whole
        assert len(open_index(index).items) == len(whole)
        if left[0] > 0:  # it was not interrupted
            break
        kills += 1
    assert kills > 5 and not stub.seen


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_asked_to_stop_it_keeps_what_is_finished(number, folder, stub, tmp_path):
    index, handler = tmp_path / "index", signal.getsignal(number)

    class Asking(Stub):
        asked = False

        def stream(self, items):
            for name, vector in super().stream(items):
                yield name, vector
                if len(self.seen) == 6 and not self.asked:
                    self.asked = True
                    os.kill(os.getpid(), number)

    with pytest.raises(KeyboardInterrupt):
        build(Asking(stub.processor), index, folder)
    assert signal.getsignal(number) is handler
    kept = content(index)
    assert 0 < len(kept) < 13
    build(stub, index, folder)
    assert len(stub.seen) == 13 - len(kept) and len(content(index)) == 13


def test_a_full_disk_in_the_middle(folder, stub, tmp_path, monkeypatch):
    monkeypatch.setattr(update, "_COMMIT_S", 0.0)
    monkeypatch.setattr(update, "_COMMIT_TIMES", 0.0)
    index, fsync, left = tmp_path / "index", os.fsync, [20]

    def full(fd):
        left[0] -= 1
        if left[0] < 0:
            raise OSError(28, "No space left on device")
        fsync(fd)

    with monkeypatch.context() as m:
        m.setattr(os, "fsync", full)
        with pytest.raises(UserError, match=r"cannot be written \(No space left"):
            build(stub, index, folder)
    kept = content(index)
    assert kept
    build(stub, index, folder)
    assert kept.items() <= content(index).items() and len(content(index)) == 13


# Smaller vectors.


def test_recall_by_brute_force():
    rng = np.random.default_rng(3)
    vectors = rng.normal(size=(60, 8)).astype(np.float32)
    vectors[30:34] = vectors[20]  # equal ones are no loss
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    assert recall.recall(vectors, 8, "float32") == {1: 1.0, 10: 1.0}
    found = recall.recall(vectors, 4, "int8")
    stored = np.stack(
        [np.rint(v / (np.abs(v).max() / 127)) for v in shorten(vectors, 4)]
    )
    for k in (1, 10):
        hits = []
        for i, query in enumerate(vectors):
            others = [j for j in range(60) if j != i]
            cosine = {j: float(query @ vectors[j]) for j in others}
            short = {
                j: query[:4] @ stored[j] / np.linalg.norm(stored[j]) for j in others
            }
            worst = sorted(cosine.values())[-k]
            best = sorted(others, key=lambda j, s=short: (-s[j], j))[:k]
            hits += [cosine[j] >= worst - 1e-6 for j in best]
        assert found[k] == pytest.approx(np.mean(hits))
    assert found[10] < 0.9


def test_smaller_vectors_and_what_they_lose(folder, stub, tmp_path):
    index = tmp_path / "index"
    run = build(stub, index, folder, dtype="int8", dim=4)
    found = open_index(index)
    assert found.embeddings.shape == (13, 4) and found.embeddings.dtype == np.int8
    assert found.recall["sample"] == 13 and 0.3 < found.recall["recall@10"] < 1
    assert "4 numbers as int8 find what all numbers in float32 find" in run.report()
    build(stub, tmp_path / "full", folder)
    full = open_index(tmp_path / "full")
    order = [full.items.to_pylist(), found.items.to_pylist()]
    assert [r["file"] for r in order[0]] == [r["file"] for r in order[1]]
    np.testing.assert_allclose(found.vectors(), shorten(full.vectors(), 4), atol=0.02)
    assert full.recall is None


# With a model, in processes, through the command.


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    pairs = tiny.write_pairs(tmp_path_factory.mktemp("pairs") / "train")
    run = tmp_path_factory.mktemp("runs") / "run"
    changes = {"loss__matryoshka": (16,)}
    config = tiny.config(pairs, optim__warmup_steps=0, train__steps=0, **changes)
    train(config, run, jax.devices()[:1])
    return run


def command(*arguments, program=("-m", "gve_jax.index")):
    return subprocess.Popen(
        [sys.executable, *program, *map(str, arguments)],
        cwd=ROOT,
        env=os.environ | {"XLA_FLAGS": "", "COLUMNS": "100"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(*arguments):
    process = command(*arguments)
    out, errors = process.communicate(timeout=300)
    return process.returncode, out, errors


def test_the_command_against_embedding_one_by_one(folder, workdir, tmp_path):
    index = tmp_path / "index"
    flags = f"--index={index}", f"--checkpoint={workdir}"
    (folder / "deep" / "broken.mp4").unlink()
    code, out, errors = run("build", folder, *flags, "--window=2")
    assert code == 0, errors
    assert "embedded 3 videos (0.00 h), 9 windows, 1 images" in out
    assert "index: " in errors  # the progress line
    found = open_index(index)
    assert found.settings == {"window": 2.0, "stride": 1.0, "snap": True}

    # The witness: what Embedder.embed makes of the same items.
    embedder = Embedder.from_checkpoint(workdir, devices=jax.devices()[:1])
    found.contract.require_equal(embedder.contract, "a", "b")
    assert embedder.dims == (16, 32)
    rows = found.items.to_pylist()
    items = [
        Item(str(i), image=r["file"])
        if r["kind"] == "image"
        else Item(str(i), video=r["file"], start=r["start"], end=r["end"])
        for i, r in enumerate(rows)
    ]
    wanted = embedder.embed(items, progress=False)
    assert not wanted.failures
    np.testing.assert_allclose(
        found.vectors()[[r["row"] for r in rows]], wanted.vectors, atol=2e-6
    )


@pytest.mark.slow
def test_the_other_commands_and_what_they_refuse(folder, workdir, tmp_path):
    index = tmp_path / "index"
    flags = f"--index={index}", f"--checkpoint={workdir}"
    assert run("build", folder, *flags, "--window=2")[0] == 0
    code, out, errors = run("info", f"--index={index}")
    assert code == 0 and "3 (0.00 h)" in out and "9 (window 2.0" in out, errors
    code, out, _ = run("remove", folder / "deep", f"--index={index}")
    assert code == 0 and "3 files with 6 items" in out
    code, out, _ = run("compact", f"--index={index}")
    assert code == 0 and "7 rows of 13 stay" in out
    assert names(index) == ["long.mp4"]
    assert [p.name for p in (index / "data").glob("*.npy")] == ["embeddings-1.npy"]

    # Whoever adds or searches need not name the checkpoint again.
    assert open_index(index).model["checkpoint"] == str(workdir)
    shutil.copy(folder / "long.mp4", folder / "deep" / "copy.mp4")
    code, out, errors = run("add", folder / "deep" / "copy.mp4", f"--index={index}")
    assert code == 0, errors
    code, out, errors = run("search", "a text", f"--index={index}", "--json")
    assert code == 0 and len(json.loads(out)[0]["also"]) == 1, errors

    for arguments, exit_code, message in [
        (("remove", "/no", f"--index={index}"), 1, "error: /no: nothing of it is in"),
        (("info", f"--index={tmp_path / 'no'}"), 1, "no index there"),
        (("build", *flags), 2, "takes folders or files"),
        (("build", folder, *flags, "--windows=3"), 2, "unknown flag --windows=3"),
        (("build", folder, f"--index={tmp_path / 'x'}"), 1, "--checkpoint: name a"),
        (("dance",), 2, "usage"),
        (("build", folder, *flags, "--dim=15"), 1, "trained for vectors of 16, 32"),
        (("build", folder, *flags, "--window=9"), 1, "built otherwise (window=9.0, th"),
        (("build", tmp_path / "no", *flags), 1, "No such file"),
    ]:
        code, out, errors = run(*arguments)
        assert (code, out) == (exit_code, ""), errors
        assert message in errors and "Traceback" not in errors
        if exit_code == 1:
            assert len(errors.strip().splitlines()) == 1


EAGER = """
import runpy, sys
from gve_jax.index import update
update._COMMIT_S = update._COMMIT_TIMES = 0.0
sys.argv[0] = "index"
runpy.run_module("gve_jax.index", run_name="__main__", alter_sys=True)
"""


@pytest.mark.slow
def test_kill_9_at_many_moments(folder, workdir, tmp_path):
    """The real command, killed at random; the same command goes on to the same end."""
    for seed in range(8):
        write_shots(folder / f"more{seed}.mp4", [(9.0, 100 + seed), (9.5, 200 + seed)])
    flags = "build", folder, f"--checkpoint={workdir}", "--window=2"
    assert run(*flags, f"--index={tmp_path / 'whole'}")[0] == 0
    wanted = content(tmp_path / "whole")
    index, sizes = tmp_path / "index", []
    rng = np.random.default_rng(0)
    for _ in range(10):
        process = command(*flags, f"--index={index}", program=("-c", EAGER))
        commits = rng.integers(1, 12)  # and then somewhere before or in the next
        goal = commits + (open_index(index).generation if sizes else 0)
        while process.poll() is None:
            if (index / "index.json").exists() and open_index(index).generation >= goal:
                break
        time.sleep(rng.uniform(0, 0.1))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        found = content(index)
        assert found.keys() <= wanted.keys()
        assert len(found) == len(open_index(index).items)
        sizes.append(len(found))
    assert len({size for size in sizes if 0 < size < len(wanted)}) > 2
    code, _, errors = run(*flags, f"--index={index}")
    assert code == 0, errors
    found = content(index)
    assert found.keys() == wanted.keys() and len(open_index(index).items) == len(found)
    for key, vector in wanted.items():
        np.testing.assert_allclose(
            np.frombuffer(found[key], np.float32), np.frombuffer(vector, np.float32),
            atol=2e-6,
        )  # fmt: skip
