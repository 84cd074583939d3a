"""Checkpoints of a training workdir, through Orbax.

workdir/
  config.json      the resolved configuration
  contract.json    embedding contract of the newest checkpoint
  tokenizer/       tokenizer.json and its config
  checkpoints/N/   items `params` (trained weights: all that inference needs beside
                   model.init_from), `contract`, `train` (optimiser, step) and `data`
                   (position of the pairs iterator, curriculum, corpora that were
                   missing)
"""

import copy
import hashlib
import json
import os
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from ml_collections import ConfigDict
from orbax.checkpoint import checkpoint_managers as managers

from gve_jax.contract import Contract
from gve_jax.disk import replace, write_json
from gve_jax.types import UserError

# What may differ between a run and its resumption: nothing here changes the numbers
# of a step beyond the order of a reduction.
FREE_KEYS = (
    "data.max_failed",
    "data.prefetch",
    "data.stall_s",
    "data.workers",
    "embed.",
    "eval.",
    "loss.exchange",
    "mesh.",
    "preprocess.cache_dir",
    "train.checkpoint_every",
    "train.eval_every",
    "train.keep",
    "train.keep_every",
    "train.log_every",
    "train.max_skipped",
    "train.sinks",
)


def weights_hash(params: Any) -> str:
    """16 hex digits of all names, shapes and values of a tree of arrays.

    Values are summed up where they lie: nothing large comes to the host. It tells
    weights apart; it does not guard against a forger. Of int8 weights the scales count
    and the steps do not: where two are as near, it is the device that chooses.
    """
    digest = hashlib.blake2b(digest_size=8)
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        if leaf.dtype == jnp.int8:
            continue
        sums = np.asarray(jax.device_get(_checksum(leaf)))
        name = jax.tree_util.keystr(path)
        digest.update(f"{name}{leaf.dtype}{leaf.shape}{sums.tolist()}".encode())
    return digest.hexdigest()


@jax.jit
def _checksum(x: jax.Array) -> jax.Array:
    """Two sums modulo 2**32 of the bits, each weighted by an odd number that depends on
    its place: one changed value always changes both."""
    bits = jax.lax.bitcast_convert_type(x, f"uint{8 * x.dtype.itemsize}")
    bits = bits.astype(jnp.uint32)
    place = jnp.zeros((), jnp.uint32)
    for axis, size in enumerate(x.shape):
        step = jax.lax.broadcasted_iota(jnp.uint32, x.shape, axis)
        place = place * np.uint32(size) + step
    sums = []
    for factor in (0x9E3779B1, 0x85EBCA77):
        mixed = place * np.uint32(factor)
        mixed ^= mixed >> 15
        sums.append(jnp.sum(bits * (mixed * np.uint32(0x2C1B3C6D) | 1)))
    return jnp.stack(sums)


class Checkpoints:
    """Saves and restores the checkpoints of one workdir.

    Args:
      workdir: as in the module's docstring.
      keep: newest checkpoints kept; beside them the one with the best score.
      keep_every: all checkpoints of steps that it divides are kept; 0: none.
    """

    def __init__(self, workdir: str | os.PathLike, keep: int = 1, keep_every: int = 0):
        self._workdir = pathlib.Path(workdir).absolute()
        kept = [
            managers.LatestN(keep),
            managers.BestN(
                get_metric_fn=lambda metrics: metrics["score"],
                n=1,
                keep_checkpoints_without_metrics=False,
            ),
        ]
        if keep_every:
            kept.append(managers.EveryNSteps(keep_every))
        self._manager = ocp.CheckpointManager(
            self._workdir / "checkpoints",
            item_names=("params", "contract", "train", "data"),
            options=ocp.CheckpointManagerOptions(
                preservation_policy=managers.AnyPreservationPolicy(kept)
            ),
        )

    @property
    def steps(self) -> list[int]:
        """Of the checkpoints there are, ascending."""
        return sorted(self._manager.all_steps())

    @property
    def latest_step(self) -> int | None:
        return self._manager.latest_step()

    def save(
        self,
        step: int,
        params: Any,
        contract: Contract,
        train: Any,
        data: dict,
        score: float | None = None,
    ) -> None:
        """Writes in the background; `close` or the next save waits for it.

        `data`, of JSON values, may change as soon as this returns.
        """
        self._manager.save(
            step,
            metrics=None if score is None else {"score": score},
            args=ocp.args.Composite(
                params=ocp.args.StandardSave(params),
                contract=ocp.args.JsonSave(contract.to_json()),
                train=ocp.args.StandardSave(train),
                # A copy: it is encoded in the background, too.
                data=ocp.args.JsonSave(copy.deepcopy(data)),
            ),
        )
        if jax.process_index() == 0:
            write_json(self._workdir / "contract.json", contract.to_json())

    def restore(self, step: int, params: Any, train: Any) -> tuple[Any, Any, dict]:
        """Restores into the shapes, dtypes and shardings of the given trees."""
        restored = self._manager.restore(
            step,
            args=ocp.args.Composite(
                params=ocp.args.StandardRestore(params),
                train=ocp.args.StandardRestore(train),
                data=ocp.args.JsonRestore(),
            ),
        )
        return restored["params"], restored["train"], restored["data"]

    def restore_params(self, step: int, params: Any) -> tuple[Any, Contract]:
        """The inference part alone: parameters and their contract."""
        restored = self._manager.restore(
            step,
            args=ocp.args.Composite(
                params=ocp.args.StandardRestore(params),
                contract=ocp.args.JsonRestore(),
            ),
        )
        where = f"{self._workdir}/checkpoints/{step}"
        return restored["params"], Contract.from_json(restored["contract"], where)

    def close(self) -> None:
        self._manager.wait_until_finished()
        self._manager.close()


def save_config(workdir: str | os.PathLike, config: ConfigDict) -> None:
    """Writes config.json, or compares with the one there.

    Raises:
      UserError: the workdir belongs to another configuration; names the fields.
    """
    path = pathlib.Path(workdir) / "config.json"
    values = json.loads(config.to_json())
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        replace(path, json.dumps(values, indent=1) + "\n")
        return
    old, new = _flat(_read(path)), _flat(values)
    differ = [
        f"{key}: {old.get(key, 'absent')} there, {new.get(key, 'absent')} now"
        for key in sorted(old.keys() | new.keys())
        if old.get(key, "absent") != new.get(key, "absent") and not _is_free(key)
    ]
    if differ:
        raise UserError(
            f"{path} is of another configuration ({'; '.join(differ)}): "
            "use the same flags to resume, or a new --workdir"
        )


def _is_free(key: str) -> bool:
    return key in FREE_KEYS or key.startswith(
        tuple(k for k in FREE_KEYS if k[-1] == ".")
    )


def load_config(workdir: str | os.PathLike) -> ConfigDict:
    """The configuration that `save_config` wrote. Raises UserError without one."""
    values = _read(pathlib.Path(workdir) / "config.json")
    # Task names such as "T2V" are keys; lists come back as tuples, as they went in.
    return ConfigDict(_tuples(values))


def _read(path: pathlib.Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; is this a training workdir?") from None
    except ValueError as e:
        raise UserError(f"{path}: not JSON ({e})") from None


def _tuples(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _tuples(v) for k, v in value.items()}
    if isinstance(value, list):
        return tuple(_tuples(v) for v in value)
    return value


def _flat(values: dict, prefix: str = "") -> dict[str, Any]:
    flat = {}
    for key, value in values.items():
        if isinstance(value, dict):
            flat.update(_flat(value, f"{prefix}{key}."))
        else:
            flat[prefix + key] = value
    return flat
