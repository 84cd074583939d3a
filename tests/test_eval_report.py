"""The report: what its pages hold, what they do without, and how they behave."""

import base64
import html.parser
import io
import json
import pathlib
import re
import shutil
import subprocess
import sys
import urllib.parse

import browser
import numpy as np
import pytest
import small_uvrb as small
from PIL import Image

from configs import uvrb_mini
from eval import abilities, loaders, report, run, uvrb
from eval.report import explain, record, runs, tables
from gve_jax import retrieval
from gve_jax.types import UserError

HOSTILE = '</td><script>alert("1")</script>'
OWN = "toys $x$"  # a folder of a dataset of one's own; dollars begin formulas


def _evaluate(root, output, names=(), confused=()):
    config = uvrb_mini.get_config(str(root))
    config.eval.bootstrap = 50
    config.eval.gallery = 2
    config.eval.allow_missing = True
    sets = run.read(config, loaders.names(names, str(root)))
    encoder = small.FakeEmbedder(confused=set(confused))
    return run.run(config, sets, encoder, output, "runs/<b>demo")


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """All sixteen, one of them with a broken video and a hostile text, and two own."""
    root = tmp_path_factory.mktemp("uvrb")
    for name, facts in uvrb.DATASETS.items():
        small.write_dataset(root, name, 3, facts.query_modality)
    (root / "CRB-T" / "videos" / "v1.mp4").write_bytes(b"")
    queries = root / "MSRVTT" / "jsonl" / "queries.jsonl"
    rows = [json.loads(line) for line in queries.read_text().splitlines()]
    rows[0]["text"] += HOSTILE
    small.write_rows(queries, rows)
    folder = small.write_dataset(root, OWN, 3)
    (folder / "dataset.json").write_text('{"metric": "recall@2"}')
    # Videos to labels: a corpus of texts.
    folder = small.write_dataset(root, "labels", 3, "video")
    labels = [
        {"id": f"labels_corpus_{i}", "text": f"v{i} as a label"} for i in range(3)
    ]
    small.write_rows(folder / "jsonl" / "corpus.jsonl", labels)
    (folder / "dataset.json").write_text('{"metric": "precision@1"}')
    return root


@pytest.fixture(scope="module")
def whole(root, tmp_path_factory):
    """Evaluated, with probes and a sweep beside the results."""
    output = tmp_path_factory.mktemp("whole") / "eval"
    names = [*uvrb.DATASETS, OWN, "labels"]
    results = _evaluate(root, output, names, confused={"v2"})
    plain = {path: path.read_bytes() for path in sorted(output.rglob("*.html"))}
    row = {"baseline": 0.5, "score": 0.4, "difference": -0.1, "low": -0.2, "high": 0.0}
    row |= {"chance": 0.1, "survives": [0.75, 0.5, 1.0]}
    ratio = {"cases": 9, "wrong": 0.2, "at_random": 0.4, "ratio": 0.5}
    probes = {
        "frame_order": {
            "what": "Order?",
            "variants": {
                "corpus reversed": {
                    "what": "backwards",
                    "datasets": {"MSRVTT": row},
                    "abilities": {"CG": row, "AVG": row},
                }
            },
        },
        "paraphrase": {"what": "Words?", "not_run": "no other wording"},
        "confusion": {
            "what": "Which?",
            "overall": {
                "colour": ratio | {"low": 0.3, "high": 0.7},
                "mood": {"cases": 0},
            },
            "datasets": {
                "MSRVTT": {"attributes": {"colour": ratio, "mood": {"cases": 0}}}
            },
        },
    }
    found = {"contract": results["contract"], "datasets": ["MSRVTT"], "probes": probes}
    (output / "probes.json").write_text(json.dumps(found))
    variants = [
        {
            "folder": f"f{frames}_t9",
            "sweeps": ["frames"],
            "frames": frames,
            "tokens": 9,
            "visual_tokens": 9 * frames,
            "own": frames == 8,
            "datasets": {n: r["score"] for n, r in results["datasets"].items()},
        }
        | {k: results[k] for k in ("abilities", "ability_average", "ability_intervals")}
        for frames in (4, 8)
    ]
    sweep = {"own": {"frames": 8, "tokens": 9}, "max_tokens": 99, "variants": variants}
    (output / "scaling").mkdir()
    (output / "scaling" / "scaling.json").write_text(json.dumps(sweep))
    report.write(runs.read(output, "this run"), output)
    return output, results, plain


