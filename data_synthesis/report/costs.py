"""What a run took: seconds of its shards, tokens of its requests."""

import json
import pathlib

import numpy as np

from data_synthesis.run import Run

# Stages in which a model runs, on an accelerator where there is one.
_MODELS = ("embed", "caption", "score_captions", "compose", "probes", "mine")


def report(run: Run, stages: list[str], kept: int) -> dict:
    """Seconds are those of workers: on N processes a stage takes about 1/N of them.

    Args:
      stages: in order.
      kept: records at the end.
    """
    folder = run.layout.root / "timings"
    rows = {}
    for stage in stages:
        found = _read(folder / stage)
        if not found:
            continue
        each = [f["seconds"] / f["rows"] for f in found if f["rows"]]
        seconds = sum(f["seconds"] for f in found)
        left = run.layout.shards - len(found)
        rows[stage] = {
            "shards": len(found),
            "seconds": seconds,
            "rows": sum(f["rows"] for f in found),
            "seconds_per_row": float(np.mean(each)) if each else 0.0,
            "p95_of_shards": float(np.percentile(each, 95)) if each else 0.0,
            "seconds_left": left * seconds / len(found),
            "code": sorted({f.get("code", "unknown") for f in found}),
        }
    requests = {}
    for path in sorted(folder.glob("requests.*")):
        found = _read(path)
        sums = {
            name: sum(f[name] for f in found)
            for name in ("hits", "asked", "tokens_in", "tokens_out", "seconds")
        }
        requests[path.name.removeprefix("requests.")] = sums | {
            "tokens_out_per_second": sums["tokens_out"] / max(sums["seconds"], 1e-9)
        }
    hours = sum(rows[s]["seconds"] for s in _MODELS if s in rows) / 3600
    price = run.config.report.device_price
    return {
        "stages": rows,
        "requests": requests,
        "model_hours": hours,
        "price_per_1000_kept": 1000 * hours * price / kept if kept else 0.0,
    }


def _read(folder: pathlib.Path) -> list[dict]:
    return [json.loads(p.read_text()) for p in sorted(folder.glob("*.json"))]
