"""Malicious input through the real stages: each ends in a code, and harms nobody."""

import json
import os
import pathlib
import pickle
import subprocess
import sys
import time

import av
import numpy as np
import pytest
import stub_look

from data_synthesis import assets, pipelines, shards
from data_synthesis.config import default_config
from data_synthesis.run import Run, open_run
from data_synthesis.stages import assets as cutting
from data_synthesis.stages import decide, embed, groups, ingest, links, nearest, qc
from data_synthesis.world.encode import write_video
from gve_jax.types import UserError

IN_MEMORY = pipelines.beam_options([])


def moving(frames: int = 12, side: int = 144) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    square = np.kron(rng.integers(0, 256, (6, 6, 3)), np.ones((8, 8, 1)))
    out = []
    for i in range(frames):
        frame = np.full((side, side, 3), 90, np.uint8)
        x = 4 + 6 * (i % 14)
        frame[40:88, x : x + 48] = square
        out.append(frame)
    return out


def plain(path: pathlib.Path, number: int, width: int, height: int) -> None:
    """Grey frames of any size: little to store, much to decode."""
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", rate=25, options={"preset": "ultrafast"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        frame = av.VideoFrame(width, height, "yuv420p")
        for plane in frame.planes:
            plane.update(bytes([128]) * plane.buffer_size)
        for i in range(number):
            frame.pts = i
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))


def run_stages(root: pathlib.Path, lines: list[str | bytes], stages, **media) -> Run:
    data = b"".join((x if isinstance(x, bytes) else x.encode()) + b"\n" for x in lines)
    (root / "raw.jsonl").write_bytes(data)
    config = default_config()
    config.media.update(media)
    run = open_run(config, root / "raw.jsonl", root / "out", False)
    for stage in stages:
        pipelines.run(stage.work(run), IN_MEMORY)
    return run


def line(name: str, video: str, text: str = "a patterned square slides along") -> str:
    return json.dumps({"id": name, "video": video, "text": text})


def ended(run: Run, stage: str) -> dict[str, tuple[str, ...]]:
    return {r.name: r.decision.reasons for r in shards.read_stage(run.layout, stage)}


def files_below(root: pathlib.Path) -> set[str]:
    return {str(p.relative_to(root)) for p in root.rglob("*") if p.is_file()}


def test_files_that_lead_elsewhere(tmp_path):
    """Playlists open no sibling, links leave no root, addresses are not fetched."""
    root = tmp_path / "in"
    root.mkdir()
    (tmp_path / "outside").mkdir()
    write_video(str(tmp_path / "outside" / "secret.mp4"), moving())
    write_video(str(root / "sound.mp4"), moving())
    concat = "ffconcat version 1.0\nfile sound.mp4\n"
    (root / "concat.mp4").write_text(concat)
    (root / "playlist.m3u8").write_text(
        "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nsound.mp4\n#EXT-X-ENDLIST\n"
    )
    (root / "link.mp4").symlink_to(tmp_path / "outside" / "secret.mp4")
    (root / "door").symlink_to(tmp_path / "outside")
    os.mkfifo(root / "pipe.mp4")
    (root / "page.html.mp4").write_text("<svg xmlns='http://www.w3.org/2000/svg'/>")
    (root / "code.mp4").write_bytes(pickle.dumps({"a": 1}))
    cases = {
        "concat": ("concat.mp4", "unknown_format"),
        "playlist": ("playlist.m3u8", "unknown_format"),
        "link": ("link.mp4", "outside_roots"),
        "door": ("door/secret.mp4", "outside_roots"),
        "dots": ("../outside/secret.mp4", "outside_roots"),
        "absolute": (str(tmp_path / "outside" / "secret.mp4"), "outside_roots"),
        "pipe": ("pipe.mp4", "outside_roots"),
        "folder": (".", "outside_roots"),
        "device": ("/dev/zero", "outside_roots"),
        "address": ("https://user:word@example.com/a.mp4?token=t", "url"),
        "protocol": ("concat:sound.mp4|sound.mp4", "not_found"),
        "option": ("-i", "not_found"),
        "long name": ("x" * 5000, "not_found"),
        "null": ("sound\0.mp4", "not_found"),
        "drawing": ("page.html.mp4", "unknown_format"),
        "pickle": ("code.mp4", "unknown_format"),
    }
    lines = [line(name, video) for name, (video, _) in cases.items()]
    run = run_stages(root, [*lines, line("good", "sound.mp4")], (ingest, qc))
    found = ended(run, "qc")
    assert found.pop("good") == ()
    assert found == {name: (code,) for name, (_, code) in cases.items()}
    (address,) = (r for r in shards.read_stage(run.layout, "qc") if r.name == "address")
    assert address.source.uri == "https://example.com/a.mp4"


def test_bombs(tmp_path):
    """Much to decode in few bytes: refused by the header, or dropped by a threshold."""
    plain(tmp_path / "huge.mp4", 1, 3000, 3000)
    plain(tmp_path / "long.mp4", 400, 128, 128)
    (tmp_path / "endless.mp4").write_bytes(b"\x00\x00\x00\x18ftypisom" + bytes(1 << 20))
    assert max(f.stat().st_size for f in tmp_path.glob("*.mp4")) < 2 << 20
    lines = [line(name, f"{name}.mp4") for name in ("huge", "long", "endless")]
    stages = (ingest, qc, links, groups, embed, nearest, decide)
    run = run_stages(tmp_path, lines, stages, max_side=2048, max_duration=10.0)
    found = ended(run, "decide")
    assert found["huge"] == ("too_many_pixels",)
    assert "long" in found["long"]
    assert found["endless"] == ("truncated",)


