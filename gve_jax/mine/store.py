"""Mined pairs on disk: resumed where it was interrupted, audited for a person.

FOLDER/
  pairs/TASK.jsonl  the pairs with "negatives" and "scores"
  audit.json        numbers of each task, options, contract of the prober
  audit.jsonl       samples: the candidates of a pair and what became of them
  audit.html        the same to look at
  failures.jsonl    {"task", "item", "error"} of the media that could not be read
  inputs.json       what all this was made from
  vectors/          as `gve_jax.embed` writes them
"""

import functools
import hashlib
import json
import math
import os
import pathlib
import shutil
import urllib.parse
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np

from gve_jax.contract import Contract
from gve_jax.data.records import pair_row
from gve_jax.disk import replace, write_json, write_rows
from gve_jax.embed import Embedder, embed_to_folder
from gve_jax.mine.mining import Sample, mine
from gve_jax.mine.pool import Corpus, equal_files, media_paths
from gve_jax.mine.report import render
from gve_jax.mine.search import MineOptions
from gve_jax.types import Item, Pair, UserError


def mine_to_folder(
    embedder: Embedder,
    tasks: Mapping[str, Sequence[Pair]],
    folder: str | os.PathLike,
    options: MineOptions,
    corpus: Sequence[Item] = (),
) -> dict:
    """Mines each task's pairs with the embedder as prober.

    An interrupted call goes on from its vectors and finished tasks; a finished folder
    of the same inputs is read back.

    Returns:
      The content of audit.json.

    Raises:
      UserError: an option is out of its range; no pair of a task can be read; the
        folder holds something else, or negatives of other inputs, or cannot be
        written.
    """
    options.check()
    folder = pathlib.Path(folder)
    media = sorted(media_paths(*tasks.values(), corpus=corpus))
    _claim(folder, embedder.contract, options, _digest(tasks, corpus, media))
    if (folder / "audit.json").exists():
        return json.loads((folder / "audit.json").read_text(encoding="utf-8"))
    twins = equal_files(media)

    failures: list[dict] = []
    embed = functools.partial(_embed, embedder, folder)
    pool = Corpus(corpus, embed("the corpus", failures, corpus)) if corpus else None
    (folder / "pieces").mkdir(exist_ok=True)
    (folder / "pairs").mkdir(exist_ok=True)
    parts = []
    for task, pairs in tasks.items():
        name = urllib.parse.quote(task, safe="")  # of files, whatever the task's
        piece = folder / "pieces" / f"{name}.json"
        if not piece.exists():
            failed: list[dict] = []
            mined = mine(
                pairs, functools.partial(embed, name, failed), options, pool, twins
            )
            if mined.audit.unreadable_pairs == len(pairs):
                raise UserError(
                    f"task {task}: no pair can be read, first: {failed[0]['error']}"
                )
            write_pairs(folder / "pairs" / f"{name}.jsonl", mined.pairs)
            samples = [_sample(sample, folder) for sample in mined.samples]
            part = {"audit": mined.audit._asdict(), "samples": samples}
            write_json(piece, part | {"failures": failed})
        parts.append(json.loads(piece.read_text(encoding="utf-8")))
    samples = [row for part in parts for row in part["samples"]]
    failures += [row for part in parts for row in part["failures"]]
    audit = {
        "contract": embedder.contract.to_json(),
        "options": options._asdict(),
        "tasks": {t: part["audit"] for t, part in zip(tasks, parts, strict=True)},
        "unreadable_items": len(failures),
    }
    write_rows(folder / "audit.jsonl", samples)
    write_rows(folder / "failures.jsonl", failures)
    replace(folder / "audit.html", render(audit, samples, folder))
    write_json(folder / "audit.json", audit)  # last: it says that all is there
    shutil.rmtree(folder / "pieces")
    return audit


def write_pairs(path: str | os.PathLike, pairs: Sequence[Pair]) -> None:
    """Writes a pairs file that `read_pairs` reads back; all of it or nothing.

    Paths of media are relative to the file, where that is the way to them.
    """
    relative = _relative_to(pathlib.Path(path).parent)
    write_rows(pathlib.Path(path), (pair_row(pair, relative) for pair in pairs))


def _embed(
    embedder: Embedder,
    folder: pathlib.Path,
    name: str,
    failures: list[dict],
    items: Sequence[Item],
) -> np.ndarray:
    """The vectors of a task or the corpus; adds what cannot be read to `failures`."""
    target = folder / "vectors" / name
    result = embed_to_folder(embedder, items, target, f"embed {name}")
    failures += [
        {"task": name, "item": items[i].video or items[i].image, "error": reason}
        for i, reason in sorted(result.failures.items())
    ]
    return result.vectors


def _relative_to(folder: pathlib.Path) -> Callable[[str], str]:
    """Paths as files in the folder name them."""
    if os.path.realpath(folder) != os.path.abspath(folder):
        return os.path.abspath  # behind a symbolic link ".." would not lead back
    return functools.partial(os.path.relpath, start=folder)


def _sample(sample: Sample, folder: pathlib.Path) -> dict:
    items = tuple(judged.item for judged in sample.candidates)
    row = pair_row(sample.pair._replace(negatives=items), _relative_to(folder))
    return {name: row[name] for name in ("task", "id", "query", "target")} | {
        "score": None if math.isnan(sample.score) else sample.score,
        "candidates": [
            {
                "rank": judged.rank or None,
                "score": judged.score,
                "verdict": judged.verdict.name.lower(),
                "item": item,
            }
            for judged, item in zip(
                sample.candidates, row.get("negatives", ()), strict=True
            )
        ],
    }


def _claim(
    folder: pathlib.Path, contract: Contract, options: MineOptions, digest: str
) -> None:
    """Makes the folder that of these inputs, or refuses it."""
    path = folder / "inputs.json"
    if path.exists():
        there = json.loads(path.read_text(encoding="utf-8"))
        where = f"{folder} holds negatives"
        Contract.from_json(there["contract"], str(path)).require_equal(
            contract, str(folder), "this checkpoint"
        )
        for name, value in options._asdict().items():
            if (found := there["options"].get(name)) != value:
                raise UserError(
                    f"{where} mined with --{name}={found}, not {value}: use a new one "
                    "(a copy of vectors/ may be in it)"
                )
        if there["digest"] != digest:
            raise UserError(f"{where} of other pairs, corpus or media: use a new one")
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise UserError(f"{folder}: cannot be written ({e.strerror})") from None
    others = sorted({entry.name for entry in folder.iterdir()} - {"vectors"})
    if others:
        raise UserError(f"{folder} holds {others[0]}, not negatives: use a new one")
    inputs = {"contract": contract.to_json(), "options": options._asdict()}
    write_json(path, inputs | {"digest": digest})


def _digest(
    tasks: Mapping[str, Sequence[Pair]], corpus: Sequence[Item], media: Iterable[str]
) -> str:
    """Of rows, and of the sizes and times of media."""
    digest = hashlib.sha256()
    for rows in (*tasks.values(), corpus):
        for row in rows:
            digest.update(repr(row).encode())
        digest.update(b"\0")
    for path in media:
        stat = os.stat(path)
        digest.update(f"{path}\0{stat.st_size},{stat.st_mtime_ns}\0".encode())
    return digest.hexdigest()
