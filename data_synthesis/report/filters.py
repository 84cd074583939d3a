"""The filters of `decide`: which codes are whose, and which number each compares."""

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from data_synthesis.record import Record

# In the order in which a record is said to leave; all that is no other's is a text's.
FILTERS = ("text", "video", "motion", "duplicates", "benchmark", "consistency")
_FILTER_OF = {
    "few_frames": "video", "small": "video", "large": "video", "long": "video",
    "frames_lost": "video", "static": "motion", "frozen": "motion",
    "benchmark": "benchmark", "inconsistent": "consistency",
}  # fmt: skip


class Threshold(NamedTuple):
    """`value(record)` is None where it does not apply; `least`: the limit is a floor.

    `code` is the reason of a record beyond the limit.
    """

    code: str
    name: str
    key: str  # of the configuration
    limit: float
    least: bool
    value: Callable[[Record], float | None]

    def passes(self, values: np.ndarray, limit: float) -> np.ndarray:
        return values >= limit if self.least else values <= limit


def filter_of(code: str) -> str:
    if code.startswith("duplicate_"):
        return "duplicates"
    return _FILTER_OF.get(code, "text")


def thresholds(config, calibration: dict) -> list[Threshold]:
    """Those with a number. `calibration` is that of `embed`; without one it is off."""
    return list(_thresholds(config, calibration))


def _thresholds(config, calibration: dict) -> Iterator[Threshold]:
    text, media, motion = config.text, config.media, config.motion
    floor, ceiling = True, False
    yield Threshold("too_short", "words of the text", "text.min_words",
                    text.min_words, floor, _score("text.words"))  # fmt: skip
    yield Threshold("too_long", "words of the text, at most", "text.max_words",
                    text.max_words, ceiling, _score("text.words"))  # fmt: skip
    yield Threshold("few_letters", "letters, share", "text.min_alnum",
                    text.min_alnum, floor, _score("text.alnum"))  # fmt: skip
    yield Threshold("special_characters", "special characters, share",
                    "text.max_special", text.max_special, ceiling,
                    _score("text.special"))  # fmt: skip
    yield Threshold("repeated_bigram", "most frequent pair of words, share",
                    "text.max_bigram", text.max_bigram, ceiling,
                    _score("text.bigram", from_words=15))  # fmt: skip
    yield Threshold("repeated_word", "most frequent word, share", "text.max_word",
                    text.max_word, ceiling,
                    _score("text.word", from_words=text.min_words))  # fmt: skip
    yield Threshold("shared_text", "videos of a text", "text.max_videos",
                    text.max_videos, ceiling,
                    lambda record: record.group.text_videos)  # fmt: skip
    yield Threshold("few_frames", "frames", "media.min_frames", media.min_frames, floor,
                    lambda record: record.source.num_frames)  # fmt: skip
    yield Threshold("small", "short side, pixels", "media.min_side", media.min_side,
                    floor, _side(min))  # fmt: skip
    yield Threshold("large", "long side, pixels", "media.max_side", media.max_side,
                    ceiling, _side(max))  # fmt: skip
    yield Threshold("long", "duration, seconds", "media.max_duration",
                    media.max_duration, ceiling,
                    lambda record: record.source.duration)  # fmt: skip
    yield Threshold("frames_lost", "frames lost, share", "media.max_damage",
                    media.max_damage, ceiling, _lost)  # fmt: skip
    noise_free = motion.preset == "noise_free"
    share = "motion.share_noise_free" if noise_free else "motion.share"
    yield Threshold("static", "moving pairs of frames, share", "motion.min_share",
                    motion.min_share, floor, _score(share))  # fmt: skip
    yield Threshold("frozen", "frozen pairs of frames, share", "motion.max_freeze",
                    motion.max_freeze, ceiling, _score("motion.freeze"))  # fmt: skip
    yield Threshold("language", "confidence in another language",
                    "text.min_language_confidence",
                    _below(text.min_language_confidence), ceiling,
                    _foreign(text))  # fmt: skip
    if calibration.get("filter"):
        yield Threshold("inconsistent", "cosine of text and video", "consistency.tau",
                        calibration["tau"], floor, _score("match.video"))  # fmt: skip
        yield Threshold("duplicate_semantic", "cosine with the nearest video before",
                        "duplicates.min_cosine",
                        _below(config.duplicates.min_cosine), ceiling,
                        _score("match.nearest"))  # fmt: skip


def _below(limit: float) -> float:
    """The last number below, for what a number of the limit itself drops."""
    return math.nextafter(limit, -math.inf)


def _foreign(text) -> Callable[[Record], float | None]:
    """Confidence in a language that is not wanted, of texts that are long enough."""

    def value(record: Record) -> float | None:
        found = record.text
        if not text.language or found.lang == text.language:
            return None
        if record.scores["text.words"].value < text.min_language_words:
            return None
        return found.lang_conf

    return value


def _score(name: str, from_words: int = 0) -> Callable[[Record], float | None]:
    def value(record: Record) -> float | None:
        if name not in record.scores or (
            from_words and record.scores["text.words"].value < from_words
        ):
            return None
        return record.scores[name].value

    return value


def _side(which: Callable) -> Callable[[Record], float]:
    return lambda record: which(record.source.width, record.source.height)


def _lost(record: Record) -> float | None:
    declared = record.scores["video.declared"].value
    return max(0.0, 1 - record.source.num_frames / declared) if declared else None
