"""PE-Video: tar files of VIDEO_ID.mp4 beside VIDEO_ID.json with human_caption.

Training decodes files, so the videos of the pairs that are made are unpacked, once:
one that is there with its size is not written again.
"""

import json
import os
import pathlib
import tarfile
from collections.abc import Iterator

from gve_jax.data.formats import rows
from gve_jax.data.formats.rows import Corpus, Drop, Dropped, Row
from gve_jax.types import Item, Pair

FILES = {"shards": "train/*.tar"}


def read(
    corpus: Corpus, shards: list[pathlib.Path], caption: str = "human_caption"
) -> Iterator[Pair | Dropped]:
    """Text to video. `caption` is the field of the JSON file that holds the text."""

    def make(where: str, sample: tuple) -> Pair:
        folder, shard, members, id = sample
        if len(members) < 2:
            raise Drop(f"no .{'json' if '.mp4' in members else 'mp4'} beside it")
        try:
            row = json.load(shard.extractfile(members[".json"]))
            if not isinstance(row, dict):
                raise Drop("no JSON object")
            query = Item("", text=rows.text(row, caption))
            video = _unpack(shard, members[".mp4"], folder / f"{id}.mp4")
        except ValueError:
            raise Drop("no JSON") from None
        except tarfile.TarError:
            raise Drop("a broken tar file") from None
        name = f"pe:{id}"
        return Pair(name, query, Item("", video=video), source_id=name)

    return rows.pairs(_samples(corpus, shards), make)


def _samples(corpus: Corpus, shards: list[pathlib.Path]) -> Iterator[Row]:
    """(folder to unpack to, shard, {suffix: member}, id) of each sample, whose members
    follow each other."""
    for path in shards:
        members: dict[str, tarfile.TarInfo] = {}
        id = ""
        folder = corpus.media / path.relative_to(corpus.folder).with_suffix("")
        try:
            with corpus.open(path) as f, tarfile.open(path, fileobj=f) as shard:
                for member in shard:
                    # Only the last part of a name: no member leaves its folder.
                    stem, suffix = os.path.splitext(os.path.basename(member.name))
                    if not member.isfile() or suffix not in (".mp4", ".json"):
                        continue
                    if members and stem != id:
                        yield f"{path}: {id}", (folder, shard, members, id)
                        members = {}
                    members[suffix], id = member, stem
                if members:
                    yield f"{path}: {id}", (folder, shard, members, id)
        except (tarfile.TarError, OSError):
            yield f"{path}: after {id or 'nothing'}", Drop("a broken tar file")


def _unpack(shard: tarfile.TarFile, member: tarfile.TarInfo, path: pathlib.Path) -> str:
    if not path.is_file() or path.stat().st_size != member.size:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(".tmp")
        with temporary.open("wb") as out:
            source = shard.extractfile(member)
            while block := source.read(1 << 20):
                out.write(block)
        temporary.rename(path)
    return str(path)
