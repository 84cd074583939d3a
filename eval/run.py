"""Runs the benchmark: read, embed, rank, score, write."""

import json
import os
import pathlib
import sys

import ml_collections
import numpy as np

from eval import abilities, loaders, protocol, report, vectors
from eval.datasets import RetrievalSet
from gve_jax import retrieval
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
            print(
                f"warning: {data.name}: {len(data.queries)} queries and "
                f"{len(data.corpus)} corpus items, published "
                f"{data.facts.num_queries} and {data.facts.num_corpus}",
                file=sys.stderr,
            )
    return sets


def run(
    config: ml_collections.ConfigDict,
    sets: list[RetrievalSet],
    embedder,
    output: str | os.PathLike,
    checkpoint: str = "",
) -> dict:
    """Evaluates `embedder` and writes results, report and rankings to `output`.

    Returns what results.json holds. Raises UserError if media cannot be read.
    """
    output = pathlib.Path(output)
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise UserError(f"--output: cannot write {output} ({e.strerror})") from None
    sides = vectors.embed(
        sets, embedder, output / "embeddings", config.eval.allow_missing
    )
    outcomes = score(sets, sides, config.eval.bootstrap, config.seed)
    results = summarise(outcomes) | {"contract": embedder.contract.to_json()}
    _write_rankings(output / "rankings", sets, outcomes)
    failures = [
        {"dataset": name, "side": side, "id": item, "reason": reason}
        for (name, side, item), reason in sides.failures.items()
    ]
    replace(output / "missing.jsonl", _jsonl(failures))
    page = report.render(
        sets, outcomes, results, checkpoint, failures, shown=config.eval.gallery
    )
    replace(output / "report.html", page.encode())
    # Last: with it, the folder is whole.
    text = json.dumps(results, indent=1, ensure_ascii=False, allow_nan=False)
    replace(output / "results.json", f"{text}\n".encode())
    return results


def score(
    sets: list[RetrievalSet], sides: vectors.Sides, resamples: int, seed: int
) -> dict[str, protocol.Outcome]:
    """Scores each dataset by its vectors."""
    return {
        data.name: protocol.evaluate(
            data,
            sides.queries[data.name],
            sides.corpus[data.name],
            resamples=resamples,
            seed=seed,
        )
        for data in sets
    }


def summarise(outcomes: dict[str, protocol.Outcome]) -> dict:
    """Datasets to abilities and averages, with 95 % intervals and chance levels.

    The interval of a mean comes from resampling the queries of all its datasets at
    once. What lacks a dataset is None, and `complete` is then false.
    """
    rows = {name: o.row for name, o in outcomes.items()}
    scores = abilities.abilities({name: row["score"] for name, row in rows.items()})
    samples = abilities.abilities({name: o.samples for name, o in outcomes.items()})
    complete = None not in scores.values()
    average = abilities.ability_average
    averages = {
        "dataset_average": (
            np.mean([o.samples for o in outcomes.values()], axis=0)
            if complete
            else None
        ),
        "ability_average": average(samples),
    }
    return {
        "datasets": rows,
        "abilities": scores,
        "dataset_average": (
            float(np.mean([r["score"] for r in rows.values()])) if complete else None
        ),
        "ability_average": average(scores),
        "complete": complete,
        "ability_intervals": {
            name: None if values is None else list(retrieval.interval(values))
            for name, values in (samples | averages).items()
        },
        "ability_chance": abilities.abilities(
            {name: row["chance"] for name, row in rows.items()}
        ),
    }


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
