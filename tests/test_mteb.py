"""UVRB through MTEB against our own protocol; skipped where MTEB is not installed."""

import dataclasses
import importlib.util
import json
import pathlib
import subprocess
import sys

import numpy as np
import pytest
import small_uvrb as small

from configs import uvrb_mini
from eval import loaders, run, summary, uvrb, vectors
from gve_jax.types import UserError

if importlib.util.find_spec("mteb"):
    import datasets
    import mteb
    from mteb.abstasks.task_metadata import TaskMetadata
    from mteb.models.abs_encoder import AbsEncoder
    from mteb.results import TaskResult
    from mteb.types import PromptType

    from eval.mteb_bridge.benchmark import benchmark, evaluate
    from eval.mteb_bridge.model import EmbedderModel
    from eval.mteb_bridge.tasks import make_task
else:
    AbsEncoder = object

needs_mteb = pytest.mark.skipif(
    not importlib.util.find_spec("mteb"),
    reason="MTEB is not installed: pip install -e '.[mteb]'",
)


class Noisy(small.FakeEmbedder):
    """Known answers under noise, so that ranks of every size occur."""

    def embed(self, items, desc="embed", progress=True):
        result = super().embed(items, desc, progress)
        for row, item in zip(result.vectors, items, strict=True):
            seed = np.frombuffer(json.dumps(_content(item)).encode(), np.uint8)
            row += np.random.default_rng(seed).normal(size=row.size) / 3
            row /= np.linalg.norm(row)
        return result


def _content(item) -> tuple:
    """All but the folder, as datasets share files: eval embeds one of them."""
    files = [path and pathlib.Path(path).name for path in (item.image, item.video)]
    return item.text, *files, item.instruction


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """All sixteen datasets of twelve queries, with several positives in CMRB and
    LoVR-TH and lists of six candidates in MS-TI and MS-TV."""
    root = tmp_path_factory.mktemp("uvrb")
    for name, facts in uvrb.DATASETS.items():
        folder = small.write_dataset(root, name, 12, facts.query_modality)
        path = folder / "jsonl" / "instances.jsonl"
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        for i, row in enumerate(rows):
            if name in ("CMRB", "LoVR-TH"):
                row["pos"] += [f"{name}_corpus_{(i + j) % 12}" for j in (1, 5)]
            if name in ("MS-TI", "MS-TV"):
                listed = [f"{name}_corpus_{(i + j) % 12}" for j in range(6)]
                row["candidates"] = listed
        small.write_rows(path, rows)
    return root


def _sets(root, names=()):
    config = uvrb_mini.get_config(str(root))
    return run.read(config, loaders.names(names))


@needs_mteb
def test_both_paths_give_equal_scores(world, tmp_path):
    sets = _sets(world)
    ours, theirs = Noisy(), Noisy()
    sides = vectors.embed(sets, ours, tmp_path / "vectors", False)
    expected = summary.summarise(summary.score(sets, sides, 1, 0))
    model = EmbedderModel(theirs, "test/noisy")
    tasks = benchmark(sets)

    found = evaluate(tasks, model, tmp_path / "mteb")

    assert list(found) == list(uvrb.DATASETS)
    revision = model.mteb_model_meta.revision
    folder = tmp_path / "mteb" / "results" / "test__noisy" / revision
    for name, row in expected["datasets"].items():
        assert found[name] == round(row["score"], 5), name
        kept = TaskResult.from_disk(folder / f"UVRB-{name}.json")
        scores = kept.scores["test"][0]
        assert kept.task_name == f"UVRB-{name}"
        for k in (1, 5, 10):
            assert scores[f"hit_rate_at_{k}"] == round(row[f"recall@{k}"], 5), name
        assert scores["ndcg_at_10"] == pytest.approx(row["ndcg@10"], abs=6e-6), name
        if name in ("CMRB", "LoVR-TH"):  # MTEB's recall is another number
            assert scores["recall_at_1"] < scores["hit_rate_at_1"]
    # Not all right, not all wrong: the equality says something.
    assert len(set(found.values())) > 4
    # What was embedded is the same, instruction and files included.
    assert {_content(i) for i in theirs.items} == {_content(i) for i in ours.items}

    results = mteb.ResultCache(tmp_path / "mteb").load_results(tasks=tasks)
    aggregates = tasks.get_score(results)["test/noisy"]
    assert aggregates["Mean(Task)"] == pytest.approx(
        expected["dataset_average"], abs=1e-5
    )
    for name in ("ability_average", *expected["abilities"]):
        wanted = expected["abilities"].get(name, expected["ability_average"])
        assert aggregates[name] == pytest.approx(wanted, abs=1e-5), name


