"""An embedder in a process of its own: this package does not import jax."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from gve_jax.types import Item, UserError


class Embedded(NamedTuple):
    """`vectors`: float32 [n, d], unit rows; NaN where `failures` names the row."""

    vectors: np.ndarray
    failures: dict[int, str]


class Client:
    """A running embedder; for one thread. It ends with `close` or with this process."""

    _shared: "Client | None" = None
    _shared_for: tuple[str, ...] = ()

    @classmethod
    def shared(cls, *arguments: str) -> "Client":
        """The one of this process: shards follow each other, loading takes long."""
        if cls._shared_for != arguments:
            if cls._shared is not None:
                cls._shared.close()
            cls._shared, cls._shared_for = None, ()
            cls._shared, cls._shared_for = cls(arguments), arguments
        return cls._shared

    def __init__(self, arguments: Sequence[str]):
        """`arguments`: flags of `python -m gve_jax.embed`, as "--checkpoint=...".

        Raises:
          UserError: the checkpoint cannot be loaded; the message is the child's.
        """
        path = os.pathsep.join(p or os.getcwd() for p in sys.path)
        # A file, as a full pipe that nobody reads would stop the child.
        self._said = tempfile.TemporaryFile()  # noqa: SIM115
        self._process = subprocess.Popen(
            [sys.executable, "-m", "gve_jax.embed.serve", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._said,
            env=os.environ | {"PYTHONPATH": path},
            process_group=0,  # Ctrl-C is for the caller, which ends it
        )
        self.contract: dict = self._answer()["contract"]
        self.dim: int = self.contract["dim"]

    def embed(self, items: Sequence[Item]) -> Embedded:
        """Vectors that do not depend on what else is embedded, to the last bit.

        Raises:
          UserError: the process ended.
        """
        request = json.dumps([list(item) for item in items]) + "\n"
        try:
            self._process.stdin.write(request.encode())
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # what it said is read below
        answer = self._answer()
        size = 4 * len(items) * self.dim
        data = self._process.stdout.read(size)
        if len(data) < size:
            self._fail()
        vectors = np.frombuffer(data, "<f4").reshape(len(items), self.dim)
        return Embedded(vectors, {int(i): r for i, r in answer["failures"].items()})

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()
        self._said.close()

    def _answer(self) -> dict:
        line = self._process.stdout.readline()
        if not line.endswith(b"\n"):
            self._fail()
        return json.loads(line)

    def _fail(self) -> None:
        Client._shared, Client._shared_for = None, ()
        self._process.communicate()
        self._said.seek(0)
        lines = self._said.read().decode(errors="replace").strip().splitlines()
        message = lines[-1].removeprefix("error: ") if lines else "it said nothing"
        raise UserError(
            f"the embedder ended with code {self._process.returncode}: {message}"
        )
