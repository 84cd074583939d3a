"""Vectors by content, shared by datasets and runs.

CACHE/
  files/NAME.jsonl     [path, size, time of change, SHA-256] of media
  HASH/                a `gve_jax.embed.VectorLog` of each contract

An item's key is the SHA-256 of its content, with media by their bytes: whatever a file
is called and whichever dataset it is in, it is embedded once under a contract. What
cannot be read is remembered under the same key, so a mended file is tried again. Any
number of runs may use a cache at once.
"""

import hashlib
import json
import os
import pathlib
import secrets
import zlib
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor

import jax
import ml_collections
from jax.experimental import multihost_utils

from eval.encoders.protocol import Encoder
from gve_jax import media
from gve_jax.disk import whole_lines
from gve_jax.embed import EmbedStats, VectorLog
from gve_jax.progress import ProgressLine
from gve_jax.types import Item


def folder(config: ml_collections.ConfigDict, output: pathlib.Path) -> pathlib.Path:
    """Where a run with this output folder keeps its vectors."""
    return pathlib.Path(config.eval.cache or output / "embeddings")


class Cache:
    """What a folder knows of the vectors of one encoder.

    Several processes that run together share the work: each embeds the keys that fall
    to it, and reads from the folder, which all must see, what the others have written.
    """

    def __init__(self, folder: str | os.PathLike, encoder: Encoder):
        """Raises UserError if the folder cannot be written."""
        self._folder, self._encoder = pathlib.Path(folder), encoder
        identity = encoder.contract.to_json()
        text = json.dumps(identity, sort_keys=True)
        digest = hashlib.sha256(text.encode()).hexdigest()
        self._log = VectorLog(self._folder / digest[:24], identity, encoder.dim)
        self._process, self._processes = jax.process_index(), jax.process_count()
        if getattr(encoder, "collective", False):
            self._process, self._processes = 0, 1  # they do all of it together
        self._files = FileHashes(self._folder / "files")

    def learn(self, paths: Iterable[str]) -> None:
        """Reads the media whose bytes are not known."""
        self._files.learn([p for p in set(paths) if self._mine(p.encode())])
        self._meet("files")
        self._files.refresh()

    def key(self, item: Item) -> bytes:
        """Equal for items that embed equally.

        Raises:
          media.MediaError: a file cannot be read.
        """
        hashed = item._replace(
            id="",
            image=item.image and self._files[item.image],
            video=item.video and self._files[item.video],
        )
        # Without what is not set, so that fields to come change no key of today.
        parts = {
            name: value
            for name, value in hashed._asdict().items()
            if value != Item._field_defaults.get(name)
        }
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).digest()

    def lacks(self, key: bytes) -> bool:
        """Whether `fill` would embed it."""
        return self._log.lacks(key)

    def fill(self, items: Mapping[bytes, Item]) -> EmbedStats:
        """Embeds what is lacking, together with the other processes."""
        return self._log.fill(self._encoder, items, "embed")

    def get(self, key: bytes):
        """float32 [d], or why there is none."""
        found = self._log.get(key)
        return self._log.failures[key].reason if found is None else found

    def _mine(self, name: bytes) -> bool:
        return zlib.crc32(name) % self._processes == self._process

    def _meet(self, name: str) -> None:
        if self._processes > 1:
            multihost_utils.sync_global_devices(f"cache {name}")


class FileHashes:
    """SHA-256 of files, remembered by size and time of change: the real sets are
    490 GB. Each process that learns some writes them to a file of its own."""

    def __init__(self, folder: pathlib.Path):
        self._folder = folder
        self._own = folder / f"{os.getpid()}-{secrets.token_hex(4)}.jsonl"
        self._known: dict[tuple, str] = {}  # (path, size, time) -> SHA-256
        folder.mkdir(parents=True, exist_ok=True)
        self.refresh()

    def refresh(self) -> None:
        """Reads what other processes have written meanwhile."""
        for file in self._folder.glob("*.jsonl"):
            for line in whole_lines(file):
                *state, digest = json.loads(line)
                self._known[tuple(state)] = digest

    def learn(self, paths: list[str]) -> None:
        """Hashes those that are new or changed; what cannot be read is left."""
        todo = sorted(p for p in paths if _state(p) not in self._known)
        if not todo:
            return
        with (
            open(self._own, "a", encoding="utf-8") as f,
            ProgressLine("hash media", len(todo), "files") as line,
            ThreadPoolExecutor() as pool,
        ):
            for state, digest in pool.map(_hash, todo):
                if digest:
                    f.write(json.dumps([*state, digest]) + "\n")
                    f.flush()
                    self._known[state] = digest
                line.advance()

    def __getitem__(self, path: str) -> str:
        """Raises media.MediaError if the file cannot be read."""
        return self._known.get(_state(path)) or media.content_key(path)


def _state(path: str) -> tuple[str, int, int]:
    try:
        found = os.stat(path)
    except OSError:
        return path, -1, -1
    return path, found.st_size, found.st_mtime_ns


def _hash(path: str) -> tuple[tuple[str, int, int], str | None]:
    state = _state(path)
    try:
        return state, media.content_key(path)
    except media.MediaError:
        return state, None
