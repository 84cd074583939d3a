"""The console script `gve`: `gve VERB --flag=value ...` runs `python -m MODULE`."""

import importlib.util
import os
import runpy
import sys

# Verb -> module, and what it does. Those outside gve_jax live in a checkout.
VERBS = {
    "train": ("gve_jax.train", "train an embedder, or go on training"),
    "embed": ("gve_jax.embed", "embed an items file, export NumPy"),
    "mine": ("gve_jax.mine", "mine hard negatives with any checkpoint"),
    "plan": ("gve_jax.plan", "what a step takes on chips that are not here"),
    "export": ("gve_jax.export", "write a checkpoint for transformers or PEFT"),
    "eval": ("eval", "evaluate a checkpoint on UVRB"),
    "prepare": ("eval.prepare", "check, build or begin a dataset of the benchmark"),
    "compare": ("eval.compare", "compare evaluations, with intervals"),
    "diagnose": ("eval.diagnose", "probe what the scores of an evaluation rest on"),
    "scaling": ("eval.scaling", "evaluate under more frames and more tokens"),
    "report": ("eval.report", "make an evaluation's pages anew, or compare several"),
    "table": ("eval.table", "abilities and correlations of anybody's scores"),
    "mteb": ("eval.mteb_bridge", "run the benchmark through MTEB"),
    "ablate": ("gve_jax.ablate", "run a study: arms x seeds, compared"),
    "synthesise": ("data_synthesis", "make a training set of raw videos"),
    "world": ("data_synthesis.world", "render the procedural video world"),
}


def main() -> None:
    """Entry point; exit code 2 for an unknown verb."""
    arguments = sys.argv[1:]
    if not arguments or arguments[0] not in VERBS:
        asked_help = arguments[:1] in ([], ["--help"], ["-h"], ["help"])
        out = sys.stdout if asked_help else sys.stderr
        if not asked_help:
            print(f"error: unknown verb {arguments[0]!r}", file=out)
        print("usage: gve VERB [--flag=value ...]", file=out)
        for verb, (_, what) in VERBS.items():
            print(f"  {verb:10} {what}", file=out)
        sys.exit(0 if asked_help else 2)
    module = VERBS[arguments[0]][0]
    sys.path.insert(0, os.getcwd())  # as `python -m` does
    if importlib.util.find_spec(module.split(".")[0]) is None:
        print(
            f"error: gve {arguments[0]} needs {module}, which is not part of the "
            "package: run it in a checkout of the project",
            file=sys.stderr,
        )
        sys.exit(1)
    sys.argv = [f"gve {arguments[0]}", *arguments[1:]]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
