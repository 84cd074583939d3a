"""The search page: its JSON interface, what it refuses, and the page in a browser."""

import asyncio
import contextlib
import hashlib
import io
import json
import os
import pathlib
import re
import socket
import tempfile
import threading
import time

import browser
import media_files
import numpy as np
import pytest
import uvicorn
from PIL import Image
from starlette.testclient import TestClient

from gve_jax import media
from gve_jax.contract import Contract
from gve_jax.embed.embedder import EmbedResult, EmbedStats
from gve_jax.index import serve, web
from gve_jax.index.batching import Batcher, Busy
from gve_jax.index.guard import Guard
from gve_jax.index.searching import Searcher, make_query
from gve_jax.index.store import Entry, File, writer
from gve_jax.index.strips import StripCache
from gve_jax.types import Item, UserError

COLOURS = {"red": (220, 30, 30), "green": (30, 200, 30), "blue": (40, 40, 230)}
UPLOAD = 1_000_000
LOCAL = "http://localhost"


class ColourEmbedder:
    """Sees the mean colour of media, and reads the names of colours in texts."""

    contract = Contract(dim=3)
    dim = 3

    def __init__(self):
        self.calls = []

    def embed(self, items, progress=True):
        self.calls.append(len(items))
        vectors, failures = np.full((len(items), 3), np.nan, np.float32), {}
        for i, item in enumerate(items):
            try:
                vectors[i] = self._embed(item)
            except UserError as e:
                failures[i] = str(e)
        return EmbedResult(vectors, failures, EmbedStats(len(items), 0.0, 0, 0, 0))

    def _embed(self, item: Item) -> np.ndarray:
        seen = np.full(3, 1e-3)
        for word in (item.text or "").split():
            seen += np.subtract(COLOURS.get(word, (0, 0, 0)), 60) / 200
        if item.image:
            seen += _colour(media.read_image(item.image))
        if item.video:
            seen += _colour(
                media.read_video(item.video, 2, item.start, item.end).pixels
            )
        return seen / np.linalg.norm(seen)


def _colour(pixels: np.ndarray) -> np.ndarray:
    return (pixels.reshape(-1, 3).mean(0) - 60) / 200


