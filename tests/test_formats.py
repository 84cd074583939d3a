"""Readers of published corpora, on small files of the published schemas."""

import csv
import gzip
import io
import json
import tarfile

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gve_jax.data.formats import FORMATS
from gve_jax.data.formats.rows import Corpus, Dropped, json_rows
from gve_jax.types import Item, UserError


def read(folder, name, negatives=2, **options):
    """(pairs, reason -> rows dropped) of a corpus, in its default layout."""
    reader = FORMATS[name]
    files = {
        kind: sorted(folder.glob(options.pop(kind, glob)))
        for kind, glob in reader.FILES.items()
    }
    assert all(files.values())
    corpus = Corpus(folder, folder / "unpacked", negatives)
    pairs, reasons = [], {}
    for row in reader.read(corpus, **files, **options):
        if isinstance(row, Dropped):
            reasons.setdefault(row.reason, []).append(row.where)
        else:
            pairs.append(row)
    return pairs, {reason: len(where) for reason, where in reasons.items()}


def write_lines(path, *rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def test_webvid(tmp_path):
    header = ["videoid", "contentUrl", "duration", "page_dir", "name"]
    rows = [
        ["1", "http://x", "PT00H00M15S", "000001", "A cat, asleep"],
        ["2", "http://x", "PT00H00M15S", "000001", "Time lapse"],
        ["3", "http://x", "PT00H00M15S", "000002", "time  Lapse"],
        ["4", "http://x", "PT00H00M15S", "nan", "a dog"],
        ["5", "http://x", "PT00H00M15S", "000002", ""],
        ["6", "http://x", "PT00H00M15S", "../..", "a thief"],
        ["7", "http://x", "PT00H00M15S", "000002", "a bird", "and more"],
        ["8", "http://x", "PT00H00M15S", "000002", 'says "hello"\nand goes'],
        # Listed twice: no other video has its caption.
        ["8", "http://x", "PT00H00M15S", "000002", 'says "hello"\nand goes'],
    ]
    for part, some in (("0000", rows[:2]), ("0001", rows[2:])):
        path = tmp_path / f"data/train/partitions/{part}.csv"
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "w", newline="", encoding="utf-8") as f:
            csv.writer(f).writerows([header, *some])
    pairs, dropped = read(tmp_path, "webvid")
    assert [p.id for p in pairs] == ["webvid:1", "webvid:8", "webvid:8"]
    assert pairs[0].query == Item("", text="A cat, asleep")
    assert pairs[0].target == Item("", video=str(tmp_path / "videos/000001/1.mp4"))
    assert pairs[0].source_id == "webvid:1"
    assert dropped == {
        "a caption shared by several videos": 2,
        "no page_dir": 1,
        "no name": 1,
        "a path that leaves the corpus": 1,
        "more fields than the header has": 1,
    }


def test_a_csv_without_the_column_is_named(tmp_path):
    path = tmp_path / "data/train/partitions/0.csv"
    write_lines(path, "id,caption", "1,a cat")
    assert read(tmp_path, "webvid") == (
        [], {"no column videoid in the file's header": 1},
    )  # fmt: skip


def test_internvid(tmp_path):
    clip = {
        "YoutubeID": "abc", "Start_timestamp": "00:01:02.500",
        "End_timestamp": "01:00:04.000", "Caption": "a cat", "UMT_Score": 0.4,
        "Aesthetic_Score": 5.0,
    }  # fmt: skip
    write_lines(
        tmp_path / "InternVid-10M-flt.jsonl",
        clip,
        clip | {"Start_timestamp": 3, "End_timestamp": 4.5, "UMT_Score": 0.2},
        clip | {"End_timestamp": "00:01:02.500"},
        clip | {"End_timestamp": "soon"},
        clip | {"Start_timestamp": "a:b:c"},
        clip | {"Caption": None},
        "{",
        "[]",
    )
    pairs, dropped = read(tmp_path, "internvid")
    video = str(tmp_path / "videos/abc.mp4")
    assert [p.target for p in pairs] == [
        Item("", video=video, start=62.5, end=3604.0),
        Item("", video=video, start=3.0, end=4.5),
    ]
    assert {p.source_id for p in pairs} == {"youtube:abc"}
    assert dropped == {
        "an end that is not after its start": 1,
        "no End_timestamp": 1,
        "Start_timestamp is no time": 1,
        "no Caption": 1,
        "no JSON": 1,
        "no JSON object": 1,
    }
    name = "clips/{YoutubeID}_{Start_timestamp}.mp4"
    pairs, dropped = read(tmp_path, "internvid", video=name, whole=False, min_umt=0.3)
    path = str(tmp_path / "clips/abc_00:01:02.500.mp4")
    assert [p.target for p in pairs] == [Item("", video=path)]
    assert dropped["a UMT_Score below the least"] == 1
    with pytest.raises(UserError, match="no name of files"):
        read(tmp_path, "internvid", video="{YoutubeID:d}.mp4")


