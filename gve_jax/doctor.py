"""Check this machine, a checkpoint and an index, and say what to do.

python -m gve_jax.doctor --checkpoint=runs/quickstart/train --index=INDEX
"""

import collections
import importlib.metadata
import json
import os
import pathlib
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

from absl import flags

from gve_jax.main import COMPILED, run
from gve_jax.types import Item, UserError

if TYPE_CHECKING:
    import numpy as np
    from packaging.requirements import Requirement
    from packaging.specifiers import SpecifierSet

    from gve_jax.contract import Contract
    from gve_jax.index.store import Index

# What may be broken is imported by the check that needs it: a check that cannot run is
# a line of the answer.

OK, WARN, FAIL = "OK", "warn", "FAIL"
_INSTALL = "pip install -e . in the checkout"
_GIB = 1 << 30
_LOW_DISK = 5 * _GIB  # checkpoints and caches of small runs; below a GiB nothing works
_LOW_MEMORY = 4 * _GIB  # the quickstart takes 2.5
_FILES = 20_000  # of an index, looked for on disk
# Name, encoder and decoder of FFmpeg. Most videos of the web are of the first.
CODECS = (
    ("H.264", "libx264", "h264"),
    ("VP9", "libvpx-vp9", "vp9"),
    ("HEVC", "libx265", "hevc"),
    ("AV1", "libsvtav1", "libdav1d"),
)
_SILENT = {"libx265": {"x265-params": "log-level=none"}}
# Runs in a process of its own: a broken plugin may crash or hang, and takes no more.
_DEVICES = """
import json, jax, jax.numpy as jnp
total = float(jax.jit(jnp.dot)(jnp.ones((8, 8)), jnp.ones((8, 8))).sum())
stats = [d.memory_stats() or {} for d in jax.local_devices()]
print(json.dumps({
    "version": jax.__version__, "backend": jax.default_backend(), "total": total,
    "kinds": [d.device_kind for d in jax.local_devices()],
    "bytes": [s.get("bytes_limit", 0) for s in stats],
}))
"""
_DEVICES_S = 120.0


class Line(NamedTuple):
    """One finding: a state, what was looked at, what was found, and what to do."""

    state: str
    name: str
    found: str
    remedy: str = ""

    def __str__(self) -> str:
        text = f"{self.state:4}  {self.name:10}  {self.found}"
        return f"{text}\n{'':18}-> {self.remedy}" if self.remedy else text


def python() -> Iterator[Line]:
    version = platform.python_version()
    found = f"{version} on {platform.system()} {platform.machine()}"
    bounds = _metadata().metadata["Requires-Python"]
    if _within(version, bounds):
        yield Line(OK, "python", found)
    else:
        remedy = f"make the environment anew with a Python {bounds}"
        yield Line(FAIL, "python", f"{found}, {bounds} is needed", remedy)


def packages() -> Iterator[Line]:
    """What setup.py asks for, as it was when the package was installed."""
    installed = _metadata()
    setup = pathlib.Path(__file__).resolve().parents[1] / "setup.py"
    record = installed.locate_file(f"{installed.metadata['Name']}.egg-info/PKG-INFO")
    files = (record, setup)
    if all(file.is_file() for file in files):
        made, changed = (file.stat().st_mtime for file in files)
        if changed > made:
            found = "setup.py changed after the installation"
            yield Line(WARN, "packages", found, _INSTALL)
    needed = _requirements("gve_jax")
    wrong = [r for r in needed if not _fits(r)]
    for r in wrong:
        found = f"{r.name} {_version(r.name) or 'is missing'}, {r} is asked for"
        yield Line(FAIL, "packages", found, f'pip install "{r}"')
    if not wrong:
        main = ", ".join(f"{name} {_version(name)}" for name in ("jax", "flax", "av"))
        found = f"all {len(needed)} as setup.py asks: {main}, ..."
        yield Line(OK, "packages", found)


def extras() -> Iterator[Line]:
    here, absent = [], []
    for extra in _metadata().metadata.get_all("Provides-Extra") or ():
        whole = all(_fits(r) for r in _requirements("gve_jax", extra))
        (here if whole else absent).append(extra)
    found = f"here: {', '.join(here) or 'none'}"
    if absent:
        found += f"; not here: {', '.join(absent)} (pip install -e '.[NAME]')"
    yield Line(OK, "extras", found)


