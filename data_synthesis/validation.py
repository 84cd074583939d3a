"""Validation of answers in three layers: JSON, JSON Schema, and rules of meaning.

The caption contract: one object with keys "1" to "5", a text each. 1: a summary, 10 to
25 words. 2: rich in space and time, 101 to 200 words (the paper says 80, but also that
some caption exceeds 100, which no other may); of a still 50 to 200. 3: abstract, 30 to
100. 4: keywords, 5 to 30. 5: partial, 10 to 70. At least one has fewer than 20 words,
and, of a video, one more than 100. A composed query: one object with the key "query".
"""

import itertools
import json
import re
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import jsonschema

from data_synthesis.rectify import language, words_of

STYLES = ("1", "2", "3", "4", "5")
# Words of each style, of a video and of a still.
WORDS = {"1": (10, 25), "2": (101, 200), "3": (30, 100), "4": (5, 30), "5": (10, 70)}
FRAME_WORDS = WORDS | {"2": (50, 200)}
SHORT, LONG = 20, 100
# Two captions that share more of their words say the same.
_SAME = 0.7
_REPEATS = 3  # of four words in a row
_LENGTH = 4000  # characters
# A language is told from so many words on, and believed from this confidence on.
_LANGUAGE_WORDS, _LANGUAGE_CONFIDENCE = 5, 0.65


def object_schema(keys: Sequence[str], longest: int = _LENGTH) -> dict:
    """Of an object with exactly these keys, each a text of so many characters."""
    return {
        "type": "object",
        "properties": {
            key: {"type": "string", "minLength": 1, "maxLength": longest}
            for key in keys
        },
        "required": list(keys),
        "additionalProperties": False,
    }


CAPTION_SCHEMA = object_schema(STYLES)
QUERY_SCHEMA = object_schema(("query",), 600)

_REFUSAL = re.compile(
    r"\b(?:i(?:'m| am) (?:sorry|unable|not able)|i can(?:no|')t\b|as an ai\b"
    r"|i apologi[sz]e|cannot (?:assist|help|provide)"
    r"|unable to (?:view|see|process|describe))",
    re.IGNORECASE,
)
_SPECULATION = re.compile(
    r"\b(?:no visible|not visible|there (?:is|are) no\b|might be|may be|could be"
    r"|(?:appear|seem)s? to be|possibly|perhaps|probably|presumably|likely"
    r"|suggest(?:s|ing) that|without any|unclear)\b",
    re.IGNORECASE,
)
_ECHO = re.compile(
    r"\b(?:json|caption \d|style \d|raw caption|word count|\d+\s*-\s*\d+ words|output"
    r" format|key \"?\d\"?|readability|education level)\b|[{}]",
    re.IGNORECASE,
)
# A sentence with a finite verb ends, or has a verb that only sentences have.
_SENTENCE = re.compile(
    r"[.!?]\s+[A-Z]|[.!?]$|\b(?:is|are|was|were|has|have|does|shows?|can be seen)\b"
)
_BINDING = re.compile(
    r"\b(?:from|in|of|as in|like) (?:the|this) (?:reference )?"
    r"(?:reference|image|picture|photo|frame|clip|video|footage)\b"
    r"|\breference (?:image|clip|video)\b",
    re.IGNORECASE,
)
_COMMA = re.compile(r",(\s*\})")
_CHANGE = re.compile(
    r"\b(?:now|then|later|instead|but|while|after|before|next|start(?:s|ing)?|becom\w+|turns?"
    r"|moves?|moving|\w+ing|without|another|different|no longer|continues?|same)\b",
    re.IGNORECASE,
)


class Fault(NamedTuple):
    """`style` is "" for a fault of the whole; `message` goes into the re-asking."""

    code: str
    style: str
    message: str


class Answer(NamedTuple):
    """`value` is None where the answer is no object of the schema."""

    value: dict[str, str] | None
    faults: tuple[Fault, ...]


def parse(text: str, schema: dict) -> Answer:
    """Layers one and two. Nothing is mended: a word beside the JSON is a fault."""
    try:
        value = json.loads(text, object_pairs_hook=_unique, parse_constant=_no_constant)
        json.dumps(value, ensure_ascii=False).encode()  # no half of a surrogate pair
    except (ValueError, RecursionError) as e:
        return Answer(None, (Fault("json", "", f"not strict JSON: {e}"),))
    faults = tuple(
        Fault("schema", str(next(iter(e.absolute_path), "")), e.message[:300])
        for e in jsonschema.Draft202012Validator(schema).iter_errors(value)
    )
    return Answer(None if faults else value, faults)


