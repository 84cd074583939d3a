"""A base for encoders in Python that see text and decoded frames.

    class Mine(FrameEncoder):
        def __init__(self, weights):
            self.model = load(weights)
            super().__init__(512, identity={"weights": weights})

        def encode(self, items):
            return np.stack([self.model(x.text, x.video) for x in items])

is run by `python -m eval --encoder=my.module:Mine --encoder_args='{"weights": "..."}'`.
"""

import collections
import contextlib
import functools
import hashlib
import pathlib
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from eval.encoders.protocol import Identity
from eval.encoders.reading import Shown, read
from gve_jax import media
from gve_jax.config import default_config
from gve_jax.embed import EmbedResult, EmbedStats
from gve_jax.preprocess import Reader
from gve_jax.progress import ProgressLine
from gve_jax.types import Item, UserError


class FrameEncoder:
    """Reads items, batches them, and checks and normalises what `encode` gives.

    Attributes:
      decode: how media are read, as `config.embed`; the command sets it.
    """

    def __init__(
        self,
        dim: int,
        *,
        identity: dict[str, Any],
        num_frames: int = 8,
        batch_size: int = 16,
        prepare: Callable[[np.ndarray], np.ndarray] | None = None,
    ):
        """Call it last in a subclass's own.

        Args:
          dim: numbers of a vector.
          identity: names of weights, settings: all that vectors depend on but the
            other arguments and the subclass's file, which is known by its hash.
          num_frames: of a video, evenly spaced, first and last included.
          batch_size: items given to `encode` at most.
          prepare: maps frames uint8 [n, h, w, 3] to those to be shown, where they are
            read; of the top level of a module that does not import jax.
        """
        own = type(self)
        file = getattr(sys.modules[own.__module__], "__file__", None)  # notebooks: none
        source = pathlib.Path(file).read_bytes() if file else b""
        self.contract = Identity(
            {
                "encoder": f"{own.__module__}:{own.__qualname__}",
                "source": hashlib.sha256(source).hexdigest(),
                **identity,
                "dim": dim,
                "num_frames": num_frames,
                "decoder": media.DECODER,
            }
        )
        self.dim = dim
        self.decode = default_config().embed
        self._batch_size = batch_size
        self._read = functools.partial(read, num_frames, prepare)

    def encode(self, items: list[Shown]) -> np.ndarray:
        """Vectors of a batch, whose items all have the same kinds of parts.

        Returns:
          float [n, dim], of any length but 0.
        """
        raise NotImplementedError

    def embed(
        self, items: Sequence[Item], desc: str = "embed", progress: bool = True
    ) -> EmbedResult:
        """As `Encoder.embed`. Raises UserError if `encode` gives what it must not."""
        start = time.monotonic()
        vectors = np.full((len(items), self.dim), np.nan, np.float32)
        failures: dict[int, str] = {}
        waiting: dict[int, list[tuple[int, Shown]]] = collections.defaultdict(list)

        def encode(kind: int) -> None:
            rows, shown = zip(*waiting.pop(kind), strict=True)
            vectors[list(rows)] = self._checked(list(shown))

        line = ProgressLine(desc, len(items), "items") if progress else None
        reading = self._reader.ahead(items)
        with line or contextlib.nullcontext(), contextlib.closing(reading):
            for i, found in enumerate(reading):
                if isinstance(found, str):
                    failures[i] = found
                else:
                    kind = items[i].kind
                    waiting[kind].append((i, found))
                    if len(waiting[kind]) == self._batch_size:
                        encode(kind)
                if line:
                    line.advance()
            for kind in list(waiting):
                encode(kind)
        seconds = time.monotonic() - start
        return EmbedResult(vectors, failures, EmbedStats(len(items), seconds, 0, 0, 0))

    @functools.cached_property
    def _reader(self) -> Reader:
        d = self.decode
        return Reader(
            self._read, d.decode_workers, d.decode_timeout_s, d.decode_memory_mb
        )

    def _checked(self, shown: list[Shown]) -> np.ndarray:
        name = f"{type(self).__name__}.encode"
        found = np.asarray(self.encode(shown), np.float32)
        if found.shape != (len(shown), self.dim):
            raise UserError(
                f"{name}: gave an array of {found.shape} for {len(shown)} items, not "
                f"of {(len(shown), self.dim)}"
            )
        return unit_rows(found, name)


def unit_rows(vectors: np.ndarray, name: str) -> np.ndarray:
    """Normalises float32 [n, d]. Raises UserError where a row has no direction."""
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    bad = np.flatnonzero(~(np.isfinite(length) & (length > 0)))
    if len(bad):
        raise UserError(
            f"{name}: {len(bad)} of {len(vectors)} vectors are zero or not finite, "
            f"first that of row {bad[0]}"
        )
    return vectors / length
