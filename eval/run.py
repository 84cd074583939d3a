"""Runs the benchmark: read, embed, rank, score, write."""

import json
import os
import pathlib
import platform
import sys

import jax
import ml_collections
import numpy as np
from jax.experimental import multihost_utils

import gve_jax
from eval import cache, loaders, report, vectors
from eval.datasets import RetrievalSet
from eval.encoders.precomputed import Precomputed
from eval.encoders.protocol import Encoder
from eval.summary import score, summarise
from gve_jax import media
from gve_jax.disk import replace
from gve_jax.types import UserError


def read(config: ml_collections.ConfigDict, names: list[str]) -> list[RetrievalSet]:
    """Reads and checks all datasets before anything is computed or written.

    Raises UserError for the first fault, absent media included unless allowed.
    """
    if not config.eval.root:
        raise UserError(
            "config.eval.root: not set; give the folder of the UVRB datasets"
        )
    if config.eval.bootstrap < 1:
        raise UserError(
            f"config.eval.bootstrap: {config.eval.bootstrap}, expected at least 1"
        )
    sets = [loaders.load(config.eval.root, name) for name in names]
    for data in sets:
        if data.missing and not config.eval.allow_missing:
            where, path = data.missing[0]
            raise UserError(
                f"{where}: no file {path} ({len(data.missing)} missing in "
                f"{data.name}): fetch it, or count the queries that need it as wrong "
                "with --config.eval.allow_missing=True"
            )
        if config.eval.check_counts and not data.published_size:
            print(f"warning: {data.name}: {data.differences()}", file=sys.stderr)
    return sets


def run(
    config: ml_collections.ConfigDict,
    sets: list[RetrievalSet],
    encoder: Encoder | Precomputed,
    output: str | os.PathLike,
    checkpoint: str = "",
    command: str = "",
) -> dict | None:
    """Evaluates `encoder` and writes results, report and rankings to `output`.

    Several processes embed together; then the first does the rest.

    Args:
      config: its `eval` section and `seed` count.
      sets: from `read`.
      encoder: see `eval.encoders`.
      output: folder, made if needed.
      checkpoint: what the encoder was made from, to be shown.
      command: that it was asked for with, to be shown.

    Returns:
      What results.json holds; None in all processes but the first.

    Raises:
      UserError: media cannot be read, or the folder cannot be written.
    """
    output = pathlib.Path(output)
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise UserError(f"--output: cannot write {output} ({e.strerror})") from None
    sides = sides_of(config, sets, encoder, output)
    results = None
    if jax.process_index() == 0:
        kind = type(encoder)
        provenance = {
            "encoder": f"{kind.__module__}.{kind.__qualname__}",
            "checkpoint": checkpoint,
            "command": command,
            "versions": {
                "gve_jax": gve_jax.__version__,
                "jax": jax.__version__,
                "numpy": np.__version__,
                "decoder": media.DECODER,
                "python": platform.python_version(),
            },
        }
        results = _write(config, sets, encoder, output, sides, provenance)
    if jax.process_count() > 1:  # nobody leaves before the results are there
        multihost_utils.sync_global_devices("evaluated")
    return results


def sides_of(
    config: ml_collections.ConfigDict,
    sets: list[RetrievalSet],
    encoder: Encoder | Precomputed,
    output: pathlib.Path,
) -> vectors.Sides:
    """Vectors of all datasets, read or made. Raises UserError as `run` does."""
    if isinstance(encoder, Precomputed):
        return encoder.sides(sets, config.eval.allow_missing)
    folder = cache.folder(config, output)
    return vectors.embed(sets, encoder, folder, config.eval.allow_missing)


def _write(config, sets, encoder, output, sides, provenance) -> dict:
    outcomes = score(sets, sides, config.eval.bootstrap, config.seed)
    results = summarise(outcomes) | {
        "contract": encoder.contract.to_json(),
        "provenance": provenance,
    }
    _write_rankings(output / "rankings", sets, outcomes)
    failures = [
        {"dataset": name, "side": side, "id": item, "reason": reason}
        for (name, side, item), reason in sides.failures.items()
    ]
    replace(output / "missing.jsonl", _jsonl(failures))
    report.collect(sets, outcomes, output / "report", shown=config.eval.gallery)
    report.write(report.read(output, "this run", results), output)
    # Last: with it, the folder is whole.
    text = json.dumps(results, indent=1, ensure_ascii=False, allow_nan=False)
    replace(output / "results.json", f"{text}\n".encode())
    return results


def _write_rankings(folder, sets, outcomes) -> None:
    folder.mkdir(exist_ok=True)
    for old in folder.glob("*.jsonl"):
        # Of datasets that this run leaves out: they would pass for its results.
        if old.stem not in outcomes:
            old.unlink()
    for data in sets:
        found = outcomes[data.name].ranking
        rows = [
            {
                "query": query.id,
                "rank": int(rank) if np.isfinite(rank) else None,
                "positives": [data.corpus[p].id for p in positives],
                "top": [
                    {"id": data.corpus[i].id, "score": round(float(s), 6)}
                    for i, s in zip(indices, scores, strict=True)
                    if i >= 0
                ],
            }
            for query, rank, positives, indices, scores in zip(
                data.queries,
                found.ranks,
                data.positives,
                found.indices,
                found.scores,
                strict=True,
            )
        ]
        replace(folder / f"{data.name}.jsonl", _jsonl(rows))


def _jsonl(rows: list[dict]) -> bytes:
    return "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows).encode()
