"""An embedder in a process of its own: this package does not import jax."""

import hashlib
import pathlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from data_synthesis import shards
from data_synthesis.aside import Aside
from gve_jax.types import Item, UserError


def fingerprint(checkpoint: str) -> str:
    """What says that an embedder is another one, without loading it; "" for none.

    Of a folder of ours its contract, which has a hash of the weights, and its steps; of
    another folder its JSON files, and names and sizes of its weights; of a hub id the
    id itself.
    """
    folder = pathlib.Path(checkpoint)
    if not checkpoint or not folder.is_dir():
        return checkpoint
    texts = [folder / "contract.json"]
    if not texts[0].exists():
        texts = sorted(folder.glob("*.json"))
    parts = [f"{path.name} {shards.file_sha256(path)}" for path in texts]
    parts += sorted(f"step {path.name}" for path in folder.glob("checkpoints/*"))
    for path in sorted(folder.glob("*.safetensors")):
        parts.append(f"{path.name} {path.stat().st_size}")
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


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
            cls._shared, cls._shared_for = cls(arguments), arguments
        return cls._shared

    def __init__(self, arguments: Sequence[str]):
        """`arguments`: flags of `python -m gve_jax.embed`, as "--checkpoint=...".

        Raises:
          UserError: the checkpoint cannot be loaded; the message is the child's.
        """
        self._aside = Aside("the embedder", "gve_jax.embed.serve", arguments)
        self.contract: dict = self._aside.line()["contract"]
        self.dim: int = self.contract["dim"]

    def embed(self, items: Sequence[Item]) -> Embedded:
        """Vectors that do not depend on what else is embedded, to the last bit.

        Raises:
          UserError: the process ended.
        """
        try:
            self._aside.send([list(item) for item in items])
            answer = self._aside.line()
            data = self._aside.data(4 * len(items) * self.dim)
        except UserError:
            self.close()
            raise
        vectors = np.frombuffer(data, "<f4").reshape(len(items), self.dim)
        return Embedded(vectors, {int(i): r for i, r in answer["failures"].items()})

    def close(self) -> None:
        if Client._shared is self:
            Client._shared, Client._shared_for = None, ()
        self._aside.close()
