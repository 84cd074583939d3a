"""The record that travels through the stages, one for each raw video.

It is written as Parquet, whose columns follow from the classes here, and checked on
writing and on reading against `schema/record.json`, which follows from them as well.
Fields are only ever added, with a default: older tables still read.
"""

import dataclasses
import functools
import json
import pathlib
import types
import typing
from collections.abc import Iterable, Iterator

import jsonschema
import pyarrow as pa
import pyarrow.parquet as pq

from gve_jax.types import UserError

SCHEMA_VERSION = 1
SCHEMA_FILE = pathlib.Path(__file__).parent / "schema" / "record.json"
# Rows of a Parquet row group: what reading a shard holds in memory.
_GROUP = 256


@dataclasses.dataclass(frozen=True)
class Source:
    """The raw file; `uri` is relative to its root and holds no credentials."""

    uri: str
    sha256: str = ""
    bytes: int = 0
    container: str = ""
    codec: str = ""
    width: int = 0
    height: int = 0
    fps: float = 0.0
    num_frames: int = 0
    duration: float = 0.0  # seconds
    license: str = ""
    dataset: str = ""
    parent_id: str = ""


@dataclasses.dataclass(frozen=True)
class Media:
    """A file made from the source, at `path` below the output folder.

    `role`: "video" (repaired, or the source itself: path empty), "frame", "clip".
    `start` and `end` are presentation seconds in the source.
    """

    role: str
    path: str
    sha256: str
    start: float
    end: float


@dataclasses.dataclass(frozen=True)
class Text:
    """The annotation as found and as repaired; `edits` names the repairs."""

    raw: str
    rectified: str = ""
    edits: tuple[str, ...] = ()
    lang: str = ""
    lang_conf: float = 0.0


@dataclasses.dataclass(frozen=True)
class Score:
    """A stored number and what made it: thresholds are applied later, to it."""

    value: float
    model_id: str = ""
    version: str = ""


@dataclasses.dataclass(frozen=True)
class Decision:
    """`outcome`: "keep", "drop" or "error"; an error is never kept.

    `stage` is where the record left; `reasons` are all codes that hold.
    """

    outcome: str = "keep"
    stage: str = ""
    reasons: tuple[str, ...] = ()
    detail: str = ""  # what an error said, up to 2 KB
    thresholds_id: str = ""


@dataclasses.dataclass(frozen=True)
class Group:
    """What only a look at all records can tell."""

    text_videos: int = 1  # videos that carry this text
    cluster: str = ""  # smallest id among its duplicates; its own if none
    duplicate: str = ""  # "bytes", "frames", "near", "mirrored": how it repeats one
    benchmark: str = ""  # the evaluation item that it repeats


@dataclasses.dataclass(frozen=True)
class Caption:
    """One of a set: `style` is its key, "1" to "5"; `faults` say why not valid."""

    style: str
    text: str
    words: int
    grade: float = 0.0  # Flesch-Kincaid
    score: float | None = None  # cosine with the video, under the embedder
    valid: bool = True
    faults: tuple[str, ...] = ()
    attempt: int = 0


@dataclasses.dataclass(frozen=True)
class Generation:
    """How a text was generated.

    `backend` is the kind of captioner; `fingerprint` of what answered: a hash of its
    weights, or the address and name of a served model.
    """

    captioner_id: str
    prompt_id: str
    prompt_sha256: str
    schema_sha256: str
    sampling: str = ""  # JSON
    seed: int = 0
    attempts: int = 1
    tokens_in: int = 0
    tokens_out: int = 0
    repaired: bool = False
    backend: str = ""
    fingerprint: str = ""


@dataclasses.dataclass(frozen=True)
class Failure:
    """Why a request has no usable answer. `raw` is the file that holds what came, below
    the output folder: the last line of it with the request's id."""

    codes: tuple[str, ...]
    message: str  # up to 2 KB
    attempts: int
    request: str  # its id
    raw: str = ""


@dataclasses.dataclass(frozen=True)
class CaptionSet:
    """Captions of the video (`media` empty) or of one of its frames (its sha256).

    Where there is a `failure`, none is selected, and what captions there are, are
    the best that came.
    """

    media: str
    captions: tuple[Caption, ...]
    selected: str  # style; empty: none
    profile: dict[str, int]  # per cent of "spatial", "temporal", "other"
    readability: str
    education_level: str
    generation: Generation
    failure: Failure | None = None


@dataclasses.dataclass(frozen=True)
class Record:
    """See the classes of its fields. `scores` and `facts` are by name."""

    id: str
    source: Source
    text: Text
    name: str = ""  # the id in the input file
    decision: Decision = Decision()
    media: tuple[Media, ...] = ()
    scores: dict[str, Score] = dataclasses.field(default_factory=dict)
    hashes: tuple[str, ...] = ()  # perceptual, of 8 frames, 16 hex digits each
    mirrored: tuple[str, ...] = ()  # ... and of the frames mirrored
    frames_sha256: str = ""  # of the decoded frames
    cuts: tuple[float, ...] = ()  # seconds at which shots begin
    group: Group = Group()
    caption_sets: tuple[CaptionSet, ...] = ()
    schema_version: int = SCHEMA_VERSION

    @property
    def alive(self) -> bool:
        return self.decision.outcome == "keep"

    def leave(self, outcome: str, stage: str, *reasons: str, detail="") -> "Record":
        """The record dropped, or ended by an error, at a stage."""
        detail = detail.encode()[:2048].decode(errors="ignore")
        decision = Decision(outcome, stage, tuple(sorted(set(reasons))), detail)
        return dataclasses.replace(self, decision=decision)


