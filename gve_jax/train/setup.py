"""From a configuration to all that the training loop runs on."""

import functools
import pathlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax
import numpy as np
import optax
from flax import nnx
from ml_collections import ConfigDict

from gve_jax import build, sharding
from gve_jax.checkpoint import save_config
from gve_jax.contract import DEFAULT_SYSTEM, TEMPLATE, Contract
from gve_jax.data.corpora import load_corpora
from gve_jax.data.loader import PairLoader
from gve_jax.data.sources import (
    Group,
    digest,
    group_by_length,
    hash_text,
    hold_out,
    load_tasks,
)
from gve_jax.distributed import first_ahead
from gve_jax.model import partition
from gve_jax.preprocess import Processor, Tokenizer, load_tokenizer
from gve_jax.train.state import TrainState, learning_rate, make_optimizer
from gve_jax.types import Pair, UserError


class Data(NamedTuple):
    """Pairs to train on, and those kept from it."""

    tasks: Mapping[str, Sequence[Pair]]
    held: Mapping[str, Sequence[Pair]]
    digests: dict[str, str]  # task -> hash of its pairs, of both kinds
    missing: list[str]  # tasks of the config whose corpus is not there


class Model(NamedTuple):
    """A model in training."""

    graphdef: nnx.GraphDef
    frozen: nnx.State
    state: TrainState
    optimizer: optax.GradientTransformation
    schedule: optax.Schedule
    mesh: jax.sharding.Mesh
    processor: Processor
    contract: Contract  # without a hash of the weights
    bound_key: str  # of what the processor's token bounds depend on


def check(config: ConfigDict, evaluates: bool) -> None:
    """Raises UserError for values that cannot be.

    Args:
      evaluates: whether something other than held-out pairs scores the run.
    """
    c = config
    for name, value, least in (
        ("data.shift", c.data.shift, 0),
        ("data.held_out", c.data.held_out, 0),
        ("train.accumulate", c.train.accumulate, 1),
        ("train.chunk", c.train.chunk, 0),
        ("train.eval_every", c.train.eval_every, 0),
        ("train.keep", c.train.keep, 1),
        ("train.max_skipped", c.train.max_skipped, 1),
    ):
        if value < least:
            raise UserError(f"{name}={value}: give at least {least}")
    if c.train.eval_every and not evaluates and not c.data.held_out:
        raise UserError(
            f"train.eval_every={c.train.eval_every} needs something to evaluate on: "
            "set data.held_out, or eval.root to the folder of a UVRB"
        )


def load_data(config: ConfigDict, allow_missing: bool) -> Data:
    """Reads what `config.data` names.

    Raises:
      UserError: it cannot be read; a corpus is missing and `allow_missing` false.
    """
    missing: list[str] = []
    if config.data.corpora:
        # The first prepares what is new; the others find it.
        tasks, missing = first_ahead(
            lambda: load_corpora(
                config.data, allow_missing=allow_missing, seed=config.seed
            )
        )
    else:
        tasks = load_tasks(config.data.pairs, list(config.data.tasks))
    digests = {task: digest(pairs) for task, pairs in tasks.items()}
    tasks, held = hold_out(tasks, config.data.held_out, config.seed)
    return Data(tasks, held, digests, missing)


def prepare_workdir(
    config: ConfigDict, workdir: pathlib.Path, tasks: Mapping[str, Sequence[Pair]]
) -> Tokenizer:
    """Writes config.json and the tokenizer, or checks those of an earlier start.

    Raises:
      UserError: the workdir is of another configuration.
    """

    def prepare() -> Tokenizer:
        save_config(workdir, config)
        return _tokenizer(config, workdir, tasks)

    return first_ahead(prepare)


def make_model(
    config: ConfigDict, tokenizer: Tokenizer, devices: Sequence[jax.Device] | None
) -> Model:
    """The model at its start, spread over the mesh of `devices`."""
    mesh = sharding.make_mesh(config.mesh, devices)
    model_config, graphdef, params = build.make_model(config, tokenizer, mesh)
    trainable, frozen = partition(params, config.model.trainable)
    schedule = learning_rate(config.optim, config.train.steps)
    optimizer = make_optimizer(config.optim, schedule)
    zero = lambda: sharding.from_all_rows(np.int32(0), sharding.replicated(mesh))  # noqa: E731
    state = TrainState(
        step=zero(),
        skipped=zero(),
        skipped_in_row=zero(),
        trainable=trainable,
        opt_state=_init_optimizer(optimizer, trainable, mesh),
    )
    contract = build.make_contract(config, model_config)
    processor = build.make_processor(config, tokenizer, contract, model_config)
    return Model(
        graphdef,
        frozen,
        state,
        optimizer,
        schedule,
        mesh,
        processor,
        contract,
        f"{hash_text(f'{tokenizer.digest}{contract.to_json()}'):016x}",
    )


def make_groups(
    config: ConfigDict, tasks: Mapping[str, Sequence[Pair]], model: Model
) -> list[Group]:
    """The pairs by task and length, a batch of each dividing over the mesh."""
    group = functools.partial(
        group_by_length,
        tasks,
        token_bound=model.processor.token_bound,
        token_buckets=config.preprocess.token_buckets,
        weights=config.data.tasks,
        batch_size=config.data.batch_size,
        batch_sizes=config.data.batch_sizes,
        num_negatives=config.data.num_negatives,
        nums_negatives=config.data.nums_negatives,
        min_share=config.data.min_share,
        cluster_share=config.data.cluster_share,
        bound_key=model.bound_key,
    )
    groups = first_ahead(group)  # bounds are counted once, and kept on disk
    ways = sharding.batch_ways(model.mesh)
    for group in groups:
        if group.batch_size % ways:
            raise UserError(
                f"task {group.name}: a batch of {group.batch_size} does not divide "
                f"over {ways} devices (mesh.data x mesh.fsdp): change data.batch_size"
            )
    distils = config.loss.distillation
    if distils and not any(group.pairs[0].scores for group in groups):
        raise UserError(
            f"loss.distillation={distils}: the pairs have no scores of a teacher; "
            "python -m gve_jax.mine writes them beside the negatives"
        )
    return groups


def make_loader(
    config: ConfigDict, groups: Sequence[Group], model: Model, workdir: pathlib.Path
) -> PairLoader:
    """Batches of the groups; of several processes each makes the rows it holds."""
    number = jax.process_index()
    name = f"failures.{number}.jsonl" if number else "failures.jsonl"
    wanted = {
        "kinds": config.loss.modality_mask,
        "scores": config.loss.distillation > 0,
    }
    return PairLoader(
        groups,
        model.processor,
        seed=config.seed,
        shift=config.data.shift,
        prefetch=config.data.prefetch,
        workers=config.data.workers,
        failures_path=workdir / name,
        extras=[name for name, needed in wanted.items() if needed],
        rows=lambda size: sharding.own_rows(size, model.mesh),
    )


def _init_optimizer(
    optimizer: optax.GradientTransformation, trainable, mesh: jax.sharding.Mesh
):
    """Optimiser state laid out like the parameters it follows."""
    abstract = jax.eval_shape(optimizer.init, trainable)
    shardings = sharding.shardings(abstract, mesh)
    return jax.jit(optimizer.init, out_shardings=shardings)(trainable)


def _tokenizer(
    config: ConfigDict, workdir: pathlib.Path, tasks: Mapping[str, Sequence[Pair]]
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
        part = folder.with_name("tokenizer.part")
        build.make_tokenizer(config, texts).save(part)
        part.rename(folder)  # whole, or not there
    return load_tokenizer(folder)