def mended(text: str) -> str:
    """The object within a text: without what stands around it, and trailing commas.

    Nothing that was cut off is closed: that would make up an end.
    """
    start, end = text.find("{"), text.rfind("}") + 1
    return _COMMA.sub(r"\1", text[start:end]) if 0 <= start < end else text


def captions(value: dict[str, str], *, frame: bool, raw: str) -> tuple[Fault, ...]:
    """Layer three, of a set of five captions.

    Args:
      frame: of a still.
      raw: the annotation; a caption may not repeat it word by word.
    """
    faults = [f for style in STYLES for f in _caption(style, value[style], frame, raw)]
    counts = {style: len(words_of(value[style])) for style in STYLES}
    if not any(n < SHORT for n in counts.values()):
        faults.append(Fault("none_short", "", f"one caption needs under {SHORT} words"))
    if not frame and not any(n > LONG for n in counts.values()):
        faults.append(Fault("none_long", "", f"one caption needs over {LONG} words"))
    for one, two in itertools.combinations(STYLES, 2):
        a, b = set(words_of(value[one])), set(words_of(value[two]))
        if a and b and len(a & b) / len(a | b) >= _SAME:
            faults.append(Fault("same", two, f"caption {two} repeats caption {one}"))
    return tuple(faults)


def _caption(style: str, text: str, frame: bool, raw: str) -> list[Fault]:
    low, high = (FRAME_WORDS if frame else WORDS)[style]
    found = words_of(text)
    faults = []
    if not low <= len(found) <= high:
        message = f"caption {style} has {len(found)} words, {low} to {high} are wanted"
        faults.append(Fault("words", style, message))
    faults += prose(style, text)
    if style == "4" and _SENTENCE.search(text):
        faults.append(
            Fault("sentence", style, "caption 4 takes keywords, no sentences")
        )
    if len(found) >= 10 and found == words_of(raw):
        faults.append(Fault("raw_echo", style, f"caption {style} is the given caption"))
    return faults


def prose(style: str, text: str) -> list[Fault]:
    """Faults that a text of any kind can have; `style` only goes into them."""
    found = words_of(text)
    faults = []
    for code, pattern, message in (
        ("refusal", _REFUSAL, "describe what is visible"),
        (
            "speculation",
            _SPECULATION,
            "only what is visible, nothing absent or guessed",
        ),
        ("echo", _ECHO, "the instruction is repeated"),
    ):
        if seen := pattern.search(text):
            faults.append(Fault(code, style, f"{message} (found {seen[0]!r})"))
    grams = Counter(zip(found, found[1:], found[2:], found[3:], strict=False))
    if max(grams.values(), default=0) > _REPEATS:
        faults.append(Fault("repetition", style, "the same four words again and again"))
    if found and not (_latin(text) and _english(style, text)):
        faults.append(Fault("language", style, "write English"))
    return faults


def query(value: dict[str, str], *, clip: bool) -> tuple[Fault, ...]:
    """Layer three, of a composed query; `clip`: its reference is a clip."""
    text = value["query"]
    found = words_of(text)
    faults = prose("query", text)
    if len(found) > 50:
        faults.append(Fault("words", "query", f"{len(found)} words, at most 50"))
    if clip and not 5 <= len(found) <= 15:
        faults.append(Fault("words_warning", "query", "5 to 15 words are usual"))
    if not _BINDING.search(text):
        what = "clip" if clip else "image"
        faults.append(
            Fault("binding", "query", f"refer to it: from the reference {what}")
        )
    if not _CHANGE.search(text):
        faults.append(Fault("no_change", "query", "state what happens or changes"))
    return tuple(faults)


def fatal(faults: tuple[Fault, ...]) -> tuple[Fault, ...]:
    """Those that make a text unusable; warnings are only counted."""
    return tuple(f for f in faults if not f.code.endswith("_warning"))


def _latin(text: str) -> bool:
    letters = [c for c in text if c.isalpha()]
    return sum(c.isascii() for c in letters) >= 0.9 * max(len(letters), 1)


def _english(style: str, text: str) -> bool:
    """Not sure to be another language; of keywords nothing is sure."""
    if style == "4" or len(words_of(text)) < _LANGUAGE_WORDS:
        return True
    found, confidence = language(text)
    return found == "en" or confidence < _LANGUAGE_CONFIDENCE


def _unique(pairs: list[tuple[str, object]]) -> dict:
    keys = [key for key, _ in pairs]
    if len(set(keys)) < len(keys):
        raise ValueError(f"a key twice in {keys}")
    return dict(pairs)


def _no_constant(name: str):
    raise ValueError(f"{name} is no JSON number")
