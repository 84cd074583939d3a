"""UVRB's datasets from their sources' own files, in every published schema."""

import dataclasses
import io
import json
import os
import pathlib
import tarfile

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import small_uvrb as small
from PIL import Image

from eval import loaders, uvrb
from eval.sources import ENTRIES, SOURCES, captioned
from eval.sources.build import build
from eval.sources.entry import Side
from eval.sources.release import Release
from gve_jax import media
from gve_jax.types import UserError


@pytest.fixture
def here(tmp_path):
    """The release's folder."""
    folder = tmp_path / "release"
    folder.mkdir()
    return folder


def _touch(folder: pathlib.Path, *names: str):
    """Files of different sizes in place of media: building opens none."""
    for i, name in enumerate(names, 1):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x" * i)


def _json(path: pathlib.Path, rows: list | dict):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(rows, ensure_ascii=False), encoding="utf-8")


def _parquet(path: pathlib.Path, rows: list[dict]):
    path.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)


def _build(here, name, copy=False, entry=None):
    root = here.parent / "root"
    source = next(s for s in SOURCES.values() if ENTRIES[name] in s.entries)
    release = Release(here, root / "unpacked", source.get)
    return build(entry or ENTRIES[name], source.title, release, root, copy)


def _said(built):
    """What a dataset says: corpus, queries, answers, with paths below its folder."""
    data = built.data

    def short(item):
        parts = (item.text, item.image, item.video)
        base = f"{data.folder}{os.sep}"
        return " + ".join(p.removeprefix(base) for p in parts if p)

    corpus = [short(item) for item in data.corpus]
    answers = {
        short(query): [corpus[i] for i in of]
        for query, of in zip(data.queries, data.positives, strict=True)
    }
    return corpus, answers


def test_msrvtt_by_its_csv(here):
    (here / "MSRVTT_JSFUSION_test.csv").write_text(
        "key,vid_key,video_id,sentence\n"
        "ret0,msr9770,video9770,a person is connecting something to system\n"
        'ret1,msr9771,video9771,"a ""little"" girl, singing"\n',
        encoding="utf-8",
    )
    _touch(here, "MSRVTT/videos/all/video9770.mp4", "MSRVTT/videos/all/video9771.mp4")
    built = _build(here, "MSRVTT")
    assert _said(built) == (
        ["videos/video9770.mp4", "videos/video9771.mp4"],
        {
            "a person is connecting something to system": ["videos/video9770.mp4"],
            'a "little" girl, singing': ["videos/video9771.mp4"],
        },
    )
    assert not built.missing and built.data.facts == uvrb.DATASETS["MSRVTT"]
    query = built.data.queries[0]
    assert query.id == "MSRVTT_query_0"
    assert query.instruction == uvrb.DATASETS["MSRVTT"].instruction
    link = built.data.folder / "videos" / "video9771.mp4"
    assert os.readlink(link) == str(here / "MSRVTT/videos/all/video9771.mp4")
    assert built.data.differences() == (
        "2 queries, expected 1000, 2 corpus items, expected 1000"
    )


@pytest.mark.parametrize(
    ("file", "rows"),
    [
        (
            "msrvtt_test_1k.json",
            [
                {"video_id": "video1", "video": "video1.mp4", "caption": "one"},
                {"video_id": "video2", "video": "video2.mp4", "caption": ["two", "2"]},
            ],
        ),
        (
            "msrvtt_ret_test1k.json",
            [
                {"video": "video1.mp4", "caption": "one"},
                {"video": "video2.mp4", "caption": ["two", "2"]},
            ],
        ),
    ],
)
def test_msrvtt_by_json_with_one_caption_or_a_list(here, file, rows):
    _json(here / file, rows)
    _touch(here, "video1.mp4", "video2.mp4")
    one, two = "videos/video1.mp4", "videos/video2.mp4"
    assert _said(_build(here, "MSRVTT")) == (
        [one, two],
        {"one": [one], "two": [two], "2": [two]},
    )


