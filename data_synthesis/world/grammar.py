"""Sentences about one scene, each with the facts it claims.

A sentence is planned first and worded later from a seed of its own, so that a text can
be cut to length before it is written: only "a" and "the" depend on what came before.
"""

import random
from collections.abc import Callable
from typing import NamedTuple

from data_synthesis.world import lexicon as lex
from data_synthesis.world import lexicon_moves as verbs
from data_synthesis.world import scene as graph


class Sentence(NamedTuple):
    """A planned sentence: what writes it, its seed and its place in the story."""

    write: Callable[["Teller"], str]
    seed: int
    rank: float


def pick(rng: random.Random, options):
    """The first entry about half of the time, else any."""
    return options[0] if rng.random() < 0.45 else rng.choice(options)


def capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def with_article(phrase: str) -> str:
    return ("an " if phrase[0] in "aeiou" else "a ") + phrase


def listing(parts: list[str], last: str = "and") -> str:
    if len(parts) < 2:
        return "".join(parts)
    return ", ".join(parts[:-1]) + f" {last} {parts[-1]}"


class Teller:
    """Words one scene. `facts` collects what has been claimed so far."""

    def __init__(self, scene: graph.Scene, rng: random.Random, index: int = 0):
        self.scene = scene
        self.rng = rng
        self.index = index
        self.facts: list[tuple] = []
        self.known: set[int] = set()
        self.most = 2  # events told of one thing

    def claim(self, *fact) -> None:
        self.facts.append((self.index, *fact))

    def pick(self, options):
        return pick(self.rng, options)

    def chance(self, share: float) -> bool:
        return self.rng.random() < share

    # --- phrases ---

    def noun(self, i: int, attributes=("colour",), article: bool = True) -> str:
        """A noun phrase such as "a small striped red star", "the red star"."""
        thing = self.scene.things[i]
        words, claimed = [], [("shape", thing.shape)]
        for name, table in (
            ("size", lex.SIZES),
            ("texture", lex.TEXTURES),
            ("colour", lex.COLOURS),
        ):
            if name in attributes:
                value = getattr(thing, name)
                words.append(self.pick(table[value]))
                claimed.append((name, value))
        words.append(self.pick(lex.SHAPES[thing.shape]))
        self.claim("thing", i, tuple(claimed))
        phrase = " ".join(words)
        if not article:
            return phrase
        if i in self.known:
            return f"the {phrase}"
        self.known.add(i)
        return with_article(phrase)

    def extras(self, share: float = 0.5) -> tuple[str, ...]:
        """The colour and perhaps size and texture."""
        names = ["colour"]
        names += [n for n in ("size", "texture") if self.chance(share)]
        return tuple(names)

    def theme(self) -> str:
        self.claim("theme", self.scene.theme)
        return self.pick(lex.THEMES[self.scene.theme])

    def mood(self) -> str:
        self.claim("mood", self.scene.mood)
        return self.pick(lex.MOODS[self.scene.mood])

    def move(self, event: graph.Event, gerund: bool = False, pace: float = 0.65) -> str:
        """What an event does, with its pace or without."""
        speed = event.pace if event.pace and self.chance(pace) else None
        self.claim("event", event.who, event.motion, speed)
        return self.pick(verbs.MOVES[event.motion, speed])[gerund]

    def moves(self, i: int, gerund: bool = False) -> str:
        """All that thing i does, in order; "" if it rests."""
        events = self.scene.events_of(i)[: self.most]
        if not events:
            return ""
        parts = [self.move(e, gerund) for e in events]
        if len(events) == 1:
            return parts[0]
        a, b = events[:2]
        self.claim("before", (i, a.motion), (i, b.motion))
        joint = self.pick(
            (" and then ", ", then ", " before it " if not gerund else " and later ")
        )
        return parts[0] + joint + parts[1]

    def place(self, i: int) -> str:
        value = graph.place(self.scene, i)
        self.claim("place", i, value)
        return self.pick(lex.PLACES[value])

    def relation(self, i: int, j: int) -> str | None:
        """ "to the left of the blue ring", or None if there is no clear relation."""
        value = graph.relation(self.scene, i, j)
        if value is None:
            return None
        self.claim("relation", i, value, j)
        return f"{self.pick(lex.RELATIONS[value])} {self.noun(j)}"

    def camera(self, pace: float = 0.8) -> str:
        """ "pans left slowly", "pans left and then zooms in quickly"."""
        parts = []
        for segment in self.scene.camera:
            phrase = self.pick(verbs.CAMERAS[segment.move])
            speed = segment.pace if segment.pace and self.chance(pace) else None
            self.claim("camera", segment.move, speed)
            if speed:
                word = self.pick(verbs.PACES[speed])
                phrase = f"{phrase} {word}" if self.chance(0.5) else f"{word} {phrase}"
            parts.append(phrase)
        if len(parts) > 1:
            self.claim("cameras", tuple(c.move for c in self.scene.camera))
        return self.pick((" and then ", ", then ")).join(parts)

    # --- sentences ---

    def opening(self) -> str:
        n = len(self.scene.things)
        number = lex.NUMBERS[n]
        things = "object" if n == 1 else self.pick(("objects", "shapes"))
        theme = self.theme()
        choice = self.rng.randrange(5)
        if choice == 0:
            return f"This is a scene {theme}."
        if choice == 1:
            noun = self.noun(0, self.extras(0.3))
            return f"{capital(theme)}, {noun} is the main object."
        self.claim("count", n)
        verb = "is" if n == 1 else "are"
        return (
            f"The video shows {number} {things} {theme}.",
            f"{capital(theme)}, there {verb} {number} {things}.",
            f"{capital(number)} {things} can be seen {theme}.",
        )[choice - 2]

    def theme_detail(self, k: int) -> str:
        self.claim("theme", self.scene.theme)
        return lex.THEME_DETAILS[self.scene.theme][k]

    def mood_sentence(self) -> str:
        self.claim("mood", self.scene.mood)
        return self.pick(lex.MOOD_SENTENCES[self.scene.mood])

    def thing(self, i: int) -> str:
        """Look and place of a thing."""
        start = ""
        if graph.appears(self.scene, i):
            self.claim("event", i, "appear", None)
            start = " " + self.pick(("when it appears", "once it has appeared"))
        elif self.scene.travels(i) or self.scene.camera[0].move != "static":
            start = " " + self.pick(("at first", "at the start", "in the beginning"))
        noun = self.noun(i, ("size", "texture", "colour"))
        place = self.place(i)
        if self.scene.layout == "inside" and i == 0:
            return f"{capital(noun)} is found {place}{start}."
        return self.pick(
            (
                f"{capital(noun)} is {place}{start}.",
                f"{capital(place)} of the frame there is {noun}{start}.",
                f"{capital(noun)} can be seen {place}{start}.",
            )
        )

    def relation_sentence(self, i: int, j: int) -> str:
        noun = self.noun(i)
        phrase = self.relation(i, j)
        # Pans and zooms leave relations as they are; a roll turns them.
        rolls = any(c.move.startswith("roll") for c in self.scene.camera)
        if rolls or self.scene.travels(i) or self.scene.travels(j):
            start = self.pick(("At the start", "In the beginning", "At first"))
            return f"{start}, {noun} is {phrase}."
        verb = self.pick(("is", "stands", "is placed"))
        return f"{capital(noun)} {verb} {phrase}."

    def events(self, i: int) -> str:
        """One or two sentences with the events of thing i in order."""
        events = self.scene.events_of(i)
        noun = self.noun(i, self.extras(0.25))
        if len(events) > 1 and self.chance(0.4):
            a, b = events[:2]
            self.claim("before", (i, a.motion), (i, b.motion))
            then = self.pick(("After that, it", "Then it", "Later it", "Next, it"))
            return f"First, {noun} {self.move(a)}. {then} {self.move(b)}."
        return self.pick(
            (
                f"{capital(noun)} {self.moves(i)}.",
                f"{capital(noun)} is seen {self.moves(i, gerund=True)}.",
                f"We see {noun} {self.moves(i, gerund=True)}.",
            )
        )

    def timing(self, i: int) -> str:
        """When the only event of thing i happens."""
        event = self.scene.events_of(i)[0]
        noun, move = self.noun(i), self.move(event)
        sudden = event.motion in ("appear", "vanish")
        if event.end - event.start > 0.75 and sudden:
            when = ("Halfway through the clip", "In the middle of the clip")
        elif event.end - event.start > 0.75:
            when = ("During the whole clip", "From start to finish", "All the time")
        elif event.start < 0.25:
            when = ("In the first half", "Early in the clip", "Right at the start")
        else:
            when = ("In the second half", "Toward the end", "Late in the clip")
        return f"{self.pick(when)}, {noun} {move}."

    def still(self, i: int) -> str:
        self.claim("still", i)
        noun = self.noun(i)
        verb = self.pick(
            ("stays still", "does not move", "remains in its place", "rests quietly")
        )
        return f"{capital(noun)} {verb}."

    def order(self, i: int, j: int) -> str:
        """Thing i acts before thing j: their first such events are passed over."""
        a, b = self.scene.events_of(i)[0], self.scene.events_of(j)[-1]
        self.claim("before", (i, a.motion), (j, b.motion))
        first = f"{self.noun(i)} {self.move(a, pace=0.2)}"
        second = f"{self.noun(j)} {self.move(b, pace=0.2)}"
        return self.pick(
            (
                f"First {first}, then {second}.",
                f"{capital(first)} before {second}.",
                f"After {first}, {second}.",
            )
        )

    def move_detail(self, i: int) -> str:
        noun = self.noun(i)
        event = self.scene.events_of(i)[0]
        self.claim("event", i, event.motion, None)
        text = self.pick(verbs.MOVE_DETAILS[event.motion])
        lead = self.pick(("See how", "Watch how", "Notice how"))
        if "{" in text:
            text = text.replace("{it}", noun).replace("{It}", capital(noun))
            return text
        return f"{lead} {noun} {self.move(event, pace=0.2)}. {text}"

    def texture(self, i: int) -> str:
        thing = self.scene.things[i]
        noun = self.noun(i)
        self.claim("thing", i, (("texture", thing.texture),))
        text = self.pick(lex.TEXTURE_SENTENCES[thing.texture])
        return text.replace("{it}", noun).replace("{It}", capital(noun))

    def shape(self, i: int) -> str:
        thing = self.scene.things[i]
        noun = self.noun(i, ("size", "colour"))
        detail = self.pick(lex.SHAPE_SENTENCES[thing.shape])
        lead = self.pick(("There is", "Notice", "Look at", "Here is"))
        return f"{lead} {noun}. {detail}"

    def camera_sentence(self) -> str:
        return f"The camera {self.camera()}."

    def camera_detail(self) -> str:
        segment = self.scene.camera[-1]
        self.claim("camera", segment.move, None)
        return self.pick(verbs.CAMERA_DETAILS[segment.move])

    def count(self) -> str:
        n = len(self.scene.things)
        self.claim("count", n)
        number = lex.NUMBERS[n]
        if n == 1:
            return self.pick(
                (
                    "No other object is around.",
                    "There is only one object in the whole video.",
                    "Apart from the main object, the scene is empty.",
                )
            )
        return self.pick(
            (
                f"There are {number} objects in total.",
                f"Altogether {number} objects are visible.",
                f"In all, {number} different shapes can be counted.",
            )
        )

    def colours(self) -> str:
        words = []
        for i, thing in enumerate(self.scene.things):
            self.claim("thing", i, (("colour", thing.colour),))
            words.append(self.pick(lex.COLOURS[thing.colour]))
        if len(words) == 1:
            return f"The color of the object is {words[0]}."
        return f"The colors of the objects are {listing(words)}."

    def summary(self) -> str:
        noun = self.noun(0, ("colour",))
        nouns = self.pick(lex.THEME_NOUNS[self.scene.theme])
        self.claim("theme", self.scene.theme)
        return self.pick(
            (
                f"All in all, {noun} is the main object in this {self.mood()} {nouns}.",
                f"The clip is about {noun} in a {self.mood()} {nouns}.",
                f"In short, this {self.mood()} {nouns} belongs to {noun}.",
            )
        ).replace("a icy", "an icy")

    def length(self) -> str:
        seconds = lex.NUMBERS.get(round(self.scene.seconds), "a few")
        return self.pick(
            (
                f"The shot takes about {seconds} seconds without any cut.",
                "The scene is filmed in a single shot without a cut.",
                "Nothing else happens in this short clip.",
            )
        )
