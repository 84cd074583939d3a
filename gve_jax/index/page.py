"""The results of a search as a page: one file, nothing fetched, with frames in it."""

import base64
import os
import pathlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from gve_jax.index.searching import Hit
from gve_jax.index.store import Index, local_path
from gve_jax.index.strips import strip
from gve_jax.page import environment
from gve_jax.progress import ProgressLine
from gve_jax.types import Item, UserError

_FRAMES, _HEIGHT = 6, 120  # of a strip


def clock(seconds: float | None) -> str:
    """m:ss, or h:mm:ss of an hour or more; tenths where there are any."""
    tenths = round((seconds or 0) * 10)
    minutes, rest = divmod(tenths, 600)
    second = f"{rest // 10:02}" + (f".{rest % 10}" if rest % 10 else "")
    if minutes < 60:
        return f"{minutes}:{second}"
    return f"{minutes // 60}:{minutes % 60:02}:{second}"


def render(query: Item, hits: Sequence[Hit], index: Index, filter: str = "") -> str:
    """The page of what was found for a query."""
    shown = [(h.file, h.kind, h.start, h.end) for h in hits if not h.missing]
    query_file = query.video or query.image
    if query_file:
        kind = "window" if query.video else "image"
        shown.append((query_file, kind, query.start, query.end))
    pictures: dict[tuple, str] = {}
    with (
        ProgressLine("frames", len(shown), "files") as line,
        ThreadPoolExecutor() as pool,
    ):
        for key, picture in zip(shown, pool.map(_picture, shown), strict=True):
            pictures[key] = picture
            line.advance()
    page = environment(os.path.dirname(__file__)).get_template("search.html")
    return page.render(
        query=query,
        query_file=query_file,
        query_picture=pictures[shown[-1]] if query_file else "",
        hits=hits,
        picture=lambda h: pictures.get((h.file, h.kind, h.start, h.end), ""),
        index=index,
        filter=filter,
        clock=clock,
        name=os.path.basename,
        folder=os.path.dirname,
        link=lambda file: pathlib.Path(local_path(file)).as_uri(),
    )


def _picture(span: tuple) -> str:
    """A data URI; empty where the file cannot be read."""
    try:
        jpeg = strip(*span, frames=_FRAMES, height=_HEIGHT)
    except UserError:
        return ""
    return f"data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}"
