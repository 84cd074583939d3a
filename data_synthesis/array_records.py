"""Pairs as `tf.train.Example` in ArrayRecord files, which TFDS and Grain read.

A folder of them is a data set of TFDS: `features.json` says what an example has, and
`dataset_info.json` which files there are. No TensorFlow is needed, here or there.
"""

import json
import pathlib
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from gve_jax.disk import write_json
from gve_jax.types import Item, Pair

NAME, VERSION = "synthesis", "1.0.0"
_KINDS = ("text", "image", "video", "instruction")
NO_TIME = -1.0  # of a video that is not cut


def features():
    """What an example has; paths are relative to the folder, absent parts empty."""
    from tensorflow_datasets import features as tfds  # takes seconds

    side = {kind: tfds.Text() for kind in _KINDS}
    side |= {time: tfds.Scalar(np.float32) for time in ("start", "end")}
    sides = {
        f"{name}_{part}": feature
        for name in ("query", "target")
        for part, feature in side.items()
    }
    negative = {
        "video": tfds.Text(),
        "start": tfds.Scalar(np.float32),
        "end": tfds.Scalar(np.float32),
    }
    texts = {name: tfds.Text() for name in ("id", "task", "source_id", "cluster")}
    return tfds.FeaturesDict({**texts, **sides, "negatives": tfds.Sequence(negative)})


def row(pair: Pair, relative) -> dict:
    """The values of a pair's example; `relative` rewrites the paths of media."""
    values = {
        "id": pair.id,
        "task": pair.task,
        "source_id": pair.source_id or "",
        "cluster": pair.cluster or "",
        "negatives": [
            {"video": relative(item.video), "start": _time(item.start),
             "end": _time(item.end)}
            for item in pair.negatives
        ],
    }  # fmt: skip
    for name in ("query", "target"):
        item: Item = getattr(pair, name)
        for kind in _KINDS:
            value = getattr(item, kind) or ""
            media = kind in ("image", "video") and value
            values[f"{name}_{kind}"] = relative(value) if media else value
        values[f"{name}_start"] = _time(item.start)
        values[f"{name}_end"] = _time(item.end)
    return values


def file_name(split: str, shard: int, shards: int) -> str:
    return f"{NAME}-{split}.array_record-{shard:05d}-of-{shards:05d}"


def write(path: pathlib.Path, rows: Iterable[dict]) -> int:
    """Writes examples, all or none; returns how many.

    One record a group: any can be read by itself.
    """
    from array_record.python.array_record_module import ArrayRecordWriter
    from tensorflow_datasets.core.example_serializer import ExampleSerializer

    spec = features()
    serializer = ExampleSerializer(spec.get_serialized_info())
    path.parent.mkdir(parents=True, exist_ok=True)
    part, count = path.with_name(path.name + ".part"), 0
    writer = ArrayRecordWriter(str(part), "group_size:1")
    for values in rows:
        example = serializer.get_tf_example(spec.encode_example(values))
        # The order of a protocol buffer's map is free otherwise.
        writer.write(example.SerializeToString(deterministic=True))
        count += 1
    writer.close()
    part.replace(path)
    return count


def write_metadata(
    folder: pathlib.Path, splits: Mapping[str, Sequence[tuple[int, int]]]
) -> None:
    """Writes what makes the folder a data set of TFDS.

    Args:
      splits: split -> (examples, bytes) of each of its files, in order.
    """
    folder.mkdir(parents=True, exist_ok=True)
    # TFDS gives them in another order each time.
    sorted_text = json.dumps(features().to_json(), sort_keys=True)
    write_json(folder / "features.json", json.loads(sorted_text))
    info = {
        "name": NAME,
        "version": VERSION,
        "fileFormat": "array_record",
        "description": "Pairs of data_synthesis: queries, targets, hard negatives.",
        "splits": [
            {
                "name": split,
                "filepathTemplate": "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
                "numBytes": str(sum(size for _, size in files)),
                "shardLengths": [str(number) for number, _ in files],
            }
            for split, files in sorted(splits.items())
        ],
    }
    write_json(folder / "dataset_info.json", info)


def _time(seconds: float | None) -> float:
    return NO_TIME if seconds is None else seconds
