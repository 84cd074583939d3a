"""Search in an index: filters, exact ranking and grouping against NumPy, pages."""

import datetime
import hashlib
import itertools
import json
import os
import re
import webbrowser

import jax
import numpy as np
import pyarrow as pa
import pytest
from absl import flags
from absl.testing import flagsaver
from PIL import Image

from gve_jax.contract import Contract
from gve_jax.embed.embedder import EmbedResult, EmbedStats
from gve_jax.index import search_verb
from gve_jax.index.corpus import Vectors
from gve_jax.index.filters import EVERYTHING, parse_filter
from gve_jax.index.page import clock
from gve_jax.index.searching import Request, Searcher, make_query
from gve_jax.index.store import DTYPES, Entry, File, writer
from gve_jax.types import UserError

DIM = 16


class Embedder:
    """Unit vectors of 16 numbers that follow from an item's content."""

    contract = Contract(dim=DIM)
    dim = DIM

    def embed(self, items, progress=True):
        vectors = np.stack([unit(hash_seed(item.content)) for item in items])
        failures = {}
        for i, item in enumerate(items):
            if item.text == "unreadable":
                failures[i], vectors[i] = "clip.mp4: broken", np.nan
        return EmbedResult(vectors, failures, EmbedStats(len(items), 0.0, 0, 0, 0))


def hash_seed(value) -> int:
    return int.from_bytes(hashlib.sha256(repr(value).encode()).digest()[:4], "big")


def unit(seed: int, dim: int = DIM) -> np.ndarray:
    vector = np.random.default_rng(seed).standard_normal(dim).astype(np.float32)
    return vector / np.linalg.norm(vector)