def vast_rows():
    clips = [
        {"clip_id": f"v.{i}", "vision_cap": [f"{i} a", f"{i} b", f"{i} c"]}
        for i in range(30)
    ]
    return [*clips, {"clip_id": "x", "vision_cap": []}, {"vision_cap": ["a"]}]


def test_vast(tmp_path):
    write_lines(tmp_path / "vast.jsonl", *vast_rows())
    pairs, dropped = read(tmp_path, "vast")
    assert dropped == {"no vision_cap": 1, "no clip_id": 1}
    texts = [p.query.text for p in pairs]
    assert [t.split()[0] for t in texts] == [str(i) for i in range(30)]
    assert {t.split()[1] for t in texts} == set("abc")
    assert pairs[3].target == Item("", video=str(tmp_path / "videos/v.3.mp4"))
    assert read(tmp_path, "vast")[0] == pairs
    other = [p.query.text for p in read(tmp_path, "vast", seed=1)[0]]
    assert other != texts
    # As one list, and in the field names of the rehosted annotations.
    listed = [
        {"id": r["clip_id"], "vision_cap": r["vision_cap"]} for r in vast_rows()[:-1]
    ]
    (tmp_path / "list").mkdir()
    (tmp_path / "list/vast.json").write_text(json.dumps(listed, indent=1))
    again, _ = read(tmp_path / "list", "vast")
    assert [p.query.text for p in again] == texts


def test_a_list_of_objects_is_read_piece_by_piece(tmp_path):
    rows = [{"i": i, "text": "é]},{" * 9000} for i in range(60)]
    path = tmp_path / "a.json"
    path.write_text(json.dumps(rows, ensure_ascii=False), encoding="utf-8")
    assert path.stat().st_size > 3 << 20
    corpus = Corpus(tmp_path, tmp_path, 0)
    counts = []
    corpus.on_read = counts.append
    assert [row for _, row in json_rows(corpus, [path])] == rows
    assert sum(counts) == path.stat().st_size and len(counts) > 3
    path.write_text(json.dumps(rows[:3])[:-9], encoding="utf-8")  # cut off
    found = list(json_rows(corpus, [path]))
    assert [row for _, row in found[:-1]] == rows[:2]
    assert found[-1][0].endswith(":3") and found[-1][1].reason == "no JSON"


def add(tar, name, data):
    info = tarfile.TarInfo(name)
    info.size = len(data)
    tar.addfile(info, io.BytesIO(data))


def test_pe_video(tmp_path):
    (tmp_path / "train").mkdir()
    with tarfile.open(tmp_path / "train/000000.tar", "w") as tar:
        for i, row in enumerate(
            [
                {"human_caption": "a cat", "model_caption": "a feline"},
                {"human_caption": "", "model_caption": "a dog"},
            ]
        ):
            add(tar, f"{i}.mp4", b"video %d" % i)
            add(tar, f"{i}.json", json.dumps({"video_id": i} | row).encode())
        add(tar, "2.mp4", b"alone")
        add(tar, "../../3.json", b"{")
        add(tar, "../../3.mp4", b"escaped")
    whole = (tmp_path / "train/000000.tar").read_bytes()
    (tmp_path / "train/000001.tar").write_bytes(whole[:2600])
    pairs, dropped = read(tmp_path, "pe_video")
    assert [p.query.text for p in pairs] == ["a cat", "a cat"]
    (video,) = {p.target.video for p in pairs[:1]}
    assert video == str(tmp_path / "unpacked/train/000000/0.mp4")
    with open(video, "rb") as f:
        assert f.read() == b"video 0"
    assert dropped == {
        "no human_caption": 1,
        "no .json beside it": 1,
        "no JSON": 1,
        "a broken tar file": 1,
    }
    # Only the videos of pairs are unpacked, and only once.
    files = sorted(p for p in (tmp_path / "unpacked").rglob("*") if p.is_file())
    assert [f.name for f in files] == ["0.mp4", "0.mp4"]
    before = files[0].stat().st_mtime_ns
    files[1].write_bytes(b"cut")
    assert read(tmp_path, "pe_video")[0] == pairs
    assert files[0].stat().st_mtime_ns == before
    assert files[1].read_bytes() == b"video 0"