@pytest.fixture(scope="module")
def part(root, tmp_path_factory):
    """An evaluation of two datasets only."""
    output = tmp_path_factory.mktemp("part") / "eval"
    _evaluate(root, output, ["CRB-S", "VDC-O"])
    return output


class _Page(html.parser.HTMLParser):
    """A page's structure, and the faults of its tables and headings."""

    def __init__(self, path):
        super().__init__()
        self.source = path.read_text(encoding="utf-8")
        self.tags, self.ids, self.links, self.images = [], [], [], []
        self.levels, self._texts, self.faults, self._open = [], [], [], []
        self.feed(self.source)
        self.text = "".join(self._texts)
        self.words = " ".join(self.text.split())

    def handle_starttag(self, tag, attributes):
        of = dict(attributes)
        self.tags.append(tag)
        self._texts += [" "] if tag in ("td", "th", "p", "li") else []
        self.ids += [of["id"]] if "id" in of else []
        if tag == "img":
            self.images.append(of["src"])
            if not of.get("alt"):
                self.faults.append("a picture without words")
        elif tag in ("script", "link", "iframe") and ("src" in of or "href" in of):
            self.faults.append(f"{tag} fetches")
        for key in ("href", "xlink:href"):
            self.links += [of[key]] if key in of else []
        if re.fullmatch("h[1-6]", tag):
            self.levels.append(int(tag[1]))
        if tag == "table":
            self._open.append(set())
        elif self._open:
            self._open[-1].add(tag)
            if tag == "th" and "scope" not in of:
                self.faults.append("a head without scope")

    def handle_endtag(self, tag):
        if tag == "table" and not {"caption", "thead", "th"} <= self._open.pop():
            self.faults.append("a table without caption or heads")

    def handle_data(self, data):
        self._texts.append(data)


def _check(path):
    """Asserts what holds for every page; returns the page."""
    page = _Page(path)
    assert page.faults == []
    assert len(page.ids) == len(set(page.ids))
    assert page.levels[0] == 1 and page.levels.count(1) == 1
    assert all(b <= a + 1 for a, b in zip(page.levels, page.levels[1:], strict=False))
    assert all(image.startswith("data:image/jpeg;base64,") for image in page.images)
    assert not re.search(r"url\((?!#)|@import|alert\(\"1", page.source)
    for link in page.links:
        target, _, fragment = link.partition("#")
        file = path.parent / urllib.parse.unquote(target) if target else path
        assert file.exists(), link
        if fragment:
            assert fragment in (_Page(file).ids if target else page.ids), link
    return page


def test_every_page_is_whole_and_fetches_nothing(whole):
    output, results, _ = whole
    pages = sorted(output.rglob("*.html"))
    names = {path.stem for path in pages if path.parent.name == "report"}
    assert names == set(results["datasets"])
    for path in pages:
        _check(path)
    assert (output / "report.html").stat().st_size < 1_500_000


def test_the_main_page_is_honest(whole):
    output, results, _ = whole
    page = _check(output / "report.html")
    assert "This is a test bed, not the published benchmark." in page.words
    assert "other difficulty, not comparable with the rows above" in page.words
    assert "gives one point and no correlation" in page.words
    assert "runs/<b>demo" in page.words and "16 of the 16 datasets" in page.words
    assert f"{results['ability_average']:.3f}" in page.words
    # What is missing is counted, with bounds, and leads to the list.
    assert "CRB-T: no vector for 0 of 3 queries and 1 of 3 corpus items" in page.words
    low, high = results["ability_bounds"]["T"]
    assert low < high and f"{low:.3f} – {high:.3f}" in page.words
    assert "report/CRB-T.html#missing" in page.links
    assert all(model in page.words for model in uvrb.PUBLISHED)


