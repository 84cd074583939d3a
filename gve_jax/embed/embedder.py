"""A checkpoint as a function from items to unit vectors."""

import collections
import contextlib
import itertools
import os
import time
from collections.abc import Hashable, Iterable, Iterator, Sequence
from typing import NamedTuple

import jax
import numpy as np
from flax import nnx
from ml_collections import ConfigDict

from gve_jax import build, sharding
from gve_jax.config import default_config
from gve_jax.contract import Contract
from gve_jax.main import COMPILED
from gve_jax.preprocess import Packed, Processor, Reader, collate_packed
from gve_jax.progress import ProgressLine
from gve_jax.restore import Restored, restore
from gve_jax.types import Encoded, Item


class EmbedStats(NamedTuple):
    """Work done by one call."""

    items: int
    seconds: float
    tokens_used: int  # what items share counted once
    tokens_padded: int  # of all batches, padding included
    compiled: int  # shapes compiled by this embedder so far

    def plus(self, other: "EmbedStats") -> "EmbedStats":
        """Of this call and a later one."""
        sums = (a + b for a, b in zip(self[:4], other[:4], strict=True))
        return EmbedStats(*sums, other.compiled)

    def __str__(self) -> str:
        rate = self.items / self.seconds if self.seconds else 0.0
        text = f"{self.items} items, {rate:.1f} items/s"
        if not self.tokens_padded:  # of an encoder that does not count them
            return text
        return (
            f"{text}, {1 - self.tokens_used / self.tokens_padded:.1%} of token slots "
            f"were padding, {self.compiled} shapes compiled"
        )


class EmbedResult(NamedTuple):
    """`vectors`: float32 [n, d], unit rows; NaN where `failures` names the row.

    A reason that is a `gve_jax.preprocess.Lost` may be another one next time.
    """

    vectors: np.ndarray
    failures: dict[int, str]
    stats: EmbedStats


class Ready(NamedTuple):
    """An item that is encoded, and waits to be embedded."""

    name: Hashable
    encoded: Encoded
    media: Hashable  # items of equal ones show the same; see `Packer.add`


