"""Make the report of an evaluation anew, or compare several.

python -m eval.report --runs=runs/quickstart/eval

After `python -m eval.diagnose`, or `python -m eval.scaling` into DIR/scaling, this
shows what they found. With several runs, each is compared with the first, query by
query:

python -m eval.report --runs=runs/a/eval,runs/b/eval --output=runs/a_b
"""

import pathlib

from absl import flags

from eval import report
from eval.report.runs import labels
from gve_jax import main as command
from gve_jax.types import UserError

_RUNS = flags.DEFINE_list("runs", None, "Output folders of python -m eval.")
_OUTPUT = flags.DEFINE_string("output", None, "Folder; of one run: its own.")


def main(_: list[str]) -> None:
    folders = [pathlib.Path(folder) for folder in _RUNS.value]
    if not folders:
        raise UserError("--runs: names no folder")
    output = pathlib.Path(_OUTPUT.value or folders[0])
    runs = [report.read(*pair) for pair in zip(folders, labels(folders), strict=True)]
    if len(runs) == 1:
        report.write(runs[0], output)
    else:
        report.compare(runs, output)
    print(f"report: {output / 'report.html'}")


if __name__ == "__main__":
    command.run(main, required=("runs",))
