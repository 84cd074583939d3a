"""Search an index by text, image, clip or any mixture of them.

python -m gve_jax.index search "a red ball rolls behind a box" --index=runs/index \
    --filter="duration>30 path~*holiday*"
"""

import json
import os
import pathlib
import sys
import tempfile
import webbrowser

from absl import flags

from gve_jax.embed.flags import embedder_from_flags
from gve_jax.index import filters
from gve_jax.index.flags import INDEX, arguments
from gve_jax.index.folder import read_commit
from gve_jax.index.page import clock, render
from gve_jax.index.searching import Hit, Searcher, make_query
from gve_jax.types import UserError

REQUIRED = ("index",)
_TEXT = flags.DEFINE_string(
    "text", None, "What to look for; with an image or video, how it should differ."
)
_IMAGE = flags.DEFINE_string("image", None, "Image to search by.")
_VIDEO = flags.DEFINE_string("video", None, "Video to search by.")
_START = flags.DEFINE_float("start", None, "Second at which its part begins.")
_END = flags.DEFINE_float("end", None, "Second at which its part ends.")
_K = flags.DEFINE_integer("k", 10, "Videos and images to find.", lower_bound=1)
_SPANS = flags.DEFINE_integer(
    "spans", 3, "Further windows listed of a video.", lower_bound=0
)
_FILTER = flags.DEFINE_string("filter", "", filters.__doc__)
_INSTRUCTION = flags.DEFINE_string(
    "instruction", None, "Task sentence of the query; default: that of its modalities."
)
_JSON = flags.DEFINE_bool("json", False, "Print JSON instead of a table.")
_PAGE = flags.DEFINE_string("page", None, "Write an HTML page with frames there.")
_OPEN = flags.DEFINE_bool("open", False, "Show that page in the browser.")


def main(argv: list[str]) -> None:
    text = " ".join(arguments(argv, "a text")) or None
    if text and _TEXT.value:
        raise UserError(f"--text={_TEXT.value} and {text!r}: give one text")
    paths = [_file(flag) for flag in (_IMAGE, _VIDEO)]
    query = make_query(
        text or _TEXT.value, *paths, _START.value, _END.value, _INSTRUCTION.value
    )
    filter = filters.parse_filter(_FILTER.value)
    embedder = embedder_from_flags(like=read_commit(INDEX.value)["model"])
    # One search is no reason to keep the vectors.
    searcher = Searcher(INDEX.value, embedder, kept_bytes=0)
    [hits] = searcher.search([query], _K.value, filter, _SPANS.value)
    if _JSON.value:
        print(json.dumps([hit.to_json() for hit in hits], indent=1))
    else:
        print("\n".join(_table(hits)) if hits else "nothing was found")
    if _PAGE.value or _OPEN.value:
        page = _PAGE.value or tempfile.mkstemp(".html", "gve-search-")[1]
        html = render(query, hits, searcher.opened.index, filter.text)
        try:
            pathlib.Path(page).write_text(html, encoding="utf-8")
        except OSError as e:
            raise UserError(
                f"--page={page}: cannot be written ({e.strerror})"
            ) from None
        print(page, file=sys.stderr)
        if _OPEN.value:
            webbrowser.open(pathlib.Path(page).absolute().as_uri())


def _file(flag: flags.FlagHolder) -> str | None:
    """The absolute path of a file to search by."""
    if flag.value is None:
        return None
    if not os.path.isfile(flag.value):
        raise UserError(f"--{flag.name}={flag.value}: no such file")
    return os.path.abspath(flag.value)


def _table(hits: list[Hit]) -> list[str]:
    lines = [f"{'':4} {'score':>6}  {'time':15}  file"]
    for hit in hits:
        time = "" if hit.start is None else f"{clock(hit.start)}-{clock(hit.end)}"
        mark = "  (missing)" if hit.missing else ""
        lines.append(f"{hit.rank:4} {hit.score:6.3f}  {time:15}  {hit.file}{mark}")
        lines += [
            f"{'':4} {s.score:6.3f}  {clock(s.start)}-{clock(s.end)}" for s in hit.spans
        ]
        lines += [f"{'':30}copy: {file}" for file in hit.also]
    return lines
