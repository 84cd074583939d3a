"""The card of an exported folder says what is known; the hub's own code reads it."""

import dataclasses
import pathlib

from huggingface_hub import ModelCard

from gve_jax.config import default_config
from gve_jax.contract import Contract
from gve_jax.export import card
from gve_jax.hub import Weights
from gve_jax.restore import Restored


def make(lora="merge", contract=None, **changes):
    config = default_config()
    config.update_from_flattened_dict(
        {k.replace("__", "."): v for k, v in changes.items()}
    )
    contract = contract or Contract(dim=64)
    found = Restored(None, None, None, None, contract, config)
    return card.model_card(found, pathlib.Path("runs/mine-3b"), lora)


def test_of_a_run_from_random_weights():
    text = make(data__pairs="/home/me/secret/pairs.jsonl", train__steps=12)
    assert ModelCard(text).data.to_dict() == {
        "library_name": "transformers",
        "tags": ["feature-extraction", "video-retrieval", "gve_jax"],
    }
    assert "# mine-3b\n" in text and "vectors of 64 numbers" in text
    assert "12 updates" in text and "from random weights" in text
    assert "pairs.jsonl" in text and "secret" not in text  # paths are nobody's business
    assert "| frames of a video | 8 |" in text and "Differs in transformers" in text


def test_of_updates_upon_a_model_of_the_hub(monkeypatch):
    monkeypatch.setattr(
        card, "find_weights", lambda *_: Weights(pathlib.Path("x"), hub_id="ORG/BASE")
    )
    text = make("adapter", model__init_from="ORG/BASE", data__pairs="p.jsonl")
    head = ModelCard(text).data
    assert (head.library_name, head.base_model) == ("peft", "ORG/BASE")
    assert "from ORG/BASE, lora trained" in text
    timed = dataclasses.replace(Contract(), fps=1.0, num_frames=32, min_frames=4)
    text = make(contract=timed, model__init_from="ORG/BASE")
    assert "| frames of a video | 1 a second, 4 to 32 |" in text
    assert "Not known to the exporter" in text
