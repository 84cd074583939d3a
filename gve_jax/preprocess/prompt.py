"""The contract's chat template as token ids, media expanded to their placeholders."""

import re
import unicodedata
from collections.abc import Sequence
from typing import NamedTuple

from gve_jax.contract import Contract
from gve_jax.preprocess.tokenizer import Tokenizer
from gve_jax.types import UserError

_SPECIAL = re.compile(r"<\|[a-z_]+\|>")
_RUNS = re.compile(r"(<\|[a-z_]+\|>)")
_SLOTS = re.compile(r"\{[a-z]+\}")
_ROLES = {"system": "{system}", "user": "{instruction}"}
_KINDS = ("video", "image", "text")


class Prompt(NamedTuple):
    """A tokenised item."""

    tokens: list[int]
    # Index of the first placeholder of the video, or of each of its groups where the
    # contract writes them apart; empty: no video.
    video_starts: list[int]
    image_starts: list[int]  # one or none
    cut: int  # text tokens left out to fit


class PromptTemplate:
    """Fills the contract's template. Safe to share between threads and to pickle.

    Between two special tokens text is encoded as one piece, as a tokenizer does that
    sees the whole prompt: a text that begins with a space or a line end merges with
    the "user" line before it.
    """

    def __init__(self, tokenizer: Tokenizer, contract: Contract):
        """Raises UserError for a template, role or tokenizer that cannot serve."""
        if contract.instruction_role not in _ROLES:
            raise UserError(
                f"contract: instruction_role {contract.instruction_role!r} is not one "
                f"of {tuple(_ROLES)}"
            )
        self._slot = _ROLES[contract.instruction_role]
        forms = {"+".join(_KINDS): contract.template} | contract.forms
        for key, form in forms.items():
            kinds = [kind for kind in _KINDS if kind in key.split("+")]
            due = sorted([self._slot, *(f"{{{kind}}}" for kind in kinds)])
            if key != "+".join(kinds) or sorted(_SLOTS.findall(form)) != due:
                raise UserError(
                    f"contract: the template for {key!r} must have each of "
                    f"{', '.join(due)} once and no other slot, and its name be some of "
                    f"{'+'.join(_KINDS)!r}: {form!r}"
                )
        for name, text, pad in (
            ("video", contract.video_group or contract.video, "<|video_pad|>"),
            ("image", contract.image, "<|image_pad|>"),
        ):
            if text.count(pad) != 1:
                raise UserError(f"contract: {name} must have {pad} once: {text!r}")
        if bool(contract.video_group) != ("{groups}" in contract.video):
            raise UserError(
                f"contract: video is {contract.video!r} and video_group "
                f"{contract.video_group!r}: {{groups}} goes with a video_group"
            )
        self._contract = contract
        self._tokenizer = tokenizer
        texts = [contract.template, *contract.forms.values(), contract.video]
        texts += [contract.video_group, contract.image, contract.pooled_token]
        used = _SPECIAL.findall(" ".join(texts))
        self._ids = {token: tokenizer.special(token) for token in used}
        self._fixed = {}  # ids of texts that recur: the template's and instructions

    def fill(
        self,
        text: str = "",
        instruction: str | None = None,
        video_tokens: int = 0,
        image_tokens: int = 0,
        times: Sequence[float] = (),
    ) -> Prompt:
        """Token ids of one item, the pooled token last.

        Args:
          text: the user's text.
          instruction: the task sentence; None: the contract's default.
          video_tokens, image_tokens: merged units of each medium; 0: there is none.
          times: seconds of each temporal group of the video, if the contract writes
            them.

        Returns:
          The prompt, at most `max_tokens` long: the end of the text gives way, and
          nothing else.

        Raises:
          UserError: it would be longer even without text.
        """
        c = self._contract
        there = zip(_KINDS, (video_tokens, image_tokens, text), strict=True)
        kinds = "+".join(kind for kind, found in there if found)
        form = c.forms.get(kinds, c.template)
        form = form.replace("{video}", c.video if video_tokens else "")
        form = form.replace("{groups}", "".join(self._group(t) for t in times))
        form = form.replace("{image}", c.image if image_tokens else "")
        instruction = self._instruction(instruction, kinds)
        pads = {"<|video_pad|>": video_tokens, "<|image_pad|>": image_tokens}
        if times:
            pads["<|video_pad|>"] //= len(times)

        runs: list[tuple[str, list[int]]] = []  # (special token or "", ids)
        user = None  # the run with the user's text, and what is around it there
        for run in _RUNS.split(form + c.pooled_token):
            if run in self._ids:
                runs.append((run, [self._ids[run]] * pads.get(run, 1)))
                continue
            # What fills a slot is text: it can never pass for a special token.
            before, slot, after = (
                part.replace(self._slot, instruction)
                for part in run.partition("{text}")
            )
            if slot and text:
                user = len(runs), before, after
                runs.append(("", self._tokenizer.encode(before + text + after)))
            else:
                runs.append(("", self._encode_fixed(before + after)))

        cut = max(0, sum(len(ids) for _, ids in runs) - c.max_tokens)
        if cut:
            self._shorten(runs, text, user, cut)
        starts = {pad: [] for pad in pads}
        tokens: list[int] = []
        for special, ids in runs:
            if special in starts:
                starts[special].append(len(tokens))
            tokens.extend(ids)
        return Prompt(tokens, *starts.values(), cut)

    def _instruction(self, instruction: str | None, kinds: str) -> str:
        c = self._contract
        if not instruction:
            instruction = c.instructions.get(kinds, c.default_instruction)
        elif c.instruction_end:
            instruction = instruction.strip()
            if not unicodedata.category(instruction[-1:] or ".").startswith("P"):
                instruction += c.instruction_end
        if instruction and "text" in kinds:
            instruction += c.separator
        return instruction

    def _group(self, seconds: float) -> str:
        return self._contract.video_group.replace("{seconds}", f"{seconds:.1f}")

    def _shorten(
        self,
        runs: list[tuple[str, list[int]]],
        text: str,
        user: tuple[int, str, str] | None,
        cut: int,
    ) -> None:
        """Takes the last `cut` tokens off the user's text. What follows it in the same
        run is encoded on its own then."""
        if user:
            at, before, after = user
            ids = self._tokenizer.encode(before + text)
            tail = self._encode_fixed(after)
            room = len(runs[at][1]) - cut - len(tail)
            if room >= len(self._encode_fixed(before)):
                runs[at] = "", ids[:room] + tail
                return
        raise UserError(
            "without its text it takes more than preprocess.max_tokens = "
            f"{self._contract.max_tokens} tokens: lower max_pixels or num_frames, or "
            "shorten the instruction"
        )

    def _encode_fixed(self, text: str) -> list[int]:
        if not text:
            return []
        ids = self._fixed.get(text)
        if ids is None:
            ids = self._tokenizer.encode(text)
            if len(self._fixed) < 10_000:  # instructions may be many
                self._fixed[text] = ids
        return ids
