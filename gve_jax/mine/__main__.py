"""Mine hard negatives with any checkpoint, and see what was taken and why.

python -m gve_jax.mine --checkpoint=runs/quickstart/train \
    --pairs=runs/quickstart/world/train --output=runs/negatives --negatives=2
"""

from absl import flags

from gve_jax.data.records import read_items
from gve_jax.data.sources import load_tasks
from gve_jax.embed.flags import embedder_from_flags
from gve_jax.main import run
from gve_jax.mine.search import MineOptions
from gve_jax.mine.store import mine_to_folder

_DEFAULT = MineOptions()
_PAIRS = flags.DEFINE_string("pairs", None, "Pairs file, or folder of TASK.jsonl.")
_OUTPUT = flags.DEFINE_string("output", None, "Folder for pairs/ and the audit.")
_CORPUS = flags.DEFINE_string(
    "corpus", None, "Items file: candidates beside the targets of each task."
)
_OPTIONS = [
    flags.DEFINE_integer(
        "negatives", _DEFAULT.negatives, "Of each pair, as far as there are so many."
    ),
    flags.DEFINE_float(
        "ceiling", _DEFAULT.ceiling, "Only what scores below this share of the target."
    ),
    flags.DEFINE_integer(
        "first_rank", _DEFAULT.first_rank, "First of a query's results that may be one."
    ),
    flags.DEFINE_integer("last_rank", _DEFAULT.last_rank, "Last that may be one."),
    flags.DEFINE_float(
        "near_duplicate",
        _DEFAULT.near_duplicate,
        "Cosine to a positive from which on a candidate counts as the same; 2: never.",
    ),
    flags.DEFINE_bool(
        "keep", _DEFAULT.keep, "Negatives that pairs have come first, and count."
    ),
    flags.DEFINE_integer(
        "samples", _DEFAULT.samples, "Pairs of a task shown.", lower_bound=0
    ),
]


def main(_: list[str]) -> None:
    tasks = load_tasks(_PAIRS.value)
    corpus = read_items(_CORPUS.value) if _CORPUS.value else []
    options = MineOptions(**{flag.name: flag.value for flag in _OPTIONS})
    options.check()
    audit = mine_to_folder(embedder_from_flags(), tasks, _OUTPUT.value, options, corpus)
    for task, numbers in audit["tasks"].items():
        print(
            f"{task}: {numbers['pairs']} pairs, {numbers['verdicts']['taken']} "
            f"negatives among {numbers['candidates']} candidates, "
            f"{numbers['short_pairs']} pairs with fewer than {options.negatives}"
        )
    if audit["unreadable_items"]:
        print(
            f"{audit['unreadable_items']} items could not be read: see "
            f"{_OUTPUT.value}/failures.jsonl"
        )
    print(f"{_OUTPUT.value}: pairs/, audit.json, audit.html")


if __name__ == "__main__":
    run(main, required=("checkpoint", "pairs", "output"))
