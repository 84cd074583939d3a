"""Every command of README.md and docs/ is one that the project has."""

import json
import os
import pathlib
import re
import shlex
import shutil
import subprocess
import sys
import time
from typing import NamedTuple

import pytest
from PIL import Image

from gve_jax import cli, completion
from tests import tiny

ROOT = pathlib.Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_INLINE = re.compile(r"`((?:python -m|gve) [^`]+)`")
_OURS = (*completion.PACKAGES, "benchmarks")
_PROGRAMS = {"python", "python3.11", "gve", "make", "pip", ".", "cd", "curl"}


class Command(NamedTuple):
    page: str
    text: str
    inline: bool  # in a sentence: often without all that it needs

    @property
    def parts(self) -> tuple[dict[str, str], list[str]]:
        """Environment and words, as a shell has them; what is [optional] is given."""
        text = re.sub(r"(^|\s)\[(--[^\]]*)\]", r"\1\2", self.text)
        words = shlex.split(text, comments=not self.inline)
        environment = {}
        while re.match(r"[A-Z_]+=", words[0]):
            name, _, environment[name] = words.pop(0).partition("=")
        return environment, words[: words.index(">")] if ">" in words else words

    @property
    def module(self) -> tuple[str, list[str]] | None:
        """The module of ours that it runs, and its words; None of other programs."""
        _, words = self.parts
        if words[:2] == ["python", "-m"] and words[2].split(".")[0] in _OURS:
            return words[2], words[3:]
        if words[0] == "gve":
            for n in (2, 1):
                name = " ".join(words[1 : n + 1])
                if name in cli.VERBS and cli.VERBS[name].module:
                    verb = cli.VERBS[name]
                    return verb.module, [*verb.before, *words[n + 1 :]]
        return None


def commands() -> list[Command]:
    found = []
    for path in PAGES:
        page, text = str(path.relative_to(ROOT)), path.read_text(encoding="utf-8")
        for language, block in _FENCE.findall(text):
            lines = block.replace("\\\n", " ").splitlines()
            lines = [line for line in lines if line.split("#")[0].strip()]
            first = [line.split()[0] for line in lines]
            ours = [w in _PROGRAMS or re.match(r"[A-Z_]+=", w) for w in first]
            if language in ("", "bash", "sh") and ours and ours[0]:
                assert all(ours), f"{page}: not all lines are commands: {block}"
                found += [Command(page, line.strip(), False) for line in lines]
            else:
                assert not re.search(r"^(python -m|gve) ", block, re.M), (page, block)
        for words in _INLINE.findall(_FENCE.sub("", text)):
            found.append(Command(page, " ".join(words.split()), True))
    return found


COMMANDS = commands()
# What cannot be run by a test, and why. All of it is parsed where it is ours.
CANNOT = {
    r"^make |-m venv|activate$|^pip ": "makes environments: their names are tested",
    r"Alibaba-NLP/": "fetches weights from the hub",
    r"DATA_ROOT": "the corpora of the recipe are terabytes",
    r"-m tests\.clips_run": "minutes; parts of it: tests/test_synthesis_clips.py",
    r"--topology=(v5e|h100)": "needs a compiler for chips, an extra",
    r"HOST:PORT|=auto": "several hosts; two processes: tests/test_train_processes.py",
    r"ablation_world": "hours; a small study: tests/test_ablate.py",
    r"-m benchmarks": "measures for minutes or more",
    r"CaReBench": "a release of others; a small one: tests/test_eval_sources.py",
    r"127.0.0.1:8000": "needs a server of captions: tests/test_synthesis_captioners.py",
    r"mteb_bridge": "needs the extra mteb: tests/test_mteb.py",
    r"gve serve|index serve": "serves until it is stopped: tests/test_index_web.py",
}
# Run by default; what is in neither table takes longer, and is run by the slow test.
QUICK = {
    r"^gve completion": 0,
    r"^gve doctor$": 0,
    r"eval.table .*--verify": 1,  # an average of the paper disagrees with its row
    r"prepare template": 0,
    r"prepare check .*MySet": 1,  # the media that its rows name are to be added
}
# What "..." stands for.
_SAME = ["--config=configs/uvrb.py", "--checkpoint=CHECKPOINT", "--output=OUTPUT"]


