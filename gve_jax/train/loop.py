"""The training loop, top to bottom."""

import dataclasses
import hashlib
import json
import os
import pathlib
import sys
import time
from collections import Counter
from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
from ml_collections import ConfigDict

from gve_jax import build, sharding
from gve_jax.checkpoint import Checkpoints, save_config, weights_hash
from gve_jax.contract import DEFAULT_SYSTEM, TEMPLATE
from gve_jax.data.loader import Batch, PairLoader
from gve_jax.data.sources import Group, group_by_length, load_tasks
from gve_jax.losses import LossCurves
from gve_jax.model import partition
from gve_jax.preprocess import Tokenizer, load_tokenizer
from gve_jax.progress import ProgressLine
from gve_jax.train.compiled import Compiled, warm
from gve_jax.train.state import (
    StepMetrics,
    TrainState,
    learning_rate,
    make_gradient,
    make_optimizer,
    make_update,
)
from gve_jax.types import Pair, UserError


def train(
    config: ConfigDict,
    workdir: str | os.PathLike,
    devices: Sequence[jax.Device] | None = None,
) -> None:
    """Trains, or goes on training, what `config` says, in `workdir`.

    `devices` form the mesh; by default all of them.

    Raises:
      UserError: bad data or flags, or the workdir is of another configuration.
    """
    workdir = pathlib.Path(workdir).absolute()
    _check(config)
    steps = config.train.steps

    # ---- data -----------------------------------------------------------------------
    tasks = load_tasks(config.data.pairs, list(config.data.tasks))
    # Only now, with readable data, is anything written.
    save_config(workdir, config)
    tokenizer = _tokenizer(config, workdir, tasks)

    # ---- model and optimiser --------------------------------------------------------
    mesh = sharding.make_mesh(config.mesh, devices)
    model_config, graphdef, params = build.make_model(config, tokenizer, mesh)
    trainable, frozen = partition(params, config.model.trainable)
    schedule = learning_rate(config.optim, steps)
    optimizer = make_optimizer(config.optim, schedule)
    replicated = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    state = TrainState(
        step=jax.device_put(jnp.zeros((), jnp.int32), replicated),
        trainable=trainable,
        opt_state=_init_optimizer(optimizer, trainable, mesh),
    )
    gradient = Compiled(
        make_gradient(graphdef, config),
        out_shardings=(jax.tree.map(lambda x: x.sharding, trainable), replicated),
    )
    update = Compiled(
        make_update(optimizer, schedule),
        donate_argnums=0,
        # Fixed, or the compiler's own choice would compile the second step again.
        out_shardings=(jax.tree.map(lambda x: x.sharding, state), replicated),
    )

    # ---- batches --------------------------------------------------------------------
    contract = build.make_contract(config, model_config)
    processor = build.make_processor(config, tokenizer, contract, model_config)
    groups = group_by_length(
        tasks,
        token_bound=processor.token_bound,
        token_buckets=config.preprocess.token_buckets,
        weights=config.data.tasks,
        batch_size=config.data.batch_size,
        batch_sizes=config.data.batch_sizes,
        num_negatives=config.data.num_negatives,
        nums_negatives=config.data.nums_negatives,
        min_share=config.data.min_share,
        cluster_share=config.data.cluster_share,
    )
    _check_divisible(groups, mesh)
    loader = PairLoader(
        groups,
        processor,
        steps=steps,
        seed=config.seed,
        shift=config.data.shift,
        prefetch=config.data.prefetch,
        workers=config.data.workers,
        failures_path=workdir / "failures.jsonl",
    )

    # ---- resume ---------------------------------------------------------------------
    checkpoints = Checkpoints(workdir, config.train.keep)
    data_hash = _data_hash(tasks)
    first = checkpoints.latest_step or 0
    if first:
        trainable, rest, data = checkpoints.restore(
            first, state.trainable, {"step": state.step, "opt_state": state.opt_state}
        )
        if data["hash"] != data_hash:
            raise UserError(
                f"data.pairs={config.data.pairs} changed since step {first} of "
                f"{workdir}: restore the pairs to resume, or use a new --workdir"
            )
        state = TrainState(rest["step"], trainable, rest["opt_state"])
        loader.set_state(data["iterator"])
        done = "; it is finished" if first >= steps else ""
        print(f"resuming {workdir} at step {first}{done}", file=sys.stderr)
    metrics_log = _MetricsLog(workdir / "metrics.jsonl", first)

    frozen_hash = weights_hash(frozen)

    def save(step: int) -> None:
        weights = f"{frozen_hash}-{weights_hash(state.trainable)}"
        checkpoints.save(
            step,
            state.trainable,
            dataclasses.replace(contract, weights_hash=weights),
            {"step": state.step, "opt_state": state.opt_state},
            {"iterator": loader.get_state(), "hash": data_hash},
        )

    # ---- loop -----------------------------------------------------------------------
    batch_sharding = sharding.batch_sharding(mesh)

    def example(group: Group) -> tuple:
        inputs = jax.device_put(loader.example(group).inputs, batch_sharding)
        return state.trainable, frozen, inputs, state.step

    def example_update() -> tuple:
        zero = jax.device_put(jnp.zeros(()), replicated)
        curves = LossCurves(*[zero] * len(LossCurves._fields))
        return state, jax.tree.map(jnp.zeros_like, state.trainable), curves

    try:
        if first < steps:
            # A clustered group has the shapes of its plain twin, of the same pairs.
            distinct = {id(group.pairs): group for group in groups}.values()
            cases = [(gradient, partial(example, group)) for group in distinct]
            warm("compile", [(update, example_update), *cases])
        if steps == 0:  # the untrained model, as a baseline
            save(0)
        with (
            ProgressLine("train", steps, "steps", done=first) as progress,
            jax.transfer_guard("disallow"),
        ):
            for step in range(first + 1, steps + 1):
                batch = next(loader)
                inputs = jax.device_put(batch.inputs, batch_sharding)
                grads, curves = gradient(state.trainable, frozen, inputs, state.step)
                state, metrics = update(state, grads, curves)
                metrics_log.add(batch, metrics)
                if step % config.train.log_every == 0 or step == steps:
                    progress.note = metrics_log.flush(step)
                progress.advance()
                if step % config.train.checkpoint_every == 0 or step == steps:
                    save(step)
    finally:
        loader.close()
        checkpoints.close()
    if first < steps:
        print(
            f"train: {len(gradient)} step shapes compiled for {len(groups)} groups "
            f"of pairs; {metrics_log.padding:.0%} of token slots were padding",
            file=sys.stderr,
        )


