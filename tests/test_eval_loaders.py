"""Reading UVRB folders: tolerant of their variants, strict about faults."""

import json

import pytest
import small_uvrb as small

from eval import loaders, uvrb
from gve_jax.types import UserError


@pytest.fixture
def folder(tmp_path):
    return small.write_dataset(tmp_path, "MSRVTT", 3)


def _rewrite(folder, kind, change):
    path = folder / "jsonl" / f"{kind}.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    small.write_rows(path, change(rows))


def _append(folder, kind, *rows):
    _rewrite(folder, kind, lambda old: [*old, *rows])


def test_reads_queries_corpus_and_relevance(folder):
    data = loaders.load(folder.parent, "MSRVTT")
    assert [q.id for q in data.queries] == [f"MSRVTT_query_{i}" for i in range(3)]
    assert data.queries[1].text == "v1 is what I look for"
    assert data.queries[1].instruction == uvrb.DATASETS["MSRVTT"].instruction
    assert data.corpus[2].instruction is None  # the corpus side has none
    assert data.corpus[2].video == str(folder / "videos" / "v2.mp4")
    assert [p.tolist() for p in data.positives] == [[0], [1], [2]]
    assert data.candidates is None and not data.missing and not data.published_size


def test_empty_null_and_absent_fields_are_none(folder):
    def change(rows):
        return [rows[0] | {"image": "", "video": None}, *rows[1:]]

    _rewrite(folder, "queries", change)
    query = loaders.load(folder.parent, "MSRVTT").queries[0]
    assert query.image is None and query.video is None and query.text


@pytest.mark.parametrize("value", ["v0.mp4", "videos/v0.mp4"])
def test_paths_with_and_without_their_folder(folder, value):
    _rewrite(folder, "corpus", lambda rows: [rows[0] | {"video": value}, *rows[1:]])
    video = loaders.load(folder.parent, "MSRVTT").corpus[0].video
    assert video == str(folder / "videos" / "v0.mp4")


def test_a_query_image_stands_for_its_video(tmp_path):
    small.write_dataset(tmp_path, "MS-TI", 1, "text+image+video")
    query = loaders.load(tmp_path, "MS-TI").queries[0]
    assert query.image.endswith("MS-TI/images/q0.png") and query.video is None


def test_a_repeated_qid_extends_its_positives(folder):
    _append(folder, "instances", {"qid": "MSRVTT_query_0", "pos": ["MSRVTT_corpus_2"]})
    positives = loaders.load(folder.parent, "MSRVTT").positives
    assert positives[0].tolist() == [0, 2]


@pytest.mark.parametrize("key", ["candidates", "candidate_list", "neg", "negatives"])
def test_candidate_lists_under_any_name(folder, key):
    def change(rows):
        other = "MSRVTT_corpus_1"
        listed = [other] if "neg" in key else [other, "MSRVTT_corpus_0"]
        full = {"candidates": ["MSRVTT_corpus_1", "MSRVTT_corpus_2"]}
        return [rows[0] | {key: listed}, rows[1] | full, rows[2] | full]

    _rewrite(folder, "instances", change)
    candidates = loaders.load(folder.parent, "MSRVTT").candidates
    assert [c.tolist() for c in candidates] == [[0, 1], [1, 2], [1, 2]]


@pytest.mark.parametrize("inner", ["UVRB/MSRVTT", "MSRVTT/UVRB/MSRVTT"])
def test_the_folders_that_archives_unpack_to(tmp_path, inner):
    folder = small.write_dataset(tmp_path / "here", "MSRVTT", 1)
    place = tmp_path / "root" / inner
    place.parent.mkdir(parents=True)
    folder.rename(place)
    assert len(loaders.load(tmp_path / "root", "MSRVTT").queries) == 1


def test_unknown_fields_are_logged_once(folder, caplog):
    _rewrite(folder, "queries", lambda rows: [r | {"topic": "x"} for r in rows])
    loaders.load(folder.parent, "MSRVTT")
    assert [r.getMessage() for r in caplog.records] == [
        f"{folder}/jsonl/queries.jsonl: fields not used: topic"
    ]


def test_other_line_separators_inside_a_text(folder):
    text = "one\u2028two\x85three"
    _rewrite(folder, "queries", lambda rows: [rows[0] | {"text": text}, *rows[1:]])
    assert loaders.load(folder.parent, "MSRVTT").queries[0].text == text


@pytest.mark.parametrize(
    ("kind", "row", "message"),
    [
        ("instances", {"qid": "MSRVTT_query_0", "pos": ["nope"]}, "'nope' is not in"),
        ("instances", {"qid": "nobody", "pos": []}, "qid 'nobody' is not in"),
        ("instances", {"qid": "MSRVTT_query_0", "pos": {"a": 1}}, "expected a list"),
        ("queries", {"id": "MSRVTT_query_1", "text": "again"}, "already used at"),
        ("queries", {"id": "empty", "text": ""}, "has no text, image or video"),
        ("queries", {"id": "typed", "text": 7}, "text is 7, expected a string"),
        ("corpus", {"id": "", "video": "v0.mp4"}, "id is '', expected an id"),
        ("corpus", {"id": "up", "video": "../v0.mp4"}, "leaves the dataset's folder"),
        ("corpus", {"id": "root", "video": "/etc/x.mp4"}, "leaves the dataset's"),
        ("corpus", "{broken", "not JSON"),
        ("corpus", "[1]", "expected a JSON object"),
    ],
)
def test_a_faulty_row_is_named_by_file_and_line(folder, kind, row, message):
    _append(folder, kind, row)
    with pytest.raises(UserError) as error:
        loaders.load(folder.parent, "MSRVTT")
    assert f"{kind}.jsonl:4" in str(error.value) and message in str(error.value)


