"""Sources of captioned videos: text queries, and a frame that asks for its video.

The schemas are those that the authors' files and readers show; where a name could not
be seen it says so below.
"""

import dataclasses
import os

from eval import uvrb
from eval.sources.entry import Entry, Rows, Side, Source
from eval.sources.release import Release


def _msrvtt(release: Release) -> Rows:
    # CSV: key,vid_key,video_id,sentence. JSON: video_id, video, caption.
    if release.has("MSRVTT_JSFUSION_test.csv"):
        return release.csv_rows("video_id", "MSRVTT_JSFUSION_test.csv")
    return release.rows("msrvtt_test_1k.json", "msrvtt_ret_test1k.json")


MSRVTT = Entry(
    facts=uvrb.DATASETS["MSRVTT"],
    rows=_msrvtt,
    query=Side(text="{sentence|caption}"),
    corpus=Side(video="{video_id|video}"),
    note="1k-A has one caption a video; other files of MSR-VTT list all twenty",
)
MSRVTT_I2V = dataclasses.replace(
    MSRVTT,
    facts=uvrb.DATASETS["MSRVTT-I2V"],
    query=Side(frame="{video_id|video}"),
    note="which frame the published queries show is not known: ours are drawn",
)


def _didemo(release: Release) -> Rows:
    """Videos with all their sentences, joined in the order of the file.

    `test_list.txt`, where there is one, says which videos count.
    """
    texts: dict[str, list[str]] = {}
    files = ("test_data.json", "test*.jsonl", "test*.parquet")
    for _, row in release.rows(*files):
        # Names hold a hash of the video, so that they are unique without folders.
        name = str(row.get("video", "")).rsplit("/", 1)[-1]
        texts.setdefault(name, []).append(
            row.get("description") or row.get("caption") or ""
        )
    listed = None
    if release.has("test_list.txt"):
        lines = release.lines("test_list.txt")
        listed = {os.path.splitext(name)[0] for _, name in lines}
    where = str(release.annotations(*files)[0])
    for name, sentences in texts.items():
        if listed is None or os.path.splitext(name)[0] in listed:
            yield where, {"video": name, "caption": " ".join(sentences)}


DIDEMO = Entry(
    facts=uvrb.DATASETS["DiDeMo"],
    rows=_didemo,
    query=Side(text="{caption}"),
    note="test_data.json has 1037 videos, of which 33 are not in UVRB, it is not known "
    "which; a test_list.txt beside it, one name a line, says which count",
)


def _carebench(release: Release) -> Rows:
    return release.rows("metadata.json")


CRB_G = Entry(
    facts=uvrb.DATASETS["CRB-G"], rows=_carebench, query=Side(text="{caption}")
)
CRB_S = dataclasses.replace(
    CRB_G, facts=uvrb.DATASETS["CRB-S"], query=Side(text="{spatial_caption}")
)
CRB_T = dataclasses.replace(
    CRB_G, facts=uvrb.DATASETS["CRB-T"], query=Side(text="{temporal_caption}")
)


def _vdc(release: Release) -> Rows:
    return release.rows("VDC_1k.jsonl", "test*.parquet")


VDC_O = Entry(
    facts=uvrb.DATASETS["VDC-O"],
    rows=_vdc,
    query=Side(text="{main_object_caption}"),
    corpus=Side(video="{video_name}"),
)
VDC_D = dataclasses.replace(
    VDC_O,
    facts=uvrb.DATASETS["VDC-D"],
    query=Side(text="{detailed_caption}"),
    merge=True,
    note="by which rule UVRB has 27 queries less than videos is not known",
)


def _camerabench(release: Release) -> Rows:
    # caption_data.json: video, question, answer. test.jsonl: path, labels and, by its
    # README, a caption, whose column was not seen.
    return release.rows("caption_data.json", "test.jsonl")


CMRB = Entry(
    facts=uvrb.DATASETS["CMRB"],
    rows=_camerabench,
    query=Side(text="{answer|caption}"),
    corpus=Side(video="{video|path}"),
    merge=True,
    note="caption_data.json has 727 different captions, the paper counts 728",
)


def _dream(release: Release) -> Rows:
    return release.rows("DREAM-1k.jsonl")


DREAM_E = Entry(
    facts=uvrb.DATASETS["DREAM-E"],
    rows=_dream,
    query=Side(text="{extra_info.events}"),
    corpus=Side(video="{vid}.mp4"),
    merge=True,
)


def _pe_video(release: Release) -> Rows:
    """Rows of the test split, from tar files or unpacked; lists are joined."""
    for where, row in release.json_files("test"):
        for key, value in row.items():
            if isinstance(value, list):
                row[key] = ", ".join(map(str, value))
        if "video_id" in row:  # others describe the data set
            yield where, row


PEV_K = Entry(
    facts=uvrb.DATASETS["PEV-K"],
    rows=_pe_video,
    # The column was not seen: the paper says "keyword", the source "keywords".
    query=Side(text="{keywords|keyword}"),
    corpus=Side(video="{file}.mp4"),
    merge=True,
    note="by which rule UVRB has 573 queries less than videos is not known; ours are "
    "less by those that are equal or empty",
)

SOURCES = {
    "msrvtt": Source(
        "MSRVTT",
        "MSRVTT_JSFUSION_test.csv, of CLIP4Clip or Frozen in Time, or the test_1k file "
        "of hub data set friedrichor/MSR-VTT, and its videos",
        (MSRVTT, MSRVTT_I2V),
    ),
    "didemo": Source(
        "DiDeMo",
        "data/test_data.json of GitHub LisaAnne/LocalizingMoments; "
        "DiDeMo_Videos_mp4_test.tar of hub data set friedrichor/DiDeMo",
        (DIDEMO,),
    ),
    "carebench": Source(
        "CaReBench",
        "hub data set MCG-NJU/CaReBench: json/metadata.json, videos/videos.zip",
        (CRB_G, CRB_S, CRB_T),
    ),
    "vdc": Source(
        "VDC",
        "hub data set wchai/Video-Detailed-Caption: VDC_1k.jsonl, videos/*.tar.gz",
        (VDC_O, VDC_D),
    ),
    "camerabench": Source(
        "CameraBench",
        "camerabench/data/caption_data.json of GitHub t2v_metrics; videos of hub data "
        "set syCen/Videos4CameraBench",
        (CMRB,),
    ),
    "dream1k": Source(
        "DREAM-1K",
        "data/annotations/DREAM-1k.jsonl of GitHub bytedance/tarsier; its videos",
        (DREAM_E,),
    ),
    "pe_video": Source(
        "PE-Video", "test/*.tar of hub data set facebook/PE-Video", (PEV_K,)
    ),
}
