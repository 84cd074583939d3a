"""Commands as a user meets them: exit codes and one-line errors."""

import os
import pathlib
import subprocess
import sys

import pytest

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


def test_help_lists_the_verbs():
    done = gve("--help")
    assert done.returncode == 0
    for verb in ("train", "embed", "eval", "world"):
        assert f"  {verb}" in done.stdout
    assert gve("fly").returncode == 2


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