def make_file(path, number: int) -> File:
    path.write_bytes(b"content %d" % number)
    stat = os.stat(path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return File(str(path), str(path.parent), stat.st_size, stat.st_mtime_ns, digest)


def make_index(folder, files=24, windows=7, dtype="float32", dim=DIM):
    """Videos of 1 + `windows` rows, every fourth file an image of one row."""
    rng = np.random.default_rng(0)
    media = folder / "media"
    media.mkdir()
    with writer(folder / "index", Embedder.contract, dim, dtype, {}) as out:
        for number in range(files):
            if number % 4 == 3:
                entries = [Entry(make_file(media / f"{number}.jpg", number), "image")]
            else:
                file = make_file(media / f"{number}.mp4", number)
                length = 5.0 * (windows + 1)
                entries = [Entry(file, "video", duration=length)]
                entries += [
                    Entry(file, "window", 5.0 * w, 5.0 * w + 10, length)
                    for w in range(windows)
                ]
            vectors = rng.standard_normal((len(entries), dim)).astype(np.float32)
            out.append(
                vectors / np.linalg.norm(vectors, axis=1, keepdims=True), entries
            )
        out.commit()
    return folder / "index"


def by_hand(index, vector, k, passes=lambda item: True):
    """[(file, score, start or None, kind)] of the k best files, by NumPy."""
    vectors = index.vectors()
    best = {}
    for item in index.items.to_pylist():
        score = float(vectors[item["row"]] @ vector)
        if passes(item) and score > best.get(item["hash"], (-2,))[0]:
            best[item["hash"]] = (score, item)
    found = sorted(best.values(), key=lambda pair: -pair[0])[:k]
    return [(i["file"], s, i["start"], i["kind"]) for s, i in found]


def same(hits, expected):
    assert [(h.file, h.kind) for h in hits] == [(f, kind) for f, _, _, kind in expected]
    assert [h.start for h in hits if h.kind == "window"] == [
        start for *_, start, kind in expected if kind == "window"
    ]
    np.testing.assert_allclose(
        [h.score for h in hits], [score for _, score, *_ in expected], atol=1e-5
    )
    assert [h.rank for h in hits] == list(range(1, len(hits) + 1))


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    return make_index(tmp_path_factory.mktemp("index"))


@pytest.mark.parametrize("kept_bytes", [None, 0], ids=["placed", "mapped"])
def test_finds_what_numpy_finds(built, kept_bytes):
    searcher = Searcher(built, Embedder(), kept_bytes)
    index = searcher.opened.index
    queries = [make_query(text=f"query {i}") for i in range(5)]
    vectors = Embedder().embed(queries).vectors
    for k in (1, 6, 24, 100):
        found = searcher.search(queries, k)
        for vector, hits in zip(vectors, found, strict=True):
            same(hits, by_hand(index, vector, k))


@pytest.mark.parametrize("dtype", ["float16", "int8"])
def test_finds_what_numpy_finds_in_other_types(tmp_path, dtype):
    assert dtype in DTYPES
    searcher = Searcher(make_index(tmp_path, dtype=dtype), Embedder())
    query = make_query(text="a query")
    vector = Embedder().embed([query]).vectors[0]
    [hits] = searcher.search([query], 8)
    same(hits, by_hand(searcher.opened.index, vector, 8))


def test_shortened_vectors(tmp_path):
    searcher = Searcher(make_index(tmp_path, dim=8), Embedder())
    query = make_query(text="a query")
    vector = Embedder().embed([query]).vectors[0, :8]
    [hits] = searcher.search([query], 8)
    same(hits, by_hand(searcher.opened.index, vector / np.linalg.norm(vector), 8))


@pytest.mark.parametrize("kept_bytes", [None, 0], ids=["placed", "mapped"])
def test_a_filter_comes_before_the_best(built, kept_bytes):
    """What passes is found however many others are better."""
    searcher = Searcher(built, Embedder(), kept_bytes)
    query = make_query(text="a query")
    vector = Embedder().embed([query]).vectors[0]
    for text, passes in {
        "kind=image": lambda i: i["kind"] == "image",
        "path~/media/1?.mp4": lambda i: (
            os.path.basename(i["file"])[-6:-5] == "1" and i["file"].endswith(".mp4")
        ),
        "duration>30 kind!=video": lambda i: (
            i["duration"] > 30 and i["kind"] != "video"
        ),
        "path~nothing": lambda i: False,
    }.items():
        [hits] = searcher.search([query], 4, parse_filter(text))
        same(hits, by_hand(searcher.opened.index, vector, 4, passes))
    assert not hits


def test_quotes_tell_filters_apart(built):
    """Filters are kept by their text: one term with a blank is not two terms."""
    searcher = Searcher(built, Embedder())
    query = make_query(text="a query")
    one, two = 'path~"media kind=image"', "path~media kind=image"
    assert [
        len(searcher.search([query], 9, parse_filter(f))[0]) for f in (one, two)
    ] == [
        0,
        6,
    ]


def test_corpora_make_room_for_each_other(built):
    """Vectors of 24 files are 144 rows, filled up to 256; of images 128."""
    searcher = Searcher(built, Embedder(), kept_bytes=4 * DIM * (256 + 128))
    opened = searcher.opened

    def placed(text: str) -> bool:
        return isinstance(opened.corpus(parse_filter(text)).vectors, jax.Array)

    assert placed("") and placed("kind=image") and placed("kind=video")
    assert list(opened._corpora) == ["kind=image", "kind=video"]
    assert placed("") and list(opened._corpora) == ["kind=video", ""]
    tight = Searcher(built, Embedder(), kept_bytes=4 * DIM * 128).opened
    assert isinstance(tight.corpus(EVERYTHING).vectors, Vectors)


def test_one_video_of_many_windows_hides_no_other(tmp_path):
    """More windows than are sought at first all beat every other file."""
    query = make_query(text="a query")
    [vector] = Embedder().embed([query]).vectors
    media = tmp_path / "media"
    media.mkdir()
    rng = np.random.default_rng(0)
    near = vector + 0.01 * rng.standard_normal((1500, DIM)).astype(np.float32)
    with writer(tmp_path / "index", Embedder.contract, DIM) as out:
        long = make_file(media / "long.mp4", 0)
        out.append(
            near / np.linalg.norm(near, axis=1, keepdims=True),
            [Entry(long, "window", i, i + 10, 2000.0) for i in range(1500)],
        )
        others = [make_file(media / f"{i}.jpg", i) for i in range(1, 9)]
        vectors = np.stack([unit(i) for i in range(8)])
        out.append(vectors, [Entry(file, "image") for file in others])
        out.commit()
    searcher = Searcher(tmp_path / "index", Embedder())
    [hits] = searcher.search([query], 5, spans=4)
    same(hits, by_hand(searcher.opened.index, vector, 5))
    assert len(hits) == 5 and hits[0].file == long.path
    spans = [(s.start, s.end) for s in hits[0].spans] + [(hits[0].start, hits[0].end)]
    spans.sort()
    assert len(spans) == 5
    assert all(a[1] <= b[0] for a, b in itertools.pairwise(spans))
    scores = [hits[0].score, *(s.score for s in hits[0].spans)]
    assert scores == sorted(scores, reverse=True)


def test_copies_are_one_hit_and_missing_files_are_marked(tmp_path):
    query = make_query(text="a query")
    [vector] = Embedder().embed([query]).vectors
    first = make_file(tmp_path / "a.jpg", 1)
    second = make_file(tmp_path / "b.jpg", 1)
    changed = make_file(tmp_path / "c.jpg", 2)
    with writer(tmp_path / "index", Embedder.contract, DIM) as out:
        out.append(
            np.stack([vector, unit(1)]),
            [Entry(first, "image"), Entry(changed, "image")],
        )
        out.share([(first.path, second)])
        out.commit()
    searcher = Searcher(tmp_path / "index", Embedder())
    search = lambda text="": searcher.search([query], 5, parse_filter(text))[0]  # noqa: E731
    hits = search()
    assert [(h.file, h.also, h.missing) for h in hits] == [
        (first.path, (second.path,), False),
        (changed.path, (), False),
    ]
    assert hits[0].to_json()["start"] is None
    assert [h.file for h in search("path~b.jpg")] == [second.path]
    os.remove(first.path)
    (tmp_path / "c.jpg").write_bytes(b"another content")
    hits = search()
    assert [(h.file, h.also, h.missing) for h in hits] == [
        (second.path, (first.path,), False),
        (changed.path, (), True),
    ]


def test_follows_commits(tmp_path):
    path = make_index(tmp_path, files=4)
    searcher = Searcher(path, Embedder())
    query = make_query(text="a query")
    [vector] = Embedder().embed([query]).vectors
    [hits] = searcher.search([query])
    assert len(hits) == 4
    with writer(path) as out:
        new = make_file(tmp_path / "new.jpg", 100)
        out.append(vector[None], [Entry(new, "image")])
        keep = pa.compute.ends_with(out.items["file"], ".jpg").to_numpy()
        out.drop(~keep)
        out.commit()
    [now] = searcher.search([query])
    assert now[0].file == new.path and len(now) == 2
    with writer(path) as out:
        out.compact()  # rows have other numbers now, but what was dropped is not found
    with pytest.raises(UserError, match="search again"):
        searcher.opened.find(hits[0].id if hits[0].kind != "image" else hits[1].id)
    same(searcher.search([query])[0], by_hand(searcher.opened.index, vector, 9))


def test_more_like_this_leaves_itself_out(built):
    searcher = Searcher(built, Embedder())
    [hits] = searcher.search([make_query(text="a query")], 3)
    [alike] = searcher.answer([Request(like=hits[1].id, k=23)])
    row = int(hits[1].id.split("-")[0])
    expected = by_hand(
        searcher.opened.index,
        searcher.opened.index.vectors()[row],
        23,
        lambda item: item["file"] != hits[1].file,
    )
    same(alike, expected)
    query = make_query(text="but blue", video=hits[1].file)
    [edited] = searcher.answer([Request(query, hits[1].id, k=24)])
    assert len(edited) == 23 and hits[1].file not in [h.file for h in edited]


def test_one_fault_among_many(built):
    searcher = Searcher(built, Embedder())
    good = make_query(text="a query")
    found = searcher.answer(
        [
            Request(good),
            Request(make_query(text="unreadable")),
            Request(like="7-0123456789abcdef"),
            Request(like="no id"),
            Request(good, filter=parse_filter("kind=image"), k=2),
        ]
    )
    assert found[0] == searcher.search([good])[0]
    assert "clip.mp4: broken" in str(found[1])
    assert "search again" in str(found[2]) and "no id" in str(found[3])
    assert [h.kind for h in found[4]] == ["image", "image"]
    with pytest.raises(UserError, match="the query cannot be read"):
        searcher.search([make_query(text="unreadable")])


def test_another_contract_is_refused(built):
    other = Embedder()
    other.contract = Contract(dim=DIM, num_frames=4)
    with pytest.raises(UserError, match="num_frames: 8 against 4"):
        Searcher(built, other)


def test_an_empty_index(tmp_path):
    with writer(tmp_path / "index", Embedder.contract, DIM):
        pass
    assert Searcher(tmp_path / "index", Embedder()).search([make_query("x")]) == [[]]


def test_queries_have_the_instruction_of_their_parts():
    text = make_query(text="a cat").instruction
    assert text == "Find the video according to the text description."
    both = make_query(text="but at night", image="/x.jpg").instruction
    assert both.endswith("the given text and the given image.")
    assert make_query(text="a cat", instruction="Do.").instruction == "Do."
    with pytest.raises(UserError, match="give a text"):
        make_query(text="")


# The verb


@pytest.fixture
def verb(monkeypatch, built):
    """Runs the verb with flags; gives what it prints."""
    monkeypatch.setattr(search_verb, "embedder_from_flags", lambda like: Embedder())

    def run(*arguments, capsys):
        with flagsaver.flagsaver():
            flags.FLAGS.set_gnu_getopt()
            given = f"--index={built}", "--checkpoint=of the fixture"
            rest = flags.FLAGS(["search", *given, *arguments])
            search_verb.main(rest)
        return capsys.readouterr().out

    return run


def test_prints_json_or_a_table(verb, built, capsys):
    found = json.loads(verb("a query", "--json", "--k=3", capsys=capsys))
    [hits] = Searcher(built, Embedder()).search([make_query(text="a query")], 3)
    assert found == json.loads(json.dumps([hit.to_json() for hit in hits]))
    assert found[0].keys() >= {"rank", "score", "file", "start", "end"}
    table = verb("--text=a query", "--k=3", "--spans=1", capsys=capsys).splitlines()
    assert sum(line.endswith((".mp4", ".jpg")) for line in table) == 3
    assert hits[0].file in table[1] and f"{hits[0].score:.3f}" in table[1]
    nothing = verb("a query", "--filter=path~nothing", capsys=capsys)
    assert nothing.strip() == "nothing was found"


def test_refuses(verb, capsys, tmp_path):
    for arguments, message in {
        (): "nothing to search by",
        ("a", "--text=b"): "give one text",
        (f"--image={tmp_path}/no.jpg",): "--image=.*no.jpg: no such file",
        ("a", "--filter=size>3"): "no term like",
        ("a", f"--page={tmp_path}/no/page.html"): "cannot be written",
    }.items():
        with pytest.raises(UserError, match=message):
            verb(*arguments, capsys=capsys)


def test_writes_a_page_and_opens_it(verb, tmp_path, capsys, monkeypatch):
    opened = []
    monkeypatch.setattr(webbrowser, "open", opened.append)
    image = tmp_path / "asked <i>.png"
    Image.new("RGB", (40, 30), (200, 0, 0)).save(image)
    page = tmp_path / "page.html"
    arguments = [f"--image={image}", "--text=but <b>blue", "--k=24", "--open"]
    verb(*arguments, f"--page={page}", capsys=capsys)
    assert opened == [page.as_uri()]
    text = page.read_text(encoding="utf-8")
    assert "but &lt;b&gt;blue" in text and "asked &lt;i&gt;.png" in text
    assert (
        text.count("data:image/jpeg;base64,") == 1
    )  # the query; the rest are no media
    assert text.count("the file cannot be read") == 24
    assert "#t=5.0,15.0" in text and "file:///" in text
    assert not re.search(r"""(src|href)=["']https?:""", text)


@pytest.mark.parametrize(
    "seconds, text",
    [(None, "0:00"), (9.96, "0:10"), (75.25, "1:15.2"), (3600, "1:00:00")],
)
def test_clock(seconds, text):
    assert clock(seconds) == text


# Filters

FILES = ["/v/Holiday 2024/a.mp4", "/v/work/b(1).MOV", "/v/work/süß.jpg"]
TABLE = pa.table(
    {
        "file": FILES,
        "kind": ["video", "window", "image"],
        "duration": [30.0, 90.0, 0.0],
        "modified": pa.array(
            [
                datetime.datetime(2023, 12, 31, 23, 59, 59, tzinfo=datetime.UTC),
                datetime.datetime(2024, 2, 29, 12, 30, tzinfo=datetime.UTC),
                None,
            ],
            pa.timestamp("us", "UTC"),
        ),
    }
)


@pytest.mark.parametrize(
    "text, expected",
    [
        ("", "abc"),
        ("path~HOLIDAY", "a"),
        ("path~'holiday 2024'", "a"),
        ("path~*holiday*", "a"),
        ("path~b(1)*", "b"),
        ("path~work/*", "bc"),
        ("path~ork/*", ""),
        ("path~/v/*/?.mp4", "a"),
        ("path~/work/*", "bc"),
        ("path~SÜSS", ""),
        ("path~s??.jpg", "c"),
        ("path!~work", "a"),
        ("path!~*.m*", "c"),
        ("duration>30", "b"),
        ("duration>=30s duration<1.5m", "a"),
        ("duration=1.5m", "b"),
        ("duration!=0", "ab"),
        ("duration<=0.5m", "ac"),
        ("duration<1h", "abc"),
        ("date=2024", "b"),
        ("date!=2024", "a"),
        ("date>=2024", "b"),
        ("date>2023", "b"),
        ("date>2024-02", ""),
        ("date<=2024-02-29", "ab"),
        ("date<2024-02-29", "a"),
        ("date=2024-02-29T12:30", "b"),
        ("date>2024-02-29T12:29", "b"),
        ("date<=2023-12", "a"),
        ("kind=window", "b"),
        ("kind=video,image", "ac"),
        ("kind!=image", "ab"),
    ],
)
def test_filters(text, expected):
    found = parse_filter(text).mask(TABLE)
    assert "".join("abc"[i] for i in np.flatnonzero(found)) == expected


@pytest.mark.parametrize(
    "text, message",
    [
        ("holiday", "no term like"),
        ("size>3", "no term like"),
        ("path~", "no term like"),
        ("path='a", "a quote is not closed"),
        ("path=a", "path takes ~ !~"),
        ("kind~video", "kind takes = !="),
        ("duration>long", "no duration like"),
        ("duration>-3", "no duration like"),
        ("date>yesterday", "no date like"),
        ("date>2024-13", "no date like"),
        ("date=9999", "no date like"),
        ("kind=film", "kinds are video, window, image"),
    ],
)
def test_filters_that_are_none(text, message):
    with pytest.raises(UserError, match=message) as found:
        parse_filter(text)
    assert "\n" not in str(found.value)
