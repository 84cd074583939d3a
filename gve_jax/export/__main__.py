"""Export a checkpoint for `transformers`, PEFT and sentence-transformers.

python -m gve_jax.export --checkpoint=runs/quickstart/train --output=runs/hf
"""

from absl import flags

from gve_jax.export import differences, export_hf
from gve_jax.main import run
from gve_jax.restore import restore

_CHECKPOINT = flags.DEFINE_string("checkpoint", None, "Workdir, folder or hub id.")
_OUTPUT = flags.DEFINE_string("output", None, "New folder.")
_FORMAT = flags.DEFINE_enum(
    "format", "hf", ["hf"], "For transformers, PEFT and sentence-transformers alike."
)
_LORA = flags.DEFINE_enum(
    "lora", "merge", ["merge", "adapter"], "Low-rank updates folded in, or alone."
)


def main(_: list[str]) -> None:
    found = restore(_CHECKPOINT.value)
    export_hf(found, _OUTPUT.value, _LORA.value)
    print(f"{_OUTPUT.value}: {_FORMAT.value} files of {_CHECKPOINT.value}")
    for line in differences(found.contract):
        print(f"differs in transformers: {line}")


if __name__ == "__main__":
    run(main, required=("checkpoint", "output"))
