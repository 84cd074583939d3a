"""Optional sinks of a run's metrics beside metrics.jsonl: TensorBoard and W&B."""

import os
import pathlib
import secrets
from collections.abc import Iterator, Mapping, Sequence

from ml_collections import ConfigDict

from gve_jax.types import UserError


class Sinks:
    """Logs to every open sink; without any, to none."""

    def __init__(self, opened: Sequence):
        self._opened = opened

    def log(self, step: int, values: Mapping[str, float | Mapping]) -> None:
        """Logs numbers at a step; nested ones get names such as tasks/T2V/loss."""
        flat = dict(_flat(values))
        for sink in self._opened:
            sink.log(step, flat)

    def close(self) -> None:
        """Writes what is pending and ends the sinks."""
        for sink in self._opened:
            sink.close()


def open_sinks(
    names: Sequence[str], workdir: pathlib.Path, config: ConfigDict, step: int
) -> Sinks:
    """Opens the sinks of train.sinks, each going on where the workdir's run was.

    Args:
      step: updates that are done. Later ones that were logged before the run was cut
        off are logged again: TensorBoard shows the new values, W&B keeps the old ones
        (its steps only rise).

    Raises:
      UserError: an unknown sink, or one whose package is missing or which refuses.
    """
    for name in names:
        if name not in _SINKS:
            known = ", ".join(_SINKS)
            raise UserError(f"train.sinks names {name!r}: give some of {known}")
    opened = []
    for name in names:
        try:
            opened.append(_SINKS[name](workdir, config, step))
        except ModuleNotFoundError as e:
            raise UserError(
                f"train.sinks names {name!r}, but {e.name} is not installed: "
                f"pip install -e '.[{name}]'"
            ) from None
    return Sinks(opened)


class _TensorBoard:
    """Event files in WORKDIR/tensorboard."""

    def __init__(self, workdir: pathlib.Path, config: ConfigDict, step: int):
        from tensorboardX import SummaryWriter

        self._writer = SummaryWriter(
            str(workdir / "tensorboard"),
            purge_step=step + 1,  # readers drop what earlier files hold from here on
            flush_secs=10,
            filename_suffix=f".{step}",  # or restarts within a second share a file
        )

    def log(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        self._writer.close()


class _WandB:
    """A run of the W&B project gve_jax, whose id is in WORKDIR/wandb_id.

    W&B's own environment variables (WANDB_MODE=offline, WANDB_PROJECT, ...) hold.
    """

    def __init__(self, workdir: pathlib.Path, config: ConfigDict, step: int):
        import wandb

        id_file = workdir / "wandb_id"
        if not id_file.exists():
            id_file.write_text(secrets.token_hex(4), encoding="utf-8")
        try:
            self._run = wandb.init(
                project=os.environ.get("WANDB_PROJECT", "gve_jax"),
                name=workdir.name,
                dir=workdir,
                id=id_file.read_text(encoding="utf-8"),
                resume="allow",
                config=config.to_dict(),
            )
        except wandb.errors.Error as e:
            raise UserError(
                f"train.sinks names 'wandb', which says: {e} "
                "(or set WANDB_MODE=offline)"
            ) from None

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log(dict(values), step=step)

    def close(self) -> None:
        self._run.finish()


_SINKS = {"tensorboard": _TensorBoard, "wandb": _WandB}


def _flat(values: Mapping, prefix: str = "") -> Iterator[tuple[str, float]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}/")
        else:
            yield prefix + name, value
