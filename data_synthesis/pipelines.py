"""Beam: runs the shards of a stage, on any runner, and checks what came of it.

Only what every runner has is used: stateless functions that emit from `process`,
GroupByKey, and our own writers. Outputs are files; nothing is believed to be there
because a pipeline ended without an error.
"""

import argparse
import contextlib
import importlib
import logging
import os
import pathlib
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions

from data_synthesis.shards import Key, Layout, done
from gve_jax.progress import ProgressLine
from gve_jax.types import UserError

# How long finished shards are looked for while a pipeline runs.
_POLL_S = 0.5
_DASK = "apache_beam.runners.dask.dask_runner.DaskRunner"


class Work(NamedTuple):
    """A stage to be run over shards; all of it must pickle.

    `run(layout, key, shard)` writes one shard. `keys[i]` is that of shard i. `beside`
    are tables that it writes as well, under the same keys.
    """

    layout: Layout
    keys: tuple[Key, ...]
    run: Callable[[Layout, Key, int], None]
    beside: tuple[str, ...] = ()


class Grouped(NamedTuple):
    """As `Work`, for a stage whose shards need rows from everywhere.

    `seeds` are spread over the workers; `expand(seed)` yields (key, row), rows of equal
    keys meet in `reduce(key, rows)`, which yields (shard, row), and `run(layout, key,
    shard, rows)` writes one shard. All shards are made if one is missing.
    """

    layout: Layout
    keys: tuple[Key, ...]
    seeds: tuple
    expand: Callable[[object], Iterator[tuple[object, object]]]
    reduce: Callable[[object, Iterator], Iterator[tuple[int, object]]] | None
    run: Callable[[Layout, Key, int, list], None]
    beside: tuple[str, ...] = ()


def beam_options(arguments: Sequence[str], processes: int = 1) -> PipelineOptions:
    """Of the arguments that are not ours, by default one process in memory.

    `processes`: of this machine, with Beam's own runner.

    Raises UserError for an option that Beam does not know, or a runner beside them.
    """
    arguments = list(arguments)
    if processes > 1:
        if any(a.startswith("--runner") for a in arguments):
            raise UserError(
                "--processes is for Beam's own runner; the other one has options for it"
            )
        arguments += [
            "--direct_running_mode=multi_processing",
            f"--direct_num_workers={processes}",
        ]
    if not any(a.split("=")[0] == "--runner" for a in arguments):
        # "DirectRunner" would first look for another that has to be downloaded.
        arguments.append("--runner=FnApiRunner")
    if "--runner=DaskRunner" in arguments:
        # Beam knows neither its short name nor its options before it is imported.
        arguments[arguments.index("--runner=DaskRunner")] = f"--runner={_DASK}"
        try:
            importlib.import_module(_DASK.rpartition(".")[0])
        except ImportError:
            raise UserError(
                "--runner=DaskRunner: Dask is not installed; pip install -e '.[dask]'"
            ) from None
    known = _option_names()
    for argument in arguments:
        if argument.split("=")[0] not in known:
            raise UserError(
                f"option {argument!r} is neither ours nor Beam's (those are written "
                "--name=value); see --help and Beam's documentation of your runner"
            )
    return PipelineOptions(arguments)


def in_memory(options: PipelineOptions) -> bool:
    """Whether shards are made in this very process."""
    found = options.get_all_options()
    mode = found["direct_running_mode"]
    return found["runner"] == "FnApiRunner" and mode == "in_memory"


