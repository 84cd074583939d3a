"""Readers of published corpora, one module for each format; see `rows`."""

from gve_jax.data.formats import (
    captions,
    internvid,
    mbeir,
    mmeb,
    msmarco,
    pairs,
    pe_video,
    tfds,
    vast,
    webvid,
)

# Name in `data.corpora.TASK.format` -> reader.
FORMATS = {
    "captions": captions,
    "internvid": internvid,
    "mbeir": mbeir,
    "mmeb": mmeb,
    "msmarco": msmarco,
    "pairs": pairs,
    "pe_video": pe_video,
    "tfds": tfds,
    "vast": vast,
    "webvid": webvid,
}
