"""The corpora of a recipe: which are there, prepared once, sampled to their sizes.

`config.data.corpora` maps each task to
  format       a name of gve_jax/data/formats
  path         its folder, or one file of it; relative to data.root
  size         pairs of it that are drawn, by the seed; 0: all
  instruction  of its queries
  swap         exchanges query and target
  get          in words, where it is to be had
and to any option of the format's reader. A glob under the name of one of the reader's
kinds of files stands for its default.
"""

import inspect
import pathlib
import sys
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict

from gve_jax.data.formats import FORMATS
from gve_jax.data.formats.rows import Corpus
from gve_jax.data.prepared import (
    VERSION,
    Manifest,
    Prepared,
    alone,
    media_folder,
    prepare,
)
from gve_jax.data.sources import Source, Subset, hash_text
from gve_jax.types import UserError

_OWN = {
    "format": "",
    "path": "",
    "size": 0,
    "instruction": "",
    "swap": False,
    "get": "",
}


class _Found(NamedTuple):
    """One task's corpus, as it lies on disk."""

    task: str
    path: pathlib.Path
    row: dict[str, Any]  # the keys of `_OWN`
    options: dict[str, Any]  # of the reader
    folder: pathlib.Path
    files: dict[str, list[pathlib.Path]]  # by the reader's kinds; empty where missing
    prepared: pathlib.Path
    made_by: dict[str, Any]
    negatives: int

    @property
    def state(self) -> str:
        """ "prepared", "raw" (to be prepared) or "missing"."""
        manifest = Manifest.load(self.prepared)
        raw = all(self.files.values())
        if manifest is not None:
            made_by = manifest.made_by
            if not any(self.files.values()):  # removed since: what they made will do
                made_by = made_by | {"files": self.made_by["files"]}
            if made_by == self.made_by:
                return "prepared"
        return "raw" if raw else "missing"


def load_corpora(
    data: ConfigDict, *, allow_missing: bool, seed: int
) -> tuple[dict[str, Source], list[str]]:
    """Checks all corpora, prints them as a table, and prepares and samples them.

    Args:
      data: `config.data`; its `tasks` choose among `corpora`.
      allow_missing: go on without corpora that are not there.
      seed: of the samples.

    Returns:
      task -> pairs, and the names of the tasks that are missing.

    Raises:
      UserError: the configuration is wrong, a corpus is missing and may not be, or none
        of its rows makes a pair.
    """
    unknown = [task for task in data.tasks if task not in data.corpora]
    if unknown:
        raise UserError(
            f"data.tasks names {unknown[0]!r}, which data.corpora lacks; it has "
            f"{', '.join(sorted(data.corpora))}"
        )
    found = [_find(data, task) for task in (data.tasks or data.corpora)]
    states = {corpus.task: corpus.state for corpus in found}
    _say(_table(found, states))
    missing = [task for task, state in states.items() if state == "missing"]
    if missing and not allow_missing:
        raise UserError(
            f"data.corpora: {', '.join(missing)} not found, see the table above: fetch "
            "them, set their paths, leave them out of data.tasks, or train without "
            "them by --allow-missing"
        )
    if len(missing) == len(found):
        raise UserError(f"data.root={data.root}: none of the corpora is there")
    for corpus in found:
        if states[corpus.task] == "raw":
            with alone(corpus.prepared.parent):
                if corpus.state == "raw":  # no other process was faster
                    _prepare(corpus)
    tasks = {
        corpus.task: _sample(corpus, seed)
        for corpus in found
        if corpus.task not in missing
    }
    return tasks, missing


