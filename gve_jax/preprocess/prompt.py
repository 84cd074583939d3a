"""The contract's chat template as token ids, media expanded to their placeholders."""

import re
from typing import NamedTuple

from gve_jax.contract import DEFAULT_SYSTEM, IMAGE_SLOT, VIDEO_SLOT, Contract
from gve_jax.preprocess.tokenizer import Tokenizer
from gve_jax.types import UserError

_SPECIAL = re.compile(r"<\|[a-z_]+\|>")
_PARTS = re.compile(r"(<\|[a-z_]+\|>|\{(?:system|video|image|text)\})")
_PADS = ("<|video_pad|>", "<|image_pad|>")


class Prompt(NamedTuple):
    """A tokenised item."""

    tokens: list[int]
    video_start: int  # index of the first video placeholder; -1: no video
    image_start: int
    cut: int  # text tokens left out to fit


class PromptTemplate:
    """Fills the contract's template. Safe to share between threads and to pickle.

    Between two special tokens text is encoded as one piece, as a tokenizer does that
    sees the whole prompt: a text that begins with a space or a line end merges with
    the "user" line before it.
    """

    def __init__(self, tokenizer: Tokenizer, contract: Contract):
        """Raises UserError for a template, role or tokenizer that cannot serve."""
        if contract.instruction_role != "system":
            raise UserError(
                f"contract: instruction_role {contract.instruction_role!r} is not "
                "supported; use 'system'"
            )
        self._tokenizer = tokenizer
        self._max_tokens = contract.max_tokens
        parts = [p for p in _PARTS.split(contract.template) if p]
        for slot in ("{system}", "{video}", "{image}", "{text}"):
            if parts.count(slot) != 1:
                raise UserError(f"contract: the template must have {slot} once")
        after = parts[parts.index("{text}") + 1 :]
        if not after or not _SPECIAL.fullmatch(after[0]):
            # What follows {text} would be part of the piece that may be cut.
            raise UserError("contract: a special token must follow {text}")
        self._parts = [*parts, *([contract.pooled_token] * bool(contract.pooled_token))]
        used = " ".join([*self._parts, VIDEO_SLOT, IMAGE_SLOT])
        self._ids = {s: tokenizer.special(s) for s in _SPECIAL.findall(used)}
        self._fixed = {}  # ids of texts that recur: the template's and instructions

    def fill(
        self,
        text: str = "",
        instruction: str | None = None,
        video_tokens: int = 0,
        image_tokens: int = 0,
    ) -> Prompt:
        """Token ids of one item, the pooled token last.

        Args:
          text: the user's text.
          instruction: the system sentence; None: the default one.
          video_tokens, image_tokens: merged units of each medium; 0: there is none.

        Returns:
          The prompt, at most `max_tokens` long: the end of the text gives way, and
          nothing else.

        Raises:
          UserError: it would be longer even without text.
        """
        slots = {
            "{system}": instruction or DEFAULT_SYSTEM,
            "{video}": VIDEO_SLOT if video_tokens else "",
            "{image}": IMAGE_SLOT if image_tokens else "",
        }
        # (kind, value): what fills a slot as text can never pass for a special token.
        pieces: list[tuple[str, str]] = []
        for part in self._parts:
            if part == "{text}":
                pieces.append(("text", ""))
            elif part in self._ids:
                pieces.append(("special", part))
            elif part in ("{video}", "{image}"):
                found = _SPECIAL.findall(slots[part])
                pieces.extend(("special", token) for token in found)
            elif pieces and pieces[-1][0] == "plain":
                pieces[-1] = ("plain", pieces[-1][1] + slots.get(part, part))
            else:
                pieces.append(("plain", slots.get(part, part)))

        counts = dict(zip(_PADS, (video_tokens, image_tokens), strict=True))
        starts = dict.fromkeys(_PADS, -1)
        tokens: list[int] = []
        before = ""  # template text in the same piece as the user's
        text_start = text_end = 0
        for i, (kind, value) in enumerate(pieces):
            if kind == "special" and value in counts:
                starts[value] = len(tokens)
                tokens.extend([self._ids[value]] * counts[value])
            elif kind == "special":
                tokens.append(self._ids[value])
            elif kind == "plain" and pieces[i + 1 : i + 2] == [("text", "")]:
                before = value
            elif kind == "plain":
                tokens.extend(self._encode_fixed(value))
            else:
                text_start = len(tokens) + len(self._encode_fixed(before))
                tokens.extend(
                    self._tokenizer.encode(before + text)
                    if text
                    else self._encode_fixed(before)
                )
                text_end = len(tokens)

        cut = max(0, len(tokens) - self._max_tokens)
        text_tokens = max(0, text_end - text_start)
        if cut > text_tokens:
            raise UserError(
                f"{len(tokens) - text_tokens} tokens without its "
                f"text, above preprocess.max_tokens = {self._max_tokens}: lower "
                "max_pixels or num_frames, or shorten the instruction"
            )
        if cut:
            del tokens[text_end - cut : text_end]
        return Prompt(tokens, starts[_PADS[0]], starts[_PADS[1]], cut)

    def _encode_fixed(self, text: str) -> list[int]:
        if not text:
            return []
        ids = self._fixed.get(text)
        if ids is None:
            ids = self._tokenizer.encode(text)
            if len(self._fixed) < 10_000:  # instructions may be many
                self._fixed[text] = ids
        return ids