def devices() -> Iterator[Line]:
    """What jax finds, and whether it computes; in a child, which may die of it."""
    hardware = _hardware()
    try:
        done = subprocess.run(
            [sys.executable, "-c", _DEVICES],
            capture_output=True,
            text=True,
            timeout=_DEVICES_S,
        )
    except subprocess.TimeoutExpired:
        yield Line(
            FAIL,
            "devices",
            f"jax found no answer in {_DEVICES_S:g} s",
            "end other processes that hold the accelerator, or set JAX_PLATFORMS=cpu",
        )
        return
    if done.returncode:
        yield _no_jax(done)
        return
    told = json.loads(done.stdout.splitlines()[-1])
    kinds = ", ".join(
        f"{told['kinds'].count(kind)} x {kind}" for kind in sorted(set(told["kinds"]))
    )
    memory = f", {min(told['bytes']) / _GIB:.0f} GiB each" if all(told["bytes"]) else ""
    found = f"{told['backend']}: {kinds}{memory}"
    if told["total"] != 512:
        remedy = "do not trust this device; update its driver, then jax"
        yield Line(
            FAIL, "devices", f"{found}: computes 8x8x8 as {told['total']}", remedy
        )
    elif told["backend"] == "cpu" and hardware:
        extra = "cuda" if hardware == "GPU" else "tpu"
        yield Line(
            WARN,
            "devices",
            f"{found}, though this machine has a {hardware}",
            f"pip install -e '.[{extra}]', and unset JAX_PLATFORMS",
        )
    else:
        yield Line(OK, "devices", found)


def _no_jax(done: subprocess.CompletedProcess) -> Line:
    """Why jax did not start, from what its process left."""
    if done.returncode < 0:
        name = signal.Signals(-done.returncode).name
        remedy = "set JAX_PLATFORMS=cpu: does that work? Then reinstall the plugin"
        if name == "SIGILL":
            remedy = "this CPU lacks instructions (AVX) that jaxlib was built with"
        return Line(FAIL, "devices", f"jax was killed by {name}", remedy)
    lines = [x for x in done.stderr.splitlines() if x.strip()] or ["no message"]
    remedy = _INSTALL
    if "Unable to initialize backend" in done.stderr:
        remedy = "JAX_PLATFORMS names what is not here: unset it, or install its extra"
    return Line(FAIL, "devices", f"jax does not start: {lines[-1].strip()}", remedy)


def _hardware() -> str:
    """The accelerator that the machine shows, whatever jax finds."""
    if os.path.exists("/dev/nvidia0") or shutil.which("nvidia-smi"):
        return "GPU"
    if os.path.exists("/dev/accel0"):
        return "TPU"
    return ""


def codecs() -> Iterator[Line]:
    """Encodes a small moving picture, and reads it as every command does."""
    import av

    os.environ.setdefault("SVT_LOG", "1")  # errors alone, of the AV1 encoder
    works, untried = [], []
    with tempfile.TemporaryDirectory() as folder:
        for name, encoder, decoder in CODECS:
            state = FAIL if name == "H.264" else WARN
            remedy = "pip install --force-reinstall av, whose wheels bring FFmpeg"
            if not _has(av, decoder, "r"):
                found = f"no {name}: videos of it are counted as unreadable"
                yield Line(state, "codecs", found, remedy)
            elif not _has(av, encoder, "w"):
                untried.append(name)
            else:
                off = _decode_error(encoder, os.path.join(folder, f"{encoder}.mp4"))
                if off < 12:
                    works.append(name)
                else:
                    found = f"{name} decodes to other pixels, off by {off:.0f} of 255"
                    yield Line(state, "codecs", found, remedy)
    found = f"decoded: {', '.join(works) or 'none'}"
    if untried:
        found += f"; there, but no encoder to try them with: {', '.join(untried)}"
    yield Line(OK if works else FAIL, "codecs", f"{found} (PyAV {av.__version__})")


def _has(av, codec: str, mode: str) -> bool:
    try:
        av.codec.Codec(codec, mode)
    except av.FFmpegError:
        return False
    return True


def _decode_error(encoder: str, path: str) -> float:
    """Mean distance in grey levels of what is read from what was written."""
    import numpy as np

    from gve_jax.media import read_video

    frames = write_clip(path, encoder)
    found = read_video(path, num_frames=len(frames)).pixels
    return float(np.abs(found.astype(float) - frames).mean())


def write_clip(path: str, encoder: str = "libx264") -> "np.ndarray":
    """A bright block that crosses a dark field; returns uint8 [8, 64, 64, 3]."""
    import av
    import numpy as np

    frames = np.full((8, 64, 64, 3), 40, np.uint8)
    for i, frame in enumerate(frames):
        frame[16:48, 6 * i : 6 * i + 16] = 210
    with av.open(path, "w") as out:
        stream = out.add_stream(encoder, rate=8, options=_SILENT.get(encoder, {}))
        stream.width = stream.height = 64
        stream.pix_fmt = "yuv420p"
        for frame in frames:
            out.mux(stream.encode(av.VideoFrame.from_ndarray(frame, "rgb24")))
        out.mux(stream.encode())
    return frames


