"""Runs commands of ours in forks of one process that has imported the libraries.

Reads JSON from stdin, [{"module", "words", "mode"}]; writes [{"code", "out", "error"}]
in the same order. Modes: "parse" takes a command as far as its flags, config files and
required flags, by the project's own `gve_jax.main.run`; "flags" asks only that each
flag is one that the module has; "list" prints the module's flags that are the
project's own; "run" runs it, after all others and in turn.
"""

import itertools
import json
import os
import runpy
import sys
import tempfile

# What takes long to import, and starts no threads that a fork would lose.
import apache_beam  # noqa: F401
import cv2  # noqa: F401
import flax.nnx  # noqa: F401
import grain  # noqa: F401
import jax  # noqa: F401
import matplotlib.figure  # noqa: F401
import ml_collections.config_flags  # noqa: F401
import optax  # noqa: F401
import orbax.checkpoint  # noqa: F401
import pyarrow.parquet  # noqa: F401
import qwix  # noqa: F401
import scipy.stats  # noqa: F401
import transformers  # noqa: F401
from absl import app, flags

from gve_jax import completion
from gve_jax import main as command

_MARK = "\x1e"  # before an answer, after whatever a module prints


def forked(action) -> dict:
    """What an action prints, and the code that it ends with, in a fork."""
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as error:
        sys.stdout.flush()
        pid = os.fork()
        if pid == 0:
            os.dup2(out.fileno(), 1)
            os.dup2(error.fileno(), 2)
            code = 70  # an exception, which Python prints
            try:
                action()
                code = 0
            except SystemExit as e:
                code = e.code if isinstance(e.code, int) else int(e.code is not None)
            except BaseException:
                sys.excepthook(*sys.exc_info())
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(code)
        _, status = os.waitpid(pid, 0)
        texts = []
        for file in (out, error):
            file.seek(0)
            texts.append(file.read())
    return {
        "code": os.waitstatus_to_exitcode(status),
        "out": texts[0],
        "error": texts[1],
    }


def run(job: dict) -> None:
    sys.argv = [job["module"], *job["words"]]
    runpy.run_module(job["module"], run_name="__main__", alter_sys=True)


def parse(jobs: list[dict]) -> list[dict]:
    """Of one module and the same words that are no flags: it is imported once."""
    real, really, answers = command.run, app.run, []

    def each(main, required=(), others=False):
        """In the place of `run`, which a module calls when it has defined its flags."""
        own = [word for word in sys.argv if not word.startswith("--")]
        app.run = really

        def only_parse(argv):
            if jobs[0]["module"].startswith("data_synthesis"):
                from data_synthesis import pipelines

                pipelines.beam_options(argv[1:])  # refuses what Beam does not know
            elif any(word.startswith("-") for word in argv[1:]):
                raise SystemExit(f"unknown flags: {argv[1:]}")

        for job in jobs:
            words = [word for word in job["words"] if word.startswith("--")]
            sys.argv = [*own, *words]
            if job["mode"] == "parse":
                answer = forked(lambda: real(only_parse, required, others))
            else:
                wrong = [] if job["mode"] == "list" else unknown(words)
                told = " ".join(own_flags())
                answer = {"code": len(wrong), "out": told, "error": f"no {wrong}"}
            answers.append(answer)

    def start():
        command.run = app.run = each  # the second is that of benchmarks
        run(jobs[0])
        print(f"{_MARK}{json.dumps(answers)}")

    told = forked(start)
    if told["code"] or _MARK not in told["out"]:
        return [told | {"code": told["code"] or 70}] * len(jobs)
    return json.loads(told["out"].split(_MARK)[1])


def unknown(words: list[str]) -> list[str]:
    """Those that are no flags, whatever their values."""
    names = {word: word.removeprefix("--").partition("=")[0] for word in words}
    return [
        word
        for word, name in names.items()
        if name not in flags.FLAGS
        and name.removeprefix("no") not in flags.FLAGS
        and not name.startswith("config.")
    ]


def own_flags() -> list[str]:
    return sorted(
        flag.name
        for module, some in flags.FLAGS.flags_by_module_dict().items()
        if module.endswith(".py") or module.split(".")[0] in completion.PACKAGES
        for flag in some
    )


def main() -> None:
    sys.path.insert(0, os.getcwd())
    jobs = json.load(sys.stdin)

    def group(i: int) -> tuple:
        words = [word for word in jobs[i]["words"] if not word.startswith("--")]
        return jobs[i]["module"], words

    parsed = [i for i, job in enumerate(jobs) if job["mode"] != "run"]
    answers: dict[int, dict] = {}
    for _, some in itertools.groupby(sorted(parsed, key=group), group):
        numbers = list(some)
        found = parse([jobs[i] for i in numbers])
        answers |= dict(zip(numbers, found, strict=True))
    for i, job in enumerate(jobs):
        if job["mode"] == "run":
            answers[i] = forked(lambda job=job: run(job))
    json.dump([answers[i] for i in range(len(jobs))], sys.stdout)


if __name__ == "__main__":
    main()