def indexed(path: pathlib.Path) -> File:
    stat = os.stat(path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return File(str(path), str(path.parent), stat.st_size, stat.st_mtime_ns, digest)


def write_colours(path: pathlib.Path, colours, seconds: float = 2.0) -> pathlib.Path:
    """VP9, which every browser plays: so many seconds of each colour."""
    import av

    with av.open(str(path), "w") as out:
        stream = out.add_stream("libvpx-vp9", rate=8, options={"cpu-used": "8"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for name in colours:
            picture = np.full((48, 64, 3), COLOURS[name], np.uint8)
            for _ in range(int(8 * seconds)):
                frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
                out.mux(stream.encode(frame))
        out.mux(stream.encode())
    return path


def picture(name: str, size=(64, 48)) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", size, COLOURS[name]).save(out, "PNG")
    return out.getvalue()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """An index of a red, then green, then blue video, a blue one and three images."""
    folder = tmp_path_factory.mktemp("web")
    embedder = ColourEmbedder()
    items, entries = [], []

    def add(file, kind, start=None, end=None, duration=0.0):
        part = {"image" if kind == "image" else "video": file.path}
        items.append(Item("", start=start, end=end, **part))
        entries.append(Entry(file, kind, start, end, duration))

    file = indexed(write_colours(folder / "all.webm", COLOURS))
    add(file, "video", duration=6.0)
    for start in (0.0, 2.0, 4.0):
        add(file, "window", start, start + 2, 6.0)
    add(indexed(write_colours(folder / "blue.webm", ["blue"])), "video", duration=2.0)
    for name in COLOURS:
        path = folder / f"{name} <b>&.png"
        path.write_bytes(picture(name))
        add(indexed(path), "image")
    with writer(folder / "index", embedder.contract, 3) as out:
        out.append(embedder.embed(items).vectors, entries)
        out.commit()
    return folder


@pytest.fixture(scope="module")
def searcher(folder):
    return Searcher(folder / "index", ColourEmbedder())


@pytest.fixture(scope="module")
def client(searcher):
    return TestClient(web.make_app(searcher, UPLOAD, ["Films.lan"]), LOCAL)


def results(response) -> list[dict]:
    assert response.status_code == 200, response.text
    return response.json()["results"]


def names(response) -> list[str]:
    return [os.path.basename(hit["file"]) for hit in results(response)]


def test_answers_as_the_searcher(client, searcher):
    found = results(client.get("/api/search", params={"text": "green", "k": 3}))
    [hits] = searcher.search([make_query("green")], 3)
    assert found == json.loads(json.dumps([hit.to_json() for hit in hits]))
    video = next(h for h in found if h["file"].endswith("all.webm"))
    assert (video["start"], video["end"]) == (2.0, 4.0)
    assert sorted(s["start"] for s in video["spans"]) == [0.0, 4.0]


def test_searches_by_files(client, tmp_path):
    files = {"file": ("x.png", picture("blue"))}
    found = names(client.post("/api/search", files=files))
    assert set(found[:3]) == {"blue.webm", "all.webm", "blue <b>&.png"}
    clip = write_colours(tmp_path / "clip.webm", ["red"]).read_bytes()
    files = {"file": ("clip.webm", clip)}
    found = results(client.post("/api/search", files=files, data={"k": 2}))
    assert (
        os.path.basename(found[0]["file"]) == "red <b>&.png" or found[0]["start"] == 0
    )
    # A text beside it changes what is found.
    found = client.post(
        "/api/search",
        files=files,
        data={"text": "blue blue blue", "k": 1, "filter": "kind=image"},
    )
    assert names(found) == ["blue <b>&.png"]
    left = [p for p in os.listdir(tempfile.gettempdir()) if p.startswith("gve-query-")]
    assert not left


def test_more_like_this(client):
    blue = results(client.get("/api/search", params={"text": "blue", "k": 1}))[0]
    found = client.get("/api/search", params={"like": blue["id"], "k": 50})
    assert len(results(found)) == 4 and blue["file"] not in found.text
    params = {"like": blue["id"], "text": "red red red", "k": 1, "filter": "kind=image"}
    assert names(client.get("/api/search", params=params)) == ["red <b>&.png"]


@pytest.mark.parametrize(
    "params, status, detail",
    [
        ({}, 400, "nothing to search by"),
        ({"text": "red", "filter": "size>3"}, 400, "no term like"),
        ({"like": "3-0123456789abcdef"}, 400, "search again"),
        ({"like": "../../etc/passwd", "text": "red"}, 404, "not in the index"),
        ({"text": "red", "k": 0}, 422, "greater than or equal to 1"),
        ({"text": "x" * 9000}, 422, "at most 8192"),
    ],
)
def test_faults_are_said(client, params, status, detail):
    response = client.get("/api/search", params=params)
    assert response.status_code == status and detail in response.text


@pytest.mark.parametrize(
    "content, detail",
    [
        (b"", "holiday.jpg: the file is empty"),
        (b"no picture", "holiday.jpg: neither a video nor an image"),
        (picture("red")[:60], "holiday.jpg"),
    ],
)
def test_files_that_cannot_be_read(client, content, detail):
    response = client.post("/api/search", files={"file": ("holiday.jpg", content)})
    assert response.status_code == 400
    assert detail in response.text and tempfile.gettempdir() not in response.text


def test_files_leave_by_id_alone(client, folder, tmp_path):
    hits = results(client.get("/api/search", params={"text": "green", "k": 9}))
    video = next(h for h in hits if h["file"].endswith("all.webm"))
    content = (folder / "all.webm").read_bytes()
    whole = client.get(f"/media/{video['id']}")
    assert whole.content == content and whole.headers["content-type"] == "video/webm"
    part = client.get(f"/media/{video['id']}", headers={"range": "bytes=10-19"})
    assert part.status_code == 206 and part.content == content[10:20]
    assert part.headers["content-range"] == f"bytes 10-19/{len(content)}"
    image = next(h for h in hits if h["file"].endswith(".png"))
    assert client.get(f"/media/{image['id']}").headers["content-type"] == "image/png"
    row, digest = video["id"].split("-")
    for id in (
        "../index/index.json",
        "..%2Findex%2Findex.json",
        "%2Fetc%2Fpasswd",
        f"{int(row) + 1}-{'0' * 16}",
        f"{10**12}-{digest}",
        f"-1-{digest}",
        digest,
    ):
        for place in ("media", "strip", "static"):
            assert client.get(f"/{place}/{id}").status_code == 404, id
    # What a request says has no part in which page it gets.
    for place in ("/", "/api"):
        page = client.get(place).text
        for name in ("name", "path", "file", "page"):
            asked = client.get(place, params={name: "../store.py"})
            assert asked.text == page


def test_strips(client):
    hits = results(client.get("/api/search", params={"text": "green", "k": 9}))
    for hit in hits:
        response = client.get(f"/strip/{hit['id']}")
        assert response.headers["content-type"] == "image/jpeg"
        cells = 1 if hit["kind"] == "image" else 5
        shown = Image.open(io.BytesIO(response.content))
        assert shown.size == (320 * cells, 180)
        if hit["kind"] == "window":
            for cell in range(cells):  # all in the window's colour
                seen = shown.getpixel((320 * cell + 160, 90))
                np.testing.assert_allclose(seen, COLOURS["green"], atol=25)


def test_what_changed_is_not_served(tmp_path):
    embedder = ColourEmbedder()
    path, secret = tmp_path / "a.png", tmp_path / "secret.png"
    path.write_bytes(picture("red"))
    secret.write_bytes(picture("blue", (320, 200)))
    with writer(tmp_path / "index", embedder.contract, 3) as out:
        items = [Item("", image=str(path))]
        out.append(embedder.embed(items).vectors, [Entry(indexed(path), "image")])
        out.commit()
    app = web.make_app(Searcher(tmp_path / "index", embedder), UPLOAD)
    client = TestClient(app, LOCAL)
    [hit] = results(client.get("/api/search", params={"text": "red"}))
    assert not hit["missing"] and client.get(f"/strip/{hit['id']}").status_code == 200
    path.unlink()
    path.symlink_to(secret)
    for place in ("media", "strip"):
        response = client.get(f"/{place}/{hit['id']}")
        assert response.status_code == 404 and "changed meanwhile" in response.text
    [hit] = results(client.get("/api/search", params={"text": "red"}))
    assert hit["missing"]


@pytest.mark.parametrize(
    "headers, status",
    [
        ({"host": "localhost:8008"}, 200),
        ({"host": "127.0.0.1"}, 200),
        ({"host": "[::1]:8008"}, 200),
        ({"host": "films.lan:8008"}, 200),
        ({"host": "rebound.example"}, 421),
        ({"host": "localhost.evil.example"}, 421),
        ({"host": ""}, 421),
        ({"host": "[bad"}, 421),
        ({"origin": "http://localhost"}, 200),
        ({"origin": "http://localhost:81"}, 403),
        ({"origin": "https://evil.example"}, 403),
        ({"origin": "null"}, 403),
        ({"sec-fetch-site": "same-origin"}, 200),
        ({"sec-fetch-site": "cross-site"}, 403),
        ({"sec-fetch-site": "same-site"}, 403),
    ],
)
def test_no_other_site_searches(client, headers, status):
    response = client.get("/api/info", headers=headers)
    assert response.status_code == status, response.text
    assert response.headers["content-security-policy"].startswith("default-src 'none'")
    assert response.headers["cross-origin-resource-policy"] == "same-origin"
    assert not [name for name in response.headers if name.startswith("access-control")]


def test_links_of_other_sites_lead_to_the_page(client):
    headers = {"sec-fetch-site": "cross-site"}
    assert client.get("/", headers=headers).status_code == 200
    assert client.get("/static/search.js", headers=headers).status_code == 403


def test_large_and_slow_bodies_are_refused(client):
    files = {"file": ("x.png", bytes(UPLOAD + 1))}
    assert client.post("/api/search", files=files).status_code == 413

    def pieces():  # of a length that is not said
        for _ in range(30):
            yield bytes(100_000)

    headers = {"content-type": "multipart/form-data; boundary=x"}
    response = client.post("/api/search", content=pieces(), headers=headers)
    assert response.status_code == 413 and "1 MB" in response.text

    async def app(scope, receive, send):
        await receive()

    async def never():
        await asyncio.sleep(60)

    scope = {"type": "http", "path": "/", "headers": [(b"host", b"localhost")]}
    guard = Guard(app, [], UPLOAD, body_seconds=0.05)
    with pytest.raises(Exception, match="took too long") as found:
        asyncio.run(guard(scope, never, None))
    assert found.value.status_code == 408


def test_the_interface_is_described(client):
    described = client.get("/openapi.json").json()
    assert described["paths"].keys() == {
        "/api/search", "/api/info", "/strip/{id}", "/media/{id}"
    }  # fmt: skip
    fields = described["components"]["schemas"]["HitOut"]["properties"].keys()
    assert fields >= {"rank", "score", "file", "start", "end"}
    page = client.get("/api").text
    for parameter in described["paths"]["/api/search"]["get"]["parameters"]:
        assert f"<code>{parameter['name']}</code>" in page
    assert client.get("/docs").status_code == 404  # it would be fetched from elsewhere


def test_the_page_fetches_nothing_from_elsewhere(client):
    for path in (web._STATIC).iterdir():
        text = path.read_text(encoding="utf-8").replace(
            "http://www.w3.org/2000/svg", ""
        )
        text = re.sub(r"<pre>.*?</pre>", "", text, flags=re.DOTALL)
        assert "//" not in re.sub(r"^\s*//.*$|; //.*$", "", text, flags=re.MULTILINE), (
            path
        )
        assert not re.search(r"""\s(style|on\w+)=["']""", text), path  # CSP forbids
        assert client.get(f"/static/{path.name}").status_code == 200
    assert client.get("/").headers["content-type"].startswith("text/html")


# Batching


def test_what_comes_together_is_answered_together(folder):
    """32 clients at once get what each would get alone, in fewer calls."""
    embedder = ColourEmbedder()
    searcher = Searcher(folder / "index", embedder)
    client = TestClient(web.make_app(searcher, UPLOAD), LOCAL)
    words = ["red", "green", "blue", "red green", "green blue", "blue red red"]
    asked = [
        {"text": words[i % 6], "k": 1 + i % 5, "filter": ["", "kind=image"][i % 2]}
        for i in range(32)
    ]
    alone = [results(client.get("/api/search", params=p)) for p in asked]
    embedder.calls.clear()
    together: list = [None] * len(asked)
    slow = threading.Event()
    embed = embedder.embed
    embedder.embed = lambda *a, **k: (slow.wait(10), embed(*a, **k))[1]

    def ask(i):
        together[i] = results(client.get("/api/search", params=asked[i]))

    with client:
        threads = [threading.Thread(target=ask, args=(i,)) for i in range(len(asked))]
        for thread in threads:
            thread.start()
        time.sleep(0.3)
        slow.set()
        for thread in threads:
            thread.join()
    assert len(embedder.calls) <= 4 and sum(embedder.calls) == 32
    for one, other in zip(alone, together, strict=True):
        assert [(h["id"], h["rank"]) for h in one] == [
            (h["id"], h["rank"]) for h in other
        ]
        np.testing.assert_allclose(
            [h["score"] for h in one], [h["score"] for h in other], atol=1e-6
        )


def test_a_batcher():
    going = threading.Event()
    batches = []

    def answer(requests):
        going.wait(10)
        batches.append(list(requests))
        if "bad" in requests:
            raise ValueError("bad")
        return [2 * r for r in requests]

    batcher = Batcher(answer, at_once=3, waiting=8)
    first = batcher.ask("a")
    while batcher._waiting.qsize():
        time.sleep(0.001)
    later = [batcher.ask(r) for r in "bcde"]
    gone = batcher.ask("f")
    assert gone.cancel()
    bad = [batcher.ask(r) for r in ("x", "bad")]
    last = batcher.ask("g")
    with pytest.raises(Busy):
        batcher.ask("too many")
    going.set()
    assert first.result(10) == "aa"
    assert [f.result(10) for f in later] == ["bb", "cc", "dd", "ee"]
    assert bad[0].result(10) == "xx"
    for future in (bad[1], last):  # of one batch
        assert isinstance(future.exception(10), ValueError)
    batcher.close()
    assert batches == [["a"], ["b", "c", "d"], ["e", "x"], ["bad", "g"]]


def test_strips_are_made_once_and_bounded():
    cache, made = StripCache(kept_bytes=250, threads=2), []

    def make(name, size=100):
        made.append(name)
        if name == "bad":
            raise UserError("no")
        return bytes(size)

    def get(name):
        return cache.get(name, lambda: make(name))

    both = [get("a") for _ in range(5)]
    assert {len(f.result(5)) for f in both} == {100} and made == ["a"]
    get("b").result(5)
    get("a").result(5)  # used last
    get("c").result(5)
    time.sleep(0.05)
    assert list(cache._made) == ["a", "c"]
    for _ in range(2):
        with pytest.raises(UserError):
            get("bad").result(5)
        time.sleep(0.05)
    assert made == ["a", "b", "c", "bad", "bad"]


def test_a_port_that_is_taken():
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(UserError, match=f"--port={port}: cannot listen there"):
            serve._listen("127.0.0.1", port)
    serve._listen("127.0.0.1", 0).close()


# In a browser


@contextlib.contextmanager
def serving(searcher):
    """The address of a running server."""
    listening = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(web.make_app(searcher, UPLOAD), log_level="error")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()


@pytest.mark.skipif(browser.PROGRAM is None, reason="no Chromium is installed")
def test_in_a_browser(searcher, tmp_path):
    """Type, filter, click, play; drop a picture; more like this; back."""
    dropped = tmp_path / "dropped.png"
    dropped.write_bytes(picture("blue"))

    def until(expression, wanted=True):
        end = time.monotonic() + 30
        while (found := tab.value(expression)) != wanted:
            assert time.monotonic() < end, (expression, found, wanted)
            time.sleep(0.05)

    def click(selector):
        place = tab.value(
            f"(() => {{ const e = document.querySelector({selector!r});"
            "e.scrollIntoView({block: 'center'}); const r = e.getBoundingClientRect();"
            "return [r.x + r.width / 2, r.y + r.height / 2] })()"
        )
        for kind in ("mousePressed", "mouseReleased"):
            tab.ask(
                "Input.dispatchMouseEvent",
                **{"type": kind, "x": place[0], "y": place[1]},
                **{"button": "left", "clickCount": 1},
            )

    first = "document.querySelector('.card .name')?.textContent"
    count = "document.querySelectorAll('.card').length"
    with serving(searcher) as address:
        tab = browser.Tab(tmp_path / "profile")
        try:
            size = {"width": 1280, "height": 900, "deviceScaleFactor": 1}
            tab.ask("Emulation.setDeviceMetricsOverride", **size, mobile=False)
            tab.ask("Page.navigate", url=address)
            until("document.querySelector('.start h1')?.textContent.length > 0")
            until("document.querySelector('#info').textContent.length > 0")
            # Typing goes into the box without a click.
            tab.ask("Input.insertText", text="green")
            tab.press("Enter", 13, "\r")
            until(count, 5)
            # Names of files are text, whatever they hold.
            assert tab.value("document.querySelector('main b') === null")
            tab.value("document.querySelector('#kind').value = 'window'")
            tab.value("document.querySelector('#kind').onchange()")
            until(count, 1)
            until(first, "all.webm")
            until("document.querySelector('.time').textContent", "0:02–0:04")
            until("document.querySelector('.thumb img').naturalWidth", 1600)
            click(".thumb")
            video = "document.querySelector('.media video')"
            until(f"{video}?.currentTime > 2.2 && {video}.currentTime < 4")
            assert not tab.value(f"{video}.error")
            until(f"{video}.paused")  # at the end of the window
            assert abs(tab.value(f"{video}.currentTime") - 4) < 0.5
            click(".spans button:nth-child(2)")
            until(f"{video}?.currentTime < 2.2 || {video}?.currentTime >= 4")
            until(f"!{video}.paused && {video}.currentTime > 0")

            data = {"items": [], "files": [str(dropped)], "dragOperationsMask": 1}
            for kind in ("dragEnter", "dragOver", "drop"):
                tab.ask(
                    "Input.dispatchDragEvent",
                    **{"type": kind, "x": 640, "y": 500, "data": data},
                )
                if kind == "dragOver":
                    assert tab.value("!document.querySelector('#drop').hidden")
            tab.value("document.querySelector('#text').value = ''")
            tab.value("document.querySelector('#kind').value = 'image'")
            tab.value("document.querySelector('#kind').onchange()")
            until("document.querySelector('#chip-name').textContent", "dropped.png")
            until(first, "blue <b>&.png")
            assert tab.value("document.querySelector('#drop').hidden")

            tab.value("document.querySelector('#kind').value = ''")
            click(".like")
            until(
                "document.querySelector('#chip-name').textContent", "like blue <b>&.png"
            )
            until(count, 4)
            until(f"['all.webm', 'blue.webm'].includes({first})")
            assert "like=" in tab.value("location.search")
            tab.value("document.querySelector('.card .name').textContent = 'old'")
            tab.value("history.back()")
            until("location.search.includes('like=')", False)
            assert not tab.faults
        finally:
            tab.close()


@pytest.mark.skipif(browser.PROGRAM is None, reason="no Chromium is installed")
def test_what_a_browser_cannot_play_is_shown_as_frames(tmp_path):
    embedder = ColourEmbedder()
    path = tmp_path / "old.avi"
    media_files.write_video(path, 30, codec="mpeg4", scale=2)
    with writer(tmp_path / "index", embedder.contract, 3) as out:
        items = [Item("", video=str(path))]
        entry = Entry(indexed(path), "video", duration=1.2)
        out.append(embedder.embed(items).vectors, [entry])
        out.commit()
    with serving(Searcher(tmp_path / "index", embedder)) as address:
        tab = browser.Tab(tmp_path / "profile")
        try:
            tab.ask("Page.navigate", url=f"{address}/?text=red")
            end = time.monotonic() + 30
            while not tab.value(
                "document.querySelector('.media.frames .note') !== null"
            ):
                tab.value("document.querySelector('.thumb')?.click()")
                assert time.monotonic() < end
                time.sleep(0.1)
            note = tab.value("document.querySelector('.note').textContent")
            assert "cannot play" in note
        finally:
            tab.close()
