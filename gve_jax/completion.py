"""Shell completion: flags read from the sources, scripts for bash, zsh and fish.

A script holds all verbs and flags, so that completing starts no Python; and making one
imports nothing of what it reads, jax least of all.
"""

import ast
import functools
import pathlib
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

# What lies beside this package: in a checkout `eval` and `data_synthesis` too.
_ROOT = pathlib.Path(__file__).resolve().parents[1]
PACKAGES = ("gve_jax", "eval", "data_synthesis")
SHELLS = ("bash", "zsh", "fish")
_Words = dict[str, dict[str, str]]  # words before the cursor -> word -> what it means


class Flag(NamedTuple):
    """One flag as its source defines it; `help` is empty where it is computed."""

    name: str
    boolean: bool
    help: str

    @property
    def word(self) -> str:
        """As it is typed; a value follows "="."""
        return f"--{self.name}" if self.boolean else f"--{self.name}="


def flags_of(module: str) -> list[Flag]:
    """The flags of `python -m MODULE` that this project defines, in order of reading.

    They are those of the module and of all that it imports at once: calls of
    `DEFINE_...` outside functions, those under `if __name__ == "__main__"` only in the
    module that is run. Empty where the module is not installed.
    """
    main = _path(f"{module}.__main__") or _path(module)
    if main is None:
        return []
    found: dict[str, Flag] = {}
    waiting, seen = [main], {main}
    while waiting:
        path = waiting.pop(0)
        imports, flags = _read(path, path == main)
        for flag in flags:
            found.setdefault(flag.name, flag)
        others = {file for name in imports for file in _files(name)} - seen
        seen |= others
        waiting += sorted(others)
    return list(found.values())


def _files(name: str) -> Iterator[pathlib.Path]:
    """Files that importing `name` runs: its packages', then its own."""
    parts = name.split(".")
    if parts[0] in PACKAGES:
        for i in range(1, len(parts) + 1):
            path = _path(".".join(parts[:i]))
            if path is not None:
                yield path


def _path(module: str) -> pathlib.Path | None:
    """Its file; None if there is none."""
    base = _ROOT.joinpath(*module.split("."))
    for path in (base / "__init__.py", base.with_suffix(".py")):
        if path.is_file():
            return path
    return None


@functools.cache  # verbs share most of what they import
def _read(path: pathlib.Path, runs: bool) -> tuple[list[str], list[Flag]]:
    """Modules that a file imports and flags that it defines, when it is run or not."""
    imports, flags = [], []
    nodes: list[ast.AST] = [ast.parse(path.read_text(encoding="utf-8"))]
    while nodes:
        node = nodes.pop(0)
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            continue  # happens when it is called
        if (
            isinstance(node, ast.If)
            and "__name__" in ast.unparse(node.test)
            and not runs
        ):
            continue
        if isinstance(node, ast.Import):
            imports += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            imports += [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Call):
            flags += _flag(node)
        nodes += ast.iter_child_nodes(node)
    return imports, flags


def _flag(call: ast.Call) -> list[Flag]:
    kind = getattr(call.func, "attr", "")
    if not kind.startswith("DEFINE_"):
        return []
    texts = [getattr(a, "value", "") for a in call.args]
    # A config_dict need not have any.
    help = next(iter(texts[3 if kind == "DEFINE_enum" else 2 :]), "")
    boolean = kind.startswith("DEFINE_bool")
    return [Flag(texts[0], boolean, help if isinstance(help, str) else "")]


def script(shell: str, verbs: Mapping[str, tuple[str, str]]) -> str:
    """A completion script.

    Args:
      shell: one of `SHELLS`.
      verbs: "train", or "index build" where a verb has verbs of its own -> what it
        does, and the module whose flags it takes.
    """
    # The words before the cursor -> those that may follow, and what each means.
    follow: dict[str, dict[str, str]] = {"": {}}
    flags = {}
    for verb, (what, module) in verbs.items():
        first, _, second = verb.partition(" ")
        follow[""].setdefault(first, "" if second else what)
        if second:
            follow.setdefault(first, {})[second] = what
        flags[verb] = {flag.word: flag.help for flag in flags_of(module)}
    return {"bash": _bash, "zsh": _zsh, "fish": _fish}[shell](follow, flags)


def _bash(follow: _Words, flags: _Words) -> str:
    return f"""\
# bash completion of gve, made by `gve completion bash`
_gve() {{
  local cur=${{COMP_WORDS[COMP_CWORD]}} words=
  case "${{COMP_WORDS[*]:1:COMP_CWORD-1}} " in
{_cases(follow, flags, lambda words: f'words="{" ".join(words)}"')}
  esac
  COMPREPLY=($(compgen -W "$words" -- "$cur"))
  [[ ${{COMPREPLY[0]}} == *= ]] && compopt -o nospace
  return 0
}}
complete -o default -F _gve gve
"""


def _zsh(follow: _Words, flags: _Words) -> str:
    def choices(words: dict[str, str]) -> str:
        quoted = (_quote(f"{word}:{what}") for word, what in words.items())
        return f"choices=({' '.join(quoted)})"

    return f"""\
#compdef gve
# zsh completion of gve, made by `gve completion zsh`
_gve() {{
  local -a choices open whole
  compset -P '*=' && {{ _files; return }}
  case "${{(j: :)words[2,CURRENT-1]}} " in
{_cases(follow, flags, choices)}
  esac
  open=(${{(M)choices:#*=:*}}) whole=(${{choices:#*=:*}})
  _describe gve whole -- open -S '' || _files
}}
if [[ $funcstack[1] == _gve ]]; then _gve "$@"; else compdef _gve gve; fi
"""


def _cases(follow: _Words, flags: _Words, branch: Callable[[dict], str]) -> str:
    """Of a `case` over the words before the cursor, each followed by a space."""
    exact = [f'    "{before} ") {branch(words)} ;;' for before, words in follow.items()]
    begun = [f'    "{verb} "*) {branch(words)} ;;' for verb, words in flags.items()]
    return "\n".join(exact + begun)


def _fish(follow: _Words, flags: _Words) -> str:
    lines = [
        "# fish completion of gve, made by `gve completion fish`",
        "function __gve_after",
        "    set -l words (commandline -opc)",
        '    string match -q -- $argv[1] "$words[2..] "',
        "end",
    ]
    for before, words in follow.items():
        lines += [
            f"complete -c gve -f -n '__gve_after \"{before} \"' -a {word} "
            f"-d {_quote(what)}"
            for word, what in words.items()
        ]
    for verb, words in flags.items():
        lines += [
            f"complete -c gve -n '__gve_after \"{verb} *\"' -l {word.strip('-=')} "
            f"{'-r ' if word.endswith('=') else ''}-d {_quote(what)}"
            for word, what in words.items()
        ]
    return "\n".join(lines) + "\n"


def _quote(text: str) -> str:
    """Within single quotes, of which a text of ours never has one."""
    return "'" + text.replace("'", "’") + "'"
