"""Tasks: sources of pairs, grouped so that a batch holds one task and length class."""

import abc
import functools
import glob
import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from gve_jax.data.records import read_pairs
from gve_jax.types import Item, Pair, UserError


class Facts(NamedTuple):
    """What is known of each pair of a source while it stays unread."""

    content: np.ndarray  # uint64 [n], hash of all that training sees of it
    scene: np.ndarray  # uint64 [n], hash of what it comes from; see `pair_facts`
    cluster: np.ndarray  # uint64 [n], hash of its cluster, 0: it names none
    negatives: np.ndarray  # int32 [n], how many it has


class Source(Sequence[Pair]):
    """The pairs of a task, by number, however many: only those asked for are read."""

    @property
    @abc.abstractmethod
    def facts(self) -> Facts: ...

    @abc.abstractmethod
    def bounds(
        self, rows: np.ndarray, token_bound: Callable[[Item], int], key: str
    ) -> np.ndarray:
        """The most tokens of the items of some pairs.

        Args:
          rows: int64 [r], which.
          token_bound: the most tokens of an item, its media not read.
          key: names all that `token_bound` depends on, for a source that remembers
            its results; empty: nothing is remembered.

        Returns:
          int32 [r, 2 + k]: of the query, the target and up to k hard negatives, 0 where
          there is none.
        """


class Listed(Source):
    """Pairs in memory."""

    def __init__(self, pairs: Sequence[Pair]):
        self._pairs = pairs

    def __len__(self) -> int:
        return len(self._pairs)

    def __getitem__(self, row: int) -> Pair:
        return self._pairs[row]

    @functools.cached_property
    def facts(self) -> Facts:
        return make_facts(*zip(*map(pair_facts, self._pairs), strict=True))

    def bounds(self, rows, token_bound, key) -> np.ndarray:
        bounds = np.zeros((len(rows), 2 + self.facts.negatives.max()), np.int32)
        for out, row in zip(bounds, rows, strict=True):
            fill_bounds(out, self._pairs[row], token_bound)
        return bounds


class Subset(Source):
    """Some pairs of a source, in the order of `rows`."""

    def __init__(self, source: Sequence[Pair], rows: np.ndarray):
        source, rows = as_source(source), np.asarray(rows, np.int64)
        if isinstance(source, Subset):
            source, rows = source._source, source._rows[rows]
        self._source, self._rows = source, rows

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, row: int) -> Pair:
        return self._source[int(self._rows[row])]

    @functools.cached_property
    def facts(self) -> Facts:
        return Facts(*(values[self._rows] for values in self._source.facts))

    def bounds(self, rows, token_bound, key) -> np.ndarray:
        return self._source.bounds(self._rows[rows], token_bound, key)


def as_source(pairs: Sequence[Pair]) -> Source:
    return pairs if isinstance(pairs, Source) else Listed(pairs)


def pair_facts(pair: Pair) -> tuple[int, int, int, int]:
    """Its hashes and number of negatives, in the order of `Facts`.

    Folders count in none of them: a moved data folder is the same data. The scene of a
    pair without a `source_id` is the file of its target, or else of its query, by name;
    if both are text, the target's text.
    """
    target, query = pair.target, pair.query
    names = (target.video, target.image, query.video, query.image)
    media = os.path.basename(next(filter(None, names), ""))
    contents = [
        (x.text, x.instruction, *map(_name, (x.image, x.video)), x.start, x.end)
        for x in (query, target, *pair.negatives)
    ]
    told = (pair.id, pair.source_id, pair.cluster, pair.scores, contents)
    return (
        hash_text(repr(told)),
        hash_text(pair.source_id or media or target.text or ""),
        hash_text(pair.cluster) if pair.cluster else 0,
        len(pair.negatives),
    )


def hash_text(text: str) -> int:
    """64 bits of BLAKE2b."""
    data = text.encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little")


def make_facts(content, scene, cluster, negatives) -> Facts:
    """From the columns of `pair_facts`."""
    hashes = (np.asarray(c, np.uint64) for c in (content, scene, cluster))
    return Facts(*hashes, np.asarray(negatives, np.int32))


def fill_bounds(out: np.ndarray, pair: Pair, token_bound: Callable) -> None:
    """Writes a row of `Source.bounds`."""
    items = (pair.query, pair.target, *pair.negatives)
    out[: len(items)] = [token_bound(item) for item in items]


