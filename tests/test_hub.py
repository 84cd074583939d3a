"""Models by hub id, from a small server that speaks the hub's protocol."""

import hashlib
import http.server
import json
import threading

import huggingface_hub.constants
import pytest

from gve_jax.hub import Weights, _download, find_weights
from gve_jax.types import UserError
from tests.model_witness import hf_model

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub(http.server.BaseHTTPRequestHandler):
    """Serves `repos`: {repo: {name: bytes}}; the first body of `cut` breaks off."""

    repos: dict
    cut: set
    log: list

    def log_message(self, *_):
        pass

    def do_HEAD(self):
        self.answer(body=False)

    def do_GET(self):
        self.answer(body=True)

    def answer(self, body):
        path = self.path.partition("?")[0].strip("/").split("/")
        ranged = self.headers.get("Range")
        self.log.append((self.command, "/".join(path), ranged))
        if path[0] == "api":
            repo, kind, revision = "/".join(path[2:4]), path[4], path[5]
        else:
            repo, revision, name = "/".join(path[:2]), path[3], "/".join(path[4:])
            kind = "resolve"
        files = self.repos.get(repo)
        if files is None or revision not in ("main", "v1", COMMIT):
            return self.send_error(404)
        if kind == "revision":
            names = [{"rfilename": n} for n in files]
            return self.send({"id": repo, "sha": COMMIT, "siblings": names})
        if kind == "tree":
            return self.send(
                [
                    {"type": "file", "path": n, "size": len(x), "oid": etag(x)}
                    for n, x in files.items()
                ]
            )
        if name not in files:
            return self.send_error(404)
        data = files[name]
        start = int(ranged.removeprefix("bytes=").split("-")[0]) if ranged else 0
        self.send_response(206 if start else 200)
        self.send_header("ETag", f'"{etag(data)}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("Content-Length", str(len(data) - start))
        if start:
            self.send_header(
                "Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}"
            )
        self.end_headers()
        if body:
            part = data[start:]
            if name in self.cut:
                self.cut.discard(name)
                part = part[: len(part) // 2]
                self.close_connection = True
            self.wfile.write(part)

    def send(self, values):
        data = json.dumps(values).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


def etag(data):
    return hashlib.sha1(data).hexdigest()


@pytest.fixture
def hub(tmp_path, monkeypatch):
    handler = type("H", (Hub,), {"repos": {}, "cut": set(), "log": []})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    constants = huggingface_hub.constants
    url = f"http://127.0.0.1:{server.server_address[1]}"
    monkeypatch.setattr(constants, "ENDPOINT", url)
    monkeypatch.setattr(
        constants,
        "HUGGINGFACE_CO_URL_TEMPLATE",
        url + "/{repo_id}/resolve/{revision}/{filename}",
    )
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 4096)  # kept when cut off
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)  # conftest.py sets it
    _download.cache_clear()
    yield handler
    server.shutdown()
    thread.join()


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hf")
    hf_model().save_pretrained(folder, max_shard_size="400KB")
    (folder / "tokenizer.json").write_text("{}")
    (folder / "modeling_remote.py").write_text("raise SystemExit")
    (folder / "pytorch_model.bin").write_bytes(b"pickle")
    (folder / "other.safetensors").write_bytes(b"of no index")
    return {p.name: p.read_bytes() for p in folder.iterdir()}


def test_only_data_files_come_and_only_those_of_the_index(hub, files, capsys):
    hub.repos["org/model"] = files
    found = find_weights("org/model", "--checkpoint")
    names = {p.name for p in found.folder.iterdir()}
    shards = {n for n in files if n.startswith("model-")}
    assert len(shards) > 1
    assert shards | {"config.json", "tokenizer.json"} <= names
    assert not names & {"modeling_remote.py", "pytorch_model.bin", "other.safetensors"}
    assert found.folder.name == COMMIT and found.hub_id == "org/model"
    assert COMMIT in capsys.readouterr().err  # what there is to pin
    for name in shards:
        assert (found.folder / name).read_bytes() == files[name]


def test_a_named_revision_is_asked_for(hub, files):
    hub.repos["org/model"] = files
    find_weights("org/model@v1", "--checkpoint")
    asked = {path.split("/")[-1] for _, path, _ in hub.log if "/revision/" in path}
    assert "v1" in asked and "main" not in asked
    with pytest.raises(UserError, match="org/model@v2: no such folder, and as a hub"):
        find_weights("org/model@v2", "--checkpoint")


def test_a_download_that_was_cut_off_goes_on(hub, files):
    hub.repos["org/model"] = files
    name = sorted(n for n in files if n.startswith("model-"))[0]
    hub.cut.add(name)
    try:
        found = find_weights("org/model", "--checkpoint")
    except UserError:  # or the library tried again by itself
        found = find_weights("org/model", "--checkpoint")
    assert (found.folder / name).read_bytes() == files[name]
    ranges = [r for command, path, r in hub.log if name in path and r]
    assert ranges and not ranges[-1].startswith("bytes=0-")


def test_an_adapter_brings_its_base(hub, files, tmp_path):
    hub.repos["org/model"] = files
    config = {"peft_type": "LORA", "base_model_name_or_path": "org/model"}
    hub.repos["org/adapter"] = {
        "adapter_config.json": json.dumps(config).encode(),
        "adapter_model.safetensors": b"",
        "adapter_model.bin": b"pickle",
    }
    found = find_weights("org/adapter", "--checkpoint")
    assert found.hub_id == "org/adapter"
    assert (found.folder / "config.json").is_file()
    assert {p.name for p in found.adapter.iterdir()} == {
        "adapter_config.json",
        "adapter_model.safetensors",
    }
    assert found.find("tokenizer.json") == found.folder / "tokenizer.json"
    for base, match in (("", "no base_model"), (str(tmp_path / "gone"), "no such")):
        config["base_model_name_or_path"] = base
        (tmp_path / "adapter_config.json").write_text(json.dumps(config))
        with pytest.raises(UserError, match=match):
            find_weights(str(tmp_path), "--checkpoint")


def test_folders_are_taken_as_they_are(files, tmp_path):
    (tmp_path / "config.json").write_bytes(files["config.json"])
    assert find_weights(str(tmp_path), "--checkpoint") == Weights(tmp_path)
