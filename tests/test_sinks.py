"""Metric sinks: what is written is read back, also after a resume."""

import pathlib
import struct
import sys

import pytest
from ml_collections import ConfigDict

from gve_jax.train.sinks import open_sinks
from gve_jax.types import UserError

CONFIG = ConfigDict({"seed": 1, "optim": {"peak_lr": 0.5}, "mesh": {"fsdp": (1, -1)}})
ROW = {"loss": 2.5, "tasks": {"T2V": {"batches": 3, "loss": 2.0}}}


def read_events(folder: pathlib.Path) -> list[list]:
    """Events of each file in turn, of TFRecord framing undone here."""
    from tensorboardX.proto.event_pb2 import Event

    files = []
    for path in sorted(folder.iterdir()):
        data, events = path.read_bytes(), []
        while data:
            (size,) = struct.unpack("<Q", data[:8])
            events.append(Event.FromString(data[12 : 12 + size]))
            data = data[16 + size :]
        files.append(events)
    return files


def scalars(events: list) -> list[tuple[int, str, float]]:
    return [(e.step, v.tag, v.simple_value) for e in events for v in e.summary.value]


def test_tensorboard_is_read_back_and_resumed(tmp_path):
    sinks = open_sinks(["tensorboard"], tmp_path, CONFIG, step=0)
    for step in (10, 20, 30):
        sinks.log(step, ROW)
    sinks.close()
    sinks = open_sinks(["tensorboard"], tmp_path, CONFIG, step=20)
    sinks.log(30, {"loss": 1.5})
    sinks.close()
    before, after = read_events(tmp_path / "tensorboard")
    assert scalars(before) == [
        (step, tag, value)
        for step in (10, 20, 30)
        for tag, value in (
            ("loss", 2.5),
            ("tasks/T2V/batches", 3.0),
            ("tasks/T2V/loss", 2.0),
        )
    ]
    assert scalars(after) == [(30, "loss", 1.5)]
    # What makes readers forget the first file's step 30 and keep its step 20.
    starts = [e.step for e in after if e.session_log.status == e.session_log.START]
    assert starts == [21]


def test_tensorboard_itself_shows_each_step_once(tmp_path):
    module = "tensorboard.backend.event_processing.event_accumulator"
    reader = pytest.importorskip(module)
    for first, steps, loss in ((0, (10, 20, 30), 1.0), (20, (30, 40), 2.0)):
        sinks = open_sinks(["tensorboard"], tmp_path, CONFIG, first)
        for step in steps:
            sinks.log(step, {"loss": loss})
        sinks.close()
    events = reader.EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    shown = [(e.step, e.value) for e in events.Scalars("loss")]
    assert shown == [(10, 1.0), (20, 1.0), (30, 2.0), (40, 2.0)]


def test_wandb_goes_on_with_the_same_run(tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    for step in (10, 20):  # as in two processes
        sinks = open_sinks(["wandb"], tmp_path, CONFIG, step - 10)
        sinks.log(step, ROW)
        sinks.close()
    run_id = (tmp_path / "wandb_id").read_text()
    files = sorted(tmp_path.glob(f"wandb/offline-run-*-{run_id}*/run-{run_id}.wandb"))
    assert len(files) == 2

    def field(name: str, value: str) -> bytes:  # as protobuf lays it out
        key, text = name.encode(), value.encode()
        return bytes([len(key)]) + key + b"\x82\x01" + bytes([len(text)]) + text

    for path, step in zip(files, ("10", "20"), strict=True):
        data = path.read_bytes()
        for name, value in (
            ("_step", step), ("loss", "2.5"), ("tasks/T2V/loss", "2"), ("seed", "1"),
            ("optim", '{"peak_lr":0.5}'),
        ):  # fmt: skip
            assert field(name, value) in data, name


def test_no_sinks_log_nowhere(tmp_path):
    sinks = open_sinks((), tmp_path, CONFIG, step=0)
    sinks.log(1, ROW)
    sinks.close()
    assert not list(tmp_path.iterdir())


def test_faults_name_the_key_and_the_remedy(tmp_path, monkeypatch):
    with pytest.raises(UserError, match=r"train\.sinks names 'neptune'.*tensorboard"):
        open_sinks(["tensorboard", "neptune"], tmp_path, CONFIG, step=0)
    assert not list(tmp_path.iterdir())
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with pytest.raises(UserError, match=r"tensorboardX is not installed: pip install"):
        open_sinks(["tensorboard"], tmp_path, CONFIG, step=0)
