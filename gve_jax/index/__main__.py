"""Index folders of videos and images, and search them.

python -m gve_jax.index build DIR --checkpoint=runs/quickstart/train --index=runs/index
python -m gve_jax.index search "a red ball rolls away" --index=runs/index
"""

import importlib
import sys

from absl import flags

from gve_jax.main import run

# Verb -> (its module, what it does). The module defines its flags, has `REQUIRED`, the
# names of those that it needs, and `main`, which takes the verb and what is no flag.
VERBS = {
    "build": (
        "gve_jax.index.build",
        "make an index of folders, or bring it up to date",
    ),
    "add": ("gve_jax.index.build", "add folders or files to an index"),
    "remove": ("gve_jax.index.remove", "take files, folders or what is gone out of it"),
    "compact": ("gve_jax.index.compact", "give back the space of what was removed"),
    "info": ("gve_jax.index.info", "say what an index holds"),
    "search": ("gve_jax.index.search_verb", "search by text, image, clip or mixtures"),
    "serve": ("gve_jax.index.serve", "search it in the browser, on this machine"),
    "export": ("gve_jax.index.export", "write its vectors for other programs"),
}


def main() -> None:
    verb = sys.argv[1] if len(sys.argv) > 1 else ""
    if verb not in VERBS:
        known = "\n".join(f"  {name:8} {what}" for name, (_, what) in VERBS.items())
        wanted = verb in ("--help", "-h", "help")
        print(
            f"usage: python -m gve_jax.index VERB ...\n{known}",
            file=sys.stdout if wanted else sys.stderr,
        )
        sys.exit(0 if wanted else 2)
    module = importlib.import_module(VERBS[verb][0])
    # absl shows the flags of the module that has the program's name.
    sys.argv = [module.__name__, *sys.argv[2:]]
    flags.FLAGS.set_gnu_getopt()  # flags also follow paths and queries
    run(lambda argv: module.main([verb, *argv[1:]]), module.REQUIRED, others=True)


if __name__ == "__main__":
    main()