def digest(pairs: Sequence[Pair]) -> str:
    """Hash of the pairs and of their order: what a resumed run must find again."""
    content = as_source(pairs).facts.content
    return hashlib.blake2b(content.tobytes(), digest_size=8).hexdigest()


def hold_out(
    tasks: Mapping[str, Sequence[Pair]], count: int, seed: int
) -> tuple[dict[str, Source], dict[str, Source]]:
    """Keeps pairs of each task from training, with all others of their scenes.

    Scenes (see `pair_facts`) are put into an order by `seed`. From each task, the first
    ones are held out until it has min(count, a tenth of its pairs, or two) of them. A
    scene that one task holds out trains no other, but as a hard negative it may.

    Args:
      tasks: task -> pairs.
      count: pairs of each task to hold out; 0: none.
      seed: of the order.

    Returns:
      task -> pairs to train on, in their order, and task -> held out pairs, at most
      `count`, in the order of their scenes.

    Raises:
      UserError: nothing of a task is left to train on.
    """
    sources = {task: as_source(pairs) for task, pairs in tasks.items()}
    key = np.uint64(hash_text(f"hold out {seed}"))
    order = {task: _mix(s.facts.scene ^ key) for task, s in sources.items()}
    chosen = []
    for places in order.values():
        enough = min(count, max(len(places) // 10, 2))  # a probe needs two
        if enough:
            last = np.partition(places, enough - 1)[enough - 1]
            chosen.append(np.unique(places[places <= last]))
    apart = np.concatenate([np.zeros(0, np.uint64), *chosen])
    train, held = {}, {}
    for task, source in sources.items():
        out = np.isin(order[task], apart)
        rows = np.flatnonzero(out)
        rows = rows[np.argsort(order[task][rows], kind="stable")]
        held[task] = Subset(source, rows[:count])
        train[task] = Subset(source, np.flatnonzero(~out))
        if not len(train[task]):
            raise UserError(
                f"data.held_out={count}: no pair of task {task} is left to train on, "
                "its scenes being so few: give pairs a source_id each, or hold out none"
            )
    return train, held


class Group(NamedTuple):
    """Pairs of one task and one length class: the unit that batches are drawn from.

    A task whose texts run from ten to two hundred tokens would otherwise pad every
    batch to its longest row.
    """

    name: str
    task: str
    pairs: Sequence[Pair]
    batch_size: int
    num_negatives: int
    weight: float  # share of its task's batches times the task's own share of all
    query_tokens: int  # token buckets that all of its batches are padded to
    target_tokens: int
    # Batches are drawn within a cluster of pairs instead of among all.
    clustered: bool = False


def join_small(
    classes: Mapping[Any, Sequence[int]], enough: float
) -> list[tuple[list, np.ndarray]]:
    """Classes in the order of their keys; those with too few members join the next.

    If the last has too few, it joins the one before.

    Returns:
      (keys, members int64) of each class there is then.
    """
    joined: list[tuple[list, list]] = []
    size = 0  # of the last one
    for key in sorted(classes):
        if not joined or size >= enough:
            joined.append(([], []))
            size = 0
        joined[-1][0].append(key)
        joined[-1][1].append(classes[key])
        size += len(classes[key])
    if len(joined) > 1 and size < enough:
        keys, members = joined.pop()
        joined[-1][0].extend(keys)
        joined[-1][1].extend(members)
    return [(keys, np.concatenate(m, dtype=np.int64)) for keys, m in joined]


def load_tasks(
    path: str | os.PathLike, names: Sequence[str] = ()
) -> dict[str, list[Pair]]:
    """Reads a folder of TASK.jsonl files, or one pairs file whose rows may name tasks.

    Raises:
      UserError: no pairs there, or a task of `names` is not among them.
    """
    if os.path.isdir(path):
        files = sorted(glob.glob(os.path.join(path, "*.jsonl")))
        if not files:
            raise UserError(f"data.pairs={path}: the folder holds no TASK.jsonl file")
    elif path:
        files = [str(path)]
    else:
        raise UserError("data.pairs is empty: name a pairs file or a folder of them")
    tasks: dict[str, list[Pair]] = {}
    for file in files:
        for pair in read_pairs(file):
            tasks.setdefault(pair.task, []).append(pair)
    unknown = set(names) - tasks.keys()
    if unknown:
        raise UserError(
            f"data.tasks names {sorted(unknown)[0]!r}, but {path} has "
            f"{', '.join(sorted(tasks))}"
        )
    return {name: tasks[name] for name in (names or sorted(tasks))}


def group_by_length(
    tasks: Mapping[str, Sequence[Pair]],
    *,
    token_bound: Callable[[Item], int],
    token_buckets: Sequence[int],
    weights: Mapping[str, float],
    batch_size: int,
    batch_sizes: Mapping[str, int],
    num_negatives: int,
    nums_negatives: Mapping[str, int],
    min_share: float = 0.0,
    cluster_share: float = 0.0,
    bound_key: str = "",
) -> list[Group]:
    """Splits each task into length classes, each with at least one batch of pairs.

    A pair's class is the token buckets of its query and of its target or the longest of
    its hard negatives. Classes with less than a batch, or `min_share` of all batches,
    join the next longer one of their task: each class is a program to compile.

    Args:
      token_bound: the most tokens of an item, its media not read.
      weights: task -> share of the batches; empty: by the number of pairs.
      batch_sizes: task -> pairs a batch, instead of `batch_size`.
      num_negatives: hard negatives used of each pair, as far as the task has them.
      nums_negatives: task -> their number, instead of `num_negatives`.
      cluster_share: share of a group's batches that are drawn within one cluster, in
        groups whose pairs name clusters.
      bound_key: see `Source.bounds`.

    Raises:
      UserError: a task has fewer pairs than one batch, or a weight is not positive.
    """
    for name, weight in weights.items():
        if not weight > 0:
            raise UserError(
                f"data.tasks.{name}={weight}: a weight must be above 0; leave the task "
                "out instead"
            )
    sizes = {task: len(pairs) for task, pairs in tasks.items()}
    shares = {
        task: weights.get(task, 0.0) if weights else n for task, n in sizes.items()
    }
    norm = sum(shares.values())
    longest = len(token_buckets) - 1
    groups = []
    for task, pairs in tasks.items():
        source = as_source(pairs)
        size = batch_sizes.get(task, batch_size)
        if len(source) < size:
            raise UserError(
                f"task {task} has {len(source)} pairs, fewer than its batch of {size}: "
                f"set data.batch_sizes.{task} or leave the task out of data.tasks"
            )
        share = shares[task] / norm
        enough = min(max(size, min_share / share * len(source)), len(source))
        negatives = nums_negatives.get(task, num_negatives)
        negatives = min(negatives, int(source.facts.negatives.max()))
        bounds = source.bounds(np.arange(len(source)), token_bound, bound_key)
        lengths = (bounds[:, 1 : 2 + negatives].max(axis=1), bounds[:, 0])
        found, asked = np.minimum(np.searchsorted(token_buckets, lengths), longest)
        code = found * len(token_buckets) + asked
        classes = {
            divmod(int(c), len(token_buckets)): np.flatnonzero(code == c)
            for c in np.unique(code)
        }
        for keys, rows in join_small(classes, enough):  # from short to long
            target, query = (max(side) for side in zip(*keys, strict=True))
            group = Group(
                name=f"{task}/{token_buckets[query]}x{token_buckets[target]}",
                task=task,
                pairs=Subset(source, rows),
                batch_size=size,
                num_negatives=negatives,
                weight=share * len(rows) / len(source),
                query_tokens=token_buckets[query],
                target_tokens=token_buckets[target],
            )
            within = cluster_share if source.facts.cluster[rows].any() else 0.0
            if within < 1:
                groups.append(group._replace(weight=group.weight * (1 - within)))
            if within > 0:
                groups.append(
                    group._replace(
                        name=f"{group.name}/clustered",
                        weight=group.weight * within,
                        clustered=True,
                    )
                )
    return groups


def _name(path: str | None) -> str:
    return os.path.basename(path or "")


def _mix(x: np.ndarray) -> np.ndarray:
    """A bijection of uint64 that scatters its values: the finaliser of SplitMix64."""
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        x = (x ^ (x >> np.uint64(shift))) * np.uint64(factor)
    return x ^ (x >> np.uint64(31))
