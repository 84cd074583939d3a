"""The console script `gve`: `gve VERB --flag=value ...` runs `python -m MODULE`."""

import difflib
import importlib.util
import os
import runpy
import shutil
import sys
import textwrap
from collections.abc import Sequence
from typing import Any, NamedTuple, NoReturn

from gve_jax.completion import PACKAGES, SHELLS, script


class Verb(NamedTuple):
    """`gve VERB ...` runs `python -m MODULE BEFORE... ...`."""

    what: str
    module: str  # those outside gve_jax lie in a checkout; empty: of this file
    example: str  # what follows `gve VERB`
    before: tuple[str, ...] = ()
    flags: str = ""  # the module that defines them, where it is another


def _index(verb: str, what: str, example: str, module: str = "") -> Verb:
    flags = f"gve_jax.index.{module or verb}"
    return Verb(what, "gve_jax.index", example, (verb,), flags)


GROUPS: dict[str, dict[str, Verb]] = {
    "Find things in your own videos and images": {
        "search": _index(
            "search",
            "search an index by text, image or clip",
            '"a red ball rolls away" --index=INDEX',
            "search_verb",
        ),
        "serve": _index(
            "serve",
            "the same as a web page on this machine",
            "--index=INDEX",
        ),
        "index build": _index(
            "build",
            "make an index of folders, or bring it up to date",
            "DIR --checkpoint=CHECKPOINT --index=INDEX",
        ),
        "index add": _index(
            "add",
            "add folders or files",
            "DIR --index=INDEX",
            "build",
        ),
        "index remove": _index(
            "remove", "remove files, folders or what is gone", "DIR --index=INDEX"
        ),
        "index compact": _index(
            "compact", "give back the space of what was removed", "--index=INDEX"
        ),
        "index export": _index(
            "export",
            "vectors for NumPy, Parquet, FAISS, usearch or LanceDB",
            "--index=INDEX --format=parquet --output=FOLDER",
        ),
        "index info": _index("info", "what an index holds", "--index=INDEX"),
        "embed": Verb(
            "embed an items file to NumPy",
            "gve_jax.embed",
            "--checkpoint=CHECKPOINT --input=items.jsonl --output=FOLDER",
        ),
        "bulk": Verb(
            "the same on a cluster, as a Beam job",
            "data_synthesis.bulk",
            "--checkpoint=CHECKPOINT --input=items.jsonl --output=FOLDER",
        ),
    },
    "Train": {
        "train": Verb(
            "train an embedder, or go on training",
            "gve_jax.train",
            "--config=configs/finetune.py:PAIRS.jsonl --workdir=WORKDIR",
        ),
        "mine": Verb(
            "mine hard negatives with any checkpoint",
            "gve_jax.mine",
            "--checkpoint=CHECKPOINT --pairs=PAIRS.jsonl --output=FOLDER",
        ),
        "plan": Verb(
            "what a step takes on chips that are not here",
            "gve_jax.plan",
            "--config=configs/gve_3b.py --topology=v5e:8x8",
        ),
        "ablate": Verb(
            "run a study: arms x seeds, compared",
            "gve_jax.ablate",
            "--config=configs/ablation_world.py --output=FOLDER",
        ),
        "export": Verb(
            "write a checkpoint for transformers or PEFT",
            "gve_jax.export",
            "--checkpoint=CHECKPOINT --output=FOLDER",
        ),
    },
    "Evaluate": {
        "eval": Verb(
            "evaluate a checkpoint on UVRB",
            "eval",
            "--config=configs/uvrb_mini.py --checkpoint=CHECKPOINT --output=FOLDER",
        ),
        "prepare check": Verb(
            "read a benchmark's folder, say what is missing or broken",
            "eval.prepare",
            "--root=UVRB",
            ("check",),
        ),
        "prepare build": Verb(
            "make datasets of the benchmark of their sources' releases",
            "eval.prepare",
            "--source=carebench --input=CaReBench --output=UVRB",
            ("build",),
        ),
        "prepare template": Verb(
            "begin a dataset of one's own",
            "eval.prepare",
            "--output=UVRB/MySet",
            ("template",),
        ),
        "report": Verb(
            "make an evaluation's pages anew, or compare several",
            "eval.report",
            "--runs=FOLDER",
        ),
        "compare": Verb(
            "compare evaluations, with intervals",
            "eval.compare",
            "--run=FOLDER --baseline=FOLDER",
        ),
        "diagnose": Verb(
            "probe what the scores of an evaluation rest on",
            "eval.diagnose",
            "--config=configs/uvrb_mini.py --checkpoint=CHECKPOINT --output=FOLDER",
        ),
        "scaling": Verb(
            "evaluate under more frames and more tokens",
            "eval.scaling",
            "--config=configs/uvrb_mini.py --checkpoint=CHECKPOINT --output=FOLDER",
        ),
        "table": Verb(
            "abilities and correlations of anybody's scores",
            "eval.table",
            "SCORES.json --output=FILE",
        ),
        "mteb": Verb(
            "run the benchmark through MTEB",
            "eval.mteb_bridge",
            "--config=configs/uvrb_mini.py --checkpoint=CHECKPOINT --output=FOLDER",
        ),
    },
    "Make data": {
        "world": Verb(
            "render the procedural video world",
            "data_synthesis.world",
            "--output=FOLDER --videos=2000",
        ),
        "synthesise": Verb(
            "make a training set of raw videos",
            "data_synthesis",
            "--config=configs/synthesis.py --input=raw.jsonl --output=FOLDER",
        ),
        "audit": Verb(
            "measure what a captioner makes up, on renders that are known",
            "data_synthesis.audit",
            "--captioner=groundtruth --output=FOLDER",
        ),
    },
    "Help": {
        "doctor": Verb(
            "check this machine, a checkpoint, an index: what is wrong, what to do",
            "gve_jax.doctor",
            "--checkpoint=CHECKPOINT --index=INDEX",
        ),
        "completion": Verb(
            f"print a completion script of {', '.join(SHELLS)}",
            "",
            "bash > ~/.local/share/bash-completion/completions/gve",
        ),
    },
}
VERBS = {name: verb for group in GROUPS.values() for name, verb in group.items()}
VERBS |= {f"index {name}": VERBS[name] for name in ("search", "serve")}
_HELP = ("--help", "-h")


