"""Queries of UVRB-mini in other words, by the lexicon that they were written with.

Each phrase of the lexicon becomes the next one of its list, which says the same of the
same thing: "a small red star spins" becomes "a little crimson five-pointed star rotates
in place". Facts, their order and the sentences stay. Only for the world's own texts:
in others the same words may mean something else.
"""

import functools
import re
from collections.abc import Iterator

from data_synthesis.world import lexicon as lex
from data_synthesis.world import lexicon_moves as moves

_SWAPPED = (
    lex.SHAPES, lex.COLOURS, lex.SIZES, lex.TEXTURES, lex.THEMES, lex.THEME_NOUNS,
    lex.MOODS, lex.MOOD_SENTENCES, lex.RELATIONS, lex.PLACES, moves.CAMERAS,
    moves.CAMERA_KEYWORDS, moves.PACES,
)  # fmt: skip
# Sentences in which these words speak of something else; "{it}" stands for a thing.
_KEPT = (
    lex.THEME_DETAILS, lex.TEXTURE_SENTENCES, lex.SHAPE_SENTENCES, moves.MOVE_DETAILS,
    moves.CAMERA_DETAILS,
)  # fmt: skip
# The same in the grammar's own sentences.
_KEPT_PHRASES = (
    "a little story", "in the middle of the clip", "is around", "when it appears",
)  # fmt: skip


def reword(text: str) -> str:
    """The text with each phrase of the lexicon replaced by its next synonym."""
    pattern, after = _table()

    def swap(found: re.Match) -> str:
        phrase = found.group()
        new = after[phrase.lower()]
        return new[0].upper() + new[1:] if phrase[0].isupper() else new

    new = pattern.sub(swap, text)
    return re.sub(r"\b([Aa])n? (?=(\w))", _article, new)


def _article(found: re.Match) -> str:
    return found.group(1) + ("n " if found.group(2).lower() in "aeiou" else " ")


@functools.cache
def _table() -> tuple[re.Pattern, dict[str, str]]:
    """What is looked for, longest first, and phrase -> its next synonym."""
    after: dict[str, str] = {}
    for phrases in _lists():
        for phrase, following in zip(phrases, phrases[1:] + phrases[:1], strict=True):
            # A phrase of two lists means the same in both: the first counts.
            after.setdefault(phrase.lower(), following)
    kept = [
        piece.strip()
        for table in _KEPT
        for options in table.values()
        for option in options
        for piece in re.split(r"\{[Ii]t\}", option)
        if piece.strip(" .")
    ]
    after |= {piece.lower(): piece for piece in (*kept, *_KEPT_PHRASES)}
    ordered = sorted(after, key=len, reverse=True)
    either = "|".join(map(re.escape, ordered))
    return re.compile(rf"(?<![\w-])(?:{either})(?![\w-])", re.IGNORECASE), after


def _lists() -> Iterator[tuple[str, ...]]:
    """Lists of phrases that say the same, in one grammatical form."""
    for pairs in moves.MOVES.values():
        yield from zip(*pairs, strict=True)  # the third person, then the gerund
    yield from moves.MOVE_KEYWORDS.values()
    for table in _SWAPPED:
        yield from table.values()
