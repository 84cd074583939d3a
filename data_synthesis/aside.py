"""A program of ours in a process of its own, asked through pipes; this has no jax."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence

from gve_jax.types import UserError


class Aside:
    """`python -m MODULE`, for one thread. It ends with `close` or with this process."""

    def __init__(self, name: str, module: str, arguments: Sequence[str] = ()):
        """`name` is what errors call it."""
        self._name = name
        path = os.pathsep.join(p or os.getcwd() for p in sys.path)
        # A file, as a full pipe that nobody reads would stop the child.
        self._said = tempfile.TemporaryFile()  # noqa: SIM115
        self._process = subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._said,
            env=os.environ | {"PYTHONPATH": path},
            process_group=0,  # Ctrl-C is for the caller, which ends it
        )

    def send(self, request: dict | list, data: bytes = b"") -> None:
        """Writes a line of JSON and bytes after it. If it ended, reading says so."""
        try:
            self._process.stdin.write(json.dumps(request).encode() + b"\n" + data)
            self._process.stdin.flush()
        except BrokenPipeError:
            pass

    def line(self) -> dict:
        """The next line of its answer. Raises UserError if it ended, saying why."""
        line = self._process.stdout.readline()
        if not line.endswith(b"\n"):
            self._fail()
        return json.loads(line)

    def data(self, size: int) -> bytes:
        """So many bytes of its answer. Raises as `line` does."""
        data = self._process.stdout.read(size)
        if len(data) < size:
            self._fail()
        return data

    def kill(self) -> None:
        """Ends it; whoever reads from it then fails."""
        self._process.kill()

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()
        self._said.close()

    def _fail(self) -> None:
        self._process.communicate()
        self._said.seek(0)
        lines = self._said.read().decode(errors="replace").strip().splitlines()
        message = lines[-1].removeprefix("error: ") if lines else "it said nothing"
        code = self._process.returncode
        raise UserError(f"{self._name} ended with code {code}: {message}")
