"""Texts of several sentences: which must stand, which may fill up, in what order."""

import random
from collections.abc import Callable

from data_synthesis.world import motion
from data_synthesis.world import scene as graph
from data_synthesis.world.grammar import Sentence, Teller

# Form -> (fewest, most) words.
WORDS = {
    "concise": (10, 25),
    "rich": (101, 200),
    "abstract": (30, 100),
    "keywords": (5, 30),
    "partial": (10, 70),
    "short": (6, 16),
    "general": (40, 70),
    "spatial": (30, 70),
    "temporal": (30, 70),
    "object": (30, 50),
    "detailed": (80, 150),
    "camera": (8, 25),
    "event": (4, 10),
    "theme": (15, 40),
    "moments": (20, 40),
    "long": (150, 300),
}


def _never_meet(scene: graph.Scene, i: int, j: int) -> bool:
    """Whether one thing may have left its place before the other is seen."""
    if not (graph.appears(scene, i) or graph.appears(scene, j)):
        return False
    events = (*scene.events_of(i), *scene.events_of(j))
    rolls = any(c.move.startswith("roll") for c in scene.camera)
    return rolls or any(e.motion in motion.LEAVING for e in events)


class _Plan:
    """Collects sentences: those that must stand and those that may fill up."""

    def __init__(self, scene: graph.Scene, rng: random.Random):
        self.scene, self.rng = scene, rng
        self.must: list[Sentence] = []
        self.may: list[Sentence] = []
        count = len(scene.things)
        self.pairs = [
            (i, j)
            for i in range(count)
            for j in range(i + 1, count)
            if graph.relation(scene, i, j) and not _never_meet(scene, i, j)
        ]
        self.active = [i for i in range(count) if scene.events_of(i)]
        self.resting = [i for i in range(count) if not scene.events_of(i)]

    def add(self, to: list, rank: float, write: Callable[[Teller], str]) -> None:
        seed = self.rng.getrandbits(48)
        to.append(Sentence(write, seed, rank + self.rng.random()))

    def opening(self, to) -> None:
        self.add(to, self.rng.choice((0, 0, 0, 8)), Teller.opening)

    def mood(self, to) -> None:
        self.add(to, self.rng.choice((1, 8)), Teller.mood_sentence)

    def scenery(self, to, most=4) -> None:
        for k in self.rng.sample(range(4), most):
            self.add(to, 1, lambda t, k=k: t.theme_detail(k))

    def things(self, to, who) -> None:
        for i in who:
            self.add(to, 2 + i / 8, lambda t, i=i: t.thing(i))

    def relations(self, to, most=9) -> None:
        for i, j in self.pairs[:most]:
            if self.rng.random() < 0.5:
                i, j = j, i
            self.add(to, 3.5, lambda t, i=i, j=j: t.relation_sentence(i, j))

    def actions(self, to, who) -> None:
        for i in who:
            start = self.scene.events_of(i)[0].start
            self.add(to, 5 + start, lambda t, i=i: t.events(i))

    def timings(self, to) -> None:
        for i in self.active:
            if len(self.scene.events_of(i)) == 1:
                self.add(to, 6, lambda t, i=i: t.timing(i))
                self.add(to, 6.3, lambda t, i=i: t.move_detail(i))

    def orders(self, to) -> None:
        for i in self.active:
            for j in self.active:
                a, b = self.scene.events_of(i)[0], self.scene.events_of(j)[-1]
                if i != j and a.start < b.start:
                    self.add(to, 6, lambda t, i=i, j=j: t.order(i, j))

    def rests(self, to) -> None:
        for i in self.resting:
            self.add(to, 6.5, lambda t, i=i: t.still(i))

    def details(self, to, who) -> None:
        for i in who:
            self.add(to, 3 + i / 8, lambda t, i=i: t.texture(i))
            self.add(to, 3 + i / 8, lambda t, i=i: t.shape(i))

    def camera(self, to) -> None:
        self.add(to, 7, Teller.camera_sentence)

    def fillers(self) -> None:
        """What any scene allows, in the order in which it is worth telling."""
        self.add(self.may, 4, Teller.count)
        self.add(self.may, 8, Teller.summary)
        self.add(self.may, 7.5, Teller.camera_detail)
        self.add(self.may, 4, Teller.colours)
        self.add(self.may, 8.5, Teller.length)

    def shuffled(self) -> "_Plan":
        self.rng.shuffle(self.may)
        return self

    @property
    def both(self) -> tuple[list[Sentence], list[Sentence]]:
        return self.must, self.may


def plan_general(scene, rng):
    p = _Plan(scene, rng)
    p.opening(p.must)
    p.actions(p.must, [0])
    p.things(p.may, range(1, len(scene.things)))
    p.actions(p.may, p.active[1:])
    p.mood(p.may)
    p.relations(p.may, 2)
    p.camera(p.may)
    p.scenery(p.may, 2)
    p.shuffled()
    p.rests(p.may)
    p.fillers()
    p.details(p.may, range(len(scene.things)))
    return p.both


def _plan_spatial(scene, rng):
    p = _Plan(scene, rng)
    p.things(p.must, range(min(3, len(scene.things))))
    p.relations(p.may)
    p.shuffled()
    p.opening(p.must)
    p.scenery(p.may, 2)
    p.details(p.may, range(len(scene.things)))
    p.add(p.may, 4, Teller.count)
    p.add(p.may, 4, Teller.colours)
    return p.both