def cache() -> Iterator[Line]:
    """Where compiled programs are kept from one start to the next."""
    folder = pathlib.Path(os.environ.get("JAX_COMPILATION_CACHE_DIR") or COMPILED)
    remedy = (
        "every start compiles anew; set JAX_COMPILATION_CACHE_DIR to another folder"
    )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
        sizes = [entry.stat().st_size for entry in os.scandir(folder)]
    except OSError as e:
        yield Line(WARN, "cache", f"{folder}: {e.strerror}", remedy)
        return
    found = f"{folder}: {len(sizes)} compiled programs, {_gib(sum(sizes))}"
    yield Line(OK, "cache", found)


def disk() -> Iterator[Line]:
    folders = {"here": os.getcwd(), "temporary files": tempfile.gettempdir()}
    for name, folder in folders.items():
        free = shutil.disk_usage(folder).free
        found = f"{_gib(free)} free for {name} ({folder})"
        if free >= _LOW_DISK:
            yield Line(OK, "disk", found)
        else:
            state = WARN if free >= _GIB else FAIL
            yield Line(state, "disk", found, "make room, or work on another disk")


def memory() -> Iterator[Line]:
    free, cores = free_memory(), os.cpu_count()
    if free is None:
        yield Line(OK, "memory", f"not told by this system; {cores} cores")
        return
    found = f"{_gib(free)} free, {cores} cores"
    if free >= _LOW_MEMORY:
        yield Line(OK, "memory", found)
    else:
        remedy = "end other programs; --weights=int8 makes a checkpoint smaller"
        yield Line(WARN, "memory", found, remedy)


def free_memory() -> int | None:
    """Bytes that may still be taken, of the machine and of the container; on Linux."""
    try:
        text = pathlib.Path("/proc/meminfo").read_text(encoding="ascii")
        free = int(text.split("MemAvailable:")[1].split()[0]) << 10
    except (OSError, IndexError):
        return None
    try:
        group = pathlib.Path("/sys/fs/cgroup")
        limit = int((group / "memory.max").read_text(encoding="ascii"))
        used = int((group / "memory.current").read_text(encoding="ascii"))
    except (OSError, ValueError):  # "max"
        return free
    return min(free, limit - used)


def index(path: str) -> Generator[Line, None, "Index"]:
    """Opens it and looks for its files. Returns it."""
    from gve_jax.disk import read_rows
    from gve_jax.index.store import local_path, open_index

    found = open_index(path)
    files = found.items["file"].unique().to_pylist()
    text = f"{path}: {len(found.items)} items of {len(files)} files, {found.dtype}"
    yield Line(OK, "index", f"{text}, {found.dim} dimensions")
    looked = files[:_FILES]
    gone = [file for file in looked if not os.path.exists(local_path(file))]
    if gone:
        text = f"{len(gone)} of {len(looked)} files are gone, the first {gone[0]}"
        yield Line(WARN, "index", text, "gve index remove --missing")
    failed = read_rows(pathlib.Path(path) / "failures.jsonl")
    if failed:
        text = f"{len(failed)} could not be read, the first: {failed[0]['error']}"
        yield Line(WARN, "index", text, f"see {path}/failures.jsonl")
    return found


def checkpoint(model: dict[str, str | None]) -> Generator[Line, None, "Contract"]:
    """Loads it, and embeds a text and a small video. Returns its contract.

    `model` is as an index keeps it: its place, and the flags that it is read with.
    """
    import jax
    import numpy as np

    from gve_jax.config import default_config
    from gve_jax.embed import Embedder

    name, free = model["checkpoint"], free_memory()
    files = pathlib.Path(name).rglob("*.safetensors")
    size = sum(file.stat().st_size for file in files)
    if free is not None and size > free and jax.default_backend() == "cpu":
        found = f"{name}: weights of {_gib(size)}, and {_gib(free)} of memory free"
        raise UserError(f"{found}; take another machine, or a smaller model")
    start = time.monotonic()
    config = None
    if model.get("preset"):
        config = default_config()
        config.preprocess.preset = model["preset"]
    embedder = Embedder.from_checkpoint(
        name, dtype=model.get("dtype"), weights=model.get("weights"), config=config
    )
    with tempfile.TemporaryDirectory() as folder:
        clip = os.path.join(folder, "clip.mp4")
        write_clip(clip)
        items = [Item("text", text="a bright block"), Item("video", video=clip)]
        result = embedder.embed(items, progress=False)
    for row, reason in result.failures.items():
        raise UserError(f"{name}: cannot embed a {items[row].id}: {reason}")
    lengths = np.linalg.norm(result.vectors, axis=1)
    if not np.allclose(lengths, 1, atol=1e-2):
        raise UserError(f"{name}: vectors of lengths {lengths}, not 1: broken weights")
    c = embedder.contract
    found = (
        f"{name}: {c.family}, {c.dim} dimensions, {c.num_frames} frames, {c.dtype}; "
        f"loaded, embedded a text and a video in {time.monotonic() - start:.1f} s"
    )
    yield Line(OK, "checkpoint", found)
    return c


