"""What verbs have in common: the flag `--index`, and arguments that are no flags."""

import sys

from absl import flags

INDEX = flags.DEFINE_string("index", None, "The index folder.")


def arguments(
    argv: list[str], what: str, least: int = 0, most: int | None = None
) -> list[str]:
    """Those after the verb; what looks like a flag only after "--".

    Ends the program with exit code 2 where there are less than `least` of `what` or
    more than `most`, or an unknown flag is among them.
    """
    given = argv[1:]
    cut = given.index("--") if "--" in given else len(given)
    unknown = [a for a in given[:cut] if a.startswith("-")]
    given = given[:cut] + given[cut + 1 :]
    fault = ""
    if unknown:
        fault = f"unknown flag {unknown[0]}: {argv[0]} --help lists those that it has"
    elif not least <= len(given) <= (len(given) if most is None else most):
        fault = f"{argv[0]} takes {what}, here are {given or 'none'}"
    if fault:
        print(f"error: {fault}", file=sys.stderr)
        sys.exit(2)
    return given