def _plan_temporal(scene, rng):
    p = _Plan(scene, rng)
    p.actions(p.must, p.active)
    p.orders(p.may)
    p.camera(p.may)
    p.timings(p.may)
    p.shuffled()
    p.rests(p.may)
    p.opening(p.may)
    p.fillers()
    p.scenery(p.may, 3)
    return p.both


def _plan_object(scene, rng):
    p = _Plan(scene, rng)
    p.things(p.must, [0])
    p.actions(p.must, [0])
    p.details(p.may, [0])
    p.relations(p.may, 1)
    p.shuffled()
    p.things(p.may, range(1, len(scene.things)))
    p.fillers()
    p.scenery(p.may, 2)
    return p.both


def _plan_detailed(scene, rng):
    p = _Plan(scene, rng)
    count = range(len(scene.things))
    p.opening(p.must)
    p.things(p.must, count)
    p.actions(p.must, p.active)
    p.camera(p.must)
    p.mood(p.may)
    p.scenery(p.may, 2)
    p.relations(p.may, 3)
    p.rests(p.may)
    p.timings(p.may)
    p.shuffled()
    p.orders(p.may)
    p.details(p.may, count)
    p.fillers()
    p.scenery(p.may, 4)
    return p.both


def _plan_abstract(scene, rng):
    p = _Plan(scene, rng)
    p.mood(p.must)
    p.add(p.must, 9, Teller.summary)
    p.add(p.may, 5, lambda t: t.events(0))
    p.opening(p.may)
    p.scenery(p.may, 2)
    p.add(p.may, 4, Teller.count)
    p.add(p.may, 4, Teller.colours)
    p.shuffled()
    p.fillers()
    return p.must, p.may


def _plan_partial(scene, rng):
    """One corner of the scene: a side figure, a relation, an action, the camera."""
    p = _Plan(scene, rng)
    count = len(scene.things)
    topics = ["action", "look"]
    topics += ["others"] * 2 if count > 1 else []
    topics += ["relation"] if p.pairs else []
    topics += ["camera"] if scene.camera[0].move != "static" else []
    topic = rng.choice(topics)
    if topic == "action":
        p.actions(p.must, [0])
    elif topic == "look":
        p.things(p.must, [0])
    elif topic == "others":
        p.things(p.must, [rng.randrange(1, count)])
    elif topic == "relation":
        i, j = rng.choice(p.pairs)
        p.add(p.must, 1, lambda t: t.relation_sentence(i, j))
    else:
        p.camera(p.must)
        p.add(p.must, 8, lambda t: f"It passes {t.noun(0)} {t.theme()}.")
    p.opening(p.may)
    p.mood(p.may)
    p.scenery(p.may, 1)
    p.shuffled()
    return p.both


PLANS = {
    "rich": _plan_detailed,
    "abstract": _plan_abstract,
    "partial": _plan_partial,
    "general": plan_general,
    "spatial": _plan_spatial,
    "temporal": _plan_temporal,
    "object": _plan_object,
    "detailed": _plan_detailed,
}


def compose(
    scene: graph.Scene,
    rng: random.Random,
    plan: tuple[list[Sentence], list[Sentence]],
    low: int,
    high: int,
    index: int = 0,
) -> tuple[str, tuple]:
    """Writes what must stand and as much of the rest as the length wants.

    Args:
      plan: sentences that must stand, and others in order of worth.
      low: fewest words; high: most words.
      index: number of the scene in its video.

    Returns:
      The text and its facts.
    """
    must, may = plan
    # Aim inside the range, so that lengths vary.
    aim = rng.uniform(low, low + 0.6 * (high - low))
    chosen: list[Sentence] = []
    texts: set[str] = set()
    claimed: set[tuple] = set()
    total = 0
    # What was passed over as a repetition gets a second chance if words are wanting.
    for fresh, goal in ((True, aim), (False, low)):
        for sentence in (*must, *may):
            required = fresh and sentence in must
            if sentence in chosen or (not required and total >= goal):
                continue
            trial = Teller(scene, random.Random(sentence.seed), index)
            text = sentence.write(trial)
            words = len(text.split())
            optional = fresh and not required
            again = optional and _repeats(sentence, trial, chosen, claimed)
            if again or text in texts or (total + words > high and total):
                continue
            chosen.append(sentence)
            texts.add(text)
            claimed.update(trial.facts)
            total += words
    chosen.sort(key=lambda s: s.rank)
    teller = Teller(scene, rng, index)
    parts = []
    for sentence in chosen:
        teller.rng = random.Random(sentence.seed)
        parts.append(sentence.write(teller))
    text = " ".join(parts)
    if not low <= total <= high:
        raise AssertionError(f"{total} words, not {low}-{high}: {text} ({scene})")
    return text, tuple(dict.fromkeys(teller.facts))


def _repeats(sentence, trial, chosen, claimed) -> bool:
    """Whether a sentence says what has been said: the count, or its own kind again."""
    counts = any(f[1] == "count" and f in claimed for f in trial.facts)
    kind = sentence.write
    own = kind in (Teller.summary, Teller.colours, Teller.opening, Teller.length)
    return counts or (own and any(s.write is kind for s in chosen))
