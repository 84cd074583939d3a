"""What a run leaves is read by what it is for: training, TFDS, Grain; its tables."""

import collections
import dataclasses
import hashlib
import json
import os
import shutil

import cv2
import jax
import numpy as np
import pytest

from data_synthesis import array_records, outputs, pipelines, shards
from data_synthesis.searching import Search
from data_synthesis.shards import Key
from data_synthesis.stages import (
    candidates,
    compose,
    corpus,
    examples,
    extend,
    mine,
    probes,
    score_captions,
    select,
)
from data_synthesis.tables import (
    TASKS,
    CorpusRow,
    ExampleFile,
    Mined,
    QueryRow,
    Relevance,
    kept_pairs,
    write_pairs,
)
from data_synthesis.world.scene import Video, sample_scene, stream
from gve_jax.data.formats.rows import Corpus
from gve_jax.data.formats.tfds import read as read_tfds
from gve_jax.data.records import read_pairs
from gve_jax.data.sources import load_tasks
from gve_jax.retrieval import top_k
from gve_jax.types import UserError
from tests import stub_synthesis as stub
from tests import tiny

STAGES = (score_captions, select, candidates, compose, extend, probes, mine, examples)
IN_MEMORY = pipelines.beam_options([])


def in_process(queries, path, k):
    return top_k(queries, np.load(path, mmap_mode="r"), k)


def make(root, **extend):
    with pytest.MonkeyPatch.context() as patched:
        stub.patch(patched)
        patched.setattr(Search, "shared", classmethod(lambda cls: in_process))
        quotas = dict.fromkeys(TASKS, 100)
        run, _ = stub.begin(root, spare=20.0, quotas=quotas, **extend)
        stub.go(run, STAGES)
        pipelines.run(corpus.work(run), IN_MEMORY)
        counts = outputs.finish(run)
    return run, counts


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    return make(tmp_path_factory.mktemp("run"))


def kept(run):
    return [p for s in range(run.layout.shards) for p in kept_pairs(run.layout, s)]


def test_training_reads_the_pairs(finished):
    run, counts = finished
    folder = run.layout.root / "pairs"
    tasks = load_tasks(folder)
    assert {task: len(pairs) for task, pairs in tasks.items()} == counts["train"]
    assert set(tasks) == set(TASKS)
    rows = {f"{p.task}/{p.id}": p for p in kept(run)}
    mined = {m.id: m for m in shards.read_stage(run.layout, "mine", Mined)}
    seen = 0
    for split, where in (("train", folder), ("validation", folder / "validation")):
        for task in counts[split]:
            for pair in read_pairs(where / f"{task}.jsonl"):
                row = rows[pair.id]
                assert (row.split, row.task) == (split, pair.task)
                assert pair.query.content == row.query.item(run).content
                assert pair.target.content == row.target.item(run).content
                assert pair.source_id == row.cluster
                found = mined[row.id].negatives if row.id in mined else ()
                assert [n.content for n in pair.negatives] == [
                    n.side.item(run).content for n in found
                ]
                assert len(pair.scores) == (1 + len(found) if found else 0)
                seen += 1
    assert seen == len(rows)
    composed = tasks["TI2V"][0]
    assert composed.query.text and composed.query.image and composed.query.instruction


def test_paths_are_relative_to_the_file(finished, tmp_path):
    run, _ = finished
    moved = tmp_path / "moved"
    shutil.copytree(run.input.parent, moved)
    pair = read_pairs(moved / "out/pairs/T2V.jsonl")[0]
    assert pair.target.video.startswith(str(moved))


