"""The shards of an items file: embedded on any runner, then put together.

OUT/shards/items/00007.jsonl     the items of a shard, a piece of the file
OUT/shards/vectors/00007.parquet their vectors, with a manifest beside; see `shards`
OUT/shards/logs/vectors.log      what workers said

In the end OUT is as `gve_jax.embeddings` says, and OUT/shards is gone.
"""

import dataclasses
import functools
import pathlib
import shutil
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from apache_beam.options.pipeline_options import PipelineOptions

from data_synthesis import pipelines, shards
from data_synthesis.embedding import Client
from data_synthesis.record import batched
from data_synthesis.shards import Counts, Key, Layout
from gve_jax import embeddings
from gve_jax.contract import Contract
from gve_jax.data.records import read_items
from gve_jax.disk import write_rows
from gve_jax.embeddings import Known
from gve_jax.types import UserError

_STAGE, _VERSION = "vectors", 1
# Rows in memory while shards are put together.
_BLOCK = 1024


@dataclasses.dataclass(frozen=True)
class Row:
    """The vector of an item, float32; in the order of the file."""

    id: str
    data: bytes


class Result(NamedTuple):
    """`failures`: row of the items file -> reason."""

    items: int
    dim: int
    failures: dict[int, str]


def embed(
    source: str,
    output: pathlib.Path,
    embedder: tuple[str, ...],
    shard_items: int,
    options: PipelineOptions,
) -> Result:
    """Embeds an items file into a folder, going on from what an interrupted run left.

    Args:
      embedder: flags of `python -m gve_jax.embed` that say what embeds.
      shard_items: of a shard, the unit of work and of going on. Another number than
        that of the run before makes all shards anew.

    Raises:
      UserError: the checkpoint cannot be loaded, or is not the same on all machines;
        an item is malformed; a shard failed; the folder holds something else.
    """
    items = read_items(source)
    client = Client.shared(*embedder)
    contract = Contract.from_json(client.contract, "the embedder")
    if not pipelines.in_memory(options):
        client.close()  # the workers have their own
    known, root = embeddings.know(items), output / "shards"
    if not embeddings.finished(output, contract, known):
        _refuse_others(output)
        with shards.only_run(root):
            shards.remove_parts(root)
            work = _work(root, known, contract, embedder, shard_items)
            pipelines.run(work, options)
            lost = _failures(work, shard_items)
            embeddings.write(output, contract, known, lost, _blocks(work))
            shutil.rmtree(root)
    return Result(len(items), contract.dim, embeddings.failures(output, items))


def _refuse_others(output: pathlib.Path) -> None:
    names = {p.name for p in output.iterdir()} if output.is_dir() else set()
    if {n.removesuffix(".part") for n in names} - {"shards", *embeddings.FILES}:
        raise UserError(f"--output: {output} holds something else; name a new one")


def _work(
    root: pathlib.Path,
    known: Known,
    contract: Contract,
    embedder: tuple[str, ...],
    shard_items: int,
) -> pipelines.Work:
    starts = range(0, len(known.items), shard_items)
    layout, keys = Layout(root, len(starts)), []
    config = shards.config_sha256(contract.to_json())
    (root / "items").mkdir(exist_ok=True)
    for shard, start in enumerate(starts):
        part = known.part(start, start + shard_items)
        keys.append(Key(_STAGE, _VERSION, config, {"items": part.digest}))
        rows = (
            {k: v for k, v in i._asdict().items() if v is not None} for i in part.items
        )
        write_rows(_items(layout, shard), rows)
    run = functools.partial(_shard, contract, embedder)
    return pipelines.Work(layout, tuple(keys), run)


def _items(layout: Layout, shard: int) -> pathlib.Path:
    return layout.root / "items" / f"{shard:05d}.jsonl"


def _shard(
    contract: Contract, embedder: tuple[str, ...], layout: Layout, key: Key, shard: int
) -> None:
    items = read_items(_items(layout, shard))
    client = Client.shared(*embedder)
    here = Contract.from_json(client.contract, "the embedder")
    here.require_equal(contract, "this worker", "the one that started the run")
    found = client.embed(items)
    lost = {str(i): reason for i, reason in sorted(found.failures.items())}
    good = [i for i in range(len(items)) if i not in found.failures]
    shards.write_shard(
        layout,
        key,
        shard,
        (Row(items[i].id, found.vectors[i].tobytes()) for i in good),
        Row,
        counts=lambda: Counts(len(items), len(good), errors=len(lost)),
        extra=lambda: {"failures": lost},
    )


def _failures(work: pipelines.Work, shard_items: int) -> dict[int, str]:
    return {
        shard * shard_items + int(i): reason
        for shard in range(work.layout.shards)
        for i, reason in shards.manifest(work.layout, _STAGE, shard)["extra"][
            "failures"
        ].items()
    }


def _blocks(work: pipelines.Work) -> Iterator[np.ndarray]:
    for rows in batched(shards.read_stage(work.layout, _STAGE, Row), _BLOCK):
        yield np.stack([np.frombuffer(row.data, np.float32) for row in rows])
