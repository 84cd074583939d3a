"""Action recognition as retrieval: a video asks for its label among all labels.

The annotation files of the data sets themselves are described from memory, as is the
number of their test videos. `test.jsonl` of the MMEB-V2 form {video_id, pos_text,
neg_text?}, whose names were seen in its authors' code, is read where it is there. The
instructions are MMEB-V2's.
"""

import functools
import json
import re
from collections.abc import Callable

from eval.sources.entry import Entry, Rows, Side, Source
from eval.sources.release import Release
from eval.uvrb import Dataset
from gve_jax.types import UserError

# From memory: the test split s1 holds the first of the four groups of people.
_TEST_PEOPLE = {f"P{n:02d}" for n in range(3, 16)}
_WORDS = {"friedegg": "fried egg", "salat": "salad", "scrambledegg": "scrambled egg"}


def _kinetics(release: Release) -> Rows:
    # From memory: label,youtube_id,time_start,time_end,split; files
    # ID_000010_000020.mp4. The validation split, as labels of the test split may lack.
    for where, row in release.csv_rows("youtube_id", "*val*.csv", "*test*.csv"):
        try:
            start, end = (int(float(row[k])) for k in ("time_start", "time_end"))
        except (KeyError, TypeError, ValueError):
            raise UserError(f"{where}: no time_start and time_end; mend it") from None
        name = f"{row['youtube_id']}_{start:06d}_{end:06d}.mp4"
        yield where, {"video": name, "label": row.get("label")}


def _ucf(release: Release) -> Rows:
    # From memory: classInd.txt "1 ApplyEyeMakeup", testlist01.txt
    # "ApplyEyeMakeup/v_ApplyEyeMakeup_g01_c01.avi".
    for where, line in release.lines("classInd.txt"):
        yield where, {"label": _words(line.split()[-1])}
    for where, line in release.lines("testlist01.txt"):
        path = line.split()[0]
        yield where, {"video": path, "label": _words(path.split("/")[0])}


def _words(name: str) -> str:
    """ "ApplyEyeMakeup" and "brush_hair" as words."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])|_", " ", name).lower()


def _hmdb(release: Release) -> Rows:
    # From memory: brush_hair_test_split1.txt "NAME.avi 2", 2 being the test split;
    # videos in brush_hair/.
    for path in release.annotations("*_test_split1.txt"):
        label = path.name.removesuffix("_test_split1.txt")
        yield str(path), {"label": _words(label)}
        for where, line in release.lines(path.name):
            name, _, split = line.rpartition(" ")
            if split == "2":
                video = f"{label}/{name.strip()}"
                yield where, {"video": video, "label": _words(label)}


def _ssv2(release: Release) -> Rows:
    # From memory: labels.json {"Holding something": "17", ...}, validation.json
    # [{"id", "label", "template": "Holding [something]", "placeholders"}].
    path = release.annotations("*labels.json")[0]
    try:
        labels = list(json.loads(path.read_text(encoding="utf-8")))
    except ValueError as e:
        raise UserError(f"{path}: not JSON ({e}); fetch it again") from None
    for label in labels:
        yield str(path), {"label": label}
    for where, row in release.rows("*validation.json"):
        label = re.sub(r"[\[\]]", "", row.get("template") or "")
        if label not in labels:
            raise UserError(f"{where}: template {label!r} is not in {path.name}")
        yield where, {"video": f"{row.get('id')}.webm", "label": label}


def _breakfast(release: Release) -> Rows:
    # From memory: P03/cam01/P03_cereals.avi; stereo cameras as NAME_ch0.avi and
    # NAME_ch1.avi, of which the first is taken. There are no annotation files.
    for stored in release.stored(".avi"):
        person, camera, name = (["", "", *stored.name.split("/")])[-3:]
        found = re.fullmatch(r"P\d\d_([a-z]+)(_ch0)?\.avi", name)
        if person in _TEST_PEOPLE and found:
            label = _WORDS.get(found[1], found[1])
            yield stored.name, {"video": f"{person}/{camera}/{name}", "label": label}


def _read(release: Release, official: Callable[[Release], Rows]) -> Rows:
    if release.has("test.jsonl"):
        return release.rows("test.jsonl")
    return official(release)


def _entry(
    name: str,
    official: Callable[[Release], Rows],
    instruction: str,
    num_labels: int,
    num_videos: int | None = None,
) -> Entry:
    return Entry(
        facts=Dataset(
            name,
            "video",
            "recall@1",
            instruction,
            group="classification",
            num_queries=num_videos,
            num_corpus=num_labels,
        ),
        rows=functools.partial(_read, official=official),
        query=Side(video="{video|video_id}"),
        corpus=Side(text="{label|pos_text}"),
        negatives=Side(text="{neg_text}"),
        note="expected are the official test split and labels, from memory; a part of "
        "either, as MMEB-V2 takes, is another task",
    )


K700 = _entry("K700", _kinetics, "Recognize the category of the video content.", 700)
UCF101 = _entry(
    "UCF101",
    _ucf,
    "What activities or sports are being performed by the person in the video?",
    101,
    3783,
)
HMDB51 = _entry(
    "HMDB51",
    _hmdb,
    "What actions or objects interactions are the person in the video doing?",
    51,
    1530,
)
SSV2 = _entry(
    "SSV2",
    _ssv2,
    "What actions or object interactions are being performed by the person in the "
    "video?",
    174,
    24777,
)
BREAKFAST = _entry(
    "Breakfast",
    _breakfast,
    "Recognize the breakfast type that the person is cooking in the video.",
    10,
)
SOURCES = {
    "kinetics700": Source("K700", "the validation CSV and videos", (K700,)),
    "ucf101": Source("UCF101", "classInd.txt, testlist01.txt, UCF-101/", (UCF101,)),
    "hmdb51": Source("HMDB51", "*_test_split1.txt, videos by label", (HMDB51,)),
    "ssv2": Source("SSV2", "labels.json, validation.json, ID.webm files", (SSV2,)),
    "breakfast": Source("Breakfast", "P03/ to P15/ of the videos", (BREAKFAST,)),
}