@pytest.mark.slow
def test_a_bomb_of_frames(tmp_path):
    plain(tmp_path / "many.mp4", 36_500, 32, 32)
    run = run_stages(tmp_path, [line("many", "many.mp4")], (ingest, qc))
    assert ended(run, "qc") == {"many": ("too_many_frames",)}


def test_decoders_that_hang_crash_or_eat_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(qc.assets, "look", stub_look.look)
    before = children()  # of other tests
    write_video(str(tmp_path / "good.mp4"), moving())
    for name in ("hang", "busy", "eat", "crash"):
        (tmp_path / f"{name}.mp4").write_bytes(name.ljust(8, ".").encode())
    names = ("hang", "busy", "eat", "crash", "good")
    lines = [line(name, f"{name}.mp4") for name in names]
    began = time.monotonic()
    run = run_stages(
        tmp_path, lines, (ingest, qc), max_seconds=1.0, max_memory_mb=350, repair=False
    )
    assert time.monotonic() - began < 300  # not the 600 s that one of them sleeps
    found = ended(run, "qc")
    assert found.pop("good") == ()
    assert found == dict.fromkeys(("hang", "busy", "eat", "crash"), ("lost",))
    details = {r.name: r.decision.detail for r in shards.read_stage(run.layout, "qc")}
    assert "MB of memory" in details["eat"] and "SIGABRT" in details["crash"]
    assert "took over 3 s" in details["hang"] and "took over 3 s" in details["busy"]
    assert children() <= before


def test_what_eats_memory_at_once_is_refused_it():
    """Before anybody could have looked; in a process of its own, as it is for good."""
    code = """if True:
        import numpy as np
        from data_synthesis import video
        from gve_jax.types import Item
        read = lambda item: (np.ones(int(item.id) << 17).nbytes,)
        for megabytes in (20, 50, 400, 50):
            print(video.bounded(read, 100, Item(str(megabytes))))
    """
    root = pathlib.Path(assets.__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True
    )
    lost = "lost: reading takes over 100 MB of memory"
    sizes = (f"({20 << 20},)", f"({50 << 20},)", lost, f"({50 << 20},)")
    assert done.stdout.splitlines() == list(sizes), done.stderr


def children() -> set[str]:
    """Processes that read media for this one and are still there."""
    found = set()
    for folder in pathlib.Path("/proc").glob("[0-9]*"):
        try:
            parent = (folder / "stat").read_text().rsplit(")", 1)[1].split()[1]
            command = (folder / "cmdline").read_text()
        except OSError:
            continue
        if int(parent) == os.getpid() and "workers.serve" in command:
            found.add(folder.name)
    return found


def test_lines_that_are_no_rows(tmp_path):
    write_video(str(tmp_path / "good.mp4"), moving())
    good = line("good", "good.mp4")
    huge = [line(f"huge{i}", "good.mp4", "x" * (3 << 20) + str(i)) for i in range(2)]
    bad = [
        "[" * 200_000,
        '{"a":' * 100_000,
        '{"id": "a", "id": "b", "video": "good.mp4", "text": "twice"}',
        '{"id": "\\ud800", "video": "good.mp4", "text": "half a character"}',
        '{"id": "n", "video": "good.mp4", "text": NaN}',
        '{"id": "i", "video": 1' + "0" * 5000 + ', "text": "a long number"}',
        b"\xff\xfe\x00bytes",
        "null",
        '{"id": {"$ref": "x"}, "video": "good.mp4", "text": "an object"}',
        *huge,
    ]
    run = run_stages(tmp_path, [*bad, good], (ingest,))
    rows = list(shards.read_stage(run.layout, "ingest"))
    assert len(rows) == len(bad) + 1
    assert [r.name for r in rows if r.alive] == ["good"]
    assert {r.decision.reasons for r in rows if not r.alive} == {("bad_line",)}
    assert all(len(r.decision.detail.encode()) <= 2048 for r in rows)


def test_names_are_never_paths(tmp_path):
    """Nothing is written but below the output folder, whatever a row is called."""
    root = tmp_path / "in"
    root.mkdir()
    write_video(str(root / "good.mp4"), moving(40))
    before = files_below(tmp_path) | {"in/raw.jsonl"}
    names = ["../../x", "/tmp/x", "a\0b", "x" * 3000, "<script>", "..", "con\nfig"]
    lines = [
        line(n, "good.mp4", f"a square slides, row {i}") for i, n in enumerate(names)
    ]
    stages = (ingest, qc, links, groups, embed, nearest, decide, cutting)
    run = run_stages(root, lines, stages, max_seconds=60.0)
    rows = list(shards.read_stage(run.layout, "assets"))
    assert {r.name for r in rows} == set(names)
    assert sum(r.alive for r in rows) == 1  # the others are its duplicates
    written = files_below(tmp_path) - before
    assert all(name.startswith("in/out/") for name in written)
    parts = [part for name in written for part in pathlib.Path(name).parts]
    assert all(part.isprintable() and len(part) < 80 for part in parts)


def test_passwords_are_not_written(tmp_path):
    (tmp_path / "raw.jsonl").write_text("{}\n")
    config = default_config()
    config.caption.url = "https://me:word@host/v1"
    with pytest.raises(UserError, match=r"config\.caption\.url holds a password"):
        open_run(config, tmp_path / "raw.jsonl", tmp_path / "out", False)
    assert not (tmp_path / "out").exists()


def test_data_is_never_unpickled():
    root = pathlib.Path(assets.__file__).parent
    for path in root.rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        for word in ("import pickle", "allow_pickle", "marshal", "yaml.load", "eval("):
            assert word not in text, f"{path}: {word}"
