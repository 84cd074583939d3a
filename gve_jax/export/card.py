"""The model card of an exported folder: what is known of it, and what is not."""

import pathlib

from gve_jax import __version__
from gve_jax.export.processors import differences
from gve_jax.hub import find_weights
from gve_jax.restore import Restored

_CARD = """\
---
library_name: {library}
{base}tags:
- feature-extraction
- video-retrieval
- gve_jax
---

# {name}

Embeds text, images, videos and their mixtures as unit vectors of {dim} numbers; cosines
say what belongs together. Exported by gve_jax {version}.

    python -m gve_jax.embed --checkpoint=FOLDER --input=items.jsonl --output=vectors

In `transformers` a vector is the last hidden state at the last token, normalised;
`chat_template.jinja` writes the prompt. sentence-transformers reads the folder too.
{differences}
## How it is asked

| | |
|---|---|
| family | {family} |
| frames of a video | {frames} |
| pixels of a frame | {min_pixels} to {max_pixels} |
| tokens | at most {max_tokens} |
| instruction | in the {instruction_role}'s turn |
| number format | {dtype}, weights {weights} |

All of it is in `contract.json`; vectors made otherwise do not compare with these.

## Training

{training}

## To be written by who publishes it

Intended use and limits; the data's licences; results, with the data they are of.
"""


def model_card(found: Restored, folder: pathlib.Path, lora: str) -> str:
    """Markdown, with the head that the hub reads; `lora` as for `export_hf`."""
    c, config = found.contract, found.config
    source = config.model.init_from
    hub_id = find_weights(source, "model.init_from").hub_id if source else ""
    pairs = config.data.pairs or ", ".join(sorted(config.data.corpora))
    training = "Not known to the exporter: the weights were read as they were."
    if pairs:
        start = (
            f"from {hub_id or 'a local folder'}" if source else "from random weights"
        )
        training = (
            f"{config.train.steps} updates of {config.data.batch_size} pairs {start}, "
            f"{config.model.trainable} trained; curriculum {config.curriculum.name}; "
            f"pairs: {pathlib.Path(pairs).name if config.data.pairs else pairs}."
        )
    differ = "".join(f"\n- Differs in transformers: {x}" for x in differences(c))
    frames = f"{c.fps:g} a second, {c.min_frames} to {c.num_frames}"
    return _CARD.format(
        **vars(c),
        library="peft" if lora == "adapter" else "transformers",
        base=f"base_model: {hub_id}\n" if hub_id else "",
        name=folder.absolute().name,
        version=__version__,
        differences=f"{differ}\n" if differ else "",
        frames=frames if c.fps else c.num_frames,
        training=training,
    )
