"""The published recipes and fine-tuning: what their configs say and refuse."""

import itertools
import json
import os
import pathlib
import subprocess
import sys

import pytest

from configs import _mixture, finetune, gve_3b, gve_3b_i, gve_3b_s, gve_7b
from gve_jax import presets
from gve_jax.data.corpora import load_corpora
from gve_jax.data.formats import FORMATS
from gve_jax.types import UserError

PARTS = {
    "text": _mixture.TEXT,
    "image": _mixture.IMAGE,
    "video": _mixture.VIDEO,
    "uvrd": _mixture.UVRD,
}


@pytest.mark.parametrize(
    "config, total, parts",
    [  # millions, as the paper prints them
        (gve_3b, 12.55, dict(text=0.38, image=1.82, video=8.80, uvrd=1.55)),
        (gve_7b, 13.73, dict(text=0.58, image=2.80, video=8.80, uvrd=1.55)),
    ],
)
def test_sizes_are_those_printed(config, total, parts):
    corpora = config.get_config().data.corpora
    sizes = {task: row.size / 1e6 for task, row in corpora.items()}
    assert round(sum(sizes.values()), 2) == total
    for part, rows in PARTS.items():
        assert round(sum(sizes[row.task] for row in rows), 2) == parts[part]
    assert len(sizes) == sum(map(len, PARTS.values())) == 38


def test_the_recipe_is_the_papers():
    c = gve_3b.get_config()
    lora, optim, loss = c.model.lora, c.optim, c.loss
    assert (lora.rank, lora.alpha, lora.dropout) == (16, 32.0, 0.1)
    assert (optim.peak_lr, optim.weight_decay, c.seed) == (3e-5, 0.1, 42)
    assert (loss.temperature, loss.query_weight, loss.mask_margin) == (0.03, 0.5, 0.1)
    assert c.model.init_from == "Qwen/Qwen2.5-VL-3B-Instruct"
    assert gve_7b.get_config().model.init_from == "Qwen/Qwen2.5-VL-7B-Instruct"
    assert (c.curriculum.name, c.curriculum.epochs) == ("pyramid", 3)
    assert (c.curriculum.sigma_start, c.curriculum.sigma_end) == (0.1, 1.0)
    assert c.curriculum.prober in presets.OF_HUB_ID
    # 32 GPUs of 32 or 64 pairs: three epochs of 5.4 million WebVid pairs by 1024.
    assert set(c.data.batch_sizes.values()) == {1024, 2048}
    assert c.data.tasks.WebVid_T2V == pytest.approx(5.4e6 / 1024)
    assert c.train.steps == round(3 * sum(c.data.tasks.values())) == 33031
    assert c.data.nums_negatives.CC3M_T2I == 3
    assert c.data.batch_sizes.UVRD_T2T == 2048


def test_ablations_differ_by_what_they_ablate():
    full, collected, both = (x.get_config() for x in (gve_3b, gve_3b_i, gve_3b_s))
    assert both.curriculum.name == collected.curriculum.name == "static"
    assert both.data == full.data and both.train == full.train
    gone = set(full.data.corpora) - set(collected.data.corpora)
    assert gone == {row.task for row in _mixture.UVRD}
    assert list(collected.data.tasks) == list(collected.data.corpora)
    assert collected.train.steps == 30454


@pytest.mark.parametrize("config", [gve_3b, gve_7b])
def test_every_corpus_of_a_recipe_can_be_looked_for(config, tmp_path, capsys):
    data = config.get_config().data
    data.root = str(tmp_path)
    # Formats, options and paths are right, or an error would name them instead.
    with pytest.raises(UserError, match=r"not found, see the table.*--allow-missing"):
        load_corpora(data, allow_missing=False, seed=0)
    shown = capsys.readouterr().err
    assert shown.count(" missing ") == 38 == shown.count("get: ")


