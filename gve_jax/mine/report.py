"""The audit as a page: one file, no scripts, nothing fetched."""

import base64
import io
import pathlib
from collections.abc import Mapping, Sequence

import jinja2
import numpy as np
from PIL import Image

from gve_jax import media
from gve_jax.progress import ProgressLine
from gve_jax.types import UserError

_HEIGHT, _FRAMES = 56, 3  # of a thumbnail: pixels, and frames of a video
_TEXT = 300  # characters of an item shown

_PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<title>Hard negatives: audit</title>
<style>
body { font: 15px/1.5 system-ui, sans-serif; color: #1f2328; max-width: 1120px;
  margin: 24px auto; padding: 0 24px; }
table { border-collapse: collapse; width: 100%; margin: 8px 0 24px; font-size: 14px; }
th, td { padding: 4px 8px; border-bottom: 1px solid #d8dee4; text-align: left;
  vertical-align: top; }
.n { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
.taken { background: #eaf5ec; } .soft { color: #57606a; }
img { display: block; }
</style>
<h1>Hard negatives</h1>
<p>Prober: {{ audit.contract.family }}, {{ audit.contract.dim }} dimensions, weights
{{ audit.contract.weights_hash }}. Options:
{% for name, value in audit.options.items() -%}
{{ name }}={{ value }}{{ ", " if not loop.last }}
{%- endfor %}.
{{ audit.unreadable_items }} items could not be read.</p>
{% macro show(item) -%}
{% if item.instruction %}<div class="soft">{{ item.instruction }}</div>{% endif %}
{% if item.image or item.video %}
{% if picture(item) %}<img src="{{ picture(item) }}" alt="">{% endif %}
<div class="soft">{{ item.video or item.image }}
{%- if item.start is defined or item.end is defined %},
{{ item.start or 0 }} to {{ item.end if item.end is defined else "its end" }} s
{%- endif %}</div>
{% endif %}
{{ (item.text or "") | truncate(text_length) }}
{%- endmacro %}
{% for task, numbers in audit.tasks.items() %}
<h2>{{ task }}</h2>
<table>
{% for name, value in numbers.items() %}
<tr><th>{{ name | replace("_", " ") }}</th><td>
{% if value is mapping %}
{% for key, part in value.items() %}
{{ key | replace("_", " ") }}: {{ part }}{{ ", " if not loop.last }}
{% endfor %}
{% else %}{{ value }}{% endif %}
</td></tr>
{% endfor %}
</table>
{% for sample in samples if sample.task == task %}
<table>
<tr><th>query</th><td colspan="3">{{ show(sample.query) }}</td></tr>
<tr><th>target</th>
<td class="n">{{ "unreadable" if sample.score is none else "%.3f" % sample.score }}</td>
<td colspan="2">{{ show(sample.target) }}</td></tr>
{% for found in sample.candidates %}
<tr{% if found.verdict == "taken" %} class="taken"{% endif %}>
<td class="n">{{ found.rank or "–" }}</td><td class="n">{{ "%.3f" % found.score }}</td>
<td>{{ found.verdict | replace("_", " ") }}</td><td>{{ show(found.item) }}</td></tr>
{% endfor %}
</table>
{% endfor %}
{% endfor %}
</html>
"""


def render(audit: Mapping, samples: Sequence[Mapping], folder: pathlib.Path) -> str:
    """The page of an audit.json and the rows of its audit.jsonl, in `folder`."""
    page = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True
    ).from_string(_PAGE)
    items = [
        item
        for sample in samples
        for item in (
            sample["query"],
            sample["target"],
            *(found["item"] for found in sample["candidates"]),
        )
    ]
    pictures: dict[tuple, str] = {}
    with ProgressLine("thumbnails", len(items), "items") as line:
        for item in items:
            if _key(item) not in pictures:
                pictures[_key(item)] = _thumbnail(item, folder)
            line.advance()
    return page.render(
        audit=audit,
        samples=samples,
        picture=lambda item: pictures[_key(item)],
        text_length=_TEXT,
    )


def _key(item: Mapping) -> tuple:
    return tuple(item.get(name) for name in ("image", "video", "start", "end"))


def _thumbnail(item: Mapping, folder: pathlib.Path) -> str:
    """Frames side by side as a JPEG data URI; empty without any to read."""
    image, video, start, end = _key(item)
    try:
        if video:
            frames = media.read_video(folder / video, _FRAMES, start, end).pixels
        elif image:
            frames = media.read_image(folder / image)[None]
        else:
            return ""
    except UserError:  # it is listed in failures.jsonl
        return ""
    strip = Image.fromarray(np.concatenate(list(frames), axis=1))
    strip.thumbnail((strip.width, _HEIGHT))
    out = io.BytesIO()
    strip.save(out, "JPEG", quality=70)
    return f"data:image/jpeg;base64,{base64.b64encode(out.getvalue()).decode()}"
