"""Tasks: pairs grouped so that a batch holds one task and one length class."""

import bisect
import glob
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from gve_jax.data.records import read_pairs
from gve_jax.types import Item, Pair, UserError


class Group(NamedTuple):
    """Pairs of one task and one length class: the unit that batches are drawn from.

    A task whose texts run from ten to two hundred tokens would otherwise pad every
    batch to its longest row.
    """

    name: str
    pairs: tuple[Pair, ...]
    batch_size: int
    num_negatives: int
    weight: float  # share of all batches
    query_tokens: int  # token buckets that all of its batches are padded to
    target_tokens: int
    # Batches are drawn within a cluster of pairs instead of among all.
    clustered: bool = False


def join_small(
    classes: Mapping[Any, Sequence], enough: float
) -> list[tuple[list, list]]:
    """Classes in the order of their keys; those with too few members join the next.

    If the last has too few, it joins the one before.

    Returns:
      (keys, members) of each class there is then.
    """
    joined: list[tuple[list, list]] = []
    for key in sorted(classes):
        if not joined or len(joined[-1][1]) >= enough:
            joined.append(([], []))
        joined[-1][0].append(key)
        joined[-1][1].extend(classes[key])
    if len(joined) > 1 and len(joined[-1][1]) < enough:
        keys, members = joined.pop()
        joined[-1][0].extend(keys)
        joined[-1][1].extend(members)
    return joined


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

    Raises:
      UserError: a task has fewer pairs than one batch, or a weight is not positive.
    """
    for name, weight in weights.items():
        if not weight > 0:
            raise UserError(
                f"data.tasks.{name}={weight}: a weight must be above 0; leave the task "
                "out instead"
            )

    def bucket(*items: Item) -> int:
        i = bisect.bisect_left(token_buckets, max(map(token_bound, items)))
        return min(i, len(token_buckets) - 1)

    sizes = {task: len(pairs) for task, pairs in tasks.items()}
    shares = {
        task: weights.get(task, 0.0) if weights else n for task, n in sizes.items()
    }
    norm = sum(shares.values())
    groups = []
    for task, pairs in tasks.items():
        size = batch_sizes.get(task, batch_size)
        if len(pairs) < size:
            raise UserError(
                f"task {task} has {len(pairs)} pairs, fewer than its batch of {size}: "
                f"set data.batch_sizes.{task} or leave the task out of data.tasks"
            )
        share = shares[task] / norm
        enough = min(max(size, min_share / share * len(pairs)), len(pairs))
        negatives = nums_negatives.get(task, num_negatives)
        negatives = min(negatives, max(len(p.negatives) for p in pairs))
        classes: dict[tuple[int, int], list[Pair]] = {}
        for pair in pairs:
            found = bucket(pair.target, *pair.negatives[:negatives])
            key = (found, bucket(pair.query))
            classes.setdefault(key, []).append(pair)
        for keys, members in join_small(classes, enough):  # from short to long
            target, query = (max(side) for side in zip(*keys, strict=True))
            group = Group(
                name=f"{task}/{token_buckets[query]}x{token_buckets[target]}",
                pairs=tuple(members),
                batch_size=size,
                num_negatives=negatives,
                weight=share * len(members) / len(pairs),
                query_tokens=token_buckets[query],
                target_tokens=token_buckets[target],
            )
            within = cluster_share if any(p.cluster for p in members) else 0.0
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
