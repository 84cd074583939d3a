"""Where a model's files lie: a Hugging Face folder, a PEFT adapter or a hub id."""

import functools
import pathlib
import re
import sys
from typing import NamedTuple

from gve_jax.model.files import read_json, weight_files
from gve_jax.types import UserError

# The revisions that published scores were reproduced with, read from the wrappers of
# mteb; taken where the user names none, as a branch may move.
_PINNED = {
    "Alibaba-NLP/GVE-3B": "2c2962d4bb1503b478b8a0d975d7b9fdcefbd3f3",
    "Alibaba-NLP/GVE-7B": "3046045eeed08e1d8731c3b943827b81b2b20817",
    "Alibaba-NLP/gme-Qwen2-VL-2B-Instruct": "ce765ae71b8cdb208203cd8fb64a170b1b84293a",
    "Alibaba-NLP/gme-Qwen2-VL-7B-Instruct": "477027a6480f8630363be77751f169cc3434b673",
    "VLM2Vec/VLM2Vec-V2.0": "e39ff079b8275ef876d3656da8c0bddbff3c4dde",
    "Qwen/Qwen3-VL-Embedding-2B": "9f2f7e710d6d81056aa5c0a4f04764fec6bb7bda",
    "Qwen/Qwen3-VL-Embedding-8B": "2c4565515e0f265c6511776e7193b22c0968ddc7",
}
_HUB_ID = re.compile(r"(?P<repo>[\w-][\w.-]*/[\w.-]+?)(@(?P<revision>[\w./-]+))?")
# Never pickles, never remote code.
_SMALL_FILES = ["*.json"]


class Weights(NamedTuple):
    """The files of one model."""

    folder: pathlib.Path  # config.json and safetensors
    adapter: pathlib.Path | None = None  # PEFT folder to merge into them
    hub_id: str = ""  # where the model, or its adapter, came from

    def find(self, name: str) -> pathlib.Path:
        """A file beside the weights; the adapter's own goes first."""
        if self.adapter is not None and (self.adapter / name).exists():
            return self.adapter / name
        return self.folder / name


def find_weights(name: str, flag: str) -> Weights:
    """A folder, or what a hub id `ORG/NAME` or `ORG/NAME@REVISION` downloads.

    Only JSON files and the safetensors that they name are fetched, into the cache of
    huggingface_hub; a download that was cut off goes on.

    Args:
      name: of the folder or the hub id.
      flag: which flag or key said so, for errors.

    Raises:
      UserError: there is nothing of this kind.
    """
    folder, hub_id = pathlib.Path(name), ""
    if folder.exists():
        if not folder.is_dir():
            raise UserError(f"{flag}={name}: a file; name the folder it is in")
    else:
        match = _HUB_ID.fullmatch(name)
        if not match:
            raise UserError(f"{flag}={name}: no such folder")
        hub_id = match["repo"]
        try:
            folder = _download(hub_id, match["revision"] or _PINNED.get(hub_id))
        except (OSError, ValueError) as e:  # all that huggingface_hub raises is of them
            raise UserError(
                f"{flag}={name}: no such folder, and as a hub id it could not be "
                f"downloaded ({str(e).splitlines()[0]}); what came stays, try again"
            ) from None
    folder = folder.absolute()
    if _is_model(folder):
        return Weights(folder, hub_id=hub_id)
    adapter = folder / "adapter_config.json"
    if not adapter.is_file():
        raise UserError(
            f"{flag}={name}: neither a training workdir (checkpoints/) nor a Hugging "
            "Face folder (config.json with model_type and *.safetensors)"
        )
    config = read_json(adapter)
    base = config.get("base_model_name_or_path")
    if not base:
        raise UserError(f"{adapter}: no base_model_name_or_path, the model it is for")
    if config.get("revision") and not pathlib.Path(base).exists():
        base += f"@{config['revision']}"
    found = find_weights(base, f"{adapter}: base_model_name_or_path")
    if found.adapter is not None:
        raise UserError(f"{adapter}: its base {base} is an adapter too: merge that")
    return Weights(found.folder, folder, hub_id)


def _is_model(folder: pathlib.Path) -> bool:
    """A folder with a full model's config; broken weights are the reader's to name."""
    config = folder / "config.json"
    if not config.is_file() or "model_type" not in read_json(config):
        return False
    return not (folder / "adapter_config.json").is_file() or any(
        (folder / file).is_file() for file in weight_files(folder)
    )


@functools.cache  # one command asks several times; each would ask the hub anew
def _download(repo: str, revision: str | None) -> pathlib.Path:
    from huggingface_hub import snapshot_download

    folder = pathlib.Path(
        snapshot_download(repo, revision=revision, allow_patterns=_SMALL_FILES)
    )
    if revision is None:
        print(f"{repo}: taking {folder.name}; pin it with @", file=sys.stderr)
    files = [*weight_files(folder), "adapter_model.safetensors"]
    snapshot_download(repo, revision=folder.name, allow_patterns=files)
    return folder