def test_a_recipe_goes_on_with_what_there_is(tmp_path, capsys):
    data = gve_3b.get_config().data
    data.root = str(tmp_path)
    (tmp_path / "hotpotqa").mkdir()
    rows = [{"query": {"text": f"q{i}"}, "target": {"text": f"t{i}"}} for i in range(5)]
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (tmp_path / "hotpotqa/T2T.jsonl").write_text(lines)
    tasks, missing = load_corpora(data, allow_missing=True, seed=0)
    assert list(tasks) == ["HotpotQA_T2T"] and len(missing) == 37
    pair = tasks["HotpotQA_T2T"][2]
    assert (pair.task, pair.query.text, pair.target.text) == (
        "HotpotQA_T2T", "q2", "t2",
    )  # fmt: skip
    assert pair.query.instruction == data.corpora.HotpotQA_T2T.instruction
    assert "5 pairs, of 69,000 expected" in capsys.readouterr().err


def pairs_file(folder, **tasks):
    path = folder / "mine.jsonl"
    rows = [
        {"video": f"{task}{i}.mp4", "text": "a"} | ({"task": task} if task else {})
        for task, count in tasks.items()
        for i in range(count)
    ]
    path.write_text("".join(json.dumps(row) + "\n\n" for row in rows))
    return str(path)


@pytest.mark.parametrize(
    "count, batch, held, steps",
    [(12, 2, 1, 18), (100, 8, 10, 38), (1000, 64, 100, 47), (90_000, 64, 500, 4219)],
)
def test_fine_tuning_fits_its_pairs(tmp_path, count, batch, held, steps):
    c = finetune.get_config(pairs_file(tmp_path, A=count))
    assert (c.data.batch_size, c.data.held_out) == (batch, held)
    assert c.train.steps == steps and 0 < c.train.eval_every <= steps
    assert c.model.init_from == "Alibaba-NLP/GVE-3B"
    assert (c.curriculum.name, c.data.num_negatives) == ("static", 0)


def test_fine_tuning_with_several_tasks_and_negatives(tmp_path):
    path = pairs_file(tmp_path, A=800, B=40)
    with open(path, "a") as f:
        row = {"query": {"text": "q"}, "target": {"text": "t"}}
        f.write(json.dumps(row | {"negatives": [{"text": "n"}] * 2}) + "\n")
    c = finetune.get_config(path)
    assert c.data.batch_size == 64
    assert c.data.batch_sizes.to_dict() == {"B": 4, "mine": 2}
    assert c.data.num_negatives == 2
    assert c.data.tasks.to_dict() == {}


@pytest.mark.parametrize(
    "argument, message",
    [
        ("", "name a pairs file"),
        (":none.jsonl", "No such file or directory: '{tmp}/none.jsonl'"),
        (":empty.jsonl", "{tmp}/empty.jsonl: holds no pairs"),
        (":text.jsonl", "{tmp}/text.jsonl: no pairs file"),
    ],
)
def test_fine_tuning_needs_a_pairs_file(tmp_path, argument, message):
    (tmp_path / "empty.jsonl").write_text("\n")
    (tmp_path / "text.jsonl").write_text("a video\n")
    argument = argument.replace(":", f":{tmp_path}/")
    message = message.replace("{tmp}", str(tmp_path))
    command = [sys.executable, "-m", "gve_jax.train"]
    command += [f"--config=configs/finetune.py{argument}", f"--workdir={tmp_path}/w"]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ)
    assert done.returncode == 2, done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: --config: ") and message in line


def test_the_page_lists_every_task_and_format():
    page = pathlib.Path(__file__).parents[1] / "docs" / "training_data.md"
    lines = page.read_text(encoding="utf-8").splitlines()
    first = {line.split("|")[1].strip(): line for line in lines if line[:1] == "|"}
    for row in itertools.chain(*PARTS.values()):
        cells = [cell.strip() for cell in first[f"`{row.task}`"].split("|")]
        sizes = " / ".join(dict.fromkeys(f"{size:g}" for size in row.sizes))
        assert cells[2:5] == [sizes, str(row.negatives), str(row.batch)]
        assert cells[5] == f"`{row.corpus['format']}`"
        assert f"`{row.corpus['path']}`" in cells[6]
    for name, reader in FORMATS.items():
        for kind, glob in reader.FILES.items():
            assert f"`{kind}`: `{glob}`" in first[f"`{name}`"]
