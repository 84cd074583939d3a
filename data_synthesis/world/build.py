"""The whole world on disk: renders, then writes the files that speak of the renders."""

import dataclasses
import hashlib
import json
import os

from data_synthesis.world import jobs, raw, tasks, uvrb_mini
from data_synthesis.world.encode import write_bytes
from data_synthesis.world.plan import MIN_VIDEOS, Plan, make_plan
from data_synthesis.world.scene import stream
from eval.uvrb import DATASETS
from gve_jax.types import UserError

VERSION = 3  # of what is written: another version is another world
MANIFEST = "world.json"
STARTED = "world.started.json"  # says which world an interrupted build was making


def build(output: str, seed: int, videos: int, processes: int = 1) -> dict:
    """Writes the world, or finds it there; shows its progress on stderr.

    Args:
      output: folder, absent, empty or holding the same world (whole or interrupted).
      videos: number of training videos, at least MIN_VIDEOS.
      processes: that render; the files do not depend on it.

    Returns:
      The manifest.

    Raises:
      UserError: the folder holds something else, cannot be written, or a number is out
        of range.
    """
    if videos < MIN_VIDEOS:
        raise UserError(f"--videos={videos}: a world needs {MIN_VIDEOS} or more")
    if seed < 0:
        raise UserError(f"--seed={seed}: give a number from 0 on")
    if processes < 1:
        raise UserError(f"--processes={processes}: give a number from 1 on")
    output = os.path.normpath(output)
    wanted = {"version": VERSION, "seed": seed, "videos": videos}
    done = _check_folder(output, wanted)
    if done is not None:
        return done
    try:
        return _build(output, wanted, processes)
    except OSError as e:
        where = e.filename or output
        raise UserError(
            f"{where}: cannot be written ({e.strerror or e}); mend that and run the "
            "same command again"
        ) from None


def _build(output: str, wanted: dict, processes: int) -> dict:
    plan = make_plan(wanted["seed"], wanted["videos"])
    records = raw.make_records(plan)
    train, mini = f"{output}/train", f"{output}/uvrb_mini"
    work = [
        *tasks.make_jobs(plan, train),
        *uvrb_mini.make_jobs(plan, mini),
        *raw.make_jobs(plan, records, f"{output}/raw"),
    ]
    jobs.run_jobs(work, processes)
    raw.place_files(records, train, f"{output}/raw")
    files = _write_files(plan, records, output)
    manifest = {
        **wanted,
        "counts": _counts(plan, records, files),
        "noise": {n: sum(r.noise == n for r in records) for n in ["none", *raw.RATES]},
        "files": {
            os.path.relpath(path, output): _sha256([path]) for path in sorted(files)
        },
        "media_sha256": _sha256(sorted({p for j in work for p in j.outputs})),
    }
    # Last of all: who finds the manifest finds the whole world.
    write_json(f"{output}/{MANIFEST}", manifest)
    os.remove(f"{output}/{STARTED}")
    return manifest


def _check_folder(output: str, wanted: dict) -> dict | None:
    """The manifest if the world is whole; else None, the folder claimed for it."""
    for name in (MANIFEST, STARTED):
        path = f"{output}/{name}"
        if not os.path.isfile(path):
            continue
        try:
            with open(path, encoding="utf-8") as f:
                found = json.load(f)
            if not isinstance(found, dict):
                raise ValueError("not an object")
        except ValueError as e:
            raise UserError(
                f"{path}: not a world's manifest ({e}); choose another --output or "
                "remove the folder"
            ) from None
        differ = [
            f"{k} {found.get(k)!r} against {v!r}"
            for k, v in wanted.items()
            if found.get(k) != v
        ]
        if differ:
            raise UserError(
                f"{path}: --output holds another world ({', '.join(differ)}); choose "
                "another --output or remove the folder"
            )
        return found if name == MANIFEST else None
    if os.path.exists(output) and not os.path.isdir(output):
        raise UserError(f"--output={output}: is a file; give a folder")
    if os.path.isdir(output) and os.listdir(output):
        raise UserError(
            f"--output={output}: is not empty and holds no world; give an empty or a "
            "new folder"
        )
    try:
        os.makedirs(output, exist_ok=True)
    except OSError as e:
        raise UserError(f"--output={output}: cannot be made ({e.strerror})") from None
    write_json(f"{output}/{STARTED}", wanted)
    return None