def main() -> None:
    """Entry point; exit code 2 for an unknown verb."""
    try:
        _main(sys.argv[1:])
        sys.stdout.flush()
    except BrokenPipeError:  # `gve | head` has read enough; nor can Python flush
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _main(words: list[str]) -> None:
    if words[:1] == ["help"]:
        words = [*words[1:], "--help"]
    if not words or words[0] in _HELP:
        print(_overview())
        return
    name = " ".join(words[:2])
    name = name if name in VERBS else words[0]
    rest = words[len(name.split()) :]
    parts = {key: verb for key, verb in VERBS.items() if key.startswith(f"{name} ")}
    if parts and (not rest or rest[0] in _HELP):
        print(_lines(parts))
    elif name not in VERBS:
        name = " ".join([name, *rest[:1]]) if parts else name
        close = difflib.get_close_matches(name, VERBS, n=1)
        remedy = f"did you mean {close[0]!r}?" if close else "`gve help` lists them"
        _stop(f"unknown verb {name!r}: {remedy}", 2)
    elif name == "completion":
        _completion(rest)
    elif rest and rest[-1] in _HELP:
        _show_flags(name)
    else:
        _run(name, rest)


def _overview() -> str:
    groups = "\n\n".join(f"{title}:\n{_lines(some)}" for title, some in GROUPS.items())
    return (
        "gve: universal video retrieval in JAX\nusage: gve VERB [--flag=value ...]\n\n"
        f"{groups}\n\n"
        "`gve VERB --help` shows the flags of a verb. CHECKPOINT is a training\n"
        "workdir, a Hugging Face folder or a hub id. The pages in docs/ say more."
    )


def _lines(verbs: dict[str, Verb]) -> str:
    """Two of each verb: what it does, and an example."""
    return "\n".join(
        f"  {name:16} {verb.what}\n      $ gve {name} {verb.example}"
        for name, verb in verbs.items()
    )


def _completion(words: list[str]) -> None:
    if len(words) != 1 or words[0] not in SHELLS:
        _stop(f"gve completion: name one shell of {', '.join(SHELLS)}", 2)
    verbs = {name: (v.what, v.flags or v.module) for name, v in VERBS.items()}
    del verbs["completion"]
    verbs |= {f"completion {shell}": ("", "") for shell in SHELLS}
    print(script(words[0], verbs), end="")


def _run(name: str, words: Sequence[str]) -> None:
    """Runs a verb's module as `python -m` does; returns when it is done.

    Exits with 1 if the module, or something that it needs, is not installed.
    """
    verb = VERBS[name]
    sys.path.insert(0, os.getcwd())
    if importlib.util.find_spec(verb.module.split(".")[0]) is None:
        _stop(
            f"gve {name} needs {verb.module}, which is not part of the package: run it "
            "in a checkout of the project",
            1,
        )
    sys.argv = [f"gve {name}", *verb.before, *words]
    try:
        runpy.run_module(verb.module, run_name="__main__", alter_sys=True)
    except ModuleNotFoundError as e:
        if (e.name or PACKAGES[0]).split(".")[0] in PACKAGES:
            raise
        _stop(
            f"gve {name} needs the module {e.name}, which is not installed: `gve "
            "doctor` says what is, and what installs the rest",
            1,
        )


def _show_flags(name: str) -> None:
    """Prints what a verb does, an example, and its flags with their defaults."""
    from gve_jax import main as command

    def show(main: Any, required: Sequence[str] = (), others: bool = False) -> None:
        print(f"gve {name}: {VERBS[name].what}\n")
        print(f"  $ gve {name} {VERBS[name].example}\n")
        print(_flags(required))
        print("\n`--helpfull` instead of `--help` adds those of the libraries.")

    # A module defines its flags, and calls this to parse them and start.
    command.run = show
    _run(name, [])


def _flags(required: Sequence[str]) -> str:
    """All flags that this project has defined by now, those that are needed first."""
    from absl import flags

    own = [
        flag
        for module, some in flags.FLAGS.flags_by_module_dict().items()
        # Those of the module that is run are under the path of its file.
        if module.endswith(".py") or module.split(".")[0] in PACKAGES
        for flag in some
    ]
    columns = min(shutil.get_terminal_size().columns, 100)
    lines = []
    for flag in sorted(own, key=lambda flag: flag.name not in required):
        text = flag.help
        if flag.default not in (None, "", [], False):
            text += f" Default: {flag.default_as_str.strip(chr(39))}."
        if flag.name in required:
            text = f"Needed. {text}"
        name = f"--[no]{flag.name}" if flag.boolean else f"--{flag.name}="
        for line in text.strip().splitlines():
            for part in textwrap.wrap(line, columns - 22) or [""]:
                lines.append(f"  {name:18}  {part}".rstrip())
                name = ""
    if any(flag.name == "config" for flag in own):
        lines += [
            "",
            "--config.KEY=VALUE changes a key of the config: gve_jax/config.py",
        ]
    return "\n".join(lines)


def _stop(message: str, code: int) -> NoReturn:
    print(f"error: {message}", file=sys.stderr)
    sys.exit(code)


if __name__ == "__main__":
    main()
