"""A generator that answers through pipes, for programs that must not import jax.

python -m gve_jax.generate_serve --checkpoint=...

First it writes {"ready": true}, a line of JSON. Then it reads lines, each {"items": [a
list of the fields of `gve_jax.types.Item`, ...], "temperature", "max_new_tokens"}, and
for each writes the fields of `gve_jax.generate.Texts` as one line.
"""

import json
import sys
from typing import BinaryIO

from absl import flags
from ml_collections import config_flags

from gve_jax.config import default_config
from gve_jax.generate import Generator
from gve_jax.main import run
from gve_jax.types import Item

_CHECKPOINT = flags.DEFINE_string(
    "checkpoint", None, "Hugging Face or PEFT folder, or a hub id, with a head."
)
_DTYPE = flags.DEFINE_enum(
    "dtype", "bfloat16", ("float32", "bfloat16"), "Of weights and activations."
)
_BATCH = flags.DEFINE_integer("batch_size", 8, "Items that are answered together.")
_CONFIG = config_flags.DEFINE_config_dict(
    "config", default_config(), "Its preprocess and mesh apply."
)


def main(_: list[str]) -> None:
    source, sink = sys.stdin.buffer, sys.stdout.buffer
    sys.stdout = sys.stderr  # what libraries print is not an answer
    config = _CONFIG.value
    # As each token needs all of the model, no device has only a part.
    config.mesh.update(data=-1, fsdp=1)
    generator = Generator.load(
        _CHECKPOINT.value, dtype=_DTYPE.value, batch_size=_BATCH.value, config=config
    )
    _say(sink, {"ready": True})
    for line in source:
        wanted = json.loads(line)
        found = generator.generate(
            [Item(*values) for values in wanted["items"]],
            temperature=wanted["temperature"],
            max_new_tokens=wanted["max_new_tokens"],
            progress=False,
        )
        _say(sink, found._asdict())


def _say(sink: BinaryIO, values: dict) -> None:
    sink.write(json.dumps(values).encode() + b"\n")
    sink.flush()


if __name__ == "__main__":
    run(main, required=("checkpoint",))
