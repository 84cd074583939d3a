"""The search page and the same search as JSON, over HTTP.

Files leave this server by the ids of indexed spans alone: no request names a path.
"""

import asyncio
import pathlib
import shutil
import tempfile
import time
from collections.abc import Collection
from typing import Annotated, Any, Literal

from fastapi import FastAPI, File, Form, HTTPException, Query, Request, UploadFile
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import FileResponse, JSONResponse, Response
from fastapi.staticfiles import StaticFiles
from pydantic import BaseModel, Field

from gve_jax.index.batching import Batcher, Busy
from gve_jax.index.filters import parse_filter
from gve_jax.index.guard import Guard
from gve_jax.index.searching import Request as Wanted
from gve_jax.index.searching import Searcher, make_query
from gve_jax.index.store import local_path
from gve_jax.index.strips import StripCache, strip
from gve_jax.media import files
from gve_jax.types import Item, UserError

_STATIC = pathlib.Path(__file__).parent / "static"
# Of a strip: frames, and width and height of each. static/search.js counts on them.
_FRAMES, _WIDTH, _HEIGHT = 5, 320, 180
_ANSWER_S = 90.0  # in which a search must be answered
# Of FFmpeg's demuxers; browsers look at the content whatever it is called.
_MIME = {
    "mov": "video/mp4",
    "matroska,webm": "video/webm",
    "ogg": "video/ogg",
    "avi": "video/x-msvideo",
    "mpegts": "video/mp2t",
}
_KEEP = {"cache-control": "private, max-age=86400, immutable"}


class SpanOut(BaseModel):
    """A further window of a video."""

    id: str
    score: float
    start: float
    end: float


class HitOut(BaseModel):
    """A video or image, and the span of it that fits best."""

    rank: int
    score: float = Field(description="cosine with the query")
    file: str
    start: float | None = Field(description="seconds; null for images")
    end: float | None
    kind: Literal["window", "video", "image"]
    missing: bool = Field(description="deleted, or changed since it was indexed")
    id: str = Field(description="names the span in /strip, /media and `like`")
    duration: float = Field(description="seconds of the whole video, 0 for images")
    also: list[str] = Field(description="copies of the file")
    spans: list[SpanOut] = Field(description="further windows, best first")


class Found(BaseModel):
    results: list[HitOut]
    seconds: float = Field(description="that the search took")


class Info(BaseModel):
    """What is searched."""

    files: int
    spans: int = Field(description="windows, whole videos and images")
    upload_bytes: int = Field(description="of a request, at most")


_TEXT = dict(max_length=8192, description="what to look for")
_LIKE = dict(description="id of a span: find what resembles it, without itself")
_K = dict(ge=1, le=500, description="videos and images to find")
_SPANS = dict(ge=0, le=50, description="further windows listed of a video")
_FILTER = dict(max_length=2048, description="as of gve search --filter")
_TASK = dict(max_length=1024, description="task sentence; default: by what is given")


