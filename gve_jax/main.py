"""What every command's `__main__` shares: flags, exit codes, one-line errors."""

import os
import sys
from collections.abc import Callable, Sequence

from absl import app, flags, logging

from gve_jax.types import UserError

# Compiled programs are kept here, so that a second start is quick.
COMPILED = os.path.join(os.path.expanduser("~"), ".cache", "gve_jax", "compiled")


def run(
    main: Callable[[list[str]], None],
    required: Sequence[str] = (),
    others: bool = False,
) -> None:
    """Runs `main` under absl: exit 0 done, 1 failed with one line, 2 bad flags.

    `others`: arguments that are no flag of ours are for `main` to judge, after the
    program's name; else they are refused.
    """
    # Libraries log every start at INFO; what a user needs is printed.
    logging.set_verbosity(logging.WARNING)
    # An environment variable, because not every command imports jax.
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", COMPILED)
    for name in required:
        flags.mark_flag_as_required(name)

    def checked(argv: list[str]) -> None:
        if len(argv) > 1 and not others:
            _stop(f"unexpected argument {argv[1]!r}: flags look like --name=value", 2)
        try:
            main(argv)
        except UserError as e:
            _stop(str(e), 1)
        except KeyboardInterrupt:
            _stop("interrupted: run the same command again to go on", 130)

    def parse(argv: list[str]) -> list[str]:
        try:
            rest = flags.FLAGS(argv, known_only=others)
            for name in required:  # a config file that fails to load says so on use
                getattr(flags.FLAGS[name].value, "seed", None)
            return rest
        except (flags.Error, AttributeError, KeyError, TypeError, ValueError) as e:
            # ml_collections raises plain errors for unknown keys and wrong types.
            _stop(str(e).strip("'\""), 2)
        except (OSError, ImportError) as e:
            _stop(f"--config: {str(e).strip().splitlines()[-1]}", 2)

    app.run(checked, flags_parser=parse)


def _stop(message: str, code: int) -> None:
    sys.stdout.flush()
    print(f"error: {' '.join(message.split())}", file=sys.stderr, flush=True)
    # Threads that read media may be waiting: do not join them.
    os._exit(code)
