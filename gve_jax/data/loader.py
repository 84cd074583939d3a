"""Grain pipeline: groups of pairs -> a seeded, resumable stream of padded batches."""

import functools
import json
import os
import threading
import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import grain
import numpy as np
from grain.transforms import DatasetSelectionMap

from gve_jax.data.sources import Group, join_small
from gve_jax.preprocess import Bucket, Processor
from gve_jax.preprocess.augment import random_shift
from gve_jax.types import Encoded, EncoderInputs, Item, Pair, PairBatch, UserError

# A batch with more unreadable pairs than this share stops the run.
MAX_FAILED_SHARE = 0.1


class Batch(NamedTuple):
    """One step's input and what is known of it on the host."""

    inputs: PairBatch
    group: str
    num_pairs: int
    tokens_used: int  # real tokens among ...
    tokens_padded: int  # ... all of them
    failed: int  # pairs that could not be read and were replaced


class StaticMixture(DatasetSelectionMap):
    """Step -> (group, batch of that group), drawn once from fixed weights.

    A pure function of (weights, steps, seed): resuming needs no state but the step.
    """

    def __init__(self, weights: Sequence[float], steps: int, seed: int):
        rng = np.random.default_rng([seed, 0x6D6978])
        self._group = rng.choice(len(weights), size=steps, p=np.asarray(weights))
        self._index = np.zeros(steps, np.int64)
        for g in range(len(weights)):
            rows = self._group == g
            self._index[rows] = np.arange(rows.sum())

    def __len__(self) -> int:
        return len(self._group)

    def __getitem__(self, index: int) -> tuple[int, int]:
        return int(self._group[index]), int(self._index[index])


def content_id(item: Item) -> int:
    """A 31-bit hash of what decides the item's embedding."""
    return zlib.crc32(repr(item.content).encode()) & 0x7FFFFFFF