def test_msmarco(tmp_path):
    passages = [{"docid": f"d{i}", "title": "T", "text": f"text {i}"} for i in range(3)]
    row = {
        "query_id": 7, "query": "why", "positive_passages": passages[:1],
        "negative_passages": [passages[1], passages[2] | {"title": ""}],
    }  # fmt: skip
    lines = [
        row,
        row | {"positive_passages": []},
        row | {"query": None},
        row | {"negative_passages": ["d1"]},
    ]
    with gzip.open(tmp_path / "train.jsonl.gz", "wt", encoding="utf-8") as f:
        f.writelines(json.dumps(line) + "\n" for line in lines)
    (pair,), dropped = read(tmp_path, "msmarco")
    assert (pair.id, pair.source_id) == ("msmarco:7", "passage:d0")
    assert (pair.query.text, pair.target.text) == ("why", "T text 0")
    assert [n.text for n in pair.negatives] == ["T text 1", "text 2"]
    assert dropped == {
        "no positive_passages": 1,
        "no query": 1,
        "negative_passages is no list of passages": 1,
    }


def test_mbeir(tmp_path):
    query = {
        "qid": "7:1", "query_txt": "but red", "query_img_path": "mbeir_images/q.jpg",
        "query_modality": "image,text", "query_src_content": None, "task_id": 7,
        "pos_cand_list": ["7:9", "7:8"], "neg_cand_list": ["7:5", "7:6", "7:none"],
    }  # fmt: skip
    write_lines(
        tmp_path / "query/train/mbeir_cirr_train.jsonl",
        query,
        query | {"qid": "7:2", "query_img_path": None, "neg_cand_list": []},
        query | {"qid": "7:3", "task_id": 8},
        query | {"qid": "7:4", "pos_cand_list": []},
        query | {"qid": "7:5", "pos_cand_list": ["7:none"]},
    )
    write_lines(
        tmp_path / "cand_pool/global/mbeir_union_train_cand_pool.jsonl",
        {"did": "7:9", "txt": None, "img_path": "mbeir_images/9.jpg"},
        {"did": "7:8", "txt": None, "img_path": "mbeir_images/8.jpg"},
        {"did": "7:5", "txt": "five", "img_path": None},
        {"did": "7:6", "txt": "six", "img_path": "mbeir_images/6.jpg"},
    )
    (first, second), dropped = read(tmp_path, "mbeir", task_id=7)
    image = str(tmp_path / "mbeir_images")
    assert first.query == Item("", text="but red", image=f"{image}/q.jpg")
    assert first.target == Item("", image=f"{image}/9.jpg")
    assert first.negatives == (
        Item("", text="five"),
        Item("", text="six", image=f"{image}/6.jpg"),
    )
    assert (second.query, second.negatives) == (Item("", text="but red"), ())
    assert (first.id, first.source_id) == ("mbeir:7:1", "mbeir:7:9")
    assert dropped == {
        "another task_id": 1,
        "no pos_cand_list": 1,
        "a candidate that is not in the pool": 1,
    }
    # The third negative is not in the pool: its pairs are dropped if it is needed.
    assert len(read(tmp_path, "mbeir", task_id=7, negatives=3)[0]) == 1
    assert len(read(tmp_path, "mbeir")[0]) == 3


