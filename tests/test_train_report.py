"""The page of a training run: what it shows, and what it makes do without."""

import html.parser
import json
import math
import re

import numpy as np
import pytest
from matplotlib.figure import Figure

from gve_jax.config import default_config
from gve_jax.train.report import write_report
from gve_jax.types import UserError

TASKS = ("T2V", "TI2V", "a <b> & $x$")


def write_lines(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


@pytest.fixture
def workdir(tmp_path):
    """A run of 3 epochs, cut off in the second, after update 50 of 90."""
    config = default_config()
    config.train.steps = 90
    config.data.batch_sizes = {"TI2V": 32}
    config.curriculum.name = "pyramid"
    (tmp_path / "config.json").write_text(config.to_json())
    (tmp_path / "contract.json").write_text('{"family": "qwen2_5_vl", "fps": 0.0}')
    write_lines(
        tmp_path / "metrics.jsonl",
        [
            {
                "step": step,
                "loss": 4.0 - step / 20,
                "positive_score": step / 100,
                "mean_score": 0.1,
                "hard_gap": None if step == 20 else -0.1,
                "accuracy": step / 80,
                "grad_norm": 2.0,
                "learning_rate": 1e-5,
                "pairs_per_s": 100.0,
                "padding": 0.2,
                "failed_pairs": 3,
                "skipped": step // 30,
                "tasks": {TASKS[step // 10 % 3]: {"batches": 10, "loss": 3.0}},
            }
            for step in range(10, 60, 10)
        ],
    )
    write_lines(
        tmp_path / "curriculum.jsonl",
        [
            {
                "epoch": epoch + 1,
                "step": 30 * epoch,
                "steps": 30,
                "scheduler": "pyramid",
                "prober": "own weights",
                "tasks": {
                    task: {
                        "base": 1 / 3,
                        "alignment": 0.123 + i / 10 + epoch / 10,
                        "shuffled": 0.05,
                        "probe_loss": 2.0,
                        "reference_loss": 2.5,
                        "train_loss": None,
                        "probability": (0.6543, 0.25, 0.0957)[i],
                        "draws": (20, 7, 3)[i],
                    }
                    for i, task in enumerate(TASKS)
                },
            }
            for epoch in range(2)
        ],
    )
    write_lines(
        tmp_path / "evaluations.jsonl",
        [
            {"step": s, "metric": "recall@1", "score": x, "details": {"T2V": x}}
            for s, x in ((10, 0.25), (20, 0.75), (30, None), (40, 0.5))
        ],
    )
    return tmp_path


class _Page(html.parser.HTMLParser):
    """The text of a page, its tags checked to be balanced."""

    VOID = frozenset({"meta", "br", "img"})

    def __init__(self, text: str):
        super().__init__()
        self.open, self.texts, self.svgs = [], [], 0
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        if tag not in self.VOID:
            self.open.append(tag)
        self.svgs += tag == "svg"

    def handle_startendtag(self, tag, attrs):
        pass

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if data.strip() and self.open[-1] != "style":
            self.texts.append(data.strip())


def test_the_page_shows_the_run(workdir):
    path = write_report(workdir)
    assert path == workdir / "report.html"
    page = _Page(path.read_text(encoding="utf-8"))
    text = " ".join(" ".join(page.texts).split())
    assert "was at update 50" in text and "50 of 90 updates" in text
    assert "0.750 best evaluation: recall@1, at update 20" in text
    assert "1 more gave no score" in text
    assert "1 updates skipped" in text  # a running total, not a sum of totals
    assert "15 unreadable pairs" in text  # five lines of three
    assert "LoRA of rank 16" in text and "except TI2V 32" in text
    # The table of the second epoch.
    assert (
        "Epoch 2 – updates 31 to 60, scheduler pyramid, probed by own weights" in text
    )
    assert "T2V 0.333 0.223 0.050 2.000 2.500 – 0.654 20" in text
    # Five figures; names from the data are shown as they are.
    assert page.svgs == 5
    for name in TASKS:
        assert page.texts.count(name) >= 3
    for title in ("Loss", "Gradient norm", "Unreadable pairs so far", "planned (P)"):
        assert title in page.texts
    assert "Negatives left out of a query" not in page.texts  # this run logs none


def test_the_page_fetches_nothing_and_is_the_same_again(workdir):
    first = write_report(workdir).read_text(encoding="utf-8")
    assert write_report(workdir).read_text(encoding="utf-8") == first
    assert "<script" not in first
    links = re.findall(r"(?:href|src)=\"([^\"]*)\"|url\(([^)]*)\)", first)
    assert all((a or b).startswith("#") for a, b in links)
    ids = re.findall(r"url\(#([^)]*)\)|href=\"#([^\"]*)\"", first)
    for name in {a or b for a, b in ids}:
        assert first.count(f'id="{name}"') == 1, "figures share an id"
    assert not list(workdir.glob("*.tmp"))


def drawn(workdir, monkeypatch) -> list[dict]:
    """Panels of each figure by title, caught when they are saved."""
    found, save = [], Figure.savefig

    def catch(figure, *args, **options):
        found.append({axes.get_title("left"): axes for axes in figure.axes})
        return save(figure, *args, **options)

    monkeypatch.setattr(Figure, "savefig", catch)
    write_report(workdir)
    return found


def test_the_figures_show_the_numbers(workdir, monkeypatch):
    curves, losses, alignment, shares, evaluations = drawn(workdir, monkeypatch)
    line = curves["Loss"].lines[-1]
    np.testing.assert_allclose(line.get_xdata(), [10, 20, 30, 40, 50])
    np.testing.assert_allclose(line.get_ydata(), [3.5, 3.0, 2.5, 2.0, 1.5])
    gap = next(k for k in curves if k.startswith("Positive"))
    assert list(curves[gap].lines[-1].get_xdata()) == [10, 30, 40, 50]  # 20 is null
    total = curves["Unreadable pairs so far"].lines[-1]
    assert list(total.get_ydata()) == [3, 6, 9, 12, 15]
    own = losses["TI2V"].lines[-1]
    assert list(own.get_xdata()) == [10, 40]
    shuffled, pairs = alignment["T2V"].lines
    np.testing.assert_allclose(shuffled.get_ydata(), [0.05, 0.05])
    np.testing.assert_allclose(pairs.get_ydata(), [0.123, 0.223])
    bars = [bar.get_height() for bar in shares["TI2V"].patches]
    np.testing.assert_allclose(bars, [7 / 30, 7 / 30])
    np.testing.assert_allclose(shares["TI2V"].lines[-1].get_ydata(), [0.25, 0.25])
    low, high = shares["TI2V"].get_ylim()
    assert low == 0 and 0.6667 < high < 1  # the greatest share of any task fits
    star = evaluations["recall@1"].lines[-1]
    assert (star.get_xdata()[0], star.get_ydata()[0]) == (20, 0.75)


def test_long_runs_are_averaged_down(workdir, monkeypatch):
    rows = [{"step": i, "loss": float(i % 7)} for i in range(1, 1001)]
    write_lines(workdir / "metrics.jsonl", rows)
    line = drawn(workdir, monkeypatch)[0]["Loss"].lines[-1]
    means = np.arange(1, 1001).reshape(200, 5)
    np.testing.assert_allclose(line.get_xdata(), means.mean(1))
    np.testing.assert_allclose(line.get_ydata(), (means % 7).mean(1))


def test_any_file_may_be_absent(workdir):
    for path in sorted(workdir.iterdir()):
        text = path.read_bytes()
        path.unlink()
        _Page(write_report(workdir).read_text(encoding="utf-8"))
        path.write_bytes(text)


def test_a_run_that_has_just_begun(tmp_path):
    page = _Page(write_report(tmp_path).read_text(encoding="utf-8"))
    assert "Nothing is logged yet." in page.texts and page.svgs == 0


def test_a_finished_run_says_so(workdir):
    write_lines(workdir / "metrics.jsonl", [{"step": 90, "loss": math.nan}])
    assert "This run is finished." in write_report(workdir).read_text(encoding="utf-8")


def test_a_line_that_was_cut_off_is_not_there(workdir):
    whole = write_report(workdir).read_text(encoding="utf-8")
    with open(workdir / "metrics.jsonl", "a", encoding="utf-8") as f:
        f.write('{"step": 60, "lo')
    assert write_report(workdir).read_text(encoding="utf-8") == whole
    with open(workdir / "metrics.jsonl", "a", encoding="utf-8") as f:
        f.write("\n")
    with pytest.raises(UserError, match=r"metrics\.jsonl: a line is not JSON"):
        write_report(workdir)
