"""The training loop, top to bottom."""

import dataclasses
import os
import pathlib
import sys
from collections.abc import Callable, Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from ml_collections import ConfigDict

from gve_jax import sharding
from gve_jax.checkpoint import Checkpoints, weights_hash
from gve_jax.data.sources import Group
from gve_jax.embed import Embedder
from gve_jax.progress import ProgressLine
from gve_jax.train import logs, setup
from gve_jax.train.compiled import Compiled, warm
from gve_jax.train.curriculum import Curriculum, borders
from gve_jax.train.feed import Feed
from gve_jax.train.preemption import Preemption
from gve_jax.train.probe import Evaluation, held_out_evaluation, probe
from gve_jax.train.remine import Remining
from gve_jax.train.report import write_report
from gve_jax.train.sinks import open_sinks
from gve_jax.train.state import TrainState, make_gradient, make_update
from gve_jax.types import UserError


def train(
    config: ConfigDict,
    workdir: str | os.PathLike,
    devices: Sequence[jax.Device] | None = None,
    *,
    evaluate: Callable[[Embedder], Evaluation] | None = None,
    allow_missing: bool = False,
) -> None:
    """Trains, or goes on training, what `config` says, in `workdir`.

    Args:
      config: of `gve_jax.config.default_config`.
      workdir: shared by all processes; see `gve_jax.checkpoint` for what it holds.
      devices: form the mesh; by default all of them.
      evaluate: scores the weights every train.eval_every steps; default: recall of
        the held-out pairs.
      allow_missing: train without the corpora of the config that are not there.

    Raises:
      UserError: bad data or flags, or the workdir is of another configuration.
    """
    workdir = pathlib.Path(workdir).absolute()
    ends = borders(config)
    setup.check(config, evaluates=evaluate is not None)
    steps, accumulate = config.train.steps, config.train.accumulate

    # ---- data, model, batches -------------------------------------------------------
    data = setup.load_data(config, allow_missing)
    # Only now, with readable data, is anything written.
    tokenizer = setup.prepare_workdir(config, workdir, data.tasks)
    model = setup.make_model(config, tokenizer, devices)
    groups = setup.make_groups(config, data.tasks, model)
    loader = setup.make_loader(config, groups, model, workdir)
    shares = dict.fromkeys(data.tasks, 0.0)
    for group in groups:
        shares[group.task] += group.weight
    curriculum = Curriculum(config, shares, data.held)
    remining = None
    if config.mine.each_epoch:
        remining = Remining(config, data.tasks, workdir)
    log = logs.MetricsLog(workdir)
    mesh, frozen, state = model.mesh, model.frozen, model.state

    # ---- programs -------------------------------------------------------------------
    places = jax.tree.map(lambda x: x.sharding, state)
    replicated = sharding.replicated(mesh)
    gradient = Compiled(
        make_gradient(model.graphdef, config, mesh),
        mesh,
        out_shardings=(places.trainable, replicated),
    )
    add = Compiled(
        lambda total, more: jax.tree.map(jnp.add, total, more),
        mesh,
        donate_argnums=0,
        out_shardings=places.trainable,
    )
    update = Compiled(
        make_update(model.optimizer, model.schedule, accumulate),
        mesh,
        donate_argnums=0,
        # Fixed, or the compiler's own choice would compile the second step again.
        out_shardings=(places, replicated),
    )
    parts = [
        sharding.from_all_rows(np.int32(part), replicated) for part in range(accumulate)
    ]

    def gradients() -> list:
        """What to compile for the groups there are."""

        def example(group: Group) -> tuple:
            inputs = sharding.from_own_rows(loader.example(group).inputs, mesh)
            return state.trainable, frozen, inputs, state.step, parts[0]

        # A clustered group has the shapes of its plain twin, of the same pairs.
        distinct = {id(group.pairs): group for group in groups}.values()
        return [(gradient, partial(example, group)) for group in distinct]

    # ---- resume ---------------------------------------------------------------------
    checkpoints = Checkpoints(workdir, config.train.keep, config.train.keep_every)
    first = checkpoints.latest_step
    position: dict = {}  # of the loader, behind the last batch that was used
    if first is not None:
        rest = {k: v for k, v in state._asdict().items() if k != "trainable"}
        trainable, rest, saved = checkpoints.restore(first, state.trainable, rest)
        if saved["digests"] != data.digests:
            changed = {t for t, _ in saved["digests"].items() ^ data.digests.items()}
            raise UserError(
                f"the pairs of {', '.join(sorted(changed))} changed since step {first} "
                f"of {workdir}: restore them to resume, or use a new --workdir"
            )
        state = TrainState(trainable=trainable, **rest)
        position = saved["loader"]
        if position:
            if remining and position["epoch"]:
                mined = remining.read(position["epoch"])
                groups = setup.make_groups(config, mined, model)
            loader.set_state(position, groups)
        curriculum.state = saved["curriculum"]
        log.set_state(saved["log"])
        done = "; it is finished" if first >= steps else ""
        print(f"resuming {workdir} at step {first}{done}", file=sys.stderr)
    for name in ("metrics", "curriculum", "evaluations"):
        logs.cut_after(workdir / f"{name}.jsonl", first)
    sinks = open_sinks(
        config.train.sinks if jax.process_index() == 0 else (),
        workdir,
        config,
        first or 0,
    )
    frozen_hash = weights_hash(frozen)

    # ---- what happens between steps -------------------------------------------------
    own = Embedder(
        model.graphdef,
        None,  # the weights, as they are when it is asked for
        model.processor,
        model.contract,
        tokens=config.embed.tokens,
        mesh=mesh,
    )

    def own_embedder() -> Embedder:
        own.params = nnx.merge_state(state.trainable, frozen)
        return own

    def begin_epoch(number: int) -> None:
        nonlocal position, groups
        plan = curriculum.plan(number, own_embedder, log.end_epoch())
        if remining and number:
            mined = remining.mine(number, own_embedder())
            groups = setup.make_groups(config, mined, model)
        length = ends[number + 1] - ends[number]
        drawn = loader.begin(number, length * accumulate, plan.probabilities, groups)
        position = loader.get_state()
        line = plan.line(number, ends, drawn)
        logs.append(workdir / "curriculum.jsonl", line)
        if remining and number:
            warm("compile", gradients())  # of shapes that are new

    def open_feed(done: int) -> Feed:
        """Of the rest of the epoch that comes after `done` steps."""
        end = next(end for end in ends if end > done)
        put = partial(sharding.from_own_rows, mesh=mesh)
        return Feed(loader, (end - done) * accumulate, put, config.data.stall_s)

    def write_line(step: int) -> str:
        line = log.write(step)
        sinks.log(step, line)
        log.check(config)
        note = f"loss {line['loss']:.3f}, {line['pairs_per_s']:.0f} pairs/s"
        for name, text in (("failed_pairs", "unreadable"), ("skipped", "skipped")):
            note += f", {line[name]} {text}" if line[name] else ""
        return note

    def score(step: int) -> float:
        if evaluate is None:
            probes = probe(own_embedder(), data.held, config.loss.temperature)
            found = held_out_evaluation(probes)
        else:
            found = evaluate(own_embedder())
        logs.append(workdir / "evaluations.jsonl", {"step": step, **found._asdict()})
        sinks.log(step, {"evaluation": {"score": found.score, **found.details}})
        return found.score

    def save(step: int, found: float | None = None) -> None:
        weights = f"{frozen_hash}-{weights_hash(state.trainable)}"
        checkpoints.save(
            step,
            state.trainable,
            dataclasses.replace(model.contract, weights_hash=weights),
            {k: v for k, v in state._asdict().items() if k != "trainable"},
            {
                "loader": position,
                "curriculum": curriculum.state,
                "log": log.get_state(),
                "digests": data.digests,
                "missing_corpora": data.missing,
            },
            found,
        )

    # ---- loop -----------------------------------------------------------------------
    done, stopped, feed = first or 0, False, None
    try:
        if done < steps:
            zeros = lambda: jax.tree.map(jnp.zeros_like, state.trainable)  # noqa: E731
            warm("compile", [(update, lambda: (state, zeros())), *gradients()])
            if not position:
                begin_epoch(0)
            feed = open_feed(done)
        if first is None and (steps == 0 or curriculum.probes):
            save(0)  # the untrained model; probing may have been dear
        with (
            Preemption() as preemption,
            ProgressLine("train", steps, "steps", done=done) as progress,
        ):
            for step in range(done + 1, steps + 1):
                with jax.transfer_guard("disallow"):
                    grads = None
                    for part in parts:
                        fed = next(feed)
                        new, curves = gradient(
                            state.trainable, frozen, fed.inputs, state.step, part
                        )
                        grads = new if grads is None else add(grads, new)
                        log.add(fed.batch, curves)
                    state, metrics = update(state, grads)
                    log.add_update(metrics)
                    position = fed.state
                border = step in ends
                if border and step < steps:
                    begin_epoch(ends.index(step))
                    feed = open_feed(step)
                if step % config.train.log_every == 0 or step == steps:
                    progress.note = write_line(step)
                progress.advance()
                stopped = preemption.asked(step) and step < steps
                every, found = config.train.eval_every, None
                if every and (step % every == 0 or step == steps):
                    found = score(step)
                if (
                    border
                    or stopped
                    or found is not None
                    or step % config.train.checkpoint_every == 0
                ):
                    save(step, found)
                told = border or stopped or found is not None
                if jax.process_index() == 0 and told:
                    write_report(workdir)
                if stopped:
                    break
    finally:
        if feed is not None:
            feed.close()
        loader.close()
        checkpoints.close()
        sinks.close()
    if stopped:
        print(
            f"stopped by SIGTERM after step {step}, which is saved: run the same "
            "command again to go on",
            file=sys.stderr,
        )
    elif done < steps:
        print(
            f"train: {len(gradient)} step shapes compiled for {len(groups)} groups "
            f"of pairs; {log.padding:.0%} of token slots were padding",
            file=sys.stderr,
        )
