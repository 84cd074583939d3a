"""A checkpoint as a function from items to unit vectors."""

import collections
import contextlib
import os
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import nnx
from ml_collections import ConfigDict

from gve_jax import build, sharding
from gve_jax.config import default_config
from gve_jax.contract import Contract
from gve_jax.preprocess import Processor
from gve_jax.progress import ProgressLine
from gve_jax.restore import restore
from gve_jax.types import Encoded, Item, UserError


class EmbedStats(NamedTuple):
    """Work done by one call."""

    items: int
    seconds: float
    tokens_used: int
    tokens_padded: int  # slots of all padded batches, padding included
    compiled: int  # shapes compiled by this embedder so far

    def __str__(self) -> str:
        rate = self.items / self.seconds if self.seconds else 0.0
        waste = 1 - self.tokens_used / self.tokens_padded if self.tokens_padded else 0.0
        return (
            f"{self.items} items, {rate:.1f} items/s, {waste:.1%} of token slots were "
            f"padding, {self.compiled} shapes compiled"
        )


class EmbedResult(NamedTuple):
    """`vectors`: float32 [n, d], unit rows; NaN where `failures` names the row."""

    vectors: np.ndarray
    failures: dict[int, str]
    stats: EmbedStats


class Embedder:
    """Compiled embedding functions of one checkpoint, one per bucket."""

    def __init__(
        self,
        graphdef: nnx.GraphDef,
        params: nnx.State,
        processor: Processor,
        contract: Contract,
        *,
        batch_size: int,
        mesh: jax.sharding.Mesh,
    ):
        self.contract = contract
        self.dim = contract.dim
        self._processor = processor
        self._batch_sharding = sharding.batch_sharding(mesh)
        ways = mesh.shape["data"] * mesh.shape["fsdp"]
        # Every batch has one size: a smaller last one would compile again.
        self._batch_size = -(-batch_size // ways) * ways
        self._params = params
        self._function = jax.jit(lambda p, x: nnx.merge(graphdef, p)(x))

    @classmethod
    def load(
        cls,
        checkpoint: str | os.PathLike,
        *,
        dtype: str | None = None,
        config: ConfigDict | None = None,
        num_items: int | None = None,
    ) -> "Embedder":
        """Loads a training workdir, a Hugging Face safetensors folder or a hub id.

        Args:
          checkpoint: where to look, in this order of kinds.
          dtype: of activations, "float32" or "bfloat16"; default the checkpoint's.
          config: overrides `preprocess`, `mesh` and `embed` of a Hugging Face folder,
            `mesh` and `embed` of a workdir. Without it the mesh is the default one,
            whatever a workdir was trained on: other machines read it too.
          num_items: how many there are to embed, if that is known. Few items then are
            a small batch, instead of a large one that is mostly padding.

        Raises:
          UserError: nothing loadable there, or the weights that a workdir builds upon
            have changed since.
        """
        mesh = sharding.make_mesh((config or default_config()).mesh)
        found = restore(checkpoint, dtype=dtype, config=config, mesh=mesh)
        most = 1 << (num_items - 1).bit_length() if num_items else None
        run = config or found.config
        return cls(
            found.graphdef,
            found.params,
            build.make_processor(
                found.config, found.tokenizer, found.contract, found.model_config
            ),
            found.contract,
            batch_size=_at_most(run.embed.batch_size, most),
            mesh=mesh,
        )

    @property
    def compiled(self) -> int:
        """Shapes compiled so far: at most one per bucket met."""
        return self._function._cache_size()

    def embed(
        self, items: Sequence[Item], desc: str = "embed", progress: bool = True
    ) -> EmbedResult:
        """Embeds items; equal contents are embedded once.

        Returns:
          Vectors in the order of `items`. Items that cannot be read or encoded have
          NaN rows and their reason in `failures`.
        """
        start = time.monotonic()
        first_of: dict[tuple, int] = {}
        for i, item in enumerate(items):
            first_of.setdefault(item.content, i)
        distinct = list(first_of.values())
        vectors = np.full((len(items), self.dim), np.nan, np.float32)
        failures: dict[int, str] = {}
        waiting: dict[Any, list[tuple[int, Encoded]]] = collections.defaultdict(list)
        running: collections.deque = collections.deque()
        used = padded = 0

        def finish() -> None:
            rows, result = running.popleft()
            vectors[rows] = np.asarray(jax.device_get(result))[: len(rows)]

        def launch(members: list[tuple[int, Encoded]]) -> None:
            nonlocal used, padded
            rows, encoded = zip(*members, strict=True)
            inputs = self._processor.collate(list(encoded), self._batch_size)
            used += sum(len(e.tokens) for e in encoded)
            padded += inputs.tokens.size
            inputs = jax.device_put(inputs, self._batch_sharding)
            running.append((list(rows), self._function(self._params, inputs)))
            if len(running) > 2:  # two batches in flight hide the transfers
                finish()

        line = ProgressLine(desc, len(distinct), "items") if progress else None
        with (
            line or contextlib.nullcontext(),
            ThreadPoolExecutor(max_workers=2 * (os.cpu_count() or 1)) as pool,
        ):
            for i, encoded in _in_order(pool, self._read, items, distinct):
                if isinstance(encoded, str):
                    failures[i] = encoded
                else:
                    members = waiting[self._processor.bucket(encoded)]
                    members.append((i, encoded))
                    if len(members) == self._batch_size:
                        launch(members)
                        members.clear()
                if line:
                    line.advance()
            for members in waiting.values():
                if members:
                    launch(members)
            while running:
                finish()
        for i, item in enumerate(items):
            first = first_of[item.content]
            if first != i:
                vectors[i] = vectors[first]
                if first in failures:
                    failures[i] = failures[first]
        stats = EmbedStats(
            len(items), time.monotonic() - start, used, padded, self.compiled
        )
        return EmbedResult(vectors, failures, stats)

    def _read(self, item: Item) -> Encoded | str:
        try:
            return self._processor.encode(item)
        except UserError as e:
            return str(e)


def _at_most(batch_size: int, most: int | None) -> int:
    return batch_size if most is None else min(batch_size, most)


def _in_order(
    pool: ThreadPoolExecutor, read, items: Sequence[Item], rows: Sequence[int]
) -> Iterator[tuple[int, Encoded | str]]:
    """Reads ahead by a bounded window: memory does not grow with the item count."""
    pending: collections.deque = collections.deque()
    for i in rows:
        pending.append((i, pool.submit(read, items[i])))
        if len(pending) > 64:
            first, future = pending.popleft()
            yield first, future.result()
    while pending:
        first, future = pending.popleft()
        yield first, future.result()