def test_frames_of_videos_as_queries(here):
    rows = [{"video": f"video{i}.mp4", "caption": "x"} for i in range(3)]
    _json(here / "msrvtt_ret_test1k.json", rows)
    small.write_video(here / "video0.mp4", 0)
    (here / "video1.mp4").write_bytes(b"")  # video2 is not there
    built = _build(here, "MSRVTT-I2V")
    image = "images/video0.mp4.png"
    corpus, answers = _said(built)
    assert answers[image] == ["videos/video0.mp4"] and len(corpus) == 3
    assert built.data.facts.query_modality == "image"
    path = built.data.folder / image
    drawn = np.asarray(Image.open(path)).astype(int)
    frames = media.read_video(here / "video0.mp4", 8).pixels.astype(int)
    assert (abs(frames - drawn).mean((1, 2, 3)) == 0).sum() == 1  # one of its eight
    broken = [line.split(":")[0] for line in built.missing]
    assert sorted(broken) == [
        "images/video1.mp4.png",
        "images/video2.mp4.png",
        "videos/video2.mp4",
    ]
    stamp = path.stat().st_mtime_ns
    _build(here, "MSRVTT-I2V")
    assert path.stat().st_mtime_ns == stamp  # drawn once


def _didemo_rows():
    video, other, third = "1@N00_2_3a.mov", "1@N00_4_5b.avi", "1@N00_6_7c."
    return [
        {"video": video, "description": "a cat jumps", "times": [[0, 0], [0, 1]]},
        {"video": other, "description": "sand", "times": [[0, 0]]},
        {"video": video, "description": "it lands", "times": [[1, 1]]},
        {"video": third, "description": "ein Fluß 川", "times": [[1, 1]]},
    ]


def test_didemo_joins_sentences_and_finds_videos_by_stem(here):
    _json(here / "data" / "test_data.json", _didemo_rows())
    # A tar file is looked into; endings differ from the annotation's.
    with tarfile.open(here / "DiDeMo_Videos_mp4_test.tar", "w") as tar:
        for name, content in (("1@N00_2_3a.mp4", b"one"), ("1@N00_6_7c.", b"three")):
            info = tarfile.TarInfo(f"test/{name}")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    built = _build(here, "DiDeMo")
    first, third = "videos/1@N00_2_3a.mp4", "videos/1@N00_6_7c."
    absent = "videos/1@N00_4_5b.avi"
    assert _said(built) == (
        [first, absent, third],
        {
            "a cat jumps it lands": [first],
            "sand": [absent],
            "ein Fluß 川": [third],
        },
    )
    assert built.missing == [f"{absent}: the release has no 1@N00_4_5b.avi"]
    # Kept in the dataset, for evaluation to account for.
    assert built.data.missing[0][1] == str(built.data.folder / absent)
    assert (built.data.folder / first).read_bytes() == b"one"
    assert not (built.data.folder / first).is_symlink()


def test_didemo_of_the_videos_that_a_list_names(here):
    _json(here / "test_data.json", _didemo_rows())
    (here / "test_list.txt").write_text("1@N00_4_5b\n1@N00_6_7c\n")
    corpus, answers = _said(_build(here, "DiDeMo"))
    assert list(answers) == ["sand", "ein Fluß 川"] and len(corpus) == 2


def test_carebench_has_three_captions_a_video(here):
    row = {"caption": "all", "spatial_caption": "where", "temporal_caption": "when"}
    rows = [row | {"video": "v_0_1.mp4", "category": "x", "subcategory": "y"}]
    _json(here / "json" / "metadata.json", rows)
    _touch(here, "videos/v_0_1.mp4")
    video = "videos/v_0_1.mp4"
    for name, text in {"CRB-G": "all", "CRB-S": "where", "CRB-T": "when"}.items():
        assert _said(_build(here, name)) == ([video], {text: [video]})
    # As the one row of the published files that was seen.
    line = (here.parent / "root/CRB-S/jsonl/corpus.jsonl").read_text().strip()
    assert json.loads(line) == {"id": "CaReBench_corpus_0", "video": video}


@pytest.mark.parametrize("ending", ["", ".mp4"])
def test_vdc_with_and_without_the_ending(here, ending):
    said = {"a": ("o", "d"), "b.1": ("o", "d"), "c": ("p", "")}
    rows = [
        {"video_name": v + ending, "main_object_caption": o, "detailed_caption": d}
        for v, (o, d) in said.items()
    ]
    small.write_rows(here / "VDC_1k.jsonl", rows)
    _touch(here, "videos/a.mp4", "videos/b.1.mp4", "videos/b.mp4", "videos/c.mp4")
    objects = _build(here, "VDC-O")
    videos = ["videos/a.mp4", "videos/b.1.mp4", "videos/c.mp4"]
    assert _said(objects)[0] == videos and len(objects.data.queries) == 3
    detailed = _build(here, "VDC-D")
    assert _said(detailed) == (videos, {"d": videos[:2]})
    assert (detailed.merged, detailed.without_query) == (1, 1)


