"""MomentSeeker: text with an image, or with a clip, to the clip of a moment.

Three forms are read. Original: json/*_ti2v.json, *_tv2v.json with a candidate list and
the numbers of the right ones. MMEB-V2 (VLM2Vec): Parquet of query, input_frames and
lists of positive and negative frames. MTEB: tables corpus, TASK-queries, TASK-qrels,
which rank the whole corpus; of these only the columns of the last were seen.
"""

import functools

from eval import uvrb
from eval.sources.entry import Entry, Rows, Side, Source
from eval.sources.release import Release
from gve_jax.types import UserError

_TABLES = ("{}/*.parquet", "{}*.parquet", "{}*.jsonl")
_TASKS = {"image": "ti2v", "video": "tv2v"}
_ENDINGS = {"image": (".jpg", ".jpeg", ".png"), "video": (".mp4",)}


def rows(release: Release, kind: str) -> Rows:
    """Rows of text, `kind`, positives and negatives.

    Args:
      kind: what a query has beside its text, "image" or "video".
    """
    task = _TASKS[kind]
    if release.has(f"*_{task}.json"):
        return _original(release, kind, f"*_{task}.json")
    if any(release.has(table.format(f"{task}-qrels")) for table in _TABLES):
        return _mteb(release, kind, task)
    return _mmeb(release, kind)


def _original(release: Release, kind: str, pattern: str) -> Rows:
    for where, row in release.rows(pattern):
        paths = [_path(c) for c in row.get("candidate_video_list") or ()]
        right = row.get("gt_indices") or ()
        if not all(isinstance(i, int) and 0 <= i < len(paths) for i in right):
            raise UserError(
                f"{where}: gt_indices is {right}, of {len(paths)} candidates; fetch "
                "the file again"
            )
        part = "qry_img_path" if kind == "image" else "qry_video_path"
        yield (
            where,
            {
                "text": row.get("qry_text"),
                kind: row.get(part),
                "positives": [paths[i] for i in right],
                "negatives": [p for i, p in enumerate(paths) if i not in right],
            },
        )


def _mmeb(release: Release, kind: str) -> Rows:
    for where, row in release.rows("test*.parquet", "test*.jsonl"):
        given = row.get("input_frames") or ""
        if given.lower().endswith(_ENDINGS[kind]):
            yield (
                where,
                {
                    "text": row.get("query"),
                    kind: given,
                    "positives": [_path(f) for f in row.get("positive_frames") or ()],
                    "negatives": [_path(f) for f in row.get("negative_frames") or ()],
                },
            )


def _mteb(release: Release, kind: str, task: str) -> Rows:
    def table(name: str) -> Rows:
        return release.rows(*(pattern.format(name) for pattern in _TABLES))

    paths = {}
    for where, row in table("corpus"):
        path = _medium(release, where, row, "corpus", "video")
        paths[_id(row, "corpus-id")] = path
        yield where, {"positives": [path]}
    right: dict[str, list[str]] = {}
    for where, row in table(f"{task}-qrels"):
        target = _id(row, "corpus-id")
        if target not in paths:
            raise UserError(f"{where}: corpus-id {target!r} is not in the corpus")
        if row.get("score", 1) > 0:
            right.setdefault(_id(row, "query-id"), []).append(paths[target])
    for where, row in table(f"{task}-queries"):
        yield (
            where,
            {
                "text": row.get("text"),
                kind: _medium(release, where, row, task, kind),
                "positives": right.get(_id(row, "query-id")),
            },
        )


def _id(row: dict, name: str) -> str:
    return str(next((row[k] for k in (name, "id", "_id") if k in row), ""))


def _medium(release: Release, where: str, row: dict, folder: str, kind: str) -> str:
    """The path of a medium that a table names or holds."""
    value = row.get(kind)
    if isinstance(value, dict):
        name = value.get("path") or f"{_id(row, f'{folder}-id')}{_ENDINGS[kind][0]}"
        if value.get("bytes"):
            name = f"{folder}/{name}"
            release.keep(name, value["bytes"])
        value = name
    if not isinstance(value, str) or not value:
        raise UserError(f"{where}: no {kind} in this row; it has {', '.join(row)}")
    return value


def _path(frames: dict) -> str:
    return frames.get("output_path", "")


_NOTE = (
    "UVRB ranks 10 candidates; the original lists and the MTEB tables have other "
    "numbers of them"
)
_CLIPS = Side(video="{positives}"), Side(video="{negatives}")
MS_TI = Entry(
    uvrb.DATASETS["MS-TI"],
    functools.partial(rows, kind="image"),
    Side(text="{text}", image="{image}"),
    *_CLIPS,
    note=_NOTE,
)
MS_TV = Entry(
    uvrb.DATASETS["MS-TV"],
    functools.partial(rows, kind="video"),
    Side(text="{text}", video="{video}"),
    *_CLIPS,
    note=_NOTE,
)
SOURCES = {
    "momentseeker": Source(
        "MomentSeeker",
        "hub data set VLM2Vec/MomentSeeker (data/test-*.parquet), avery00/MomentSeeker "
        "(json/) or dukesun99/MomentSeeker-CVR, and the clips of avery00/MomentSeeker",
        (MS_TI, MS_TV),
    )
}