def contract(mine: "Contract", theirs: "Index") -> Iterator[Line]:
    mine.require_equal(theirs.contract, "the checkpoint", f"the index {theirs.path}")
    yield Line(OK, "contract", "the index can be searched with this checkpoint")


def findings(checkpoint_name: str | None, index_path: str | None) -> Iterator[Line]:
    """All checks in turn; one that breaks is a finding, and the next one follows.

    Without a checkpoint that of the index is looked at.
    """
    states = set()
    for check in (python, packages, extras, codecs, cache, disk, memory, devices):
        for line in _guarded(check):
            states.add((line.name, line.state))
            yield line
    opened = (yield from _guarded(index, index_path)) if index_path else None
    model = dict(opened.model) if opened else {}
    if checkpoint_name:
        model["checkpoint"] = checkpoint_name
    if not model:
        return
    if ("devices", FAIL) in states:
        yield Line(WARN, "checkpoint", "not looked at", "mend the devices first")
        return
    mine = yield from _guarded(checkpoint, model)
    if mine and opened:
        yield from _guarded(contract, mine, opened)


def _guarded(check: Callable, *arguments) -> Generator[Line, None, Any]:
    """Lines of a check. What it raises names no types: to tell is what it is for."""
    try:
        return (yield from check(*arguments))
    except UserError as e:
        yield Line(FAIL, check.__name__, str(e))
    except ImportError as e:
        yield Line(FAIL, check.__name__, f"cannot be looked at: {e}", _INSTALL)
    except Exception as e:
        text = " ".join(f"{type(e).__name__}: {e}".split())
        yield Line(FAIL, check.__name__, text[:300])


def _metadata() -> importlib.metadata.Distribution:
    """Of the installed package. Raises UserError if it is only on the path."""
    try:
        return importlib.metadata.distribution("gve_jax")
    except importlib.metadata.PackageNotFoundError:
        raise UserError(f"gve_jax is not installed: {_INSTALL}") from None


def _requirements(name: str, extra: str = "") -> "list[Requirement]":
    """What a package needs, or what one of its extras adds to that."""
    from packaging.requirements import Requirement

    found = [Requirement(text) for text in importlib.metadata.requires(name) or ()]
    plain = [r for r in found if r.marker is None or r.marker.evaluate({"extra": ""})]
    if not extra:
        return plain
    return [r for r in found if r not in plain and r.marker.evaluate({"extra": extra})]


def _fits(requirement: "Requirement") -> bool:
    """Whether it is installed, in its bounds, with what its extras add."""
    version = _version(requirement.name)
    return (
        version is not None
        and _within(version, requirement.specifier)
        and all(
            _fits(r)
            for extra in requirement.extras
            for r in _requirements(requirement.name, extra)
        )
    )


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _within(version: str, bounds: "str | SpecifierSet") -> bool:
    from packaging.specifiers import SpecifierSet

    return SpecifierSet(str(bounds)).contains(version, prereleases=True)


def _gib(size: float) -> str:
    return f"{size / _GIB:.1f} GiB" if size >= _GIB else f"{size / (1 << 20):.0f} MiB"


if __name__ == "__main__":
    # Here, because the modules that define such flags elsewhere need jax.
    _CHECKPOINT = flags.DEFINE_string(
        "checkpoint", None, "Workdir, folder or hub id: is it whole, does it embed?"
    )
    _INDEX = flags.DEFINE_string(
        "index",
        None,
        "Index folder: is it whole, and of the checkpoint, or of its own?",
    )

    def main(_: list[str]) -> None:
        counts = collections.Counter()
        for line in findings(_CHECKPOINT.value, _INDEX.value):
            counts[line.state] += 1
            print(line, flush=True)
        if counts[FAIL]:
            raise UserError(
                f"{counts[FAIL]} of the lines above say FAIL: mend those first"
            )
        print(f"\nNothing is broken; warnings: {counts[WARN]}.")

    run(main)
