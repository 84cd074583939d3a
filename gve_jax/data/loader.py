"""Grain pipeline: groups of pairs -> a seeded, resumable stream of padded batches.

An epoch has fixed probabilities; each begins where the last one left every group, so
that a curriculum changes what is drawn, never the order within a group.
"""

import functools
import json
import os
import threading
import zlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import grain
import numpy as np
from grain.transforms import DatasetSelectionMap

from gve_jax.data.schedulers import draw_epoch
from gve_jax.data.sources import Group, as_source, join_small
from gve_jax.preprocess import Bucket, Processor
from gve_jax.preprocess.augment import random_shift
from gve_jax.types import Encoded, EncoderInputs, Item, Pair, PairBatch, UserError

# A batch with more unreadable pairs than this share stops the run at once.
MAX_FAILED_IN_BATCH = 0.5


class Batch(NamedTuple):
    """One step's input and what is known of it on the host.

    With several processes, `inputs` holds the rows of one, and the numbers but
    `num_pairs` are of them.
    """

    inputs: PairBatch
    task: str
    group: str
    num_pairs: int
    tokens_used: int  # real tokens among ...
    tokens_padded: int  # ... all of them
    failed: int  # pairs that could not be read and were replaced


class EpochDraw(DatasetSelectionMap):
    """Step of an epoch -> (group, batch of that group).

    A pure function of its arguments: resuming needs no state but the step.

    Args:
      weights: probability of each group; they sum to 1.
      offsets: batches of each group that earlier epochs have drawn.
      steps: of the epoch.
    """

    def __init__(
        self,
        weights: Sequence[float],
        offsets: Sequence[int],
        steps: int,
        seed: int,
        epoch: int,
    ):
        self._group = draw_epoch(weights, steps, seed, epoch)
        self.counts = np.bincount(self._group, minlength=len(weights))
        self._index = np.zeros(steps, np.int64)
        for g, offset in enumerate(offsets):
            rows = self._group == g
            self._index[rows] = offset + np.arange(rows.sum())

    def __len__(self) -> int:
        return len(self._group)

    def __getitem__(self, index: int) -> tuple[int, int]:
        return int(self._group[index]), int(self._index[index])


def content_id(item: Item) -> int:
    """A 31-bit hash of what decides the item's embedding."""
    return zlib.crc32(repr(item.content).encode()) & 0x7FFFFFFF


class PairLoader:
    """Batches for training: an iterator whose position can be saved and restored.

    `begin` starts an epoch; the iterator ends with it.

    Args:
      groups: what to draw from.
      processor: turns items into padded arrays.
      seed: decides the order of groups and of pairs.
      shift: most pixels by which the frames of each medium are moved at random.
      prefetch: batches prepared ahead by threads.
      workers: threads that read media within a batch.
      failures_path: JSON-lines file that unreadable pairs are recorded in.
      extras: optional arrays that the loss reads: "kinds", "scores".
      rows: batch size -> the rows of a batch that this process makes, ascending;
        default all.
    """

    def __init__(
        self,
        groups: Sequence[Group],
        processor: Processor,
        *,
        seed: int,
        shift: int = 0,
        prefetch: int,
        workers: int,
        failures_path: str | os.PathLike,
        extras: Collection[str] = (),
        rows=np.arange,
    ):
        self.groups = list(groups)
        self._processor = processor
        self._seed, self._shift, self._prefetch = seed, shift, prefetch
        self._failures_path = failures_path
        self._lock = threading.Lock()
        self._reading: dict[int, str] = {}
        self._pool = ThreadPoolExecutor(max_workers=workers)
        self._extras, self._rows = extras, rows
        self._epoch: dict | None = None
        self._drawn: dict[str, int] = {}  # group -> its batches in this epoch

    def begin(
        self,
        epoch: int,
        steps: int,
        weights: Mapping[str, float],
        groups: Sequence[Group] | None = None,
    ) -> dict[str, int]:
        """Starts epoch number `epoch`, of `steps` batches.

        Args:
          weights: task -> its probability. Its groups share it in the proportion of
            their own weights.
          groups: what to draw from instead, from now on.

        Returns:
          Task -> number of its batches in this epoch.
        """
        offsets = dict(self._epoch["offsets"]) if self._epoch else {}
        for name, count in self._drawn.items():
            offsets[name] = offsets.get(name, 0) + count
        self._epoch = {
            "epoch": epoch,
            "steps": steps,
            "weights": dict(weights),
            "offsets": offsets,
        }
        self.groups = list(groups or self.groups)
        self._start()
        drawn = dict.fromkeys(weights, 0)
        for group in self.groups:
            drawn[group.task] += self._drawn[group.name]
        return drawn

    def _start(self) -> None:
        e = self._epoch
        shares = dict.fromkeys(e["weights"], 0.0)
        for group in self.groups:
            shares[group.task] += group.weight
        weights = [
            e["weights"][group.task] * group.weight / shares[group.task]
            for group in self.groups
        ]
        datasets = [
            _batches(group, self._seed + 1000 * i).map(lambda rows, i=i: (i, rows))
            for i, group in enumerate(self.groups)
        ]
        names = [group.name for group in self.groups]
        offsets = [e["offsets"].get(name, 0) for name in names]
        draw = EpochDraw(weights, offsets, e["steps"], self._seed, e["epoch"])
        self._drawn = dict(zip(names, draw.counts.tolist(), strict=True))
        mixed = grain.MapDataset.select_from_datasets(datasets, draw)
        # Another seed for each epoch: random draws go by the place in it.
        mixed = mixed.random_map(self._make, seed=self._seed + 7919 * e["epoch"])
        self._iterator = iter(
            mixed.to_iter_dataset(
                grain.ReadOptions(
                    num_threads=self._prefetch, prefetch_buffer_size=self._prefetch
                )
            )
        )

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        return next(self._iterator)

    def example(self, group: Group) -> Batch:
        """A batch of the group's first pairs, for its shapes."""
        chosen = self.groups.index(group), _batches(group, 0)[0]
        return self._make(chosen, np.random.default_rng(0))

    def get_state(self) -> dict:
        """The position after the last batch handed out, as JSON values."""
        state = self._iterator.get_state()
        inner = json.loads(state.decode()) if isinstance(state, bytes) else state
        return {**self._epoch, "inner": inner}

    def set_state(self, state: dict, groups: Sequence[Group] | None = None) -> None:
        """Goes on where `get_state` was called, with the groups there were then."""
        self.groups = list(groups or self.groups)
        self._epoch = {k: v for k, v in state.items() if k != "inner"}
        self._start()
        self._iterator.set_state(state["inner"])

    def reading(self) -> list[str]:
        """The media that are being read just now."""
        with self._lock:
            return list(self._reading.values())

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _make(self, chosen: tuple[int, np.ndarray], rng: np.random.Generator) -> Batch:
        group = self.groups[chosen[0]]
        # Drawn, not spawned: Grain sets a generator's state, not what it spawns from.
        seeds = rng.integers(2**63, size=len(chosen[1]))
        mine = self._rows(len(seeds))
        pairs = [group.pairs[int(row)] for row in chosen[1][mine]]
        read = list(
            self._pool.map(functools.partial(self._read, group), pairs, seeds[mine])
        )
        good = [i for i, sides in enumerate(read) if not isinstance(sides, str)]
        failed = len(pairs) - len(good)
        if failed:
            self._record(group, pairs, read)
            if failed > MAX_FAILED_IN_BATCH * len(pairs):
                reason = next(r for r in read if isinstance(r, str))
                raise UserError(
                    f"task {group.task}: {failed} of {len(pairs)} pairs of a batch "
                    f"cannot be read, first: {reason}; all are in "
                    f"{self._failures_path}"
                )
            # Twins of good rows stand in: equal ids, so the loss masks them.
            broken = (i for i in range(len(pairs)) if isinstance(read[i], str))
            for n, i in enumerate(broken):
                twin = good[n % len(good)]
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
                **_ids(pairs, group.num_negatives, self._extras),
            ),
            task=group.task,
            group=group.name,
            num_pairs=len(seeds),
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
        num_negatives, encode = group.num_negatives, self._encode
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

    def _encode(self, item: Item, **options) -> Encoded:
        media = " and ".join(filter(None, (item.video, item.image)))
        if not media:
            return self._processor.encode(item, **options)
        thread = threading.get_ident()
        with self._lock:
            self._reading[thread] = media
        try:
            return self._processor.encode(item, **options)
        finally:
            with self._lock:
                del self._reading[thread]

    def _record(self, group: Group, pairs: list[Pair], read: list) -> None:
        with self._lock, open(self._failures_path, "a", encoding="utf-8") as f:
            for pair, sides in zip(pairs, read, strict=True):
                if isinstance(sides, str):
                    row = {"task": group.task, "id": pair.id, "error": sides}
                    f.write(json.dumps(row) + "\n")