@pytest.mark.parametrize("form", ["caption_data.json", "test.jsonl"])
def test_camerabench_merges_equal_captions(here, form):
    captions = {"Id.16.6.mp4": "pan left", "x.mp4": "static", "y.mp4": "pan left"}
    if form == "test.jsonl":
        rows = [
            {"path": f"videos/{v}", "labels": ["pan"], "Video": "gif", "caption": c}
            for v, c in captions.items()
        ]
        small.write_rows(here / form, rows)
    else:
        ask = "Describe the camera movement in this video."
        rows = [{"video": v, "question": ask, "answer": c} for v, c in captions.items()]
        _json(here / "camerabench" / "data" / form, rows)
    _touch(here, *(f"Videos4CameraBench/{v}" for v in captions))  # flat
    built = _build(here, "CMRB")
    first, second, third = (f"videos/{v}" for v in captions)
    assert _said(built) == (
        [first, second, third],
        {"pan left": [first, third], "static": [second]},
    )
    assert built.merged == 1 and not built.missing


def test_dream_has_a_query_for_each_event(here):
    rows = [
        {"vid": 7, "extra_info": {"events": ["A man sits.", "He stands."]}},
        {"vid": 8, "extra_info": {"events": ["He stands.", "It rains."]}},
    ]
    small.write_rows(here / "data" / "annotations" / "DREAM-1k.jsonl", rows)
    _touch(here, "video/7.mp4", "video/8.mp4", "video/17.mp4", "7.jpg")
    seven, eight = "videos/7.mp4", "videos/8.mp4"
    assert _said(_build(here, "DREAM-E")) == (
        [seven, eight],
        {"A man sits.": [seven], "He stands.": [seven, eight], "It rains.": [eight]},
    )


def _pe_rows():
    row = {"human_caption": "h", "video_duration_in_s": 16.9}
    return {
        "11": row | {"video_id": 11, "keywords": ["dog", "ball"]},
        "12": row | {"video_id": 12, "keywords": ["dog", "ball"]},
        "13": row | {"video_id": 13, "keywords": []},
        "14": row | {"video_id": 14, "keyword": "snow, 雪"},
    }


@pytest.mark.parametrize("packed", [True, False])
def test_pe_video_packed_and_unpacked(here, packed):
    files = {}
    for name, row in _pe_rows().items():
        files[f"{name}.json"] = json.dumps(row).encode()
        files[f"{name}.mp4"] = name.encode()
    if packed:
        (here / "test").mkdir()
        with tarfile.open(here / "test" / "000000.tar", "w") as tar:
            for name, content in files.items():
                info = tarfile.TarInfo(name)
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    else:
        for name, content in files.items():
            _touch(here, f"test/{name}")
            (here / "test" / name).write_bytes(content)
    _json(here / "train" / "99.json", {"video_id": 99, "keywords": "of training"})
    built = _build(here, "PEV-K")
    videos = [f"videos/{name}.mp4" for name in _pe_rows()]
    answers = {"dog, ball": videos[:2], "snow, 雪": [videos[3]]}
    assert _said(built) == (videos, answers)
    assert (built.merged, built.without_query) == (1, 1)
    assert [(built.data.folder / v).read_bytes() for v in videos] == [
        b"11", b"12", b"13", b"14",
    ]  # fmt: skip


def test_another_column_is_named_where_the_default_is_absent(here):
    _json(here / "test" / "1.json", {"video_id": 1, "tags": "sea"})
    with pytest.raises(UserError) as error:
        _build(here, "PEV-K")
    assert "has {keywords|keyword}; its columns are file, tags, video_id" in str(
        error.value
    )
    assert "--text" in str(error.value)
    entry = dataclasses.replace(captioned.PEV_K, query=Side(text="{tags}"))
    assert list(_said(_build(here, "PEV-K", entry=entry))[1]) == ["sea"]


def _lovr(here, split):
    captions = here / "caption_data"
    rows = [{"vid": v, "cap": f"long {v}"} for v in ("a", "b", "c")]
    small.write_rows(captions / "all_video.jsonl", rows)
    clips = [
        {"path": f"{v}/{v}-Scene-00{i}.mp4", "cap": "c", "vid": v, "slice_num": 2}
        for v in ("a", "b", "c")
        for i in (1, 2)
    ]
    small.write_rows(captions / "all_clip.jsonl", clips)
    if split:
        _parquet(captions / "clip_test.parquet", split)
    base = here / "video_data"
    _touch(base, *(f"long_video_clip/{c['path']}" for c in clips))
    _touch(base, *(f"long_video/{v}.mp4" for v in "abc"))


