"""A run: its folder, its configuration, and how stages get their shards."""

import functools
import json
import pathlib
import re
from collections.abc import Callable, Iterator
from typing import NamedTuple

import ml_collections

from data_synthesis import pipelines, shards
from data_synthesis.record import Record
from data_synthesis.shards import Key, Layout
from gve_jax.disk import write_json
from gve_jax.types import UserError


class Run(NamedTuple):
    """What stages are built from; all of it pickles."""

    layout: Layout
    config: ml_collections.FrozenConfigDict
    input: pathlib.Path  # raw.jsonl


class Context(NamedTuple):
    """What a stage knows while it works on one shard."""

    run: Run
    key: Key
    shard: int


class Stage(NamedTuple):
    """`config`: keys of the configuration that rows follow from, "media" or "a.b".

    `version` is raised when the same records would come out differently.
    """

    name: str
    inputs: tuple[str, ...]
    config: tuple[str, ...]
    version: int = 1


def open_run(
    config: ml_collections.ConfigDict,
    input_path: pathlib.Path,
    output: pathlib.Path,
    change: bool,
) -> Run:
    """Begins a run in `output`, or goes on with the one that is there.

    The number of shards is settled by the first run.

    Args:
      change: take a changed configuration; stages that depend on it are made anew.

    Raises:
      UserError: there is a run of another configuration, and `change` is false; the
        input cannot be read; or a password is in the configuration.
    """
    plain = json.loads(config.to_json())
    _refuse_passwords(plain)
    state = output / "run.json"
    if state.exists():
        found = json.loads(state.read_text(encoding="utf-8"))
        changed = sorted(differences(found["config"], plain))
        if changed and not change:
            raise UserError(
                f"{state}: written under another configuration ({'; '.join(changed)}): "
                "use another --output, or --change to make anew what depends on it"
            )
        number = found["shards"]
    else:
        if output.is_dir() and any(p.name != ".lock" for p in output.iterdir()):
            raise UserError(f"--output: {output} holds something else; name a new one")
        number = max(1, -(-_count_lines(input_path) // config.shard_size))
    output.mkdir(parents=True, exist_ok=True)
    write_json(state, {"config": plain, "shards": number})
    frozen = ml_collections.FrozenConfigDict(config)
    return Run(Layout(output, number), frozen, input_path)


def key(run: Run, stage: Stage, inputs: dict[str, str]) -> Key:
    """Of a shard of a stage with these inputs, each by its hash."""
    plain = json.loads(run.config.to_json())
    parts = {}
    for name in stage.config:
        value = plain
        for part in name.split("."):
            value = value[part]
        parts[name] = value
    return Key(stage.name, stage.version, shards.config_sha256(parts), inputs)


def mapped(
    run: Run,
    stage: Stage,
    process: Callable[[Iterator[Record], Context], Iterator[Record]],
    **inputs: str,
) -> pipelines.Work:
    """A stage whose records are those of the first of its inputs, shard by shard.

    `process` is a function of a module; see `shards.map_shard` for its duties.
    `inputs`: more that rows follow from, by hash.
    """
    keys = tuple(
        key(run, stage, shards.input_hashes(run.layout, s, stage.inputs) | inputs)
        for s in range(run.layout.shards)
    )
    work = functools.partial(_map, run, stage.inputs[0], process)
    return pipelines.Work(run.layout, keys, work)


def grouped(
    run: Run,
    stage: Stage,
    inputs: dict[str, str],
    expand: Callable[[int], Iterator[tuple[object, object]]],
    reduce: Callable[[object, Iterator], Iterator[tuple[int, object]]],
    write: Callable[[Layout, Key, int, list], None],
    beside: tuple[str, ...] = (),
) -> pipelines.Grouped:
    """A stage whose shards follow from all shards of others; see `pipelines.Grouped`.

    `inputs`: what all of its rows follow from, by hash. `expand` takes a shard.
    """
    number = run.layout.shards
    keys = (key(run, stage, inputs),) * number
    return pipelines.Grouped(
        run.layout, keys, tuple(range(number)), expand, reduce, write, beside
    )


def _map(run: Run, source: str, process, layout: Layout, key: Key, shard: int) -> None:
    context = Context(run, key, shard)
    shards.map_shard(layout, key, shard, source, lambda rows: process(rows, context))


def whole_stage_hash(run: Run, stage: str) -> str:
    """Of all shards of a finished stage."""
    number = range(run.layout.shards)
    found = (shards.manifest(run.layout, stage, shard)["sha256"] for shard in number)
    return shards.whole_sha256(found)


def differences(old: dict, new: dict, prefix: str = "") -> Iterator[str]:
    for name in old.keys() | new.keys():
        a, b = old.get(name), new.get(name)
        if isinstance(a, dict) and isinstance(b, dict):
            yield from differences(a, b, f"{prefix}{name}.")
        elif a != b:
            yield f"{prefix}{name}: {a!r} there, {b!r} now"


def _count_lines(path: pathlib.Path) -> int:
    number, content = 0, False
    try:
        with open(path, "rb") as f:
            while block := f.read(1 << 20):  # a line may be endless
                number += block.count(b"\n")
                content = content or bool(block.strip())
    except OSError as e:
        raise UserError(f"--input: {path}: {e.strerror}") from None
    if not content:
        raise UserError(f"--input: {path} is empty; give raw videos and captions")
    return max(number, 1)


def _refuse_passwords(config: dict) -> None:
    for name, value in _leaves(config):
        if isinstance(value, str) and re.search(r"://[^/\s]*@", value):
            raise UserError(
                f"config.{name} holds a password, which would be written to run.json; "
                "give it in an environment variable"
            )


def _leaves(config: dict, prefix: str = "") -> Iterator[tuple[str, object]]:
    for name, value in config.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value
