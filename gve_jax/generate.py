"""A checkpoint as a function from items to texts: captions and other answers."""

import collections
import contextlib
import dataclasses
import os
import zlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import nnx
from ml_collections import ConfigDict

from gve_jax import build, sharding
from gve_jax.config import default_config
from gve_jax.contract import DEFAULT_SYSTEM, TEMPLATE, Contract
from gve_jax.hub import find_weights
from gve_jax.model import ModelConfig, abstract, read_hf
from gve_jax.model.generate import Sampling, generate
from gve_jax.preprocess import Processor, Tokenizer, load_tokenizer
from gve_jax.progress import ProgressLine
from gve_jax.types import Encoded, Item, UserError

_STOPS = ("<|im_end|>", "<|endoftext|>")
_READ_AHEAD = 64  # items in memory before they fill a batch


class Texts(NamedTuple):
    """Answers in the order of the items."""

    texts: list[str]  # "" where `failures` names the row
    failures: dict[int, str]
    unfinished: list[int]  # rows whose text was cut off at `max_new_tokens`
    tokens: list[tuple[int, int]]  # of each prompt and answer; (0, 0) for failures


class Generator:
    """Compiled generation with one checkpoint, one program per bucket."""

    def __init__(
        self,
        model_config: ModelConfig,
        params: nnx.State,
        processor: Processor,
        tokenizer: Tokenizer,
        *,
        max_new_tokens: int,
        batch_size: int,
        mesh: jax.sharding.Mesh,
    ):
        """Args:
        model_config: has `head`.
        params: of that config, on the mesh.
        processor: of a contract whose prompt ends where the answer begins.
        tokenizer: the processor's.
        max_new_tokens: longer answers are cut.
        batch_size: items run together, rounded up to the mesh.
        mesh: items are spread over its data and fsdp axes.
        """
        self._processor, self._tokenizer = processor, tokenizer
        self._max_new_tokens = max_new_tokens
        self._batch_sharding = sharding.batch_sharding(mesh)
        ways = sharding.batch_ways(mesh)
        # Every batch has one size: a smaller last one would compile again.
        self._batch_size = -(-batch_size // ways) * ways
        self._params = params
        stops = np.array([tokenizer.special(token) for token in _STOPS], np.int32)
        graphdef = abstract(model_config)[0]

        def run(params, inputs, ids, settings, max_new_tokens):
            sampling = None
            if settings is not None:
                seed, *how = settings
                keys = jax.vmap(jax.random.fold_in, (None, 0))(
                    jax.random.key(seed), ids
                )
                sampling = Sampling(keys, *how)
            model = nnx.merge(graphdef, params)
            return generate(model, inputs, stops, max_new_tokens, sampling)

        self._function = jax.jit(run, static_argnames="max_new_tokens")

    @classmethod
    def load(
        cls,
        checkpoint: str | os.PathLike,
        *,
        dtype: str = "bfloat16",
        max_new_tokens: int = 256,
        batch_size: int = 8,
        config: ConfigDict | None = None,
    ) -> "Generator":
        """Loads a Hugging Face or PEFT folder, or a hub id, head included.

        Args:
          checkpoint: where to look.
          dtype: of weights and activations, "float32" or "bfloat16".
          max_new_tokens, batch_size: as of the class.
          config: its `preprocess`, `mesh` and `model` apply; of `preprocess` all but
            the preset, which is for embeddings. None: the default one, with the whole
            model on each device, as each token needs all of it.

        Raises:
          UserError: nothing loadable there.
        """
        if config is None:
            config = default_config()
            config.mesh.update(data=-1, fsdp=1)
        else:
            config = config.copy_and_resolve_references()
        config.preprocess.preset = ""
        config.model.trainable, config.model.lora.rank = "lora", 0
        config.model.dtype = config.model.param_dtype = dtype
        found = find_weights(str(checkpoint), "checkpoint")
        tokenizer = load_tokenizer(found.find("tokenizer.json"))
        mesh = sharding.make_mesh(config.mesh)
        model_config, params = read_hf(
            found.folder, config.model, head=True, adapter=found.adapter, mesh=mesh
        )
        contract = chat_contract(build.make_contract(config, model_config))
        return cls(
            model_config,
            params,
            build.make_processor(config, tokenizer, contract, model_config),
            tokenizer,
            max_new_tokens=max_new_tokens,
            batch_size=batch_size,
            mesh=mesh,
        )

    @property
    def compiled(self) -> int:
        """Programs compiled so far: one per bucket met, and others if sampled, or for
        another `max_new_tokens`."""
        return self._function._cache_size()

    def generate(
        self,
        items: Sequence[Item],
        *,
        temperature: float = 0.0,
        top_p: float = 1.0,
        top_k: int = 0,
        seed: int = 0,
        max_new_tokens: int | None = None,
        desc: str = "generate",
        progress: bool = True,
    ) -> Texts:
        """Answers items: `text` is the user's request, `instruction` the system's.

        Args:
          items: to answer.
          temperature: 0 takes the likeliest token; above, tokens are drawn.
          top_p, top_k: which tokens may be drawn, as `Sampling`.
          seed: of the draws. An item's depend on it and on the item's id alone.
          max_new_tokens: None: as of the class.
          desc, progress: a line on stderr.

        Returns:
          Texts; items that cannot be read or encoded have their reason in `failures`.

        Raises:
          UserError: a setting cannot be.
        """
        if temperature < 0 or not 0 < top_p <= 1 or top_k < 0:
            raise UserError(
                f"temperature={temperature}, top_p={top_p}, top_k={top_k}: they must "
                "be at least 0, above 0 and at most 1, and at least 0"
            )
        settings = (seed, temperature, top_p, top_k) if temperature else None
        room = self._max_new_tokens if max_new_tokens is None else max_new_tokens
        out = Texts([""] * len(items), {}, [], [(0, 0)] * len(items))
        waiting: dict[Any, list[tuple[int, Encoded]]] = collections.defaultdict(list)
        running: collections.deque = collections.deque()
        line = ProgressLine(desc, len(items), "items") if progress else None

        def finish() -> None:
            rows, result = running.popleft()
            tokens, lengths = jax.device_get(result)
            for i, row, n in zip(rows, tokens, lengths[: len(rows)], strict=False):
                out.texts[i] = self._tokenizer.decode(row[:n].tolist())
                out.tokens[i] = (out.tokens[i][0], int(n))
                if n == room:
                    out.unfinished.append(i)
                if line:
                    line.advance()

        def launch(members: list[tuple[int, Encoded]]) -> None:
            rows = [i for i, _ in members]
            # Rows that fill the batch are copies, which end when the first item does.
            members = members + members[:1] * (self._batch_size - len(members))
            inputs = self._processor.collate([encoded for _, encoded in members])
            ids = [zlib.crc32(items[i].id.encode()) for i, _ in members]
            inputs, ids = jax.device_put(
                (inputs, np.array(ids, np.uint32)), self._batch_sharding
            )
            result = self._function(self._params, inputs, ids, settings, room)
            running.append((rows, result))
            if len(running) > 1:  # one runs while the next is read
                finish()

        with (
            line or contextlib.nullcontext(),
            ThreadPoolExecutor(max_workers=2 * (os.cpu_count() or 1)) as pool,
        ):
            for start in range(0, len(items), _READ_AHEAD):
                part = items[start : start + _READ_AHEAD]
                for i, encoded in enumerate(
                    pool.map(self._processor.try_encode, part), start
                ):
                    if isinstance(encoded, str):
                        out.failures[i] = encoded
                        if line:
                            line.advance()
                        continue
                    out.tokens[i] = (len(encoded.tokens), 0)
                    members = waiting[self._processor.bucket(encoded)]
                    members.append((i, encoded))
                    if len(members) == self._batch_size:
                        launch(members)
                        members.clear()
            for members in waiting.values():
                if members:
                    launch(members)
            while running:
                finish()
        out.unfinished.sort()
        return out


def chat_contract(contract: Contract) -> Contract:
    """An embedding contract's media under the prompt of a conversation.

    It ends where the assistant's answer begins. A system sentence is always there: the
    one that Qwen2-VL and Qwen2.5-VL were trained with, unless an item has its own.
    """
    return dataclasses.replace(
        contract,
        template=TEMPLATE,
        forms={},
        instruction_role="system",
        separator="",
        instruction_end="",
        default_instruction=DEFAULT_SYSTEM,
        instructions={},
        pooled_token="",
    )