@pytest.mark.parametrize(
    "row", [{"vid": "b"}, {"video_id": "b"}, {"path": "b/b-Scene-001.mp4"}]
)
def test_lovr_asks_for_the_test_split_among_all_videos(here, row):
    _lovr(here, [row, row])
    corpus, answers = _said(_build(here, "LoVR-V"))
    assert corpus == ["videos/a.mp4", "videos/b.mp4", "videos/c.mp4"]
    assert answers == {"long b": ["videos/b.mp4"]}


def test_lovr_clips_ask_for_their_videos(here):
    _lovr(here, [])
    built = _build(here, "LoVR-C2V")
    answers = _said(built)[1]
    assert not built.missing and len(answers) == 3
    for query, found in answers.items():
        name = found[0].removeprefix("videos/").removesuffix(".mp4")
        assert query.startswith(f"videos/{name}/{name}-Scene-00")
    assert _said(_build(here, "LoVR-C2V"))[1] == answers  # drawn once for all


def test_lovr_without_its_split(here):
    _lovr(here, [])
    with pytest.raises(UserError, match=r"none of clip_test\.parquet"):
        _build(here, "LoVR-V")


_CLIPS = [f"m_1/{i}.00_{i + 3}.00.mp4" for i in range(0, 12, 3)]


def _moments(here):
    _touch(here, *(f"videos/{c}" for c in _CLIPS), "images/q.jpg")


def test_momentseeker_by_its_own_files(here):
    _moments(here)
    candidates = [{"output_path": c} for c in _CLIPS[1:]]
    base = {"qry_text": "t", "candidate_video_list": candidates, "gt_indices": [0, 2]}
    image = base | {"qry_img_path": "images/q.jpg", "qry_video_path": ""}
    video = base | {"qry_img_path": "", "qry_video_path": f"videos/{_CLIPS[0]}"}
    _json(here / "json" / "movie_ti2v.json", [image])
    _json(here / "json" / "sport_ti2v.json", [image | {"gt_indices": [1]}])
    _json(here / "json" / "movie_tv2v.json", [video])
    _json(here / "json" / "movie_t2v.json", [base | {"qry_img_path": ""}])
    built = _build(here, "MS-TI")
    videos = [f"videos/{c}" for c in _CLIPS]
    assert len(built.data.queries) == 2  # equal, but each of its own answers
    corpus, _ = _said(built)
    assert sorted(corpus) == videos[1:]
    row_of = {name: i for i, name in enumerate(corpus)}
    rows = [p.tolist() for p in built.data.positives]
    assert rows == [sorted([row_of[videos[1]], row_of[videos[3]]]), [row_of[videos[2]]]]
    assert [len(c) for c in built.data.candidates] == [3, 3]
    built = _build(here, "MS-TV")
    assert _said(built)[1] == {f"t + {videos[0]}": [videos[1], videos[3]]}
    assert built.data.facts.metric == "precision@1"


def test_momentseeker_by_the_form_with_positives_and_negatives(here):
    _moments(here)
    frames = [{"output_path": f"videos/{c}"} for c in _CLIPS]
    row = {"query": "t", "positive_frames": frames[:1], "negative_frames": frames[1:]}
    rows = [
        row | {"input_frames": "images/q.jpg"},
        row | {"input_frames": f"videos/{_CLIPS[2]}", "query": "u"},
        row | {"input_frames": "", "query": "of text alone"},
    ]
    _parquet(here / "data" / "test-00000-of-00001.parquet", rows)
    images, clips = _build(here, "MS-TI"), _build(here, "MS-TV")
    first = f"videos/{_CLIPS[0]}"
    assert _said(images)[1] == {"t + images/q.jpg": [first]}
    assert _said(clips)[1] == {f"u + videos/{_CLIPS[2]}": [first]}
    assert [c.tolist() for c in images.data.candidates] == [[0, 1, 2, 3]]
    assert images.data.differences() == (
        "1 queries, expected 400, 4 candidates a query, expected 10"
    )