def test_mmeb(tmp_path):
    (tmp_path / "CIRR").mkdir()
    columns = {
        "qry": ["<|image_1|>\nFind it, but red.", "What is it?", "x"],
        "qry_image_path": ["images/CIRR/q.jpg", "", "/etc/passwd"],
        "pos_text": ["<|image_1|>\n", "a cat", "y"],
        "pos_image_path": ["images/CIRR/p.jpg", None, ""],
        "neg_text": ["<|image_1|>\n", "", "z"],
        "neg_image_path": ["images/CIRR/n.jpg", "", ""],
    }
    pq.write_table(pa.table(columns), tmp_path / "CIRR/original-00000.parquet")
    (tmp_path / "CIRR/original-00001.parquet").write_bytes(b"PAR1")
    few = {name: columns[name] for name in ("qry", "pos_text")}
    pq.write_table(pa.table(few), tmp_path / "CIRR/original-00002.parquet")
    (first, second), dropped = read(tmp_path, "mmeb")
    image = str(tmp_path / "images/CIRR")
    assert first.query == Item("", text="Find it, but red.", image=f"{image}/q.jpg")
    assert first.target == Item("", image=f"{image}/p.jpg")
    assert first.negatives == (Item("", image=f"{image}/n.jpg"),)
    assert (second.query, second.target) == (
        Item("", text="What is it?"), Item("", text="a cat"),
    )  # fmt: skip
    assert second.negatives == ()
    assert first.id == "mmeb:CIRR:original-00000:1"
    assert dropped == {
        "a path that leaves the corpus": 1,
        "no Parquet file": 1,
        "no column qry_image_path in the file": 1,
    }


def test_captions(tmp_path):
    lines = [f"caption {i}\thttp://x/{i}" for i in range(10001)]
    lines[3] = "a caption alone"
    write_lines(tmp_path / "train.tsv", *lines)
    pairs, dropped = read(tmp_path, "captions")
    assert dropped == {"not two fields, a tab between them": 1}
    assert pairs[-1].query.text == "caption 10000"
    assert pairs[-1].target.image == str(tmp_path / "images/00001/000010000.jpg")
    # The line that was dropped counts as a row; a header does not.
    assert pairs[3].target.image == str(tmp_path / "images/00000/000000004.jpg")
    write_lines(tmp_path / "train.tsv", "caption\turl", *lines)
    assert read(tmp_path, "captions", image="{file}-{row}.jpg")[0][3].target == Item(
        "", image=str(tmp_path / "train-4.jpg")
    )


def test_pairs(tmp_path):
    write_lines(
        tmp_path / "T2V.jsonl",
        {"id": "a", "video": "a.mp4", "text": "a cat", "source_id": "s"},
        {
            "id": "b", "query": {"text": "q"}, "target": {"video": "b.mp4"},
            "negatives": [{"video": "n.mp4"}], "scores": [0.8, 0.5],
        },
        {"id": "c", "video": "a.mp4"},
        {"id": "d", "query": {"text": "q"}, "target": {"video": "b.mp4"}, "x": 1},
    )  # fmt: skip
    (first, second), dropped = read(tmp_path, "pairs")
    assert first.target == Item("", video=str(tmp_path / "a.mp4"))
    assert (second.negatives[0].video, second.scores) == (
        str(tmp_path / "n.mp4"), (0.8, 0.5),
    )  # fmt: skip
    assert dropped == {"a malformed row": 2}


def test_tfds(tmp_path):
    import tensorflow_datasets as tfds  # takes seconds

    class Clips(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            text = tfds.features.Text()
            features = {"caption": text, "file": text, "scene": text}
            return tfds.core.DatasetInfo(
                builder=self, features=tfds.features.FeaturesDict(features)
            )

        def _split_generators(self, download):
            return {"train": self._generate_examples()}

        def _generate_examples(self):
            for i in range(3):
                file = "" if i == 2 else f"videos/{i}.mp4"
                yield i, {"caption": f"caption é {i}", "file": file, "scene": f"s{i}"}

    builder = Clips(data_dir=tmp_path, file_format="array_record")
    builder.download_and_prepare()
    folder = tmp_path / "clips/1.0.0"
    names = dict(query_text="caption", target_video="file", source_id="scene")
    pairs, dropped = read(folder, "tfds", **names)
    assert not dropped
    by_text = {p.query.text: p for p in pairs}
    assert set(by_text) == {f"caption é {i}" for i in range(3)}
    one = by_text["caption é 1"]
    assert one.target == Item("", video=str(folder / "videos/1.mp4"))
    assert one.source_id == "s1"
    assert by_text["caption é 2"].target == Item("")  # dropped as empty later
    _, dropped = read(folder, "tfds", query_text="caption", target_video="no")
    assert dropped == {"no text feature no": 3}
    with pytest.raises(UserError, match="no split 'test'"):
        read(folder, "tfds", split="test", **names)
    with pytest.raises(UserError, match="needs names of features"):
        read(folder, "tfds", query_text="caption")
