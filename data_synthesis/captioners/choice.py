"""The captioner of a configuration, and what its answers follow from."""

import atexit
import contextlib
import json
import pathlib
import threading
from collections.abc import Iterator

from data_synthesis import shards
from data_synthesis.captioners import flax
from data_synthesis.captioners.base import Captioner
from data_synthesis.captioners.fake import Fake
from data_synthesis.captioners.flax import Flax
from data_synthesis.captioners.groundtruth import GroundTruth
from data_synthesis.captioners.http import Http
from gve_jax.types import UserError

NAMES = ("groundtruth", "flax", "http", "fake")
# The process's own, by its configuration: a model is loaded once for all shards.
_open: dict[str, Captioner] = {}
_lock = threading.Lock()


@contextlib.contextmanager
def opened(config) -> Iterator[Captioner]:
    """For one thread at a time; it stays open for the next.

    Args:
      config: of the workflow; all of it, as media are read as well.

    Raises:
      UserError: a key that cannot be.
    """
    with _lock:
        key = config.to_json()
        if key not in _open:
            close()
            _open[key] = _make(config)
        yield _open[key]


def close() -> None:
    """Ends the captioner of this process, if there is one."""
    while _open:
        _open.popitem()[1].close()


atexit.register(close)


def fingerprint(config) -> str:
    """Of what answers follow from besides the requests; starts and loads nothing."""
    c = config.caption
    if c.captioner == "http":
        return f"{c.url} {c.model}"
    if c.captioner == "flax":
        return flax.fingerprint(c.checkpoint)
    try:
        return f"{shards.file_sha256(pathlib.Path(c.truth))} {c.faults}"
    except OSError as e:
        raise UserError(f"config.caption.truth={c.truth!r}: {e.strerror}") from None


def _make(config) -> Captioner:
    c = config.caption
    if c.captioner == "flax":
        return Flax(config)
    if c.captioner == "http":
        return Http(config)
    if c.captioner not in NAMES:
        raise UserError(f"config.caption.captioner={c.captioner!r}: one of {NAMES}")
    truth = GroundTruth(pathlib.Path(c.truth))
    if c.captioner == "groundtruth":
        return truth
    try:
        faults = json.loads(c.faults)
        return Fake(truth, faults, config.seed)
    except (ValueError, TypeError, AttributeError):
        raise UserError(
            f'config.caption.faults={c.faults!r}: give JSON as {{"429": 0.1}}'
        ) from None