class PairLoader:
    """Batches for training: an iterator whose position can be saved and restored.

    Args:
      groups: what to draw from; their weights sum to 1.
      processor: turns items into padded arrays.
      steps: batches in all.
      seed: decides the order of groups and of pairs.
      shift: most pixels by which the frames of each medium are moved at random.
      prefetch: batches prepared ahead by threads.
      workers: threads that read media within a batch.
      failures_path: JSON-lines file that unreadable pairs are recorded in.
    """

    def __init__(
        self,
        groups: Sequence[Group],
        processor: Processor,
        *,
        steps: int,
        seed: int,
        shift: int = 0,
        prefetch: int,
        workers: int,
        failures_path: str | os.PathLike,
    ):
        self._groups = groups
        self._processor = processor
        self._shift = shift
        self._failures_path = failures_path
        self._failures_lock = threading.Lock()
        self._pool = ThreadPoolExecutor(max_workers=workers)
        datasets = [
            _rows(group, seed + 1000 * i).map(lambda rows, i=i: (i, rows))
            for i, group in enumerate(groups)
        ]
        mixture = StaticMixture([group.weight for group in groups], steps, seed)
        mixed = grain.MapDataset.select_from_datasets(datasets, mixture)
        self._iterator = iter(
            mixed.random_map(self._make, seed=seed).to_iter_dataset(
                grain.ReadOptions(num_threads=prefetch, prefetch_buffer_size=prefetch)
            )
        )

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        return next(self._iterator)

    def example(self, group: Group) -> Batch:
        """A batch of the group's first pairs, for its shapes."""
        chosen = self._groups.index(group), _rows(group, 0)[0]
        return self._make(chosen, np.random.default_rng(0))

    def get_state(self) -> dict:
        """The position after the last batch handed out, as JSON values."""
        state = self._iterator.get_state()
        return json.loads(state.decode()) if isinstance(state, bytes) else state

    def set_state(self, state: dict) -> None:
        self._iterator.set_state(state)

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _make(self, chosen: tuple[int, np.ndarray], rng: np.random.Generator) -> Batch:
        group = self._groups[chosen[0]]
        pairs = [group.pairs[int(row)] for row in chosen[1]]
        # Drawn, not spawned: Grain sets a generator's state, not what it spawns from.
        seeds = rng.integers(2**63, size=len(pairs))
        read = list(self._pool.map(functools.partial(self._read, group), pairs, seeds))
        good = [i for i, sides in enumerate(read) if not isinstance(sides, str)]
        failed = len(pairs) - len(good)
        if failed:
            self._record(group, pairs, read)
            if failed > MAX_FAILED_SHARE * len(pairs):
                reason = next(r for r in read if isinstance(r, str))
                raise UserError(
                    f"task {group.name}: {failed} of {len(pairs)} pairs of a batch "
                    f"cannot be read, first: {reason}; all are in "
                    f"{self._failures_path}"
                )
            # Twins of good rows stand in: equal ids, so the loss masks them.
            broken = (i for i in range(len(pairs)) if isinstance(read[i], str))
            for i, twin in zip(broken, good, strict=False):
                pairs[i], read[i] = pairs[twin], read[twin]
        queries, targets, negatives = zip(*read, strict=True)
        flat = [n for row in negatives for n in row]
        encoded = [
            self._collate(queries, group.query_tokens),
            self._collate(targets, group.target_tokens),
        ]
        if flat:
            encoded.append(self._collate(flat, group.target_tokens))
        return Batch(
            inputs=PairBatch(
                query=encoded[0],
                target=encoded[1],
                negatives=encoded[2] if flat else None,
                source_ids=_ids(p.source_id or p.id for p in pairs),
                query_ids=np.array([content_id(p.query) for p in pairs], np.int32),
                target_ids=np.array([content_id(p.target) for p in pairs], np.int32),
                negative_ids=self._negative_ids(pairs, group) if flat else None,
            ),
            group=group.name,
            num_pairs=len(pairs),
            tokens_used=sum(int(e.lengths.sum()) for e in encoded),
            tokens_padded=sum(e.tokens.size for e in encoded),
            failed=failed,
        )

    def _collate(self, side: Sequence[Encoded], tokens: int) -> EncoderInputs:
        # The group's bucket, not the batch's: one compiled step per group.
        keys = [self._processor.bucket(e) for e in side]
        bucket = self._processor.join([Bucket(tokens), *keys])
        return self._processor.collate(side, bucket=bucket)

    def _read(
        self, group: Group, pair: Pair, seed: int
    ) -> tuple[Encoded, Encoded, list[Encoded]] | str:
        num_negatives, encode = group.num_negatives, self._processor.encode
        if self._shift:
            rng = np.random.default_rng(seed)
            shift = functools.partial(random_shift, most=self._shift, rng=rng)
            encode = functools.partial(encode, augment=shift)
        try:
            query, target = encode(pair.query), encode(pair.target)
            negatives = [encode(n) for n in pair.negatives[:num_negatives]]
        except UserError as e:  # MediaError, or a medium of a forbidden shape
            return str(e)
        # A row short of negatives repeats its target; its id of -1 masks it.
        return query, target, negatives + [target] * (num_negatives - len(negatives))

    def _negative_ids(self, pairs: list[Pair], group: Group) -> np.ndarray:
        ids = np.full((len(pairs), group.num_negatives), -1, np.int32)
        for row, pair in zip(ids, pairs, strict=True):
            for k, negative in enumerate(pair.negatives[: group.num_negatives]):
                row[k] = content_id(negative)
        return ids.reshape(-1)

    def _record(self, group: Group, pairs: list[Pair], read: list) -> None:
        with (
            self._failures_lock,
            open(self._failures_path, "a", encoding="utf-8") as f,
        ):
            for pair, sides in zip(pairs, read, strict=True):
                if isinstance(sides, str):
                    row = {"task": group.name, "id": pair.id, "error": sides}
                    f.write(json.dumps(row) + "\n")


def _rows(group: Group, seed: int) -> grain.MapDataset:
    """Endless batches of indices into the group's pairs, reshuffled each epoch."""
    size = group.batch_size

    def batches(rows: Sequence[int], seed: int) -> grain.MapDataset:
        shuffled = grain.MapDataset.source(rows).seed(seed).shuffle().repeat()
        return shuffled.batch(size, drop_remainder=True)

    if not group.clustered:
        return batches(range(len(group.pairs)), seed)
    clusters: dict[str, list[int]] = {}
    for row, pair in enumerate(group.pairs):
        clusters.setdefault(pair.cluster or "", []).append(row)
    parts = [rows for _, rows in join_small(clusters, size)]
    datasets = [batches(rows, seed + 1 + i) for i, rows in enumerate(parts)]
    sizes = np.array([len(rows) for rows in parts])
    return grain.MapDataset.mix(datasets, weights=sizes / sizes.sum())


def _ids(names) -> np.ndarray:
    return np.array([zlib.crc32(n.encode()) & 0x7FFFFFFF for n in names], np.int32)
