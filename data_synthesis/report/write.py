"""Writes OUT/report.json, OUT/report.html and OUT/dead_letters.jsonl.

All is read from the manifests, tables and timings of a run; what has not run is absent,
and the page says so.
"""

import itertools
import json
import pathlib

from data_synthesis import prompts, shards
from data_synthesis.config import default_config
from data_synthesis.report import costs, figures, links, pairs, records
from data_synthesis.report.current import current
from data_synthesis.report.filters import thresholds
from data_synthesis.report.gallery import gallery
from data_synthesis.run import Run, differences, whole_stage_hash
from data_synthesis.shards import Counts
from data_synthesis.tables import task_counts
from gve_jax import page
from gve_jax.disk import replace, write_json, write_rows

# Of whose records the counts must join: what one keeps, the next one gets.
_CHAIN = records.STAGES
_OF_PAIRS = ("candidates", "compose", "extend")


def write_report(run: Run, stages: tuple[str, ...], command: str) -> pathlib.Path:
    """Returns the page.

    Args:
      stages: all there are, in order.
      command: that made the run, for the command that tries failures again.
    """
    root = run.layout.root
    calibration = _json(root / "embed" / "calibration.json")
    there = current(run, stages)
    done = [stage for stage, n in there.items() if n == run.layout.shards]
    last, rows = records.read(run, done)
    limits = thresholds(run.config, calibration)
    decided = last in _CHAIN[_CHAIN.index("decide") :] if last else False
    found = records.Records(run, limits, decided)
    for record in rows:
        found.add(record)
    told = found.report()
    of_pairs, dead = pairs.report(run, done)
    dead = found.dead + dead
    funnel = _funnel(run, done)
    if told["filters"] and "decide" in funnel:
        funnel["decide"]["filters"] = told["filters"]
    kept = sum(row["kept"] for row in told["sources"].values())
    report = {
        "run": _header(
            run, [s for s in (last, "examples") if s in done], told.pop("embedders")
        ),
        "stages": funnel,
        "unfinished": {s: n for s, n in there.items() if s not in done},
        "reconciled": _reconciled(funnel),
        **told,
        "links": links.report(run, done),
        "calibration": {"texts": calibration} if calibration else {},
        "pairs": of_pairs,
        "audit": _json(root / "audit" / "audit.json"),
        "costs": costs.report(run, list(stages), kept),
        "dead_letters": _by_code(dead),
        "retry": f"{command} --retry_failed=",
    }
    captioned = _json(root / "score_captions" / "calibration.json")
    report["calibration"] |= {f"captions {n}": row for n, row in captioned.items()}
    write_rows(root / "dead_letters.jsonl", dead)
    write_json(root / "report.json", report)
    samples = {name: found.samples[name].rows() for name in sorted(found.samples)}
    shown = gallery(run, last, samples)
    environment = page.environment(pathlib.Path(__file__).parent)
    environment.filters["share"] = lambda v, of: f"{100 * v / of:.1f} %" if of else "–"
    environment.filters["number"] = _number
    text = environment.get_template("report.html").render(
        **report,
        name="/".join(root.absolute().parts[-2:]),
        limits={t.code: t for t in limits},
        gallery=shown,
        kept=kept,
        last=last,
        link_names=links.NAMES,
        made_by=sorted(
            {code for row in report["costs"]["stages"].values() for code in row["code"]}
        ),
        config_text=json.dumps(report["run"]["config"], indent=1),
        figures={
            "thresholds": figures.thresholds(report["thresholds"]),
            "calibrations": figures.calibrations(report["calibration"]),
            "words": figures.words(report["captions"].get("words", [])),
            "margins": figures.margins(of_pairs.get("negatives", {})),
        },
    )
    path = root / "report.html"
    replace(path, text)
    return path


def _header(run: Run, data: list[str], embedders: list[str]) -> dict:
    """`data`: stages that hold the records, and the files of the training set;
    `embedders`: hashes of weights."""
    config = json.loads(run.config.to_json())
    defaults = json.loads(default_config().to_json())
    before = _json(run.layout.root / "report.json").get("run", {})
    changes = before.get("changes", [])
    if before and before["config"] != config:
        changes = sorted(differences(before["config"], config))
    names = {"config": config, "input": shards.file_sha256(run.input)}
    return {
        "id": shards.config_sha256(names)[:12],
        "commit": shards.code(),
        "input": str(run.input),
        "input_sha256": names["input"],
        "seed": config["seed"],
        "shards": run.layout.shards,
        "data": {stage: whole_stage_hash(run, stage) for stage in data},
        "models": {
            "embedder": config["consistency"]["embedder"],
            "embedder's weights": ", ".join(embedders),
            "captioner": config["caption"]["captioner"],
            "captioner's model": config["caption"]["model"]
            or config["caption"]["checkpoint"],
        },
        "prompts": {
            name: {"id": prompts.load(name).id, "sha256": prompts.load(name).sha256}
            for name in prompts.VERSIONS
        },
        "differs_from_defaults": sorted(differences(defaults, config)),
        "changes": changes,
        "config": config,
    }


def _funnel(run: Run, done: list[str]) -> dict[str, dict]:
    """Of the stages that are done."""
    found = {}
    for stage in done:
        found[stage] = _counts(shards.stage_counts(run.layout, stage))
        if stage in _OF_PAIRS:
            found[stage]["tasks"] = {
                task: _counts(n) for task, n in task_counts(run.layout, stage).items()
            }
    return found


def _counts(n: Counts) -> dict:
    return {
        "in": n.entered, "kept": n.kept, "dropped": n.dropped, "errors": n.errors,
        "reasons": dict(sorted(n.reasons.items(), key=lambda r: (-r[1], r[0]))),
    }  # fmt: skip


def _reconciled(funnel: dict[str, dict]) -> dict:
    """Whether no record is lost: within the stages, and from one to the next."""
    faults = []
    for name, row in funnel.items():
        out = row["kept"] + row["dropped"] + row["errors"]
        if row["in"] != out:
            faults.append(f"{name}: {row['in']} in, {out} out")
    for chain in (_CHAIN, _OF_PAIRS):
        there = [name for name in chain if name in funnel]
        for one, two in itertools.pairwise(there):
            if funnel[one]["kept"] != funnel[two]["in"]:
                faults.append(
                    f"{one} keeps {funnel[one]['kept']}, {two} gets {funnel[two]['in']}"
                )
    there = [funnel[name] for name in _CHAIN if name in funnel]
    sums = {
        "in": there[0]["in"] if there else 0,
        "kept": there[-1]["kept"] if there else 0,
        "dropped": sum(row["dropped"] for row in there),
        "errors": sum(row["errors"] for row in there),
    }
    if sums["in"] != sums["kept"] + sums["dropped"] + sums["errors"]:
        faults.append(f"the whole: {sums}")
    return sums | {"faults": faults}


def _by_code(dead: list[dict]) -> list[dict]:
    found: dict[tuple[str, str], dict] = {}
    for letter in sorted(dead, key=lambda d: (d["stage"], d["id"], d["media"])):
        for code in letter["codes"]:
            row = found.setdefault(
                (letter["stage"], code),
                {"stage": letter["stage"], "code": code, "number": 0, "first": letter},
            )
            row["number"] += 1
    return [found[name] for name in sorted(found)]


def _json(path: pathlib.Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def _number(value: float) -> str:
    if isinstance(value, int) or float(value).is_integer():
        return f"{int(value):,}"
    return f"{value:.3f}" if abs(value) < 10 else f"{value:,.1f}"