@needs_mteb
def test_metadata_is_complete_and_states_the_facts(world):
    metrics = {
        "recall@1": "hit_rate_at_1",
        "recall@10": "hit_rate_at_10",
        "precision@1": "precision_at_1",
    }
    for task in benchmark(_sets(world)):
        facts, metadata = uvrb.DATASETS[task.data.name], task.metadata
        assert metadata.is_filled()
        assert metadata.license in (facts.licence.lower(), "not specified")
        metadata._validate_metadata()
        assert TaskMetadata.model_validate(metadata.model_dump()) == metadata
        sides = facts.query_modality.split("+")
        assert set(metadata.get_modalities(PromptType.query)) == set(sides)
        assert metadata.get_modalities(PromptType.document) == ["video"]
        assert set(metadata.modalities) == {*sides, "video"}
        assert metadata.prompt == {"query": facts.instruction}
        assert metadata.main_score == metrics[facts.metric]
        assert len(metadata.revision) == 40


@needs_mteb
def test_of_equal_scores_mteb_prefers_the_greater_id_and_we_a_hash(tmp_path):
    folder = small.write_dataset(tmp_path, "CRB-T", videos=[0, 1, 2, 3])
    for kind in ("corpus", "queries"):  # 2 and 3 become one video and one question
        path = folder / "jsonl" / f"{kind}.jsonl"
        path.write_text(path.read_text().replace('"v2', '"v3'))
    (data,) = _sets(tmp_path, ["CRB-T"])
    embedder = small.FakeEmbedder()
    sides = vectors.embed([data], embedder, tmp_path / "vectors", False)
    ours = []
    for positive, theirs in ((2, 0.5), (3, 1.0)):
        data = dataclasses.replace(
            data, positives=tuple(np.array([i]) for i in (0, 1, positive, positive))
        )
        (row,) = summary.score([data], sides, 1, 0).values()
        ours.append(row.row["score"])
        found = evaluate(
            benchmark([data]), EmbedderModel(embedder, "test/fake"), tmp_path / "out"
        )
        assert found == {"CRB-T": theirs}
    assert sorted(ours) == [0.5, 1.0]


@needs_mteb
def test_a_finished_dataset_is_taken_up_unless_its_data_changed(tmp_path):
    for name in ("CRB-T", "MSRVTT"):
        small.write_dataset(tmp_path, name)
    embedder = small.FakeEmbedder(confused={"v1"})
    model = EmbedderModel(embedder, "test/fake")
    names = ["CRB-T", "MSRVTT"]

    def again() -> tuple[dict, int]:
        before = len(embedder.calls)
        found = evaluate(benchmark(_sets(tmp_path, names)), model, tmp_path / "out")
        return found, len(embedder.calls) - before

    assert again() == ({"CRB-T": 0.75, "MSRVTT": 0.75}, 4)
    assert again() == ({"CRB-T": 0.75, "MSRVTT": 0.75}, 0)
    path = tmp_path / "CRB-T" / "jsonl" / "instances.jsonl"
    path.write_text(path.read_text().replace("corpus_2", "corpus_3"))
    assert again() == ({"CRB-T": 0.5, "MSRVTT": 0.75}, 2)
    assert again() == ({"CRB-T": 0.5, "MSRVTT": 0.75}, 0)


