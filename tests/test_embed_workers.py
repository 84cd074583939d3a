"""Items read in processes: in order, killed in time, each fault one item."""

import os
import pathlib
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from gve_jax import presets
from gve_jax.preprocess import Lost, Processor, Reader, train_tokenizer, workers
from gve_jax.types import Item
from tests import tiny
from tests.stub_decoders import Modules, Unloadable, read, read_parts

ROOT = pathlib.Path(__file__).parents[1]


def videos(*names: str) -> list[Item]:
    return [Item(name, video=name) for name in names]


def alive(process: int) -> bool:
    """Whether there is such a process, and it is not waiting to be buried."""
    try:
        return pathlib.Path(f"/proc/{process}/stat").read_text().split()[2] != "Z"
    except FileNotFoundError:
        return False


def gone(process: int) -> bool:
    end = time.monotonic() + 30
    while alive(process) and time.monotonic() < end:
        time.sleep(0.05)
    return not alive(process)


@pytest.mark.parametrize("processes", [0, 2])
def test_results_come_in_order(processes):
    names = ["read " + "x" * (i % 7) for i in range(150)] + ["unreadable"]
    reader = Reader(read, processes)
    for _ in range(2):  # the second time by the same processes
        found = list(reader.ahead(videos(*names)))
        assert [f if isinstance(f, str) else int(f[0][0, 0]) for f in found] == [
            *(i % 7 for i in range(150)),
            "it is broken",
        ]
    pids = {int(f[1][0]) for f in found[:-1]}
    assert (pids == {os.getpid()}) if not processes else (os.getpid() not in pids)
    assert len(pids) == max(1, processes)


def test_each_fault_costs_its_own_item_and_no_more():
    reader = Reader(read, 2, timeout_s=6, memory_mb=250)
    names = ["hang", "read a", "busy", "die SIGSEGV", "eat 400", "die SIGKILL"]
    names = [name for bad in names for name in (bad, "read ok")]
    found = list(reader.ahead(videos(*names)))
    lost = dict(zip(names, found, strict=True))
    assert [type(f) for f in found[1::2]] == [tuple] * 6
    assert lost["hang"] == "hang: reading took over 6 s" and type(lost["hang"]) is Lost
    assert lost["busy"] == "busy: reading took over 6 s"
    assert (
        lost["die SIGSEGV"] == "die SIGSEGV: the process that read it ended (SIGSEGV)"
    )
    assert "(SIGKILL)" in lost["die SIGKILL"]
    assert lost["eat 400"] == "eat 400: reading took over 250 MB of memory"


def test_memory_that_others_left_costs_no_item():
    reader = Reader(read, 1, memory_mb=300)
    found = list(reader.ahead(videos(*["leak 90"] * 5)))
    assert [type(f) for f in found] == [tuple] * 5
    # More than two of them do not fit.
    assert len({int(f[1][0]) for f in found}) >= 2


def test_a_fault_of_the_program_is_not_hidden():
    with pytest.raises(RuntimeError, match="ZeroDivisionError: why"):
        list(Reader(read, 1).ahead(videos("read", "raise why")))


def test_a_reader_that_cannot_start_says_so():
    with pytest.raises(RuntimeError, match=r"does not start \(exit code 1\)"):
        list(Reader(Unloadable(), 1).ahead(videos("read")))


def test_leaving_early_ends_the_processes_and_then_they_start_again():
    reader = Reader(read, 2)
    reading = reader.ahead(videos("read", *["hang"] * 80))
    process = int(next(reading)[1][0])
    assert alive(process)
    reading.close()
    assert gone(process)
    (again,) = reader.ahead(videos("read"))
    assert int(again[1][0]) != process


def test_parts_come_in_the_order_of_their_job():
    names = ["/".join(f"read {i} {k}" for k in range(1 + i % 3)) for i in range(30)]
    reader = Reader(read_parts, 2)
    for _ in range(2):  # the second time by other processes
        found: dict[str, list] = {}
        for job, part in reader.stream(videos(*names)):
            found.setdefault(job.video, []).append(part[2])
        assert found == {name: name.split("/") for name in names}


