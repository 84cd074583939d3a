"""A checkpoint as a function from items to unit vectors."""

import collections
import contextlib
import dataclasses
import json
import os
import pathlib
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import nnx
from ml_collections import ConfigDict

from gve_jax import build, sharding
from gve_jax.checkpoint import Checkpoints, load_config, weights_hash
from gve_jax.config import default_config
from gve_jax.contract import Contract
from gve_jax.media import DECODER
from gve_jax.model import partition
from gve_jax.preprocess import Processor, load_tokenizer
from gve_jax.progress import ProgressLine
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
        self._params = jax.device_put(params, sharding.shardings(params, mesh))
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
        folder = _resolve(str(checkpoint))
        most = 1 << (num_items - 1).bit_length() if num_items else None
        if (folder / "checkpoints").is_dir():
            return cls._from_workdir(folder, dtype, config, most)
        return cls._from_hugging_face(folder, dtype, config, most)

    @classmethod
    def _from_workdir(
        cls,
        workdir: pathlib.Path,
        dtype: str | None,
        overrides: ConfigDict | None,
        most: int | None,
    ) -> "Embedder":
        config = load_config(workdir)
        config.model.dtype = dtype or config.model.dtype
        tokenizer = load_tokenizer(workdir / "tokenizer")
        checkpoints = Checkpoints(workdir)
        step = checkpoints.latest_step
        if step is None:
            raise UserError(f"{workdir}: no checkpoint yet; train it first")
        model_config, graphdef, params = build.make_model(config, tokenizer)
        trainable, frozen = partition(params, config.model.trainable)
        trainable, contract = checkpoints.restore_params(step, trainable)
        checkpoints.close()
        base, _, _ = contract.weights_hash.partition("-")
        if weights_hash(frozen) != base:
            raise UserError(
                f"{workdir}: the weights it was trained upon are not those of "
                f"model.init_from={config.model.init_from!r} now: restore them there"
            )
        return cls(
            graphdef,
            nnx.merge_state(trainable, frozen),
            build.make_processor(config, tokenizer, contract, model_config),
            _as_run(contract, config),
            batch_size=_at_most((overrides or config).embed.batch_size, most),
            mesh=sharding.make_mesh((overrides or default_config()).mesh),
        )

    @classmethod
    def _from_hugging_face(
        cls,
        folder: pathlib.Path,
        dtype: str | None,
        overrides: ConfigDict | None,
        most: int | None,
    ) -> "Embedder":
        config = overrides.copy_and_resolve_references() if overrides else None
        config = config or default_config()
        config.model.init_from = str(folder)
        # As frozen weights, which keep `param_dtype`, and with no update on top.
        config.model.trainable, config.model.lora.rank = "lora", 0
        config.model.dtype = dtype or config.model.dtype
        tokenizer = load_tokenizer(folder)
        model_config, graphdef, params = build.make_model(config, tokenizer)
        if (folder / "contract.json").exists():
            contract = _as_run(Contract.load(folder / "contract.json"), config)
        else:
            contract = dataclasses.replace(
                build.make_contract(config, model_config),
                weights_hash=weights_hash(params),
            )
        return cls(
            graphdef,
            params,
            build.make_processor(config, tokenizer, contract, model_config),
            contract,
            batch_size=_at_most(config.embed.batch_size, most),
            mesh=sharding.make_mesh(config.mesh),
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


def _as_run(contract: Contract, config: ConfigDict) -> Contract:
    """The contract of a checkpoint with what this run, not the checkpoint, decides."""
    return dataclasses.replace(contract, dtype=config.model.dtype, decoder=DECODER)


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


def _resolve(checkpoint: str) -> pathlib.Path:
    folder = pathlib.Path(checkpoint)
    if folder.is_dir():
        if (folder / "checkpoints").is_dir() or _is_hugging_face(folder):
            return folder.absolute()
        raise UserError(
            f"--checkpoint={checkpoint}: neither a training workdir (checkpoints/) nor "
            "a Hugging Face folder (config.json with model_type and *.safetensors)"
        )
    if folder.exists():
        raise UserError(f"--checkpoint={checkpoint}: a file; name the folder it is in")
    if checkpoint.count("/") != 1 or checkpoint.startswith((".", "/")):
        raise UserError(f"--checkpoint={checkpoint}: no such folder")
    # Only data files: never pickles, never remote code.
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return pathlib.Path(
            snapshot_download(checkpoint, allow_patterns=["*.safetensors", "*.json"])
        )
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as e:
        raise UserError(
            f"--checkpoint={checkpoint}: no such folder, and as a hub id it could not "
            f"be downloaded ({str(e).splitlines()[0]})"
        ) from None


def _is_hugging_face(folder: pathlib.Path) -> bool:
    config = folder / "config.json"
    if not config.is_file() or not list(folder.glob("*.safetensors")):
        return False
    try:
        return "model_type" in json.loads(config.read_text(encoding="utf-8"))
    except ValueError as e:
        raise UserError(f"{config}: not JSON ({e})") from None