def write_table(path: pathlib.Path, kind: type, rows: Iterable) -> int:
    """Writes rows of dataclass `kind` as Parquet; returns how many.

    Raises ValueError if a row does not fit its schema: a fault of the program.
    """
    check, schema, count = validator(kind), arrow_schema(kind), 0
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        for batch in batched(rows, _GROUP):
            plain = [_plain(row) for row in batch]
            for row in plain:
                check(row)
            writer.write_table(pa.Table.from_pylist(plain, schema=schema))
            count += len(batch)
    return count


def read_table(path: pathlib.Path, kind: type) -> Iterator:
    """Yields the rows of a table, group by group.

    Raises UserError if the file is not such a table.
    """
    check = validator(kind)
    try:
        file = pq.ParquetFile(path)
        for group in file.iter_batches(_GROUP):
            for row in group.to_pylist(maps_as_pydicts="strict"):
                check(_without_none(kind, row))
                yield _typed(kind, row)
    except (OSError, pa.ArrowInvalid, ValueError) as e:
        raise UserError(
            f"{path}: not a table of {kind.__name__} of this version ({e}); remove "
            "it, and the same command writes it anew"
        ) from None


def json_schema(kind: type) -> dict:
    """JSON Schema of a dataclass; fields with a default may be absent."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema"} | _schema(kind)


@functools.cache
def validator(kind: type):
    """Raises ValueError, naming the field, for a row (a dict) that does not fit."""
    # The validator's own check of each type is in Python, a millisecond a record.
    compiled = jsonschema.Draft202012Validator(json_schema(kind))

    def check(row: dict) -> None:
        fault = next(compiled.iter_errors(row), None)
        if fault is not None:
            where = "/".join(map(str, fault.absolute_path)) or "row"
            raise ValueError(f"{kind.__name__}: {where}: {fault.message}")

    return check


@functools.cache
def arrow_schema(kind: type) -> pa.Schema:
    """The columns of a dataclass."""
    return pa.schema([(f.name, _arrow(f.type)) for f in _fields(kind)])


class _Field(typing.NamedTuple):
    name: str
    type: object
    required: bool


@functools.cache
def _fields(kind: type) -> tuple[_Field, ...]:
    hints = typing.get_type_hints(kind)
    missing = dataclasses.MISSING
    return tuple(
        _Field(f.name, hints[f.name], f.default is f.default_factory is missing)
        for f in dataclasses.fields(kind)
    )


_ARROW = {
    str: pa.string(),
    int: pa.int64(),
    float: pa.float64(),
    bool: pa.bool_(),
    bytes: pa.binary(),
}
_JSON = {str: "string", int: "integer", float: "number", bool: "boolean", bytes: None}


def _arrow(kind) -> pa.DataType:
    if kind in _ARROW:
        return _ARROW[kind]
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin is tuple:
        return pa.list_(_arrow(args[0]))
    if origin is dict:
        return pa.map_(pa.string(), _arrow(args[1]))
    if origin is types.UnionType:
        return _arrow(args[0])
    return pa.struct([(f.name, _arrow(f.type)) for f in _fields(kind)])


def _schema(kind) -> dict:
    if kind is bytes:
        return {}
    if kind in _JSON:
        return {"type": _JSON[kind]}
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin is tuple:
        return {"type": "array", "items": _schema(args[0])}
    if origin is dict:
        return {"type": "object", "additionalProperties": _schema(args[1])}
    if origin is types.UnionType:
        return {"anyOf": [_schema(args[0]), {"type": "null"}]}
    return {
        "type": "object",
        "properties": {f.name: _schema(f.type) for f in _fields(kind)},
        "required": [f.name for f in _fields(kind) if f.required],
        "additionalProperties": False,
    }


def _plain(value):
    if dataclasses.is_dataclass(value):
        return {f.name: _plain(getattr(value, f.name)) for f in _fields(type(value))}
    if isinstance(value, tuple | list):
        return [_plain(v) for v in value]
    if isinstance(value, dict):
        # Parquet keeps the order of maps: sort, or equal rows differ in bytes.
        return {k: _plain(value[k]) for k in sorted(value)}
    return value


def _typed(kind, value):
    """The value of a type from plain lists and dicts; absent fields are defaults."""
    if kind in _JSON or value is None:
        return value
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin is tuple:
        return tuple(_typed(args[0], v) for v in value)
    if origin is dict:
        return {k: _typed(args[1], v) for k, v in value.items()}
    if origin is types.UnionType:
        return _typed(args[0], value)
    return kind(
        **{
            f.name: _typed(f.type, value[f.name])
            for f in _fields(kind)
            if f.name in value and (value[f.name] is not None or _optional(f.type))
        }
    )


def _optional(kind) -> bool:
    return typing.get_origin(kind) is types.UnionType


def _without_none(kind, value):
    """Parquet cannot tell an absent struct field from null: null ones are absent."""
    if value is None or kind in _JSON:
        return value
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin is tuple:
        return [_without_none(args[0], v) for v in value]
    if origin is dict:
        return {k: _without_none(args[1], v) for k, v in value.items()}
    if origin is types.UnionType:
        return _without_none(args[0], value)
    known = {f.name: f.type for f in _fields(kind)}
    return {
        k: _without_none(known[k], v) if k in known else v
        for k, v in value.items()
        if v is not None
    }


def batched(rows: Iterable, size: int) -> Iterator[list]:
    """Lists of `size` rows; the last may be shorter."""
    batch = []
    for row in rows:
        batch.append(row)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


def main() -> None:
    """Writes the schema file anew: `python -m data_synthesis.record`."""
    SCHEMA_FILE.write_text(json.dumps(json_schema(Record), indent=1) + "\n")


if __name__ == "__main__":
    main()