def test_time_is_that_of_a_part_and_faults_cost_the_rest_of_a_job():
    reader = Reader(read_parts, 2, timeout_s=3, memory_mb=300)
    slow = "/".join(["leak 0"] * 8)  # 4 s, half a second each
    leaks = ["leak 90/read"] * 4
    names = [slow, "read a/hang/read b", "read c/die SIGKILL", "unreadable/read d"]
    found: dict[str, list] = {}
    for job, part in reader.stream(videos(*names, *leaks)):
        parts = found.setdefault(job.video, [])
        parts.append(part if isinstance(part, str) else part[2])
    assert found[slow] == ["leak 0"] * 8
    assert found[names[1]] == ["read a", "reading took over 3 s"]
    assert type(found[names[1]][1]) is Lost
    assert found[names[2]] == ["read c", "the process that read it ended (SIGKILL)"]
    assert found[names[3]] == ["it is broken", "read d"]
    assert type(found[names[3]][0]) is str
    # Memory that earlier jobs left costs no job.
    assert found[leaks[0]] == ["leak 90", "read"] * 4


def test_parts_wait_in_bounded_memory(monkeypatch):
    monkeypatch.setattr(workers, "_AHEAD_BYTES", 8_000_000)
    reader, asked = Reader(read_parts, 2), []
    jobs = (asked.append(i) or item for i, item in enumerate(videos(*["read a"] * 50)))
    reading = reader.stream(jobs)
    next(reading)
    time.sleep(1)
    assert len(asked) <= 6  # of 2.4 MB each
    assert sum(1 for _ in reading) == 49


def test_closing_a_stream_ends_its_processes():
    reader = Reader(read_parts, 2)
    reading = reader.stream(videos(*["read a/hang"] * 5))
    process = int(next(reading)[1][1][0])
    assert alive(process)
    reading.close()
    assert gone(process)


def test_faults_of_the_program_end_a_stream():
    with pytest.raises(RuntimeError, match="ZeroDivisionError: why"):
        list(Reader(read_parts, 1).stream(videos("read", "raise why")))
    with pytest.raises(KeyError, match="the jobs' own"):
        list(Reader(read_parts, 1).stream({}[k] for k in ["the jobs' own"]))
    with pytest.raises(ValueError, match="in threads"):
        list(Reader(read_parts).stream([]))


def test_few_media_are_read_here_where_it_is_left_to_us():
    reader = Reader(read, -1)
    found = list(reader.ahead(videos(*["read"] * 3)))
    assert {int(f[1][0]) for f in found} == {os.getpid()}
    found = list(reader.ahead(videos(*["read"] * 256)))
    assert os.getpid() not in {int(f[1][0]) for f in found}


SCRIPT = """
from gve_jax.preprocess import Reader
from gve_jax.types import Item
from tests.stub_decoders import read
reader = Reader(read, 2, timeout_s=2)
names = ["read", "read", "hang", "hang"]
for found in reader.ahead([Item(name, video=name) for name in names]):
    print(found[1][0], flush=True)
"""


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_no_process_outlives_the_one_that_started_it(how):
    started = subprocess.Popen(
        [sys.executable, "-c", SCRIPT], cwd=ROOT, stdout=subprocess.PIPE, text=True,
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    children = {int(started.stdout.readline()) for _ in range(2)}
    time.sleep(0.5)
    assert all(map(alive, children))
    started.send_signal(how)
    started.wait()
    # One that hangs is ended by the kernel, at twice its time.
    assert all(map(gone, children))


@pytest.fixture(scope="module")
def processor():
    tokenizer = train_tokenizer(["a red square goes left"] * 9, 300)
    buckets = dict(token_buckets=(8192,), patch_buckets=(32768,))
    return Processor(tokenizer, presets.PRESETS["gve"], **buckets)


def test_a_processor_reads_the_same_elsewhere(processor, tmp_path):
    tiny.write_video(tmp_path / "a.mp4")
    (tmp_path / "b.mp4").write_bytes(b"no video")
    items = videos(str(tmp_path / "a.mp4"), str(tmp_path / "b.mp4"))
    items.append(Item("t", text="a red square"))
    here = list(Reader(processor.try_encode).ahead(items))
    there = list(Reader(processor.try_encode, 1).ahead(items))
    assert here[1] == there[1] and "b.mp4" in there[1] and type(there[1]) is str
    for a, b in zip(here[::2], there[::2], strict=True):
        assert type(b) is type(a)
        for x, y in zip(a, b, strict=True):
            np.testing.assert_array_equal(x, y)


def test_jax_is_not_loaded_where_media_are_read(processor, tmp_path):
    tiny.write_video(tmp_path / "a.mp4")
    reader = Reader(Modules(processor), 1)
    ((found,),) = reader.ahead(videos(str(tmp_path / "a.mp4")))
    assert "gve_jax.preprocess.processor" in found
    assert not {"jax", "flax", "transformers", "torch"} & set(found.tolist())