def _ids(pairs: Sequence[Pair], num_negatives: int, extras: Collection[str]) -> dict:
    """The fields of a PairBatch beside its inputs."""
    shape = len(pairs), num_negatives
    ids, kinds = np.full(shape, -1, np.int32), np.zeros(shape, np.int32)
    scores = np.full((len(pairs), 1 + num_negatives), np.nan, np.float32)
    for i, pair in enumerate(pairs):
        for k, negative in enumerate(pair.negatives[:num_negatives]):
            ids[i, k], kinds[i, k] = content_id(negative), negative.kind
        known = pair.scores[: 1 + num_negatives]
        scores[i, : len(known)] = known
        if known:
            scores[i, len(known) :] = 0.0  # of unused slots: masked by their ids
    hashes = (zlib.crc32((p.source_id or p.id).encode()) & 0x7FFFFFFF for p in pairs)
    fields = dict(
        source_ids=np.fromiter(hashes, np.int32, len(pairs)),
        query_ids=np.array([content_id(p.query) for p in pairs], np.int32),
        target_ids=np.array([content_id(p.target) for p in pairs], np.int32),
    )
    if num_negatives:
        fields["negative_ids"] = ids.reshape(-1)
    if "kinds" in extras:
        fields["target_kinds"] = np.array([p.target.kind for p in pairs], np.int32)
        if num_negatives:
            fields["negative_kinds"] = kinds.reshape(-1)
    if "scores" in extras:
        fields["scores"] = scores
    return fields


def _batches(group: Group, seed: int) -> grain.MapDataset:
    """Endless batches of indices into the group's pairs, reshuffled each pass."""
    size = group.batch_size

    def batches(rows: Sequence[int], seed: int) -> grain.MapDataset:
        shuffled = grain.MapDataset.source(rows).seed(seed).shuffle().repeat()
        return shuffled.batch(size, drop_remainder=True)

    if not group.clustered:
        return batches(range(len(group.pairs)), seed)
    codes = as_source(group.pairs).facts.cluster
    clusters = {int(code): np.flatnonzero(codes == code) for code in np.unique(codes)}
    parts = [rows for _, rows in join_small(clusters, size)]
    datasets = [batches(rows, seed + 1 + i) for i, rows in enumerate(parts)]
    sizes = np.array([len(rows) for rows in parts])
    return grain.MapDataset.mix(datasets, weights=sizes / sizes.sum())