def found_in(table: dict, command: Command):
    """The value of the first pattern that a command matches, None without one."""
    return next((v for p, v in table.items() if re.search(p, command.text)), None)


FENCED = [c for c in COMMANDS if not c.inline]


@pytest.fixture(scope="module")
def desk(tmp_path_factory):
    """A folder in which the names that the documents use are there."""
    folder = tmp_path_factory.mktemp("desk")
    (folder / "configs").symlink_to(ROOT / "configs")
    tiny.write_pairs(folder)
    (folder / "clips").mkdir()
    for name in ("new", "dog"):
        tiny.write_video(folder / "clips" / f"{name}.mp4", frames=64)
    Image.new("RGB", (64, 48), "red").save(folder / "frame.png")
    rows = [{"id": "a", "text": "a red square"}, {"id": "b", "video": "clips/dog.mp4"}]
    for name in ("items.jsonl", "queries.jsonl"):
        (folder / name).write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    for name in ("PAIRS.jsonl", "PAIRS", "runs/negatives/pairs/PAIRS.jsonl"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).symlink_to(folder / "T2V.jsonl")
    (folder / "CONFIG").symlink_to(ROOT / "configs" / "world.py")
    scores = {"mine": {"datasets": {"MSRVTT": 0.5}}}
    (folder / "SCORES.json").write_text(json.dumps(scores))
    return folder


