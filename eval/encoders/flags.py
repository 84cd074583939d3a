"""Which encoder a command evaluates: exactly one of three flags says so."""

import importlib
import inspect
import json

import jax
import ml_collections
from absl import flags

from eval.encoders.frames import FrameEncoder
from eval.encoders.precomputed import Precomputed
from eval.encoders.protocol import Encoder, Identity
from gve_jax.embed.flags import embedder_from_flags
from gve_jax.types import UserError

_ENCODER = flags.DEFINE_string(
    "encoder", None, "package.module:factory of an encoder in Python."
)
_ARGUMENTS = flags.DEFINE_string(
    "encoder_args", None, "Its arguments by name, a JSON object."
)
_VECTORS = flags.DEFINE_string("vectors", None, "Folder of precomputed vectors.")

ONE_OF = ("checkpoint", "encoder", "vectors")
flags.mark_flags_as_mutual_exclusive(ONE_OF, required=True)


def encoder_from_flags(config: ml_collections.ConfigDict) -> Encoder | Precomputed:
    """The encoder that the command line names.

    Of several processes each gets a checkpoint's replica on its own devices.

    Raises:
      UserError: there is no such encoder, or it cannot be made.
    """
    if _ARGUMENTS.value is not None and not _ENCODER.value:
        raise UserError("--encoder_args are for --encoder: name one, or leave them out")
    if _VECTORS.value:
        return Precomputed(_VECTORS.value)
    if not _ENCODER.value:
        return embedder_from_flags(config, devices=jax.local_devices())
    factory, arguments = _factory(_ENCODER.value), _arguments()
    try:
        inspect.signature(factory).bind(**arguments)
    except TypeError as e:
        raise UserError(f"--encoder_args: {_ENCODER.value}: {e}") from None
    encoder = factory(**arguments)
    if isinstance(encoder, FrameEncoder):
        encoder.decode = config.embed
        # Whatever they change, vectors of other arguments are not taken for these.
        values = encoder.contract.to_json() | {"arguments": arguments}
        encoder.contract = Identity(values)
    return encoder


def named() -> str:
    """What the flags name, for the provenance of results."""
    found = next(filter(None, (flags.FLAGS[name].value for name in ONE_OF)))
    return f"{found} {_ARGUMENTS.value}" if _ARGUMENTS.value else found


def _factory(name: str):
    module, _, attribute = name.partition(":")
    if not attribute:
        raise UserError(f"--encoder={name}: expected package.module:factory")
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as e:
        raise UserError(f"--encoder={name}: cannot be imported ({e})") from None


def _arguments() -> dict:
    text = _ARGUMENTS.value or "{}"
    try:
        found = json.loads(text)
    except json.JSONDecodeError as e:
        raise UserError(f"--encoder_args: not JSON ({e.msg}): {text}") from None
    if not isinstance(found, dict):
        raise UserError(f"--encoder_args: expected a JSON object, found {text}")
    return found