def make_app(
    searcher: Searcher, upload_bytes: int, names: Collection[str] = ()
) -> FastAPI:
    """The application.

    Args:
      searcher: that answers; called by two threads.
      upload_bytes: of a request with an image or clip, at most.
      names: host names by which the server may be called, besides localhost.
    """
    app = FastAPI(
        title="Video search",
        description="Search an index of videos and images by text, image or clip.",
        docs_url=None,  # these would come from the internet; see /api
        redoc_url=None,
    )
    app.add_middleware(Guard, names=names, body_bytes=upload_bytes)
    # A clip that is slow to read holds up nobody who only types.
    typing, reading = Batcher(searcher.answer), Batcher(searcher.answer)
    strips = StripCache()

    @app.exception_handler(UserError)
    async def user_error(_: Request, error: UserError) -> Response:
        return JSONResponse({"detail": str(error)}, 400)

    @app.exception_handler(Busy)
    async def busy(_: Request, error: Busy) -> Response:
        return JSONResponse({"detail": "too many searches at once: try again"}, 503)

    async def found(
        query: Item | None, like: str, k: int, spans: int, filter: str
    ) -> Found:
        wanted = Wanted(query, like or None, k, spans, parse_filter(filter))
        media = query is not None and (query.image or query.video)
        begun = time.perf_counter()
        try:
            async with asyncio.timeout(_ANSWER_S):
                batcher = reading if media else typing
                hits = await asyncio.wrap_future(batcher.ask(wanted))
        except TimeoutError:
            raise Busy from None
        if isinstance(hits, UserError):
            raise hits
        results = [HitOut(**hit.to_json()) for hit in hits]
        return Found(results=results, seconds=time.perf_counter() - begun)

    def located(id: str) -> dict[str, Any]:
        """The item of an id; 404 if its file is not as it was indexed."""
        opened = searcher.opened
        try:
            items = opened.find(id)
        except UserError as e:
            raise HTTPException(404, str(e)) from None
        copies = opened.copies(items)
        if copies.missing:
            name = copies.item["file"]
            raise HTTPException(404, f"{name}: deleted, or changed meanwhile")
        return copies.item

    @app.get("/api/search", operation_id="search")
    async def search(
        text: Annotated[str, Query(**_TEXT)] = "",
        like: Annotated[str, Query(**_LIKE)] = "",
        k: Annotated[int, Query(**_K)] = 10,
        spans: Annotated[int, Query(**_SPANS)] = 3,
        filter: Annotated[str, Query(**_FILTER)] = "",
        instruction: Annotated[str, Query(**_TASK)] = "",
    ) -> Found:
        """Searches by a text, by an indexed span, or by a span and how to differ."""
        query = None
        if like and text:
            item = await run_in_threadpool(located, like)
            kind = "image" if item["kind"] == "image" else "video"
            part = {kind: local_path(item["file"])}
            part |= {"start": item["start"], "end": item["end"]}
            query = make_query(text, instruction=instruction, **part)
        elif not like:
            query = make_query(text, instruction=instruction)
        return await found(query, like, k, spans, filter)

    @app.post("/api/search", operation_id="search_by_file")
    async def search_by_file(
        file: Annotated[UploadFile, File(description="image or clip to search by")],
        text: Annotated[str, Form(**_TEXT)] = "",
        k: Annotated[int, Form(**_K)] = 10,
        spans: Annotated[int, Form(**_SPANS)] = 3,
        filter: Annotated[str, Form(**_FILTER)] = "",
        instruction: Annotated[str, Form(**_TASK)] = "",
    ) -> Found:
        """Searches by an image or clip, or by it and a text: how to differ."""
        with tempfile.TemporaryDirectory(prefix="gve-query-") as folder:
            path = pathlib.Path(folder) / "file"
            with open(path, "wb") as f:
                await run_in_threadpool(shutil.copyfileobj, file.file, f)
            try:
                _, kind, _, _ = await run_in_threadpool(files.inspect, path)
                query = make_query(text, instruction=instruction, **{kind: str(path)})
                return await found(query, "", k, spans, filter)
            except UserError as e:
                name = file.filename or "the file"
                raise UserError(str(e).replace(str(path), name)) from None

    @app.get("/api/info", operation_id="info")
    def info() -> Info:
        """How much there is to search."""
        opened = searcher.opened
        return Info(
            files=opened.num_files,
            spans=opened.index.items.num_rows,
            upload_bytes=upload_bytes,
        )

    @app.get("/strip/{id}", operation_id="strip", response_class=Response)
    async def frames(id: str) -> Response:
        """JPEG of five frames of a span, 320 x 180 each, or of an image."""
        item = await run_in_threadpool(located, id)
        future = strips.get(
            id,
            lambda: strip(
                *(item[name] for name in ("file", "kind", "start", "end")),
                frames=_FRAMES,
                height=_HEIGHT,
                width=_WIDTH,
            ),
        )
        # Others may wait for the same: whoever goes does not cancel it.
        jpeg = await asyncio.shield(asyncio.wrap_future(future))
        return Response(jpeg, headers=_KEEP, media_type="image/jpeg")

    @app.get("/media/{id}", operation_id="media", response_class=FileResponse)
    def medium(id: str) -> FileResponse:
        """The file that holds a span, or a range of its bytes."""
        path = local_path(located(id)["file"])
        _, kind, name, _ = files.inspect(path)
        other = f"image/{name.lower()}" if kind == files.IMAGE else "video/x-unknown"
        return FileResponse(path, media_type=_MIME.get(name, other))

    def page(name: str):
        # Its parameters would be those of requests: it has none.
        return lambda: FileResponse(_STATIC / name)

    for path, name in {"/": "index.html", "/api": "api.html"}.items():
        app.add_api_route(
            path, page(name), response_class=FileResponse, include_in_schema=False
        )
    app.mount("/static", StaticFiles(directory=_STATIC))
    return app