def test_momentseeker_by_tables_that_hold_their_media(here):
    corpus = [
        {"id": f"c{i}", "video": {"bytes": b"x" * (i + 1), "path": f"{i}.mp4"}}
        for i in range(3)
    ]
    query = {"id": "q0", "text": "t", "image": {"bytes": b"im", "path": None}}
    right = [
        {"query-id": "q0", "corpus-id": "c2", "score": 1},
        {"query-id": "q0", "corpus-id": "c1", "score": 0},
    ]
    _parquet(here / "corpus" / "test-0.parquet", corpus)
    _parquet(here / "ti2v-queries" / "test-0.parquet", [query])
    _parquet(here / "ti2v-qrels" / "test-0.parquet", right)
    built = _build(here, "MS-TI")
    videos = [f"videos/corpus/{i}.mp4" for i in range(3)]
    assert _said(built) == (videos, {"t + images/ti2v/q0.jpg": [videos[2]]})
    assert built.data.candidates is None and not built.missing
    assert (built.data.folder / videos[2]).read_bytes() == b"xxx"


def test_ucf_videos_ask_for_labels(here):
    (here / "classInd.txt").write_text("1 ApplyEyeMakeup\n2 YoYo\n")
    path = "ApplyEyeMakeup/v_ApplyEyeMakeup_g01_c01.avi"
    (here / "testlist01.txt").write_text(f"{path}\n")
    _touch(here, f"UCF-101/{path}")
    built = _build(here, "UCF101")
    labels = ["apply eye makeup", "yo yo"]
    assert _said(built) == (labels, {f"videos/{path}": labels[:1]})
    facts = loaders.load(here.parent / "root", "UCF101").facts
    assert facts == ENTRIES["UCF101"].facts and facts.query_modality == "video"


def test_hmdb_takes_the_test_half_of_its_first_split(here):
    (here / "splits").mkdir()
    (here / "splits" / "brush_hair_test_split1.txt").write_text(
        "a #1.avi 2 \nb.avi 1 \nc.avi 0 \n"
    )
    (here / "splits" / "brush_hair_test_split2.txt").write_text("d.avi 2 \n")
    _touch(here, "brush_hair/a #1.avi")
    assert _said(_build(here, "HMDB51")) == (
        ["brush hair"],
        {"videos/brush_hair/a #1.avi": ["brush hair"]},
    )


def test_ssv2_takes_labels_without_brackets(here):
    _json(here / "labels.json", {"Holding something": "0", "Dropping something": "1"})
    row = {"id": "5", "label": "holding a cup", "template": "Holding [something]"}
    _json(here / "validation.json", [row])
    _touch(here, "20bn/5.webm")
    labels = ["Holding something", "Dropping something"]
    assert _said(_build(here, "SSV2")) == (labels, {"videos/5.webm": labels[:1]})
    _json(here / "validation.json", [row | {"template": "Eating [something]"}])
    with pytest.raises(UserError, match=r"'Eating something' is not in labels.json"):
        _build(here, "SSV2")


def test_kinetics_and_breakfast_by_the_names_of_their_files(here):
    (here / "val.csv").write_text(
        "label,youtube_id,time_start,time_end,split\nabseiling,-3B32lodo2M,59,69,val\n"
    )
    _touch(here, "val/-3B32lodo2M_000059_000069.mp4")
    video = "videos/-3B32lodo2M_000059_000069.mp4"
    assert _said(_build(here, "K700")) == (["abseiling"], {video: ["abseiling"]})
    _touch(
        here,
        "P03/cam01/P03_cereals.avi",
        "P03/stereo/P03_salat_ch0.avi",
        "P03/stereo/P03_salat_ch1.avi",
        "P16/cam01/P16_tea.avi",
    )
    assert _said(_build(here, "Breakfast"))[1] == {
        "videos/P03/cam01/P03_cereals.avi": ["cereals"],
        "videos/P03/stereo/P03_salat_ch0.avi": ["salad"],
    }


def test_classification_by_mmeb_lines_with_their_own_wrong_labels(here):
    row = {"video_id": "v_1", "pos_text": "a", "neg_text": ["b", "c"]}
    small.write_rows(here / "data" / "test.jsonl", [row])
    _touch(here, "v_1.webm")
    built = _build(here, "SSV2")
    assert _said(built) == (["a", "b", "c"], {"videos/v_1.webm": ["a"]})
    assert built.data.candidates[0].tolist() == [0, 1, 2]


