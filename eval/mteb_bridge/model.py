"""Our embedder as an MTEB model."""

import hashlib
import json
import pathlib
import tempfile

import numpy as np
from datasets import Dataset, Image, Video
from mteb.models.abs_encoder import AbsEncoder
from mteb.models.model_meta import ModelMeta, ScoringFunction
from mteb.types import PromptType

from gve_jax.types import Item, UserError

# Rows embedded together. Media that a dataset holds as bytes lie on disk meanwhile.
_ROWS = 1024
_MEDIA = {"image": Image(decode=False), "video": Video(decode=False)}


class EmbedderModel(AbsEncoder):
    """Embeds what MTEB's tasks hold exactly as `python -m eval` does.

    Files go to the embedder, which decodes and samples them itself: rows are taken from
    the dataset under MTEB's loader, and its decoder and frame collator never run.
    """

    def __init__(self, embedder, name: str):
        """Args:
        embedder: a `gve_jax.embed.Embedder`, or what has its contract, dim and embed.
        name: "organisation/model", under which MTEB keeps results.
        """
        self._embedder = embedder
        contract = embedder.contract.to_json()
        text = json.dumps(contract, sort_keys=True)
        self.mteb_model_meta = ModelMeta(
            loader=None,
            name=name,
            # Of weights, prompt, frames and number formats, all that makes a vector.
            revision=hashlib.sha256(text.encode()).hexdigest()[:40],
            release_date=None,
            languages=None,
            n_parameters=None,
            memory_usage_mb=None,
            max_tokens=contract.get("max_tokens"),
            embed_dim=embedder.dim,
            license=None,
            open_weights=None,
            public_training_code=None,
            public_training_data=None,
            framework=["JAX"],
            similarity_fn_name=ScoringFunction.COSINE,
            use_instructions=True,
            training_datasets=None,
            modalities=["text", "image", "video"],
        )

    def encode(
        self, inputs, *, task_metadata, hf_split, hf_subset, prompt_type=None, **kwargs
    ) -> np.ndarray:
        """float32 [n, d] unit rows of the rows of a torch DataLoader.

        All but documents are asked with the task's instruction.

        Raises:
          UserError: something cannot be embedded. MTEB would rank a row without a
            vector first, so nothing is left out. Or there is no `datasets.Dataset`
            under the loader.
        """
        instruction = None
        if prompt_type != PromptType.document:
            instruction = self.get_instruction(task_metadata, prompt_type) or None
        rows = inputs.dataset
        if not isinstance(rows, Dataset):
            raise UserError(
                f"{task_metadata.name}: its rows are a {type(rows).__name__}, and only "
                "those of a datasets.Dataset can be read: leave the task out"
            )
        for name in _MEDIA.keys() & set(rows.column_names):
            rows = rows.cast_column(name, _MEDIA[name])
        what = f"{task_metadata.name} {prompt_type or 'input'}"
        vectors = []
        for start in range(0, len(rows), _ROWS):
            part = rows.select(range(start, min(start + _ROWS, len(rows))))
            with tempfile.TemporaryDirectory() as folder:
                items = [
                    _item(row, start + i, instruction, pathlib.Path(folder))
                    for i, row in enumerate(part)
                ]
                result = self._embedder.embed(
                    items, desc=f"{what} from {start}/{len(rows)}"
                )
            if result.failures:
                i, reason = next(iter(result.failures.items()))
                raise UserError(
                    f"{what}: {items[i].id!r} cannot be embedded ({reason}), one of "
                    f"{len(result.failures)}: mend the files, MTEB cannot leave any out"
                )
            vectors.append(result.vectors)
        return np.concatenate(vectors)


def _item(
    row: dict, number: int, instruction: str | None, folder: pathlib.Path
) -> Item:
    return Item(
        id=str(row.get("id", number)),
        text=row.get("text"),
        instruction=instruction,
        **{key: _file(row.get(key), folder / f"{number}.{key}") for key in _MEDIA},
    )


def _file(value: dict | None, to: pathlib.Path) -> str | None:
    """The path of a medium, which is written to `to` where it comes as bytes."""
    if value is None or value["bytes"] is None:
        return value and value["path"]
    to = to.with_name(to.name + pathlib.Path(value["path"] or "").suffix)
    to.write_bytes(value["bytes"])
    return str(to)
