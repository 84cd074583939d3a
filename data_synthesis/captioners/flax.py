"""A Qwen-VL checkpoint as captioner, in a process of its own: this one has no jax."""

import hashlib
import os
import pathlib
import threading
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from data_synthesis import shards
from data_synthesis.aside import Aside
from data_synthesis.captioners.base import Outcome, Request, Response
from gve_jax.types import Item, UserError

# Batches that are sent together: enough to fill most of them with items of one shape.
_BATCHES = 4
# A program is compiled for each shape that is met: minutes for a large model.
_COMPILE_S = 900.0


class Flax:
    """Asks `python -m gve_jax.generate_serve`, which starts with the first request."""

    def __init__(self, config):
        """`config`: of all the workflow; `caption` applies.

        Raises:
          UserError: no checkpoint is named.
        """
        self._config = config.caption
        self.fingerprint = fingerprint(self._config.checkpoint)
        self.id = os.path.basename(self._config.checkpoint.rstrip("/"))
        self._aside: Aside | None = None

    def generate(self, requests: Sequence[Request]) -> Iterator[tuple[int, Response]]:
        if self._aside is None and requests:
            self._start()
        # Requests of one kind have media of like size, and share the setting.
        order = sorted(range(len(requests)), key=lambda i: (_setting(requests[i]), i))
        size = _BATCHES * self._config.batch_size
        while order:
            setting = _setting(requests[order[0]])
            part = [i for i in order[:size] if _setting(requests[i]) == setting]
            order = order[len(part) :]
            answer = self._ask([requests[i] for i in part], setting)
            for place, i in enumerate(part):
                yield i, _response(answer, place)

    def close(self) -> None:
        if self._aside is not None:
            self._aside.close()
            self._aside = None

    def _ask(self, requests: list[Request], setting: "_Setting") -> dict:
        # Draws follow the item's id: each attempt has one of its own.
        items = [
            Item(
                f"{r.id} {r.seed}",
                text=r.prompt,
                instruction=r.system,
                video=r.videos[0].path if r.videos else None,
                image=r.images[0].path if r.images else None,
            )
            for r in requests
        ]
        line = {
            "items": [list(item) for item in items],
            "temperature": setting.temperature,
            "max_new_tokens": setting.max_tokens,
        }
        batches = -(-len(items) // self._config.batch_size)
        limit = _COMPILE_S + self._config.deadline * batches
        watchdog = threading.Timer(limit, self._aside.kill)
        watchdog.start()
        try:
            self._aside.send(line)
            return self._read()
        finally:
            watchdog.cancel()

    def _start(self) -> None:
        c = self._config
        self._aside = Aside(
            "the captioner's process",
            "gve_jax.generate_serve",
            [f"--checkpoint={c.checkpoint}", f"--batch_size={c.batch_size}", *c.flags],
        )
        self._read()

    def _read(self) -> dict:
        try:
            return self._aside.line()
        except UserError:
            self.close()
            raise


class _Setting(NamedTuple):
    """What all items of a call have in common."""

    kind: str
    max_tokens: int
    temperature: float


def _setting(request: Request) -> _Setting:
    return _Setting(request.kind, request.max_tokens, request.temperature)


def _response(answer: dict, place: int) -> Response:
    tokens = answer["tokens"][place]
    if reason := answer["failures"].get(str(place)):
        return Response(Outcome.FATAL, "", *tokens, reason)
    cut = place in answer["unfinished"]
    outcome = Outcome.TRUNCATED if cut else Outcome.SUCCESS
    return Response(outcome, answer["texts"][place], *tokens)


def fingerprint(checkpoint: str) -> str:
    """Of a folder's JSON files and weights; of a hub id, the id itself.

    Raises:
      UserError: none is named.
    """
    if not checkpoint:
        raise UserError("config.caption.checkpoint is empty: name a Qwen-VL checkpoint")
    folder = pathlib.Path(checkpoint)
    digest = hashlib.sha256(b"" if folder.is_dir() else checkpoint.encode())
    files = sorted([*folder.glob("*.json"), *folder.glob("*.safetensors")])
    for path in files:
        digest.update(f"{path.name} {shards.file_sha256(path)}\n".encode())
    return digest.hexdigest()