def test_a_variant_is_one_changed_field(here):
    row = {"video_name": "a", "main_object_caption": "o", "detailed_caption": "d"}
    small.write_rows(here / "VDC_1k.jsonl", [row])
    small.write_video(here / "a.mp4", 1)
    spatial = captioned.VDC_D
    by_object = dataclasses.replace(spatial, query=Side(text="{main_object_caption}"))
    by_image = dataclasses.replace(spatial, query=Side(frame="{video_name}"))
    both = dataclasses.replace(
        spatial, query=Side(text="{detailed_caption}", frame="{video_name}")
    )
    video, image = "videos/a.mp4", "images/a.png"
    for entry, query in (
        (spatial, "d"),
        (by_object, "o"),
        (by_image, image),
        (both, f"d + {image}"),
    ):
        assert _said(_build(here, "VDC-D", entry=entry))[1] == {query: [video]}


def test_every_uvrb_dataset_has_an_entry_or_says_why_not():
    lacking = {name for s in SOURCES.values() for name, _ in s.lacks}
    assert lacking == {"LoVR-TH"}
    classes = {"K700", "UCF101", "HMDB51", "SSV2", "Breakfast"}
    assert set(ENTRIES) | lacking == set(uvrb.DATASETS) | classes
    for name, entry in ENTRIES.items():
        assert entry.query.modality == entry.facts.query_modality, name


def test_built_again_it_is_the_same(here):
    rows = [{"video": "b.mp4", "caption": "x"}, {"video": "a.mp4", "caption": "y"}]
    _json(here / "msrvtt_ret_test1k.json", rows)
    _touch(here, "a.mp4", "b.mp4")
    folder = _build(here, "MSRVTT").data.folder
    before = {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    stamp = (folder / "videos/a.mp4").lstat().st_mtime_ns
    _build(here, "MSRVTT")
    assert {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()} == before
    assert (folder / "videos/a.mp4").lstat().st_mtime_ns == stamp
    _build(here, "MSRVTT", copy=True)
    assert not (folder / "videos/a.mp4").is_symlink()
    assert {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()} == before


def test_files_of_another_origin_are_not_overwritten(here):
    small.write_dataset(here.parent / "root", "MSRVTT", 1)
    _json(here / "msrvtt_ret_test1k.json", [{"video": "a.mp4", "caption": "x"}])
    with pytest.raises(UserError, match="did not write; choose another --output"):
        _build(here, "MSRVTT")


def test_media_are_found_by_all_of_what_names_them(here):
    _touch(here, "x/1.mp4", "y/1.mp4", "y/1.jpg", "z/2.avi", "2.mp4")
    release = Release(here, here.parent / "unpacked", "")
    assert release.find("y/1.mp4", "video").name == "y/1.mp4"
    assert release.find("1", "image").name == "y/1.jpg"
    assert release.find("2.avi", "video").name == "z/2.avi"  # the named ending first
    assert release.find("w/1.mp4", "video") is None
    assert release.find("1.jpg", "video") is None
    with pytest.raises(UserError, match=r"x/1.mp4 and y/1.mp4 both answer to '1.mp4'"):
        release.find("1.mp4", "video")
    (here / "loop").symlink_to(here)  # a link to itself ends
    assert Release(here, here.parent / "unpacked", "").find("2.avi", "video")


@pytest.mark.parametrize("value", ["../a.mp4", "/etc/passwd", "x/../../a.mp4"])
def test_paths_that_leave_the_folder_are_refused(here, value):
    _json(here / "msrvtt_ret_test1k.json", [{"video": value, "caption": "x"}])
    with pytest.raises(UserError, match="leaves the dataset's folder"):
        _build(here, "MSRVTT")


def test_faults_of_a_release(here):
    with pytest.raises(UserError, match=r"--input: no folder .*none"):
        Release(here / "none", here, "")
    with pytest.raises(
        UserError, match=r"none of metadata.json is below .* hub data set MCG-NJU"
    ):
        _build(here, "CRB-S")
    (here / "VDC_1k.jsonl").write_text('{"video_name": "a"}\n{"video_n')
    with pytest.raises(UserError, match=r"VDC_1k.jsonl:2: no JSON"):
        _build(here, "VDC-O")
    small.write_rows(here / "VDC_1k.jsonl", [{"main_object_caption": "o"}])
    with pytest.raises(UserError, match=r"no \{video_name\} in this row; it has main"):
        _build(here, "VDC-O")
    assert not (here.parent / "root" / "VDC-O").exists()  # nothing half-written
    (here / "cut.tar").write_bytes(b"no tar file" * 100)
    with pytest.raises(UserError, match=r"cut.tar: a broken tar file"):
        _build(here, "VDC-O")
