"""Data folders of the benchmark: build one from its sources, check it, add your own.

python -m eval.prepare build --source=carebench --input=CaReBench --output=UVRB
python -m eval.prepare check --root=UVRB
python -m eval.prepare template --output=UVRB/MySet
"""

import dataclasses
import os
import pathlib
import sys
from collections.abc import Iterator

from absl import flags

from eval import loaders, manifest, uvrb
from eval.sources import ENTRIES, SOURCES
from eval.sources.build import Built, build
from eval.sources.release import Release
from eval.sources.template import write as write_template
from gve_jax import main as command
from gve_jax.types import UserError

_SOURCE = flags.DEFINE_string("source", None, f"build: one of {', '.join(SOURCES)}.")
_INPUT = flags.DEFINE_string("input", None, "build: folder of the source's release.")
_OUTPUT = flags.DEFINE_string("output", None, "build: root; template: ROOT/NAME.")
_ROOT = flags.DEFINE_string("root", None, "check: folder of the datasets.")
_DATASETS = flags.DEFINE_list("datasets", None, "build, check: names; default: all.")
_COPY = flags.DEFINE_bool("copy", False, "build: copy media instead of linking them.")
_TEXT = flags.DEFINE_string(
    "text", None, "build: the queries' text, e.g. {keywords}, where columns differ."
)
_WORKERS = flags.DEFINE_integer(
    "workers", os.cpu_count() or 1, "check: decoding processes.", lower_bound=1
)
_SHOWN = 5  # files named in a message


def _build() -> None:
    if _SOURCE.value not in SOURCES:
        known = ", ".join(SOURCES)
        raise UserError(f"--source: {_SOURCE.value!r} is none of {known}")
    source = SOURCES[_SOURCE.value]
    entries = {entry.name: entry for entry in source.entries}
    lacks = dict(source.lacks)
    chosen = _DATASETS.value or list(entries)
    for name in chosen:
        if name not in entries:
            reason = lacks.get(name, f"choose from {', '.join(entries)}")
            raise UserError(f"--datasets: {_SOURCE.value} cannot give {name}: {reason}")
    root = pathlib.Path(_OUTPUT.value)
    unpacked = root / "unpacked" / _SOURCE.value
    release = Release(_INPUT.value, unpacked, source.get)
    for name in chosen:
        entry = entries[name]
        if _TEXT.value:
            if not entry.query.text:
                raise UserError(f"--text: the queries of {name} have no text")
            query = dataclasses.replace(entry.query, text=_TEXT.value)
            entry = dataclasses.replace(entry, query=query)
        built = build(entry, source.title, release, root, _COPY.value)
        print("\n".join(_about(built, release)))
    for name, reason in lacks.items():
        print(f"{name}: not built: {reason}")


def _about(built: Built, release: Release) -> Iterator[str]:
    """What was built, what of it is not as expected, and why."""
    data, missing = built.data, built.missing
    yield (
        f"{data.name}: {len(data.queries)} queries, {len(data.corpus)} corpus items, "
        f"{len(missing)} media missing"
    )
    yield from _differences(data.name, data.differences(), built=True)
    if built.merged:
        yield f"  {built.merged} queries were equal to others, whose answers they join"
    if built.without_query:
        yield f"  {built.without_query} rows have no query: their items are corpus only"
    yield from (f"  missing: {line}" for line in missing[:_SHOWN])
    if missing:
        packed = ", ".join(release.archives[:_SHOWN])
        yield (
            f"  all of them are in {data.folder / 'built.json'}; the queries that need "
            "them will count as wrong"
            + (f"; still packed in the release: {packed}" if packed else "")
        )


def _differences(name: str, differences: str, built: bool) -> Iterator[str]:
    if differences:
        note = ENTRIES[name].note if built and name in ENTRIES else ""
        yield f"  {differences}" + (f": {note}" if note else "")


def _check() -> None:
    root = _ROOT.value
    if _DATASETS.value:
        names = loaders.names(_DATASETS.value, root)
    else:
        names = loaders.present(root)
    if not names:
        raise UserError(f"--root: no dataset below {root}; build one or give another")
    checked = manifest.check(root, names, _WORKERS.value)
    print(
        f"{'dataset':<12}{'queries':>8}{'corpus':>8}{'words':>9}{'seconds':>9}"
        f"{'media':>8}{'missing':>8}{'broken':>7}{'equal':>8}{'GB':>8}  licence"
    )
    for name, row in checked.datasets.items():
        print("\n".join(_row(name, row)))
    absent = [n for n in uvrb.DATASETS if n not in checked.datasets]
    if absent and not _DATASETS.value:
        print(f"not below {root}: {', '.join(absent)}")
    for what in ("changed", "vanished"):
        paths = getattr(checked, what)
        if paths:
            more = ", ..." if len(paths) > _SHOWN else ""
            shown = ", ".join(paths[:_SHOWN]) + more
            print(f"{what} since the last check, {len(paths)} files: {shown}")
    faults = sum(len(row["faults"]) for row in checked.datasets.values())
    path = pathlib.Path(root) / "manifest.json"
    print(f"{path}: hashes, sizes, durations and the licence of each dataset")
    if faults:
        raise UserError(
            f"{faults} missing or broken, the first is {_first(checked)}; {path} lists "
            'them under "faults" of each dataset; fetch these files again'
        )


def _row(name: str, row: dict) -> Iterator[str]:
    """A line of the table and what there is to say about it."""
    if "num_queries" not in row:
        yield f"{name:<12}{'cannot be read':>16}"
        return
    twins = [len(row[f"equal_{side}"]) for side in ("queries", "corpus")]
    words, seconds = (row[k] or "-" for k in ("mean_query_words", "mean_duration_s"))
    yield (
        f"{name:<12}{row['num_queries']:>8}{row['num_corpus']:>8}{words:>9}"
        f"{seconds:>9}{row['num_media']:>8}{row['missing']:>8}{row['broken']:>7}"
        f"{twins[0]:>4}/{twins[1]:<3}{row['bytes'] / 1e9:>8.2f}  {row['licence']}"
    )
    yield from _differences(name, row["differences"], row["built"])


def _first(checked: manifest.Checked) -> str:
    faults = (f for row in checked.datasets.values() for f in row["faults"])
    first = next(faults)
    return f"{first['path'] or first['where']} ({first['fault']})"


def _template() -> None:
    folder = pathlib.Path(_OUTPUT.value)
    write_template(folder)
    print(f"{folder}: an example; README.md there says how to fill it in")


# Verb -> (what it does, the flags it needs).
_VERBS = {
    "build": (_build, ("source", "input", "output")),
    "check": (_check, ("root",)),
    "template": (_template, ("output",)),
}


def main(arguments: list[str]) -> None:
    """Runs the verb that the first argument names; exit code 2 if there is none."""
    verb = arguments[1] if len(arguments) > 1 else ""
    if verb not in _VERBS:
        asked = verb in ("--help", "-h", "help")
        out = sys.stdout if asked else sys.stderr
        print(
            f"usage: python -m eval.prepare {'|'.join(_VERBS)} [--flag=value]", file=out
        )
        print(flags.FLAGS.module_help(__name__), file=out)
        sys.exit(0 if asked else 2)
    run, required = _VERBS[verb]
    sys.argv = [f"{arguments[0]} {verb}", *arguments[2:]]
    command.run(lambda _: run(), required)


if __name__ == "__main__":
    main(sys.argv)