def test_tfds_and_grain_read_the_same_pairs(finished):
    import grain
    import tensorflow_datasets as tfds

    run, counts = finished
    folder = outputs.examples_folder(run)
    builder = tfds.builder_from_directory(folder)
    for split, tasks in counts.items():
        source = builder.as_data_source(split=split)
        assert len(source) == sum(tasks.values())
        where = outputs.pairs_folder(run, split)
        written = {
            p.id: p for task in tasks for p in read_pairs(where / f"{task}.jsonl")
        }

        def absolute(name):
            return os.path.normpath(folder / name.decode()) if name else None

        for i in range(len(source)):
            row = source[i]
            pair = written.pop(row["id"].decode())
            for name in ("query", "target"):
                item = getattr(pair, name)
                assert (row[f"{name}_text"].decode() or None) == item.text
                assert (row[f"{name}_instruction"].decode() or None) == item.instruction
                assert absolute(row[f"{name}_image"]) == item.image
                assert absolute(row[f"{name}_video"]) == item.video
                start = array_records.NO_TIME if item.start is None else item.start
                assert row[f"{name}_start"] == np.float32(start)
            negatives = [absolute(v) for v in row["negatives"]["video"]]
            assert negatives == [n.video for n in pair.negatives]
        assert not written
        # Grain by itself: the same records, one by one.
        files = sorted(folder.glob(f"*-{split}.array_record-*"))
        raw = grain.sources.ArrayRecordDataSource(list(map(str, files)))
        assert len(raw) == len(source)
        some = builder.info.features.deserialize_example_np(raw[len(raw) - 1])
        assert some["id"] == source[len(source) - 1]["id"]


def test_our_own_reader_of_tfds_takes_them(finished):
    run, counts = finished
    folder = outputs.examples_folder(run)
    files = sorted(folder.glob("*.array_record*"))
    names = dict(query_text="query_text", query_image="query_image",
                 query_video="query_video", target_text="target_text",
                 target_image="target_image", target_video="target_video",
                 source_id="source_id")  # fmt: skip
    found = list(read_tfds(Corpus(folder, folder, 0), files, **names))
    assert len(found) == sum(counts["train"].values())


def test_tables_of_corpus_queries_and_relevance(finished):
    run, _ = finished
    layout = run.layout
    targets = {r.id: r for r in shards.read_stage(layout, "corpus", CorpusRow)}
    queries = {r.id: r for r in shards.read_stage(layout, "queries", QueryRow)}
    relevance = list(shards.read_stage(layout, "relevance", Relevance))
    pairs = {p.id: p for p in kept(run)}
    assert {r.pair_id for r in relevance} == set(pairs)
    assert len(relevance) == len(pairs)
    for row in relevance:
        pair = pairs[row.pair_id]
        assert targets[row.corpus_id].target == pair.target
        assert queries[row.query_id].query == pair.query
        assert queries[row.query_id].task == row.task == pair.task
    # The made-up videos repeat each other's words: texts ask for several videos.
    positives = collections.Counter(r.query_id for r in relevance)
    assert max(positives.values()) > 1
    assert set(positives) == set(queries)
    assert {r.corpus_id for r in relevance} == set(targets)


def test_a_leak_ends_the_run(finished, tmp_path):
    run, _ = finished
    root = tmp_path / "out"
    shutil.copytree(run.layout.root, root)
    run = run._replace(layout=run.layout._replace(root=root))
    pipelines.run(corpus.work(run), IN_MEMORY)  # as it is, it may
    pairs = list(kept_pairs(run.layout, 0))
    other = {"train": "validation", "validation": "train"}
    pairs[0] = dataclasses.replace(pairs[0], split=other[pairs[0].split])
    write_pairs(run.layout, Key("extend", 1, "", {}), 0, pairs)
    with pytest.raises(UserError, match="is in the splits train and validation"):
        pipelines.run(corpus.work(run), IN_MEMORY)


def digests(run) -> dict[str, str]:
    root = run.layout.root
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for folder in ("pairs", "array_record", "corpus", "queries", "relevance")
        for path in sorted((root / folder).rglob("*"))
        if path.is_file()
    }