def _find(data: ConfigDict, task: str) -> _Found:
    given = data.corpora[task].to_dict()
    row = _OWN | {key: given.pop(key) for key in _OWN.keys() & given.keys()}
    where = f"data.corpora.{task}"
    if row["format"] not in FORMATS:
        raise UserError(
            f"{where}.format is {row['format']!r}: use one of {', '.join(FORMATS)}"
        )
    reader = FORMATS[row["format"]]
    known = inspect.signature(reader.read).parameters.keys() - {"corpus"}
    for key in given.keys() - known:
        raise UserError(
            f"{where}.{key}: {row['format']} has no such option; it has "
            f"{', '.join(sorted(known | _OWN.keys()))}"
        )
    path = _below(data.root, row["path"], f"{where}.path", "data.root")
    globs = {kind: given.pop(kind, default) for kind, default in reader.FILES.items()}
    folder = path if path.suffix == "" or path.is_dir() else path.parent
    if folder != path:  # one file
        globs = dict.fromkeys(globs, path.name)
    files = {kind: sorted(folder.glob(glob)) for kind, glob in globs.items()}
    kept = _below(data.root, data.prepared or "prepared", "data.prepared", "data.root")
    negatives = data.nums_negatives.get(task, data.num_negatives)
    made_by = {
        "version": VERSION,
        "format": row["format"],
        "options": given,
        "instruction": row["instruction"],
        "swap": row["swap"],
        "negatives": negatives,
        "files": [
            [str(f.relative_to(folder)), f.stat().st_size, f.stat().st_mtime_ns]
            for kind in files.values()
            for f in kind
        ],
    }
    return _Found(
        task, path, row, given, folder, files, kept / task, made_by, negatives
    )


def _below(root: str, path: str, name: str, root_name: str) -> pathlib.Path:
    if not path:
        raise UserError(f"{name} is empty: name the folder of the corpus")
    if not root and not pathlib.Path(path).is_absolute():
        raise UserError(
            f"{root_name} is empty, and {name}={path} relative to it: name the folder "
            f"that holds the corpora, --config.{root_name}=DIR"
        )
    return pathlib.Path(root, path).absolute()


def _table(found: list[_Found], states: Mapping[str, str]) -> list[str]:
    lines = [f"{'task':20} {'state':9} {'pairs':>11}  {'format':10} path"]
    for corpus in found:
        state, row = states[corpus.task], corpus.row
        size = f"{row['size']:,}" if row["size"] else "all"
        lines.append(
            f"{corpus.task:20} {state:9} {size:>11}  {row['format']:10} {corpus.path}"
        )
        if state == "missing":
            empty = [kind for kind, files in corpus.files.items() if not files]
            lines.append(f"    no {' and no '.join(empty)} there; get: {row['get']}")
    return lines


def _prepare(corpus: _Found) -> None:
    media = media_folder(corpus.prepared)
    source = Corpus(corpus.folder, media, corpus.negatives)
    reader = FORMATS[corpus.row["format"]]
    manifest = prepare(
        reader.read(source, **corpus.files, **corpus.options),
        source,
        corpus.prepared,
        task=corpus.task,
        instruction=corpus.row["instruction"],
        swap=corpus.row["swap"],
        made_by=corpus.made_by,
        total_bytes=getattr(reader, "PASSES", 1)
        * sum(size for _, size, _ in corpus.made_by["files"]),
    )
    lines = [f"{corpus.task}: {manifest.pairs:,} pairs of {manifest.rows:,} rows"]
    for reason, count in manifest.dropped.items():
        lines.append(
            f"    dropped {count:,}: {reason} (first: {manifest.first_dropped[reason]})"
        )
    if manifest.lost_negatives:
        lines.append(f"    {manifest.lost_negatives:,} hard negatives without a file")
    _say(lines)


def _sample(corpus: _Found, seed: int) -> Source:
    source = Prepared(corpus.prepared, corpus.folder, corpus.task)
    size = corpus.row["size"]
    if not size or size >= len(source):
        if size > len(source):
            _say([f"{corpus.task}: {len(source):,} pairs, of {size:,} expected"])
        return source
    rng = np.random.default_rng([seed, hash_text(corpus.task)])
    return Subset(source, np.sort(rng.permutation(len(source))[:size]))


def _say(lines: list[str]) -> None:
    print("\n".join(lines), file=sys.stderr, flush=True)
