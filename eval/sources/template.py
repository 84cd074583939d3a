"""A dataset of one's own: a folder to fill in."""

import pathlib

from eval import loaders, uvrb
from gve_jax import disk
from gve_jax.types import UserError

_README = """\
# {name}: a dataset of your own

Replace the examples by yours, put the media in, then check and evaluate:

    python -m eval.prepare check --root={root} --datasets={name}
    python -m eval --config=configs/uvrb.py --config.eval.root={root} \\
      --datasets={name} --checkpoint=CHECKPOINT --output=runs/{name}

One JSON object a line:

- `jsonl/corpus.jsonl`, what is searched: `{{"id", "video"}}`, or `image`, or `text`, or
  several of them. Paths are relative to this folder.
- `jsonl/queries.jsonl`: `{{"id"}}` and any of `text`, `image`, `video`, the same ones
  in all queries.
- `jsonl/instances.jsonl`, which corpus items answer a query: `{{"qid", "pos": [ids]}}`,
  at least one for each query. With `"candidates": [ids]` in every line a query competes
  among these only.

`dataset.json`:

- `metric`: `recall@K` (an answer among the first K) or `precision@1`.
- `instruction`: the sentence that tells the model what the query asks for.
- `num_queries`, `num_corpus` (may be left out): what you expect; other counts are
  warned of, so that a half-copied folder is noticed.
- `licence`, `group` (may be left out): for the manifest and the report.
"""
_ROWS = {
    "corpus": [
        {"id": "video_0", "video": "videos/first.mp4"},
        {"id": "video_1", "video": "videos/second.mp4"},
        {"id": "video_2", "video": "videos/third.mp4"},
    ],
    "queries": [
        {"id": "query_0", "text": "what the first video shows"},
        {"id": "query_1", "text": "what the second and the third video show"},
    ],
    "instances": [
        {"qid": "query_0", "pos": ["video_0"]},
        {"qid": "query_1", "pos": ["video_1", "video_2"]},
    ],
}


def write(folder: pathlib.Path) -> None:
    """Writes an example that loads as it is.

    Raises UserError if the folder is not empty or has the name of one of UVRB's.
    """
    if folder.name in uvrb.DATASETS:
        raise UserError(
            f"--output: {folder.name} is a dataset of UVRB; choose another name"
        )
    if folder.exists() and any(folder.iterdir()):
        raise UserError(f"--output: {folder} is not empty; choose a new folder")
    (folder / "jsonl").mkdir(parents=True, exist_ok=True)
    (folder / "videos").mkdir()
    for name, rows in _ROWS.items():
        disk.write_rows(folder / "jsonl" / f"{name}.jsonl", rows)
    facts = uvrb.Dataset(
        folder.name,
        "text",
        "recall@1",
        "Find the video that the text describes.",
        num_queries=2,
        num_corpus=3,
    )
    disk.write_json(folder / "dataset.json", loaders.own_fields(facts))
    readme = _README.format(name=folder.name, root=folder.parent)
    disk.replace(folder / "README.md", readme)