def _init_optimizer(
    optimizer: optax.GradientTransformation, trainable, mesh: jax.sharding.Mesh
):
    """Optimiser state laid out like the parameters it follows."""
    abstract = jax.eval_shape(optimizer.init, trainable)
    shardings = sharding.shardings(abstract, mesh)
    return jax.jit(optimizer.init, out_shardings=shardings)(trainable)


def _check(config: ConfigDict) -> None:
    if config.curriculum.name != "static":
        raise UserError(
            f"curriculum.name={config.curriculum.name!r}: this version knows 'static'"
        )
    if config.data.shift < 0:
        raise UserError(f"data.shift={config.data.shift}: give pixels, from 0 on")
    if jax.process_count() > 1:
        raise UserError(
            f"{jax.process_count()} JAX processes: this version trains on one host"
        )


def _tokenizer(
    config: ConfigDict, workdir: pathlib.Path, tasks: dict[str, list[Pair]]
) -> Tokenizer:
    """That of the workdir if it has one, so that a resumed run keeps its ids."""
    folder = workdir / "tokenizer"
    if not (folder / "tokenizer.json").exists():
        texts = (
            text
            for pairs in tasks.values()
            for pair in pairs
            for item in (pair.query, pair.target, *pair.negatives)
            for text in (TEMPLATE, item.instruction or DEFAULT_SYSTEM, item.text)
            if text
        )
        build.make_tokenizer(config, texts).save(folder)
    return load_tokenizer(folder)


def _check_divisible(groups: list[Group], mesh: jax.sharding.Mesh) -> None:
    ways = sharding.batch_ways(mesh)
    for group in groups:
        if group.batch_size % ways:
            raise UserError(
                f"task {group.name}: a batch of {group.batch_size} does not divide "
                f"over {ways} devices (mesh.data x mesh.fsdp): change data.batch_size"
            )


def _data_hash(tasks: dict[str, list[Pair]]) -> str:
    digest = hashlib.blake2b(digest_size=8)
    for pairs in tasks.values():
        for pair in pairs:
            digest.update(pair.id.encode() + b"\0")
            for item in (pair.query, pair.target, *pair.negatives):
                # Contents without folders: a moved data folder is the same data.
                media = [os.path.basename(p or "") for p in (item.image, item.video)]
                digest.update(repr((item.text, item.instruction, media)).encode())
    return digest.hexdigest()


class _MetricsLog:
    """metrics.jsonl: one line per `train.log_every` steps, means over them.

    Values stay on the device until a line is written: no step waits for the host.
    """

    def __init__(self, path: pathlib.Path, first_step: int):
        if path.exists():
            # Steps after the restored checkpoint are trained, and logged, again.
            lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
            kept = [x for x in lines if json.loads(x)["step"] <= first_step]
            path.write_text("".join(kept), encoding="utf-8")
        self._path = path
        self._rows: list[tuple[Batch, StepMetrics]] = []
        self._start = time.monotonic()
        self._used = self._padded = 0

    def add(self, batch: Batch, metrics: StepMetrics) -> None:
        self._rows.append((batch._replace(inputs=None), metrics))

    def flush(self, step: int) -> str:
        """Writes a line; returns the note for the progress line."""
        batches, metrics = zip(*self._rows, strict=True)
        values = jax.device_get(metrics)
        now = time.monotonic()
        seconds, self._start = now - self._start, now
        used = sum(b.tokens_used for b in batches)
        padded = sum(b.tokens_padded for b in batches)
        self._used, self._padded = self._used + used, self._padded + padded
        curves = {
            name: float(np.mean([getattr(v.curves, name) for v in values]))
            for name in values[0].curves._fields
        }
        row = {
            "step": step,
            **curves,
            "grad_norm": float(np.mean([v.grad_norm for v in values])),
            "learning_rate": float(values[-1].learning_rate),
            "pairs_per_s": sum(b.num_pairs for b in batches) / seconds,
            "padding": 1 - used / padded,
            "failed_pairs": sum(b.failed for b in batches),
            "groups": dict(Counter(b.group for b in batches)),
        }
        with open(self._path, "a", encoding="utf-8") as f:
            f.write(json.dumps(row) + "\n")
        self._rows = []
        note = f"loss {row['loss']:.3f}, {row['pairs_per_s']:.0f} pairs/s"
        if row["failed_pairs"]:
            note += f", {row['failed_pairs']} unreadable"
        return note

    @property
    def padding(self) -> float:
        return 1 - self._used / self._padded if self._padded else 0.0