def test_datasets_of_ones_own_stand_by_themselves(whole):
    output, results, _ = whole
    page = _check(output / "report.html")
    before, own = page.words.split("Outside the averages", 1)
    assert OWN in own and "R@2" in own and "labels" in own
    # In the list of missing too, but not in the table of the benchmark.
    assert OWN not in before.split("Datasets of UVRB", 1)[1]
    answers = _check(output / "report" / "labels.html").words
    assert "v1 as a label" in answers and "no picture" not in answers
    assert "it has no part in the averages" in answers
    expected = abilities.condense(
        {n: results["datasets"][n]["score"] for n in uvrb.DATASETS}
    )
    assert results["dataset_average"] == expected["dataset_average"]


def test_a_dataset_page_shows_what_was_asked_and_answered(whole):
    output, _, _ = whole
    page = _check(output / "report" / "MSRVTT.html")
    assert HOSTILE in page.text and "script>alert" not in page.source
    assert page.images and "svg" in page.tags
    assert "Not the published data: 3 queries, expected 1000" in page.words
    lost = _check(output / "report" / "CRB-T.html")
    assert "1 item could not be embedded" in lost.words and "empty file" in lost.words
    assert "no picture: the file cannot be read" in lost.words


def test_probes_and_scaling_are_shown_where_they_are(whole, tmp_path):
    output, results, plain = whole
    page = _check(output / "report.html")
    for text in ("Order?", "−0.200 to +0.000", "Not run: no other wording", "Which?"):
        assert text in page.words
    assert "Test-time scaling" in page.words and "f4_t9" in page.words
    before = plain[output / "report.html"].decode()
    assert "Probes" not in before and "Test-time scaling" not in before
    # Those of other weights are named, not shown.
    found = runs.read(output, "this run")
    other = results["contract"] | {"weights_hash": "other"}
    report.write(found._replace(probes=found.probes | {"contract": other}), tmp_path)
    text = (tmp_path / "report.html").read_text()
    assert "of another embedding contract" in text and "Order?" not in text


def test_equal_files_give_equal_pages(whole, tmp_path):
    output, _, plain = whole
    # Anew from files alone, without the data.
    found = runs.read(output, "this run")._replace(probes=None, scaling=None)
    report.write(found, tmp_path)
    for path, content in plain.items():
        assert (tmp_path / path.relative_to(output)).read_bytes() == content, path


def test_a_part_of_the_benchmark(part, root):
    page = _check(part / "report.html")
    assert "Not evaluated: MSRVTT, DiDeMo" in page.words
    assert "needs all sixteen datasets" in page.words
    assert "svg" in page.tags  # bars; three abilities make a radar
    # Fewer datasets in the same folder: pages of the others go.
    _evaluate(root, part, ["CRB-S"])
    assert sorted(p.name for p in (part / "report").iterdir()) == [
        "CRB-S.html",
        "CRB-S.json",
    ]
    _check(part / "report.html")


def test_own_datasets_alone(root, tmp_path):
    _evaluate(root, tmp_path, [OWN])
    # Encoders that are not ours have no weights that are known.
    found = runs.read(tmp_path, "this run")
    results = found.results | {"contract": {"encoder": "precomputed"}}
    report.write(found._replace(results=results), tmp_path)
    page = _check(tmp_path / "report.html")
    assert "on 0 of the 16 datasets" in page.words and OWN in page.words
    assert "test bed" not in page.words and "Leaderboard" not in page.words


def test_on_data_of_the_published_sizes(whole, tmp_path):
    """Then own and published rows are one list, the best first."""
    found = runs.read(whole[0], "this run")
    records = {n: r | {"differences": ""} for n, r in found.records.items()}
    report.write(found._replace(records=records), tmp_path)
    page = _check(tmp_path / "report.html")
    assert "test bed" not in page.words and "not comparable" not in page.words
    board = page.source.split('id="leaderboard"')[1].split("</table>")[0]
    assert board.count("<tbody") == 1 and board.count(">published<") == 16
    averages = re.findall(r'</th>\s*<td class="n">([.0-9]+)', board)
    assert len(averages) == 17 and averages == sorted(averages, reverse=True)


