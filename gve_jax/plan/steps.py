"""A step of a config, as compiled for a topology: what it takes on each chip."""

import math
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from gve_jax import sharding
from gve_jax.model.flops import TrainFlops, embed_flops, train_flops
from gve_jax.plan import programs
from gve_jax.plan.architecture import find_architecture
from gve_jax.plan.collectives import Collectives
from gve_jax.plan.programs import Program, chip_bytes
from gve_jax.plan.topology import Topology
from gve_jax.preprocess.buckets import power_of_two
from gve_jax.train.gradcache import count_chunks

# Batches on the devices at once. In training one is computed, two wait and one is being
# handed on (gve_jax/train/feed.py); the embedder has three under way.
_TRAIN_BATCHES, _EMBED_BATCHES = 4, 3
_MOST = 64  # times what the config asks for, where a search ends


class Memory(NamedTuple):
    """Bytes on each chip."""

    frozen: int
    trainable: int
    optimiser: int
    gradients: int
    batches: int  # those under way included
    padding: int  # of arguments, which TPUs lay out in tiles
    temporaries: int  # activations, gathered weights and all else within a step
    code: int

    @property
    def peak(self) -> int:
        return sum(self)


class Measured(NamedTuple):
    """A step on each chip."""

    memory: Memory
    collectives: Collectives | None  # None: the compiler refused the step
    batch_size: int  # pairs or items, over all chips
    flops: TrainFlops
    token_padding: float  # share of token slots
    patch_padding: float  # share of patch slots

    def need(self, hbm: int) -> int:
        """Bytes on each chip; more than `hbm` where the compiler said so."""
        peak = self.memory.peak
        return max(peak, hbm + 1) if self.collectives is None else peak


class _Step:
    """What variants of one config have in common."""

    name: str
    # Keys of the config that may be searched for the largest value that fits.
    searched: tuple[str, ...]

    def __init__(self, config: ConfigDict, topology: Topology, text_tokens: int):
        """`text_tokens` are those of a text, and of a video's own text."""
        self.config, self.topology = config, topology
        self.mesh = sharding.make_mesh(config.mesh, topology.devices)
        attention = topology.chip.attention
        self.architecture = find_architecture(config, self.name, attention)
        self.text = programs.text_item(text_tokens, self.architecture.geometry)
        self.video = programs.video_item(self.architecture, text_tokens)


class TrainStep(_Step):
    """Gradient and update on pairs of a text and a video."""

    name = "train"
    searched = ("data.batch_size", "train.chunk")
    _update: Program | None = None  # the same for all variants

    def measure(self, config: ConfigDict) -> Measured:
        """Compiles the step of a variant of the config."""
        shapes = programs.train_shapes(
            config, self.architecture, self.mesh, self.text, self.video
        )
        gradient = programs.compile_gradient(config, self.topology, shapes)
        update = self._update or programs.compile_update(config, self.topology, shapes)
        self._update = update
        trainable, frozen = (
            chip_bytes(shapes.state.trainable),
            chip_bytes(shapes.frozen),
        )
        batch, accumulate = chip_bytes(shapes.batch), config.train.accumulate
        scalars = 2 * shapes.state.step.dtype.itemsize  # step and part
        memory = Memory(
            frozen=frozen,
            trainable=trainable,
            optimiser=chip_bytes(shapes.state.opt_state),
            # Those that are summed are held beside their sum.
            gradients=trainable * min(accumulate, 2),
            batches=_TRAIN_BATCHES * batch,
            padding=gradient.arguments - trainable - frozen - batch - scalars,
            temporaries=max(gradient.temporaries, update.temporaries),
            code=gradient.code + update.code,
        )
        collectives = None
        if gradient.collectives and update.collectives:
            collectives = gradient.collectives.times(accumulate) + update.collectives
        return Measured(
            memory,
            collectives,
            config.data.batch_size,
            self._flops(config, shapes.batch),
            *_padding(self._sides(config, shapes.batch)),
        )

    def candidates(self, key: str) -> tuple[list[int], int]:
        """(values of a key of the config, ascending; the first to try)."""
        config, ways = self.config, sharding.batch_ways(self.mesh)
        b, k = config.data.batch_size, config.data.num_negatives
        tokens = programs.padded_tokens(config, self.architecture, self.video)
        rows = b * (1 + k) // ways
        of_chunk = rows // count_chunks(rows, tokens, config.train.chunk)
        if key == "train.chunk":
            divisors = [n for n in range(1, rows + 1) if rows % n == 0]
            return [n * tokens for n in divisors], of_chunk * tokens
        unit = ways * math.gcd(b // ways, of_chunk)  # so that chunks stay as large
        return list(range(unit, _MOST * b + 1, unit)), b

    def _sides(self, config: ConfigDict, batch: Any) -> list[tuple]:
        """(item, inputs, rows) of the texts and of the videos."""
        b = config.data.batch_size
        videos = b * (1 + config.data.num_negatives)
        return [(self.text, batch.query, b), (self.video, batch.target, videos)]

    def _flops(self, config: ConfigDict, batch: Any) -> TrainFlops:
        total = TrainFlops(0, 0)
        for item, inputs, count in self._sides(config, batch):
            rows, tokens = inputs.tokens.sharding.shard_shape(inputs.tokens.shape)
            chunked = count_chunks(rows, tokens, config.train.chunk) > 1
            one = train_flops(self.architecture.model, item, chunked)
            total = TrainFlops(
                *(a + count * n for a, n in zip(total, one, strict=True))
            )
        accumulate = config.train.accumulate
        return TrainFlops(*(n * accumulate // self.mesh.size for n in total))


class EmbedStep(_Step):
    """The embedder's forward pass on full rows of videos."""

    name = "embed"
    searched = ("embed.tokens",)

    def measure(self, config: ConfigDict) -> Measured:
        """Compiles the step of a variant of the config."""
        shapes, items = programs.embed_shapes(
            config, self.architecture, self.mesh, self.video
        )
        program = programs.compile_embed(self.topology, shapes)
        frozen, batch = chip_bytes(shapes.frozen), chip_bytes(shapes.batch)
        memory = Memory(
            frozen=frozen,
            trainable=0,
            optimiser=0,
            gradients=0,
            batches=_EMBED_BATCHES * batch,
            padding=program.arguments - frozen - batch,
            temporaries=program.temporaries,
            code=program.code,
        )
        count = items * sharding.batch_ways(self.mesh)
        flops = embed_flops(self.architecture.model, self.video) * count
        flops //= self.mesh.size
        sides = [(self.video, shapes.batch, count)]
        return Measured(
            memory,
            program.collectives,
            count,
            TrainFlops(flops, flops),
            *_padding(sides),
        )

    def candidates(self, key: str) -> tuple[list[int], int]:
        """As that of TrainStep."""
        first = power_of_two(max(self.config.embed.tokens, len(self.video.tokens)))
        sizes = [first * 2**n for n in range(-6, 7)]
        return [n for n in sizes if n >= len(self.video.tokens)], first


STEPS = {step.name: step for step in (TrainStep, EmbedStep)}


def _padding(sides: list[tuple]) -> tuple[float, float]:
    """Shares of token slots and of patch slots that no item uses."""
    used, slots = [0, 0], [0, 0]
    for item, inputs, count in sides:
        used[0] += count * len(item.tokens)
        slots[0] += math.prod(inputs.tokens.shape)
        if inputs.vision is not None:
            used[1] += count * len(item.patches)
            slots[1] += math.prod(inputs.vision.patches.shape[:2])
    tokens, patches = (1 - u / s for u, s in zip(used, slots, strict=True))
    return tokens, patches
