"""Commands as a user meets them: exit codes and one-line errors."""

import os
import pathlib
import subprocess
import sys

import pytest

from gve_jax import cli, completion
from gve_jax.index import __main__ as index

ROOT = pathlib.Path(__file__).parents[1]


def gve(*arguments, cwd=ROOT):
    return subprocess.run(
        [sys.executable, "-m", "gve_jax.cli", *map(str, arguments)],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_help_shows_every_verb_with_an_example():
    done = gve()
    assert done.returncode == 0 and done.stdout == gve("--help").stdout
    for name, verb in cli.VERBS.items():
        if not name.startswith(("index search", "index serve")):  # they have short ones
            assert f"  {name:16} {verb.what}\n" in done.stdout
            assert f"$ gve {name} {verb.example}\n" in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 90
    of_index = gve("index").stdout
    assert "$ gve index build" in of_index and "$ gve train" not in of_index


@pytest.mark.parametrize(
    "wrong, meant",
    [
        ("serach", "did you mean 'search'?"),
        ("synthesize", "did you mean 'synthesise'?"),
        ("index biuld", "did you mean 'index build'?"),
        ("fly", "`gve help` lists them"),
        ("--workdir=x", "`gve help` lists them"),
    ],
)
def test_unknown_verbs(wrong, meant):
    done = gve(*wrong.split())
    assert done.returncode == 2 and not done.stdout
    assert done.stderr == f"error: unknown verb {wrong!r}: {meant}\n"


@pytest.mark.parametrize("way", ["compare --help", "help compare"])
def test_help_of_a_verb(way):
    done = gve(*way.split())
    assert done.returncode == 0 and not done.stderr
    first, _, example, _, *lines = done.stdout.splitlines()
    assert first == "gve compare: compare evaluations, with intervals"
    assert example.startswith("  $ gve compare --run=")
    assert lines[0].split()[:2] == ["--run=", "Needed."]
    assert "  --resamples=        Of the bootstrap. Default: 10000." in lines
    assert "--logtostderr" not in done.stdout and len(lines) < 12


def test_index_has_the_verbs_that_its_package_has():
    theirs = {f"index {name}": module for name, (module, _) in index.VERBS.items()}
    ours = {n: v.flags for n, v in cli.VERBS.items() if n.startswith("index ")}
    assert ours == theirs


def test_what_is_not_installed_is_one_line(tmp_path):
    (tmp_path / "scipy.py").write_text("import nowhere_to_be_found")
    done = subprocess.run(
        [sys.executable, "-m", "gve_jax.cli", "compare", "--run=a", "--baseline=b"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    assert "needs the module nowhere_to_be_found" in done.stderr


# What a shell would put into COMP_WORDS; "=" is a word of its own.
COMPLETED = [
    ("gve,s", "search serve scaling synthesise"),
    ("gve,index,", "build add remove compact export info search serve"),
    ("gve,compare,--r", "--run= --resamples="),
    ("gve,compare,--run,=,a,--se", "--seed="),
    ("gve,table,--v", "--verify"),
    ("gve,table,sco", ""),  # readline completes files
    ("gve,completion,", "bash zsh fish"),
]


def test_completion_in_bash():
    done = gve("completion", "bash")
    assert done.returncode == 0
    asks = [
        f"COMP_WORDS=({' '.join(repr(w) for w in line.split(','))}); "
        "COMP_CWORD=$((${#COMP_WORDS[@]} - 1)); _gve; echo ${COMPREPLY[*]}"
        for line, _ in COMPLETED
    ]
    told = subprocess.run(
        ["bash", "-c", done.stdout + "\n".join(["compopt() { :; }", *asks])],
        capture_output=True,
        text=True,
        check=True,
    )
    assert told.stdout.splitlines() == [words for _, words in COMPLETED], told.stderr


def test_completion_of_the_other_shells():
    """The same words in each script; zsh and fish are not there to be asked."""
    for shell in ("zsh", "fish"):
        text = gve("completion", shell).stdout
        for word in ("scaling", "compact", "resamples", "verify"):
            assert word in text
    assert gve("completion", "tcsh").returncode == 2


def test_completion_imports_nothing_heavy():
    code = "import sys; from gve_jax import cli; cli._completion(['bash'])\n"
    code += (
        "print(sorted({'jax', 'numpy', 'absl'} & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True
    )
    assert done.stderr == "[]\n"


def test_flags_are_read_as_python_would(tmp_path, monkeypatch):
    monkeypatch.setattr(completion, "_ROOT", tmp_path)
    for name, text in {
        "__init__": "",
        "shared": 'A = flags.DEFINE_bool("shared", False, "Help.")',
        "other": 'if __name__ == "__main__":\n    flags.DEFINE_string("no", None, "")',
        "late": 'flags.DEFINE_string("late", None, "")',
        "verb": "from eval import shared\nimport eval.other\n"
        "def f():\n    from eval import late\n"
        'if __name__ == "__main__":\n    [flags.DEFINE_enum("own", "a", [], f"B{c}")]',
    }.items():
        (tmp_path / "eval").mkdir(exist_ok=True)
        (tmp_path / "eval" / f"{name}.py").write_text(text)
    assert completion.flags_of("eval.verb") == [
        completion.Flag("own", False, ""),
        completion.Flag("shared", True, "Help."),
    ]
    assert completion.flags_of("eval.absent") == []


@pytest.mark.parametrize(
    "arguments, code, message",
    [
        (("train", "--workdir={tmp}"), 2, "config"),
        (("train", "--config=gone.py", "--workdir={tmp}"), 2, "gone.py"),
        (
            ("train", "--config=configs/world.py", "--workdir={tmp}/w",
             "--config.optim.peek_lr=1"),
            2,
            "peek_lr",
        ),
        (
            ("train", "--config=configs/world.py", "--workdir={tmp}/w",
             "--config.data.pairs={tmp}/none.jsonl"),
            1,
            "none.jsonl: no such file",
        ),
        (
            ("embed", "--checkpoint={tmp}", "--input={tmp}/i.jsonl",
             "--output={tmp}/o"),
            1,
            "i.jsonl: no such file",
        ),
        (
            ("eval", "--config=configs/uvrb_mini.py:{tmp}", "--checkpoint={tmp}",
             "--output={tmp}/o", "--datasets=MSRVTT"),
            1,
            "MSRVTT",
        ),
    ],
)  # fmt: skip
def test_user_errors(tmp_path, arguments, code, message):
    done = gve(*(a.format(tmp=tmp_path) for a in arguments))
    assert done.returncode == code, done.stderr
    lines = [x for x in done.stderr.splitlines() if "error:" in x]
    assert len(lines) == 1 and message in lines[0], done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []  # nothing half-written


def test_verbs_outside_the_package_need_a_checkout(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", "from gve_jax.cli import main; main()", "eval"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 1 and "checkout" in done.stderr