def test_queries_without_an_answer_are_refused(folder):
    _append(folder, "queries", {"id": "lonely", "text": "v0"})
    with pytest.raises(UserError, match="no positive for query 'lonely'"):
        loaders.load(folder.parent, "MSRVTT")


def test_candidates_must_hold_the_positive(folder):
    def change(rows):
        return [rows[0] | {"candidates": ["MSRVTT_corpus_1"]}, *rows[1:]]

    _rewrite(folder, "instances", change)
    with pytest.raises(UserError, match="candidates of query 'MSRVTT_query_0' lack"):
        loaders.load(folder.parent, "MSRVTT")


def test_empty_and_absent_files(folder):
    path = folder / "jsonl" / "corpus.jsonl"
    path.write_text("\n")
    with pytest.raises(UserError, match=r"corpus.jsonl: empty"):
        loaders.load(folder.parent, "MSRVTT")
    path.unlink()
    with pytest.raises(UserError, match=r"corpus.jsonl: this file is missing"):
        loaders.load(folder.parent, "MSRVTT")


def test_absent_folders_and_names(tmp_path):
    with pytest.raises(UserError, match=r"config.eval.root: no folder"):
        loaders.load(tmp_path / "nowhere", "MSRVTT")
    with pytest.raises(UserError, match=r"MSRVTT: no dataset here"):
        loaders.load(tmp_path, "MSRVTT")
    with pytest.raises(UserError, match=r"no dataset 'MSRVT' in UVRB"):
        loaders.names(["MSRVT"])
    assert loaders.names([]) == list(uvrb.DATASETS)
    assert loaders.names(["VDC-O", "MSRVTT"]) == ["MSRVTT", "VDC-O"]


def test_an_absent_video_is_listed_with_its_line(folder):
    (folder / "videos" / "v1.mp4").unlink()
    missing = loaders.load(folder.parent, "MSRVTT").missing
    assert missing == (
        (f"{folder}/jsonl/corpus.jsonl:2", str(folder / "videos" / "v1.mp4")),
    )


def _own(root, **facts):
    folder = small.write_dataset(root, "Mine", 2)
    (folder / "dataset.json").write_text(json.dumps({"metric": "recall@5", **facts}))
    return folder


def test_a_dataset_of_ones_own(tmp_path):
    _own(tmp_path, instruction="Find it.", num_queries=2, licence="CC0-1.0")
    data = loaders.load(tmp_path, "Mine")
    assert data.facts == uvrb.Dataset(
        "Mine", "text", "recall@5", "Find it.", num_queries=2, licence="CC0-1.0"
    )
    assert [q.instruction for q in data.queries] == ["Find it."] * 2
    assert data.published_size and data.sizes == (2, 2)
    assert loaders.names(["Mine", "VDC-O"], tmp_path) == ["VDC-O", "Mine"]
    assert loaders.names([], tmp_path) == list(uvrb.DATASETS)  # the benchmark
    small.write_dataset(tmp_path, "CRB-T", 1)
    assert loaders.present(tmp_path) == ["CRB-T", "Mine"]


def test_its_instruction_may_be_left_out_and_its_counts_be_wrong(tmp_path):
    _own(tmp_path, num_corpus=3)
    data = loaders.load(tmp_path, "Mine")
    assert data.queries[0].instruction is None
    assert data.differences() == "2 corpus items, expected 3"


@pytest.mark.parametrize("kind", ["text+image", "image", "video"])
def test_its_modality_is_that_of_its_queries(tmp_path, kind):
    folder = small.write_dataset(tmp_path, "Mine", 1, kind)
    (folder / "dataset.json").write_text('{"metric": "precision@1"}')
    assert loaders.load(tmp_path, "Mine").facts.query_modality == kind


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ({"metric": "ndcg@10"}, "metric is 'ndcg@10', expected recall@K, precision@1"),
        ({"metric": None}, "metric is None, expected str"),
        ({"num_queries": "2"}, "num_queries is '2', expected int"),
        ({"instructions": "x"}, "unknown field 'instructions'; known: metric, instr"),
    ],
)
def test_faults_of_its_facts(tmp_path, facts, message):
    _own(tmp_path, **facts)
    with pytest.raises(UserError) as error:
        loaders.load(tmp_path, "Mine")
    assert "Mine/dataset.json: " in str(error.value) and message in str(error.value)


@pytest.mark.parametrize("name", ["Theirs", "../Mine", "", "sub/Mine"])
def test_its_name_is_that_of_its_folder(tmp_path, name):
    _own(tmp_path / "sub")
    with pytest.raises(UserError, match="no dataset"):
        loaders.names([name], tmp_path / "sub")


def test_its_candidates_count_as_its_corpus(tmp_path):
    folder = _own(tmp_path, num_corpus=1)
    rows = [
        {"qid": f"Mine_query_{i}", "pos": [f"Mine_corpus_{i}"], "neg": []}
        | {"candidates": [f"Mine_corpus_{i}"]}
        for i in range(2)
    ]
    small.write_rows(folder / "jsonl" / "instances.jsonl", rows)
    assert not loaders.load(tmp_path, "Mine").differences()
