"""The embedding contract: every choice that changes a vector without an error.

It is saved with each checkpoint, export and index; vectors made under different
contracts are never compared.
"""

import dataclasses
import hashlib
import json
import os

from gve_jax.types import UserError

DEFAULT_SYSTEM = "You are a helpful assistant."
# Media come before text, video before image; "{...}" slots are filled per item.
TEMPLATE = (
    "<|im_start|>system\n{system}<|im_end|>\n"
    "<|im_start|>user\n{video}{image}{text}<|im_end|>\n"
    "<|im_start|>assistant\n"
)
# The fields that `template_hash` is of.
_TEXTS = (
    "template", "forms", "video", "video_group", "image", "instruction_role",
    "separator", "instruction_end", "default_instruction", "instructions",
    "pooled_token",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Contract:
    """What an embedding depends on besides the weights.

    The prompt is `template`, or the one in `forms` for an item of just those parts: its
    keys are "video", "image" and "text" joined by "+" in that order. {video} and
    {image} become the texts of those names, if the item has such a medium; {groups} in
    `video` becomes one `video_group` for each temporal group, whose time is {seconds}.
    An instruction fills {system} where its role is "system", and {instruction}, with
    `separator` after it if text follows, where it is "user". `instruction_end` is
    added to one that does not end in punctuation. An item without one has that of its
    parts in `instructions`, else `default_instruction`. The last token of the prompt is
    pooled: `pooled_token`, or without it whatever ends the template.

    A sample of a video has `num_frames` frames; or, if `fps` is not 0, `fps` frames a
    second, but at least `min_frames` and at most `num_frames`. `min_pixels` and
    `max_pixels` are the budget of a frame, and of an image unless it has its own (not
    0); `total_pixels`, if not 0, is that of all temporal groups of a video together.
    `max_tokens` caps the sequence, the pooled token included. `time` is "real" (seconds
    between the sampled frames drive the temporal positions, or are written out, as in
    transformers) or "nominal" (1 frame/s). `positions` are "mrope", or "sequential": 0,
    1, 2 ... for text and media alike, for models that were trained so. `dtype` is that
    of the activations; `weights` are "float32", "bfloat16" or "int8".
    """

    family: str = "qwen2_5_vl"
    template: str = TEMPLATE
    forms: dict[str, str] = dataclasses.field(default_factory=dict, hash=False)
    video: str = "<|vision_start|><|video_pad|><|vision_end|>"
    video_group: str = ""
    image: str = "<|vision_start|><|image_pad|><|vision_end|>"
    instruction_role: str = "system"
    separator: str = ""
    instruction_end: str = ""
    default_instruction: str = DEFAULT_SYSTEM
    instructions: dict[str, str] = dataclasses.field(default_factory=dict, hash=False)
    pooled_token: str = "<|endoftext|>"
    num_frames: int = 8
    fps: float = 0.0
    min_frames: int = 2
    frame_rule: str = "uniform-pts-first-to-last"
    min_pixels: int = 128 * 28 * 28
    max_pixels: int = 200 * 28 * 28
    image_min_pixels: int = 0
    image_max_pixels: int = 0
    total_pixels: int = 0
    max_tokens: int = 8192
    time: str = "real"
    positions: str = "mrope"
    dtype: str = "float32"
    weights: str = "float32"
    dim: int = 0
    weights_hash: str = ""
    decoder: str = ""

    @property
    def template_hash(self) -> str:
        """Of all that decides the text around an item's own."""
        parts = [getattr(self, name) for name in _TEXTS]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[
            :16
        ]

    def to_json(self) -> dict:
        return dataclasses.asdict(self) | {"template_hash": self.template_hash}

    def to_text(self) -> str:
        """As contract.json has it."""
        return json.dumps(self.to_json(), indent=1) + "\n"

    @classmethod
    def from_json(cls, values: dict, where: str) -> "Contract":
        """Raises UserError if a field is missing, unknown or inconsistent."""
        values = dict(values)
        stored_hash = values.pop("template_hash", None)
        names = {f.name for f in dataclasses.fields(cls)}
        missing, unknown = names - values.keys(), values.keys() - names
        if missing or unknown:
            raise UserError(
                f"{where}: not an embedding contract of this version "
                f"(missing {sorted(missing)}, unknown {sorted(unknown)})"
            )
        contract = cls(**values)
        if stored_hash != contract.template_hash:
            raise UserError(
                f"{where}: template_hash {stored_hash} does not match its template; "
                "the file was edited, restore it from the checkpoint"
            )
        return contract

    def save(self, path: str | os.PathLike) -> None:
        with open(path, "w", encoding="utf-8") as f:
            f.write(self.to_text())

    @classmethod
    def load(cls, path: str | os.PathLike) -> "Contract":
        try:
            with open(path, encoding="utf-8") as f:
                return cls.from_json(json.load(f), str(path))
        except FileNotFoundError:
            raise UserError(f"{path}: no embedding contract here") from None
        except json.JSONDecodeError as e:
            raise UserError(f"{path}: not JSON ({e})") from None

    def require_equal(self, other: "Contract", mine: str, others: str) -> None:
        """Refuses vectors of another contract. Raises UserError naming the fields."""
        differ = [
            f"{f.name}: {getattr(self, f.name)!r} against {getattr(other, f.name)!r}"
            for f in dataclasses.fields(self)
            if getattr(self, f.name) != getattr(other, f.name)
        ]
        if differ:
            raise UserError(
                f"{mine} and {others} embed under different contracts "
                f"({'; '.join(differ)}): embed both with the same checkpoint and flags"
            )
