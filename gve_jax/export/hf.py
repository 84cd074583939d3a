"""The folder that `transformers`, PEFT and sentence-transformers read."""

import json
import os
import pathlib

from gve_jax.disk import write_json
from gve_jax.export.adapter import adapter_config, write_adapter_tensors
from gve_jax.export.card import model_card
from gve_jax.export.processors import processor_files
from gve_jax.export.sentence_transformers import sentence_transformers_files
from gve_jax.export.template import chat_template
from gve_jax.model import write_hf
from gve_jax.restore import Restored
from gve_jax.types import UserError


def export_hf(found: Restored, folder: str | os.PathLike, lora: str = "merge") -> None:
    """Writes a folder that `transformers` loads, or PEFT where `lora` is "adapter".

    With it come the tokenizer, the chat template (`chat_template`: messages to the
    prompt of the contract, pooled token included), the processors (`processor_files`,
    and `differences` from the contract), what sentence-transformers needs
    (`sentence_transformers_files`), contract.json, which this package reads back, and
    README.md, a model card to be completed (`model_card`).
    An embedding is the last hidden state of `AutoModel` at the last token, normalised.
    AutoProcessor needs torchvision, for videos; without it there are AutoTokenizer and
    AutoImageProcessor.

    Weights keep the type they are held in: a folder read and written again has the
    same bytes in each tensor, unless that is float16, which is held as float32. There
    is no head of the language model, which an embedder does not have:
    `tie_word_embeddings` is set, and a loader that wants one takes the embedding.

    Args:
      found: a checkpoint as read by `restore`.
      folder: absent or empty.
      lora: "merge" folds low-rank updates into the weights; "adapter" writes them
        alone, to be put on the model that training started from.

    Raises:
      UserError: the folder holds something or cannot be written, the weights are int8,
        or there is no update to write alone.
    """
    folder = pathlib.Path(folder)
    adapter = adapter_config(found) if lora == "adapter" else None
    if folder.is_dir() and any(folder.iterdir()):
        raise UserError(f"--output={folder}: is not empty; give a new folder")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise UserError(f"--output={folder}: cannot be made ({e.strerror})") from None
    _write_tokenizer(found, folder)
    template = chat_template(found.contract)
    (folder / "chat_template.jinja").write_text(template, encoding="utf-8")
    card = model_card(found, folder, lora)
    (folder / "README.md").write_text(card, encoding="utf-8")
    # Which vectors these are: read back with the weights, by this package.
    found.contract.save(folder / "contract.json")
    for name, values in {
        **processor_files(found.model_config, found.contract),
        **sentence_transformers_files(found.contract),
    }.items():
        (folder / name).parent.mkdir(exist_ok=True)
        write_json(folder / name, values)
    # The model comes last: without it the folder is seen to be an interrupted one.
    if adapter is None:
        write_hf(found.model_config, found.params, folder)
    else:
        write_adapter_tensors(found, folder)
        write_json(folder / "adapter_config.json", adapter)


def _write_tokenizer(found: Restored, folder: pathlib.Path) -> None:
    """The tokenizer, which adds nothing by itself: the chat template has it all."""
    found.tokenizer.save(folder)
    path = folder / "tokenizer.json"
    values = json.loads(path.read_text(encoding="utf-8"))
    if "TemplateProcessing" in json.dumps(values["post_processor"]):
        # That of Qwen3-VL-Embedding appends the pooled token.
        values["post_processor"] = None
        path.write_text(json.dumps(values, ensure_ascii=False), encoding="utf-8")
    path = folder / "tokenizer_config.json"
    values = json.loads(path.read_text(encoding="utf-8"))
    values.pop("chat_template", None)
    values["model_max_length"] = found.contract.max_tokens
    path.write_text(
        json.dumps(values, indent=1, ensure_ascii=False) + "\n", encoding="utf-8"
    )
