"""LoVR: long videos by their captions, and by a clip of theirs.

Read: `caption_data/all_video.jsonl` {vid, cap} and `all_clip.jsonl` {path, cap, vid},
as the authors' code does, and `clip_test.parquet`, whose videos are the test split.
Its columns were not seen: those of the code and of the README are tried.
"""

import random

from eval import uvrb
from eval.sources.entry import Entry, Rows, Side, Source
from eval.sources.release import Release
from gve_jax.types import UserError

_SEED = 42  # of the clips that are drawn
_THEMES = (
    "where the release has the themes is not known; take LoVR-TH from UVRB's own files "
    "(hub data set Alibaba-NLP/UVRB)"
)


def _video_of(where: str, row: dict) -> str:
    path = row.get("path") or row.get("clip_path") or ""
    name = row.get("vid") or row.get("video_id") or path.split("/")[0]
    if not name:
        raise UserError(f"{where}: no vid in this row; it has {', '.join(row)}")
    return str(name)


def _videos(release: Release) -> Rows:
    """All videos; those of the test split with their captions."""
    clips = release.rows("clip_test.parquet", "clip_test.jsonl")
    test = {_video_of(where, row) for where, row in clips}
    for where, row in release.rows("all_video.jsonl"):
        name = _video_of(where, row)
        yield where, {"video": name, "caption": row.get("cap") if name in test else ""}


def _clips(release: Release) -> Rows:
    """Each video with one of its clips, drawn at random."""
    of: dict[str, list[str]] = {}
    for where, row in release.rows("all_clip.jsonl"):
        if row.get("path"):
            of.setdefault(_video_of(where, row), []).append(row["path"])
    where = str(release.annotations("all_clip.jsonl")[0])
    for name, paths in of.items():
        clip = random.Random(f"{_SEED} {name}").choice(sorted(paths))
        yield where, {"video": name, "clip": clip}


LOVR_V = Entry(
    facts=uvrb.DATASETS["LoVR-V"],
    rows=_videos,
    query=Side(text="{caption}"),
    corpus=Side(video="{video}.mp4"),
)
LOVR_C2V = Entry(
    facts=uvrb.DATASETS["LoVR-C2V"],
    rows=_clips,
    query=Side(video="{clip}"),
    corpus=Side(video="{video}.mp4"),
    note="which clip of a video UVRB takes is not known: ours are drawn",
)
SOURCES = {
    "lovr": Source(
        "LoVR",
        "hub data set debugger123/LoVR-benchmark: caption_data/, video_data/ with its "
        "parts joined (cat part_* > X.tar.gz) and unpacked",
        (LOVR_V, LOVR_C2V),
        lacks=(("LoVR-TH", _THEMES),),
    )
}
