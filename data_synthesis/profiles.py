"""What captions are about and for whom: profile, reading level, and how both measure.

A profile says how the words of a caption are spread over what is where ("spatial"),
what happens ("temporal") and all else ("other"). The paper wants 30, 60 and 10 per cent
on average, but its prompt has ranges; see `MODES`.
"""

import functools
import re

import numpy as np
import pyphen

from data_synthesis import draws
from data_synthesis.rectify import words_of

PARTS = ("spatial", "temporal", "other")
MEAN = (0.3, 0.6, 0.1)
# Ranges of the paper's prompt, whose 0-20 for the theme and 0-10 for the rest are one.
RANGES = ((30, 60), (30, 60), (0, 30))
STEP = 5
_CONCENTRATION = 20.0
# "profile": numbers drawn around the mean, within the ranges; "focus": the set is about
# one part alone, which the mean decides; "prompt_ranges": no numbers, the ranges.
MODES = ("profile", "focus", "prompt_ranges")

READABILITY = ("very easy", "easy", "standard", "fairly difficult", "difficult")
EDUCATION = (
    "primary school", "middle school", "high school", "undergraduate", "postgraduate",
)  # fmt: skip

_ABOUT = {
    "spatial": "what there is, how it looks and where it is",
    "temporal": "what happens, how it moves and in which order",
    "other": "mood, theme and all else",
}
_FRAME_LINE = (
    "Spread the words of the longer descriptions about so: 50 to 70 per cent on what "
    "there is and where it is, up to 30 per cent on what is going on, 10 to 20 per "
    "cent on the theme, up to 10 per cent on all else."
)

# Words that make a clause one of time or of space: an estimate, never a filter.
_TEMPORAL = re.compile(
    r"\b(?:(?!(?:every|some|no|any)thing|building|evening|morning|ceiling|living|during"
    r"|glowing|standing|hanging|surrounding|striking)\w{3,}ing|then|next|after|before"
    r"|later|first|finally|during|until|start|end|slowly|quickly|rapidly|gently"
    r"|gradually|suddenly|early|late|halfway|moves?|goes|runs?|walks?|turns?|rises"
    r"|falls|sinks|drifts|slides|spins|rotates|grows|shrinks|expands|appears"
    r"|vanishes|disappears|fades|bounces|sways|swings|flashes|blinks|jumps|dashes|races"
    r"|floats|climbs|creeps|travels|circles|pulses|gets|changes?|stays|camera|pans"
    r"|tilts|zooms|rolls|shakes)\b",
    re.IGNORECASE,
)
_SPATIAL = re.compile(
    r"\b(?:left|right|top|bottom|upper|lower|middle|cent(?:er|re)|corners?|sides?|above"
    r"|below|behind|front|beside|inside|around|between|near|background|foreground|small"
    r"|little|tiny|large|big|huge|round|red|orange|yellow|green|blue|cyan|turquoise"
    r"|purple|violet|pink|brown|white|black|gr[ae]y|golden|striped|stripes|dotted|dots"
    r"|spotted|plain|checkered|surface|pattern|shapes?|objects?|colou?rs?)\b",
    re.IGNORECASE,
)


def draw(seed: int, key: str, mode: str) -> dict[str, int]:
    """Per cent of each part, summing to 100; {} where the prompt has ranges instead."""
    if mode == "prompt_ranges":
        return {}
    if mode == "focus":
        place = draws.uniform(seed, key, "focus")
        focus = int(np.searchsorted(np.cumsum(MEAN)[:-1], place, side="right"))
        return {part: 100 * (i == focus) for i, part in enumerate(PARTS)}
    rng = draws.generator(seed, key, "profile")
    low, high = np.array(RANGES).T
    shares = 100 * rng.dirichlet(_CONCENTRATION * np.array(MEAN))
    clipped = np.clip(shares, low, high)
    # Nearest steps that sum to 100 and keep to the ranges: one step at a time.
    steps = np.round(clipped / clipped.sum() * 100 / STEP).astype(int)
    steps = np.clip(steps, low // STEP, high // STEP)
    while (left := 100 // STEP - steps.sum()) != 0:
        way = np.sign(left)
        room = np.where(way > 0, high - steps * STEP, steps * STEP - low)
        wish = way * (clipped - steps * STEP)
        steps[np.argmax(np.where(room >= STEP, wish, -np.inf))] += way
    return {part: int(n) * STEP for part, n in zip(PARTS, steps, strict=True)}


def line(profile: dict[str, int], kind: str) -> str:
    """The sentence of the prompt that asks for a profile."""
    if kind == "frame":
        return _FRAME_LINE
    if profile:
        parts = [f"{profile[p]} per cent on {_ABOUT[p]}" for p in PARTS if profile[p]]
    else:
        parts = [
            f"{low} to {high} per cent on {_ABOUT[part]}"
            for part, (low, high) in zip(PARTS, RANGES, strict=True)
        ]
    return f"Spread the words of each description about so: {', '.join(parts)}."


def slots(seed: int, key: str) -> tuple[str, str]:
    """(readability, education level) that fit each other.

    Every reading level is as likely; of the educations, its own and those beside it.
    """
    level = int(draws.uniform(seed, key, "readability") * len(READABILITY))
    near = EDUCATION[max(level - 1, 0) : level + 2]
    place = int(draws.uniform(seed, key, "education") * len(near))
    return READABILITY[level], near[place]


def grade(text: str) -> float:
    """Flesch-Kincaid grade: years of school that a reader needs; 0 for no words.

    0.39 words a sentence + 11.8 syllables a word - 15.59 (Kincaid et al. 1975), with
    the syllables counted as places of hyphenation: somewhat too few.
    """
    words = words_of(text)
    if not words:
        return 0.0
    sentences = max(1, len(re.findall(r"[.!?]+(?=\s|$)", text)))
    syllables = sum(map(_syllables, words))
    value = 0.39 * len(words) / sentences + 11.8 * syllables / len(words) - 15.59
    return round(value, 2)


def estimate(text: str) -> dict[str, float]:
    """Shares of the words in clauses that tell of time, else of space, else neither.

    By a lexicon of common words; summing to 1, and {} for no words.
    """
    words = dict.fromkeys(PARTS, 0)
    for clause in re.split(r"[.;!?]", text):
        temporal, spatial = _TEMPORAL.search(clause), _SPATIAL.search(clause)
        part = "temporal" if temporal else "spatial" if spatial else "other"
        words[part] += len(words_of(clause))
    total = sum(words.values())
    return {part: n / total for part, n in words.items()} if total else {}


@functools.cache
def _dictionary() -> pyphen.Pyphen:
    return pyphen.Pyphen(lang="en_US")


@functools.lru_cache(1 << 16)
def _syllables(word: str) -> int:
    return len(_dictionary().positions(word)) + 1