def _option_names() -> set[str]:
    """As they are typed: what Beam calls them inside may differ."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    for options in PipelineOptions.__subclasses__():
        options._add_argparse_args(parser)
    return set(parser._option_string_actions)


def run(work: Work | Grouped, options: PipelineOptions) -> int:
    """Makes the shards that are not there yet; returns how many were made.

    Raises:
      UserError: a shard failed, saying why, or is missing after the run.
    """
    layout, stage = work.layout, work.keys[0].stage
    todo = missing(work)
    if not todo:
        return 0
    if isinstance(work, Grouped):
        todo = list(range(layout.shards))
        for shard in todo:  # all are made anew: what is seen to be there is new
            layout.manifest(stage, shard).unlink(missing_ok=True)
    log = layout.root / "logs" / f"{stage}.log"
    with _apart(log), _progress(layout, stage, todo):
        # Beam says every start and stop.
        logging.getLogger("apache_beam").setLevel(logging.ERROR)
        try:
            with beam.Pipeline(options=options) as pipeline:
                if isinstance(work, Work):
                    _ = (
                        pipeline
                        | beam.Create(todo, reshuffle=False)
                        | beam.Reshuffle()
                        | beam.Map(_run_shard, work)
                    )
                else:
                    _grouped(pipeline, work)
        except UserError:
            raise
        except Exception as e:
            # Runners wrap what a function raised in types and texts of their own.
            raise UserError(f"stage {stage}: {_last_line(e)} (more in {log})") from e
    if lost := missing(work):
        raise UserError(
            f"stage {stage}: the runner ended without an error, but "
            f"{len(lost)} of {layout.shards} shards are not there (first: "
            f"{layout.table(stage, lost[0])}); run the same command again, or with "
            "another --runner"
        )
    return len(todo)


def missing(work: Work | Grouped) -> list[int]:
    """The shards that are not there, or not as their keys say."""
    return [
        shard
        for shard, key in enumerate(work.keys)
        if not all(
            done(work.layout, key._replace(stage=stage), shard)
            for stage in (key.stage, *work.beside)
        )
    ]


def _run_shard(shard: int, work: Work) -> int:
    work.run(work.layout, work.keys[shard], shard)
    return shard


def _grouped(pipeline: beam.Pipeline, work: Grouped) -> None:
    rows = (
        pipeline
        | beam.Create(list(work.seeds), reshuffle=False)
        | beam.Reshuffle()
        | "expand" >> beam.FlatMap(work.expand)
    )
    if work.reduce is not None:
        rows = (
            rows
            | "meet" >> beam.GroupByKey()
            | "reduce" >> beam.FlatMap(_reduce, work.reduce)
        )
    # Every shard is written, also one without rows.
    empty = pipeline | "shards" >> beam.Create(
        [(shard, None) for shard in range(work.layout.shards)], reshuffle=False
    )
    _ = (
        (rows, empty)
        | beam.Flatten()
        | "gather" >> beam.GroupByKey()
        | "write" >> beam.Map(_write_grouped, work)
    )


def _reduce(element, reduce):
    key, rows = element
    yield from reduce(key, iter(rows))


def _write_grouped(element, work: Grouped) -> int:
    shard, rows = element
    work.run(work.layout, work.keys[shard], shard, [r for r in rows if r is not None])
    return shard


def _last_line(error: BaseException) -> str:
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line for line in str(error).splitlines() if line.strip()]
    # Beam adds where in the pipeline it was.
    lines = [line for line in lines if not line.startswith("[while running")]
    text = lines[-1] if lines else type(error).__name__
    return text.split(" [while running")[0].strip()


@contextlib.contextmanager
def _apart(path: pathlib.Path):
    """What worker processes say goes to a file; what this one says, to its stderr."""
    path.parent.mkdir(parents=True, exist_ok=True)
    own, kept = sys.stderr, os.dup(2)
    sys.stderr.flush()
    try:
        with (
            open(path, "ab") as log,
            open(os.dup(kept), "w", encoding="utf-8") as shown,
        ):
            os.dup2(log.fileno(), 2)
            sys.stderr = shown
            yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        sys.stderr = own


@contextlib.contextmanager
def _progress(layout: Layout, stage: str, todo: list[int]):
    """Counts manifests as they are renewed: workers may be on other machines."""
    folder = layout.root / stage
    folder.mkdir(parents=True, exist_ok=True)

    def written(name: str) -> int | None:
        with contextlib.suppress(FileNotFoundError):  # one is being replaced
            return (folder / name).stat().st_mtime_ns
        return None

    names = [layout.manifest(stage, shard).name for shard in todo]
    old = {name: written(name) for name in names}
    old = {name: time for name, time in old.items() if time}

    def finished() -> int:
        names = [n for n in os.listdir(folder) if n[:5].isdigit() and n[5:] == ".json"]
        return sum(n not in old or written(n) not in (None, old[n]) for n in names)

    stop, first = threading.Event(), layout.shards - len(todo)
    with ProgressLine(stage, layout.shards, "shards", done=first) as line:

        def watch() -> None:
            seen = first
            while True:
                ended = stop.wait(_POLL_S)
                now = max(seen, finished())
                line.advance(now - seen)
                seen = now
                if ended:
                    return

        thread = threading.Thread(target=watch, daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()