@pytest.fixture(scope="module")
def told(desk):
    """(command or verb, mode) -> what came of it, all asked of one process."""
    jobs = {}
    for c in COMMANDS:
        if c.module:
            module, words = c.module
            if "..." in words:
                words = [w for w in words if w != "..."] + _SAME
            mode = "flags" if c.inline else "parse"
            jobs[c, mode] = {"module": module, "words": words, "mode": mode}
    for name, verb in cli.VERBS.items():
        if verb.module:
            words = list(verb.before)
            jobs[name, "list"] = {"module": verb.module, "words": words, "mode": "list"}
    for c in FENCED:
        if found_in(QUICK, c) is not None:
            module, words = c.module or ("gve_jax.cli", c.parts[1][1:])
            job = {"module": module, "words": words, "mode": "run"}
            if job not in jobs.values():  # two pages may have the same
                jobs[c, "run"] = job
    done = subprocess.run(
        [sys.executable, "-m", "tests.docs_runner"],
        cwd=desk,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        input=json.dumps(list(jobs.values())),
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    return dict(zip(jobs, json.loads(done.stdout), strict=True))


def test_every_command_is_parsed_by_its_module(told):
    wrong = [
        f"{c.page}: {c.text}\n  {answer['error'].strip()[-500:]}"
        for (c, mode), answer in told.items()
        if mode in ("parse", "flags") and answer["code"]
    ]
    assert not wrong, "\n".join(wrong)


def test_quick_commands_run(told):
    ran = {c: answer for (c, mode), answer in told.items() if mode == "run"}
    for c, answer in ran.items():
        assert answer["code"] == found_in(QUICK, c), (c.text, answer["error"])
        assert "Traceback" not in answer["error"]
    for pattern in QUICK:  # none is out of date
        assert any(re.search(pattern, c.text) for c in ran), pattern


def test_what_cannot_run_is_accounted_for():
    for pattern, why in CANNOT.items():
        some = [c for c in FENCED if re.search(pattern, c.text)]
        assert some, f"no command is {pattern} any more ({why}): remove it"
        for file in re.findall(r"tests/\w+\.py", why):
            assert (ROOT / file).is_file(), f"{file} of {pattern} is gone"
    for c in FENCED:
        assert not (found_in(CANNOT, c) and found_in(QUICK, c) is not None), c.text
        ours = c.module or c.parts[1][0] == "gve"
        assert ours or found_in(CANNOT, c), f"{c.page}: {c.text} is never run"


def test_names_of_environments():
    """Targets of make, and extras of pip, wherever a page names one."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    setup = (ROOT / "setup.py").read_text(encoding="utf-8")
    for path in PAGES:
        text = path.read_text(encoding="utf-8")
        for target in re.findall(r"(?:`|^)make ([a-z-]+)", text, re.M):
            assert re.search(rf"^{target}:", makefile, re.M), f"{path}: make {target}"
        for extras in re.findall(r"-e '\.\[([^\]]+)\]'", text):
            for extra in extras.split(","):
                assert extra == "NAME" or f'"{extra}": ' in setup, f"{path}: {extra}"


@pytest.mark.parametrize("name", [n for n, v in cli.VERBS.items() if v.module])
def test_completion_knows_the_flags_of_a_verb(told, name):
    answer, verb = told[name, "list"], cli.VERBS[name]
    assert not answer["code"], answer["error"]
    read = {flag.name for flag in completion.flags_of(verb.flags or verb.module)}
    assert read == set(answer["out"].split())


# What makes a command small: flags that are added, words that are replaced.
SMALL = {
    r"data_synthesis.world": ["--videos=40"],
    r"eval.scaling": ["--frames=2,4", "--tokens=9", "--datasets=MSRVTT"],
    r"train .*(finetune|PAIRS)": [
        "--config.model.init_from=runs/small_hf", "--config.train.steps=2",
        "--config.train.eval_every=1", "--config.optim.warmup_steps=0",
    ],
    r"train .*world.py": [
        "--config.train.steps=2", "--config.data.batch_size=8",
        "--config.data.min_share=1.0", "--config.data.cluster_share=0.0",
    ],
}  # fmt: skip
# Results that pages speak of as those of earlier runs.
EARLIER = re.compile(r"\b((?:[ab]-[01]|runs/(?:a|b|c|base|mine))/eval)\b")


def run(desk: pathlib.Path, command: Command) -> str:
    """Runs it as a shell would, made small; returns what it said if it failed."""
    module, words = command.module
    small = found_in(SMALL, command) or []
    names = {word.split("=")[0] for word in small}
    words = [w for w in words if w.split("=")[0] not in names] + small
    for name in EARLIER.findall(command.text):
        if not (desk / name).exists():
            shutil.copytree(desk / "runs/quickstart/eval", desk / name)
    for word in words:
        name, _, value = word.partition("=")
        if name in ("--workdir", "--output") and not value.startswith(
            "runs/quickstart"
        ):
            shutil.rmtree(desk / value, ignore_errors=True)  # of an earlier page
    environment = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
    environment |= command.parts[0] | {"PYTHONPATH": str(ROOT), "BROWSER": "true"}
    done = subprocess.run(
        [sys.executable, "-m", module, *words],
        cwd=desk,
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
    )
    return done.stderr[-1500:] if done.returncode else ""


@pytest.mark.slow
def test_all_other_commands_run(desk):
    """In the order of the pages, after the steps of the quickstart."""
    steps = [c for c in COMMANDS if c.page == "README.md" and c.inline and c.module]
    steps = [c for c in steps if "runs/quickstart" in c.text]
    assert len(steps) == 4
    failed = [(c.text, said) for c in steps if (said := run(desk, c))]
    export = "gve export --checkpoint=runs/quickstart/train --output=runs/small_hf"
    assert not failed and not run(desk, Command("", export, False))
    mini = desk / "runs/quickstart/world/uvrb_mini"
    shutil.copytree(mini, desk / "UVRB")
    shutil.copytree(mini / "CRB-S", desk / "ROOT/CRB-S")
    shutil.copytree(mini / "CRB-T", desk / "ROOT/CRB-T")
    (desk / "CHECKPOINT").symlink_to(desk / "runs/quickstart/train")
    (desk / "WORKDIR").symlink_to(desk / "runs/mine")
    (desk / "DIR").symlink_to(desk / "runs/quickstart/world/raw/videos")
    template = "gve prepare template --output=ROOT/MySet"
    assert not run(desk, Command("", template, False))
    for name in ("first", "second", "third"):
        tiny.write_video(desk / f"ROOT/MySet/videos/{name}.mp4")
    index = "gve index build DIR --checkpoint=CHECKPOINT --index=runs/index"
    assert not run(desk, Command("", index, False))
    shutil.copytree(desk / "runs/index", desk / "INDEX")
    for c in FENCED:
        if c.module and not found_in(CANNOT, c) and found_in(QUICK, c) is None:
            start = time.monotonic()
            said = run(desk, c)
            took = f"{time.monotonic() - start:5.1f} s"
            print(f"{took} {'FAILED' if said else 'ok'} {c.page}: {c.text}", flush=True)
            failed += [f"{c.page}: {c.text}\n{said}"] if said else []
    assert not failed, "\n".join(failed)