@needs_mteb
def test_what_mteb_would_drop_or_rank_first_is_refused(tmp_path):
    folder = small.write_dataset(tmp_path, "CRB-T")
    video = folder / "videos" / "v2.mp4"
    whole = video.read_bytes()
    video.write_bytes(b"")
    tasks = benchmark(_sets(tmp_path, ["CRB-T"]))
    model = EmbedderModel(small.FakeEmbedder(), "test/fake")
    with pytest.raises(
        UserError, match=r"UVRB-CRB-T document: 'CRB-T_corpus_2'.*empty"
    ):
        evaluate(tasks, model, tmp_path / "out")
    video.unlink()
    with pytest.raises(UserError, match=r"v2\.mp4 \(1 missing in CRB-T"):
        benchmark([loaders.load(tmp_path, "CRB-T")])
    video.write_bytes(whole)
    path = folder / "jsonl" / "queries.jsonl"
    row = {"id": "CRB-T_query_3", "text": "v3 moves", "video": "v3.mp4"}
    small.write_rows(path, [*path.read_text().splitlines()[:3], row])
    (data,) = _sets(tmp_path, ["CRB-T"])
    with pytest.raises(UserError, match="mine: not a dataset of UVRB"):
        make_task(dataclasses.replace(data, facts=data.facts._replace(name="mine")))
    with pytest.raises(UserError, match=r"'CRB-T_query_3' holds text and video.*text"):
        make_task(data)


@needs_mteb
def test_media_that_a_dataset_holds_as_bytes_reach_the_embedder_as_files(tmp_path):
    seen = []

    class Reader(small.FakeEmbedder):
        def embed(self, items, desc="embed", progress=True):
            for item in items:
                with open(item.video, "rb") as file:
                    seen.append((item.video[-4:], file.read(), item.instruction))
            return super().embed(items, desc, progress)

    contents = [small._video(seed) for seed in range(3)]
    table = datasets.Dataset.from_dict(
        {"video": [{"bytes": c, "path": "clip.mp4"} for c in contents]},
        datasets.Features({"video": datasets.Video()}),
    )
    small.write_dataset(tmp_path, "LoVR-C2V", 1, "video")
    (task,) = benchmark(_sets(tmp_path, ["LoVR-C2V"]))

    class Loader:
        dataset = table

    for side in PromptType:
        found = EmbedderModel(Reader(), "test/reader").encode(
            Loader(),
            task_metadata=task.metadata,
            hf_split="test",
            hf_subset="default",
            prompt_type=side,
        )
        assert found.shape == (3, small.DIM)
    instruction = uvrb.DATASETS["LoVR-C2V"].instruction
    assert seen == [
        (".mp4", content, asked)
        for asked in (instruction, None)
        for content in contents
    ]


class Foreign(AbsEncoder):
    """As a model of MTEB is written: iterates over the loader, asks for its prompt.

    It answers right where the text names the file, and reads no pixels."""

    def __init__(self):
        meta = EmbedderModel(small.FakeEmbedder(), "test/x").mteb_model_meta
        self.mteb_model_meta = meta.model_copy(update={"name": "test/foreign"})
        self.prompts = set()

    def encode(self, inputs, *, task_metadata, prompt_type, **kwargs):
        self.prompts.add(self.get_instruction(task_metadata, prompt_type))
        if prompt_type == PromptType.document:
            undecoded = datasets.Video(decode=False)
            rows = inputs.dataset.cast_column("video", undecoded)
            names = [row["video"]["path"].split("/")[-1][1:-4] for row in rows]
        else:
            names = [text.split()[0][1:] for batch in inputs for text in batch["text"]]
        return np.eye(64, dtype=np.float32)[[int(name) for name in names]]


@needs_mteb
@pytest.mark.filterwarnings("ignore:Prompt type 'document' not found")
def test_a_model_of_mteb_runs_on_our_tasks(world):
    model = Foreign()
    tasks = benchmark(_sets(world, ["MSRVTT", "CMRB"]))
    found = mteb.evaluate(model, tasks, cache=None, co2_tracker=False)
    assert [r.get_score() for r in found.task_results] == [1, 1]
    instructions = [uvrb.DATASETS[name].instruction for name in ("MSRVTT", "CMRB")]
    assert model.prompts == {*instructions, ""}


def test_without_mteb_the_command_says_what_to_install(tmp_path):
    arguments = [
        "--config=configs/uvrb_mini.py",
        "--checkpoint=nowhere",
        f"--output={tmp_path}",
    ]
    code = (
        "import runpy, sys; sys.modules['mteb'] = None; "
        "runpy.run_module('eval.mteb_bridge', run_name='__main__', alter_sys=True)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (1, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: eval.mteb_bridge: mteb")
    assert line.endswith("pip install -e '.[mteb]'")