def _write_files(plan: Plan, records, output: str) -> list[str]:
    """Every JSON-lines file of the world. Returns their paths."""
    written = []

    def write(path: str, rows: list[dict]) -> None:
        uvrb_mini.write_jsonl(f"{output}/{path}", rows)
        written.append(f"{output}/{path}")

    rows = tasks.make_rows(plan)
    for task in tasks.TASKS:
        write(f"train/{task}.jsonl", [r.pair for r in rows if r.task == task])
    datasets = uvrb_mini.make_datasets(plan)
    written += uvrb_mini.write_datasets(datasets, plan, f"{output}/uvrb_mini")
    write(
        "raw/raw.jsonl",
        [{"id": r.id, "video": r.path, "text": r.text} for r in records],
    )
    write("truth.jsonl", _truth(plan, records))
    write("items.jsonl", _items(plan, datasets))
    return written


def _truth(plan: Plan, records) -> list[dict]:
    """A scene graph for each rendered video and each raw record."""
    rows = []
    homes = uvrb_mini.HOMES
    references = {v.id for g in plan.groups for v in g.references}
    for video in (*plan.train, *plan.evaluation()):
        if video.split == "train":
            path = f"train/{tasks.video_path(video)}"
        elif video.id in references:
            path = f"uvrb_mini/MS-TV/videos/queries/{video.id}.mp4"
        else:
            path = f"uvrb_mini/{homes[video.pool]}/{uvrb_mini.video_path(video)}"
        rows.append({"file": path, "noise": "none", **video.to_json()})
    for record in records:
        graph = record.video.to_json()
        if record.noise in ("static", "reencoded"):
            # These show the first scene alone.
            video = record.video
            graph = dataclasses.replace(video, scenes=video.scenes[:1]).to_json()
        rows.append(
            {
                "file": f"raw/{record.path}",
                "noise": record.noise,
                **graph,
                "id": record.id,
                "pool": "raw",
                "source": record.video.id,
                "text_of": record.text_of,
                "original": record.original,
            }
        )
    return rows


def _items(plan: Plan, datasets) -> list[dict]:
    """Some two dozen examples for the embed command: all kinds of item."""
    by_name = {d.name: d for d in datasets}
    items = []
    for name in ("MSRVTT", "CRB-G", "LoVR-V", "DiDeMo"):
        for row in by_name[name].corpus[:2]:
            path = f"uvrb_mini/{name}/{row['video']}"
            items.append({"id": row["id"], "video": path})
    video = plan.pools["long"][0]
    (start, end), path = video.spans()[1], f"LoVR-V/{uvrb_mini.video_path(video)}"
    items.append(
        {
            "id": "long_cut",
            "video": f"uvrb_mini/{path}",
            "start": start,
            "end": end,
        }
    )
    for name in ("MSRVTT", "CMRB", "CRB-S", "DREAM-E", "LoVR-TH", "PEV-K", "VDC-D"):
        row = by_name[name].queries[0]
        items.append(
            {
                "id": row["id"],
                "text": row["text"],
                "instruction": DATASETS[name].instruction,
            }
        )
    for name in ("MSRVTT-I2V", "MS-TI", "LoVR-C2V", "MS-TV"):
        for row in by_name[name].queries[:2]:
            item = {"id": row["id"]}
            if "text" in row:
                item["text"] = row["text"]
            if "image" in row:
                item["image"] = f"uvrb_mini/{name}/images/{row['image']}"
            if "video" in row:
                item["video"] = f"uvrb_mini/{name}/{row['video']}"
            item["instruction"] = DATASETS[name].instruction
            items.append(item)
    stream(plan.seed, "items").shuffle(items)
    return items


def _counts(plan: Plan, records, files) -> dict:
    counts = {
        "train_videos": len(plan.train),
        "test_videos": len(plan.evaluation()),
        "raw": len(records),
    }
    for path in sorted(files):
        name = os.path.basename(path)
        if os.path.basename(os.path.dirname(path)) == "train":
            with open(path, encoding="utf-8") as f:
                counts[name.removesuffix(".jsonl")] = sum(1 for _ in f)
    return counts


def _sha256(paths: list[str]) -> str:
    """Of the files' bytes, in this order."""
    total = hashlib.sha256()
    for path in paths:
        with open(path, "rb") as f:
            total.update(hashlib.file_digest(f, "sha256").digest())
    return total.hexdigest()


def write_json(path: str, value: dict) -> None:
    """Writes JSON, atomically."""
    write_bytes(path, (json.dumps(value, indent=1) + "\n").encode())