def test_outputs_are_the_same_bytes_again(finished, tmp_path):
    run, _ = finished
    again, _ = make(tmp_path / "again")
    whole = digests(again)
    mine = digests(run)
    assert whole.keys() == mine.keys()
    # The path to the input is in a key: all else is equal.
    differ = {name for name in mine if mine[name] != whole[name]}
    assert not {name for name in differ if not name.endswith(".json")}
    # A lost file is noticed, a lost shard made again.
    lost = next(outputs.examples_folder(again).glob("*train*00001-of*"))
    lost.unlink()
    with pytest.raises(UserError, match="not as stage examples wrote it"):
        outputs.finish(again)
    shutil.rmtree(again.layout.root / "examples")
    stub.go(again, (examples,))
    outputs.finish(again)
    assert digests(again) == whole


def test_every_file_is_listed_with_its_hash(finished):
    run, counts = finished
    rows = list(shards.read_stage(run.layout, "examples", ExampleFile))
    for row in rows:
        data = (outputs.examples_folder(run) / row.id).read_bytes()
        assert hashlib.sha256(data).hexdigest() == row.sha256
        assert len(data) == row.bytes
    for split, tasks in counts.items():
        found = sum(row.examples for row in rows if row.split == split)
        assert found == sum(tasks.values())


def test_a_split_without_pairs_is_left_out(tmp_path):
    run, counts = make(tmp_path, splits=dict(train=1.0, validation=0.0))
    assert counts["validation"] == {}
    info = json.loads((run.layout.root / "array_record/dataset_info.json").read_text())
    assert [split["name"] for split in info["splits"]] == ["train"]
    assert not list((run.layout.root / "pairs/validation").iterdir())


@pytest.mark.slow
def test_two_steps_of_training(finished, tmp_path):
    from gve_jax.train.loop import train

    run, _ = finished
    shutil.copytree(run.input.parent, tmp_path / "data")
    for path in (tmp_path / "data").rglob("*"):
        if path.suffix == ".mp4":
            tiny.write_video(path)
        elif path.suffix == ".jpg":
            cv2.imwrite(str(path), np.full((56, 56, 3), 120, np.uint8))
    pairs = tmp_path / "data/out/pairs"
    changes = dict(train__steps=2, data__num_negatives=1, data__held_out=0)
    names = {"T2V": 1.0, "I2V": 1.0, "T2T": 1.0}
    config = tiny.config(pairs, **changes)
    config.data.tasks = names
    train(config, tmp_path / "work", devices=jax.devices()[:1])
    lines = (tmp_path / "work/metrics.jsonl").read_text().splitlines()
    assert sum("loss" in json.loads(line) for line in lines) == 2


@pytest.mark.slow
def test_two_processes_write_the_bytes_of_one(tmp_path):
    """Without an embedder: it would have to be a real one in the other processes."""
    roots = []
    for name, options in (
        ("one", []),
        ("two", ["--direct_running_mode=multi_processing", "--direct_num_workers=2"]),
    ):
        truth = tmp_path / name / "truth.jsonl"
        truth.parent.mkdir()
        rows = [known_video(i).to_json() for i in range(48)]
        truth.write_text("".join(json.dumps(row) + "\n" for row in rows))
        caption = dict(truth=str(truth))
        run, _ = stub.begin(tmp_path / name, embedder=False, caption=caption)
        for stage in (*STAGES, corpus):
            pipelines.run(stage.work(run), pipelines.beam_options(options))
        outputs.finish(run)
        roots.append(run.layout.root)
    one, two = (
        {
            str(p.relative_to(root)): p.read_bytes()
            for p in sorted(root.rglob("*"))
            if p.is_file() and p.suffix != ".json" and "logs" not in p.parts
        }
        for root in roots
    )
    assert one == two
    assert any(b"reference clip" in data for data in one.values())


def known_video(i: int) -> Video:
    rng = stream(4, "outputs", i)
    return Video(f"v{i}", "train", "t", (sample_scene(rng, "train"),))