class Embedder:
    """Compiled embedding functions of one checkpoint, one per shape.

    Attributes:
      dims: of vectors: `dim`, and fewer numbers that training had an eye on as well.
      processor: makes `Encoded` of items.
    """

    def __init__(
        self,
        graphdef: nnx.GraphDef,
        params: nnx.State,
        processor: Processor,
        contract: Contract,
        *,
        tokens: int,
        mesh: jax.sharding.Mesh,
        exact: bool = False,
        reader: Reader | None = None,
        matryoshka: Sequence[int] = (),
    ):
        """`tokens` are those of a full batch on one device; see `from_checkpoint`.

        `reader` calls `processor.try_encode`; None: in threads. `matryoshka` are
        `dims` beside the whole.
        """
        self.contract = contract
        self.dim = contract.dim
        self.dims = (*matryoshka, self.dim)
        self.processor = processor
        self._tokens, self._exact = tokens, exact
        self._mesh = mesh
        self._reader = reader or Reader(processor.try_encode)
        self._batch_sharding = sharding.batch_sharding(mesh)
        self._ways = sharding.batch_ways(mesh)
        self._used = self._padded = 0  # tokens so far
        self.params = params  # may be set to others of the same shapes
        # Whether a call is one of several processes together: each makes it with the
        # same items, and gets all vectors.
        self.collective = not self._batch_sharding.is_fully_addressable
        whole = sharding.replicated(mesh) if self.collective else None
        self._function = jax.jit(
            lambda p, x: nnx.merge(graphdef, p)(x), out_shardings=whole
        )

    @classmethod
    def from_checkpoint(
        cls,
        checkpoint: str | os.PathLike,
        *,
        dtype: str | None = None,
        weights: str | None = None,
        config: ConfigDict | None = None,
        exact: bool = False,
        devices: Sequence[jax.Device] | None = None,
    ) -> "Embedder":
        """Loads a training workdir, a Hugging Face or PEFT folder, or a hub id.

        Compiled programs are kept on disk, where JAX is not told another place.

        Args:
          checkpoint: where to look, in this order of kinds.
          dtype: of activations, "float32" or "bfloat16"; default the checkpoint's.
          weights: "float32", "bfloat16" or "int8"; default the checkpoint's, but of a
            Hugging Face folder on CPU float32.
          config: overrides `preprocess`, `mesh` and `embed` of a Hugging Face folder,
            `mesh` and `embed` of a workdir. Without it the mesh is the default one,
            whatever a workdir was trained on: other machines read it too.
          exact: each item is computed alone, in a shape that depends on it only, so
            that its vector is the same to the last bit whatever else is embedded;
            slower for short items.
          devices: that the mesh is made of; None: all, of all processes. With
            `jax.local_devices()` a process embeds on its own.

        Raises:
          UserError: nothing loadable there, or the weights that a workdir builds upon
            have changed since.
        """
        if jax.config.jax_compilation_cache_dir is None:
            jax.config.update("jax_compilation_cache_dir", COMPILED)
        here = config or default_config()
        mesh = sharding.make_mesh(here.mesh, devices)
        found = restore(
            checkpoint,
            dtype=dtype,
            weights=weights or "fast",
            config=config,
            mesh=mesh,
        )
        tokens = (config or found.config).embed.tokens
        return cls.of(found, here.embed, tokens=tokens, mesh=mesh, exact=exact)

    @classmethod
    def of(
        cls,
        found: Restored,
        reading: ConfigDict,
        *,
        tokens: int,
        mesh: jax.sharding.Mesh,
        exact: bool = False,
    ) -> "Embedder":
        """From restored weights; of `reading`, a config's `embed`, decode_* count."""
        processor = build.make_processor(
            found.config, found.tokenizer, found.contract, found.model_config
        )
        return cls(
            found.graphdef,
            found.params,
            processor,
            found.contract,
            tokens=tokens,
            mesh=mesh,
            exact=exact,
            reader=Reader(
                processor.try_encode,
                reading.decode_workers,
                reading.decode_timeout_s,
                reading.decode_memory_mb,
            ),
            matryoshka=found.config.loss.matryoshka,
        )

    @property
    def compiled(self) -> int:
        """Shapes compiled so far."""
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
        used, padded = self._used, self._padded
        line = ProgressLine(desc, len(distinct), "items") if progress else None
        reading = self._reader.ahead([items[i] for i in distinct])

        def ready() -> Iterator[Ready]:
            for i, encoded in zip(distinct, reading, strict=True):
                if isinstance(encoded, str):
                    failures[i] = encoded
                else:
                    # All that decides its media's tokens.
                    media = items[i]._replace(text=None, instruction=None).content
                    yield Ready(i, encoded, media)
                if line:
                    line.advance()

        with line or contextlib.nullcontext(), contextlib.closing(reading):
            for i, vector in self.stream(ready()):
                vectors[i] = vector
        for i, item in enumerate(items):
            first = first_of[item.content]
            if first != i:
                vectors[i] = vectors[first]
                if first in failures:
                    failures[i] = failures[first]
        stats = EmbedStats(
            len(items),
            time.monotonic() - start,
            self._used - used,
            self._padded - padded,
            self.compiled,
        )
        return EmbedResult(vectors, failures, stats)

    def stream(
        self, items: Iterable[Ready | None]
    ) -> Iterator[tuple[Hashable, np.ndarray]]:
        """Embeds items as they come, without end if need be.

        Args:
          items: None among them asks for all vectors of those before it.

        Yields:
          Name and vector, float32 [d], unit, of each item; not in their order.
        """
        packer = self.processor.packer(self._tokens)
        # Full rows, by what they have in common, until there is one for each device.
        waiting: dict[tuple, list[Packed]] = collections.defaultdict(list)
        running: collections.deque = collections.deque()
        for item in itertools.chain(items, [None]):
            if item is None:
                rows = packer.flush()
            else:
                rows = packer.add(*item)
                if self._exact:
                    rows += packer.flush()
            batches = []
            for row in rows:
                key = (row.kind, row.shape if self._exact else None)
                waiting[key].append(row)
                if len(waiting[key]) == self._ways:
                    batches.append(waiting.pop(key))
            if item is None:
                batches += waiting.values()
                waiting.clear()
            for batch in batches:
                running.append(self._launch(batch))
                if len(running) > 2:  # two in flight hide the transfers
                    yield from self._finish(*running.popleft())
            while item is None and running:
                yield from self._finish(*running.popleft())

    def _launch(self, rows: list[Packed]) -> tuple[list[Packed], jax.Array]:
        inputs = collate_packed(rows, self._ways)
        self._used += sum(len(row.encoded.tokens) for row in rows)
        self._padded += inputs.tokens.size
        inputs = sharding.from_all_rows(inputs, self._batch_sharding)
        with jax.set_mesh(self._mesh):  # kernels ask for it
            return rows, self._function(self.params, inputs)

    def _finish(
        self, rows: list[Packed], result: jax.Array
    ) -> Iterator[tuple[Hashable, np.ndarray]]:
        result = np.asarray(jax.device_get(result)).reshape(self._ways, -1, self.dim)
        for row, part in zip(rows, result, strict=False):
            yield from zip(row.names, part, strict=False)
