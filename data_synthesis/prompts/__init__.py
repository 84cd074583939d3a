"""Prompts: files of this folder, of a version each, whose hash goes into the records.

KIND.vN.txt has a part for the system and one for the user, with slots "{name}". A text
changed in place is noticed by its hash: captions made under it are made anew.
"""

import functools
import hashlib
import pathlib
import re
from typing import NamedTuple

# What is asked -> its version that is in use.
VERSIONS = {"video": 1, "frame": 1, "image_query": 1, "clip_query": 1, "reask": 1}
# Slots whose text comes from elsewhere: data, never instructions.
_UNTRUSTED = ("raw_caption", "target_caption", "previous_answer")
_MOST = 4000  # characters of such a text
_SLOT = re.compile(r"\{(\w+)\}")
_FOLDER = pathlib.Path(__file__).parent


class Prompt(NamedTuple):
    id: str
    system: str
    user: str
    sha256: str

    def fill(self, **slots: str) -> str:
        """The user's part. Raises KeyError for a slot without a text.

        Untrusted texts stand between tags that they cannot close.
        """
        texts = {
            name: _fenced(name, text) if name in _UNTRUSTED else text
            for name, text in slots.items()
        }
        # One pass: a slot's name within a text stays text.
        return _SLOT.sub(lambda match: texts[match[1]], self.user)


@functools.cache
def load(kind: str) -> Prompt:
    """The prompt in use."""
    name = f"{kind}.v{VERSIONS[kind]}"
    text = (_FOLDER / f"{name}.txt").read_text(encoding="utf-8")
    _, system, user = re.split(r"^## (?:system|user)\n", text, flags=re.MULTILINE)
    digest = hashlib.sha256(text.encode()).hexdigest()
    return Prompt(name, system.strip(), user.strip(), digest)


def digest(*kinds: str) -> str:
    """Of several prompts, for what follows from them."""
    text = "".join(load(kind).sha256 for kind in kinds)
    return hashlib.sha256(text.encode()).hexdigest()


def _fenced(name: str, text: str) -> str:
    text = "".join(c if c.isprintable() else " " for c in text[:_MOST])
    text = text.replace("<", "(").replace(">", ")")
    return f"<{name}>\n{text}\n</{name}>"