def test_the_published_rows_compare_only_with_data_of_their_size(whole):
    found = runs.read(whole[0], "a_b & c")
    assert not found.published_size
    rows = runs.rows([found])
    own = [OWN, "labels"]
    apart = tables.markdown(rows, own, False)
    together = tables.markdown(rows, own, True)
    score = rows[0].scores["MS-TI"]
    assert score == pytest.approx(2 / 3)  # above all published ones
    assert f"**{score:.3f}** [" in together and f"**{score:.3f}** [" not in apart
    assert "**0.350**" in apart and "**0.350**" not in together
    assert "not comparable" in apart and "not comparable" not in together
    assert "GVE-7B †" in apart and f"| Model | {OWN} | labels |" in apart


def test_latex_tables(whole):
    rows = runs.rows([runs.read(whole[0], "a_b & 5 %")])
    text = tables.latex(rows, [OWN], False)
    assert r"a\_b \& 5 \%" in text and r"toys \$x\$" in text
    assert r"GVE-7B$^\dagger$ & \textbf{0.599} &" in text
    assert not re.search(r"(?<![\\{])%(?! \\usepackage)", text)  # no comment begins
    bodies = text.split(r"\begin{tabular}")[1:]
    assert len(bodies) == 3
    for body in bodies:
        columns = re.match(r"\{l(r+)\}", body)[1]
        lines = [line for line in body.splitlines() if line.endswith(r"\\")]
        assert {len(re.findall(r"(?<!\\)&", x)) for x in lines} == {len(columns)}


def test_histograms_and_chance_against_the_protocol():
    rng = np.random.default_rng(0)
    items = rng.integers(5, 70, 40)
    positives = rng.integers(1, 5, 40)
    ranks = np.minimum(rng.integers(1, 70, 40), items - positives + 1).astype(float)
    ranks[3] = np.inf
    found = record.histogram(ranks, positives, items)
    assert found["ends"] == [1, 2, 5, 10, 20, 50, 100]
    assert found["found"] == [
        int(((ranks > a) & (ranks <= b)).sum())
        for a, b in zip([0, *found["ends"]], found["ends"], strict=False)
    ]
    assert found["not_found"] == 1 and sum(found["found"]) == 39
    for i, end in enumerate(found["ends"]):
        expected = retrieval.chance(positives, items, end).sum()
        assert sum(found["chance"][: i + 1]) == pytest.approx(expected)


def test_groups_of_queries():
    words = np.repeat([1, 2, 3, 9], [20, 20, 10, 10])
    hits = np.r_[np.ones(20), np.zeros(40)]
    found = record.groups(words, hits)
    assert [row["label"] for row in found] == ["1", "2", "3 – 9"]
    assert [row["queries"] for row in found] == [20, 20, 20]
    assert [row["score"] for row in found] == [1, 0, 0]
    # Wilson, by hand: z^2 / (n + z^2) is the upper end of 0 of 20.
    z2 = 1.959964**2
    assert found[1]["high"] == pytest.approx(z2 / (20 + z2), abs=1e-6)
    assert record.groups(np.full(40, 3), np.ones(40)) == []


def test_words_for_metrics_and_modalities():
    assert explain.metric("recall@7") == "R@7"
    assert explain.metric("precision@1") == "P@1"
    assert explain.modality("text+video") == "text + clip"
    assert set(explain.DATASETS) == set(uvrb.DATASETS)


def test_runs_are_compared(whole, root, tmp_path):
    output, results, _ = whole
    other = tmp_path / "other" / "eval"
    _evaluate(root, other, [*uvrb.DATASETS, OWN])
    command = [sys.executable, "-m", "eval.report", f"--runs={output},{other}"]
    command.append(f"--output={tmp_path / 'both'}")
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    page = _check(tmp_path / "both" / "report.html")
    # v2 is found there: one query of three, in every text dataset but one of R@10.
    assert "MSRVTT R@1 +0.333" in page.words
    assert "Left out, as only one of the two has them: labels" in page.words
    assert "Nothing: they have one contract" in page.words
    both = (tmp_path / "both" / "report.md").read_text()
    assert len(re.findall(r"^\| .*whole.*\[", both, re.MULTILINE)) == 3
    assert (tmp_path / "both" / "report.tex").exists()
    assert results["datasets"]["MSRVTT"]["score"] == pytest.approx(2 / 3)


def test_what_is_wrong_is_said(part, tmp_path):
    again = tmp_path / "again"
    shutil.copytree(part, again)
    with pytest.raises(UserError, match=r"--runs: .* is named twice"):
        runs.labels([part, part])
    with pytest.raises(UserError, match=r"no finished evaluation"):
        runs.read(tmp_path, "x")
    with pytest.raises(UserError, match=r"--output: .* is one of the runs"):
        report.compare([runs.read(f, "x") for f in (part, again)], again)
    next((again / "report").glob("*.json")).unlink()
    with pytest.raises(UserError, match=r"run `python -m eval` again"):
        runs.read(again, "x")


def test_labels_are_what_differs():
    folders = [pathlib.Path(p) for p in ("r/a/eval", "r/b/eval", "r/c/x/eval")]
    assert runs.labels(folders) == ["a", "b", "c/x"]
    assert runs.labels(folders[:1]) == ["this run"]


# Texts of too little contrast (WCAG AA: 4.5), over all backgrounds below them.
_CONTRAST = """(() => {
  const rgba = (s) => { const v = s.match(/[\\d.]+/g).map(Number); return [v[0], v[1], v[2], v[3] ?? 1]; };
  const light = (c) => c.slice(0, 3).map((v) => v / 255)
    .map((v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const found = [];
  for (const e of document.querySelectorAll("body *:not(svg *):not(script)")) {
    if (![...e.childNodes].some((n) => n.nodeType === 3 && n.data.trim()) || !e.getClientRects().length) continue;
    const layers = [];
    for (let x = e; x; x = x.parentElement) layers.unshift(rgba(getComputedStyle(x).backgroundColor));
    const back = layers.reduce((b, l) => b.map((v, i) => v * (1 - l[3]) + l[i] * l[3]), [255, 255, 255]);
    const [a, b] = [light(back), light(rgba(getComputedStyle(e).color))];
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (ratio < 4.5) found.push([e.textContent.trim().slice(0, 40), ratio]);
  }
  return found;
})()"""  # noqa: E501
_BOARD = """[...document.querySelectorAll("#leaderboard + .wide tbody")].map(
  (body) => [...body.rows].map((row) => row.cells[1]?.textContent.slice(0, 5)))"""


@pytest.mark.skipif(browser.PROGRAM is None, reason="no Chromium is installed")
def test_in_a_browser(whole, tmp_path):
    output, results, _ = whole
    tab = browser.Tab(tmp_path)
    try:
        for width in (1200, 400):
            for path in (output / "report.html", output / "report" / "MS-TV.html"):
                tab.open(path, width)
                # What is wide scrolls by itself, not the page.
                wide = tab.value("document.documentElement.scrollWidth")
                assert wide <= width, path
                assert tab.value(_CONTRAST) == []
        shot = tab.ask("Page.captureScreenshot")["data"]
        picture = Image.open(io.BytesIO(base64.b64decode(shot)))
        assert picture.size == (400, 900) and len(picture.getcolors(1 << 20)) > 50

        tab.open(output / "report.html")
        tab.press("Tab", 9)
        assert tab.value("document.activeElement.textContent") == "Skip to the content"
        tab.press("Enter", 13, "\r")
        assert tab.value("document.activeElement.id") == "content"
        tab.value("document.querySelector('#leaderboard + .wide th.n button').focus()")
        head = "document.activeElement.closest('th').getAttribute('aria-sort')"
        for key, code, text, order in (
            ("Enter", 13, "\r", "descending"),
            (" ", 32, " ", "ascending"),
        ):
            tab.press(key, code, text)
            assert tab.value(head) == order
            own, divide, published = tab.value(_BOARD)
            assert own == [f"{results['ability_average']:.3f}"]
            assert divide == [None] and len(published) == len(uvrb.PUBLISHED)
            assert published == sorted(published, reverse=order == "descending")
        assert tab.faults == []
    finally:
        tab.close()
