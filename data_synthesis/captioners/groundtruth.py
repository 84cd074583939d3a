"""The captioner that knows the truth: texts of the world's scene graphs, on a CPU.

Equal requests give equal bytes. It is the default of tests and what others are measured
against; it looks at no pixel.
"""

import json
import pathlib
import random
from collections.abc import Iterator, Sequence

from data_synthesis import profiles, shards, validation
from data_synthesis.captioners import templates
from data_synthesis.captioners.base import Outcome, Request, Response
from data_synthesis.world import lexicon as lex
from data_synthesis.world import scene as graph
from data_synthesis.world.grammar import Teller, capital
from gve_jax.types import UserError

_TRIES = 200


class GroundTruth:
    """Answers requests about videos that `truth.jsonl` of a world has rows for."""

    id = "groundtruth"

    def __init__(self, path: pathlib.Path):
        """Raises UserError if there is no such file, or it is another one."""
        self._rows = {}
        try:
            self.fingerprint = shards.file_sha256(path)
            for line in path.read_text(encoding="utf-8").splitlines():
                row = json.loads(line)
                self._rows[row["id"]] = row
        except (OSError, ValueError, KeyError, TypeError) as e:
            raise UserError(
                f"config.caption.truth={path}: not a world's truth.jsonl ({e!r}); a "
                "world is made by python -m data_synthesis.world"
            ) from None

    def generate(self, requests: Sequence[Request]) -> Iterator[tuple[int, Response]]:
        for place, request in enumerate(requests):
            yield place, self._answer(request)

    def close(self) -> None:
        """There is nothing to end."""

    def _answer(self, request: Request) -> Response:
        facts = request.facts
        for name in ("name", "reference"):
            if name in facts and facts[name] not in self._rows:
                detail = f"the truth has no {facts[name]!r}"
                return Response(Outcome.FATAL, detail=detail)
        try:
            value = self._value(request)
        except templates.Untold as e:
            return Response(Outcome.FATAL, detail=str(e))
        text = json.dumps(value, ensure_ascii=False)
        # Words stand for tokens: there are none.
        counts = (len(s.split()) for s in (request.prompt, text))
        return Response(Outcome.SUCCESS, text, *counts)

    def _value(self, request: Request) -> dict[str, str]:
        facts, rng = request.facts, random.Random(request.seed)
        video = video_of(self._rows[facts["name"]])
        if request.kind in ("image_query", "clip_query"):
            reference = video_of(self._rows[facts["reference"]])
            return {"query": _query(video, reference, request, rng)}
        level = profiles.READABILITY.index(facts["readability"])
        if request.kind == "frame":
            scene, u = moment(video, float(facts["time"]))
            value = templates.of_still(scene, u, level, rng)
        else:
            means = zip(profiles.PARTS, profiles.MEAN, strict=True)
            shares = {part: int(facts.get(part, 100 * m)) / 100 for part, m in means}
            value = templates.of_video(video, shares, level, rng)
        return {key: value[key] for key in request.schema["required"]}


def video_of(row: dict) -> graph.Video:
    """The scene graph of a line of truth.jsonl."""
    scenes = tuple(
        graph.Scene(
            **scene
            | {
                "things": tuple(graph.Thing(**thing) for thing in scene["things"]),
                "events": tuple(graph.Event(**event) for event in scene["events"]),
                "camera": tuple(graph.CameraMove(**move) for move in scene["camera"]),
            }
        )
        for scene in row["scenes"]
    )
    return graph.Video(row["id"], row["split"], row["pool"], scenes)


def moment(video: graph.Video, seconds: float) -> tuple[graph.Scene, float]:
    """The scene that is on at a time, and the time within it, 0 to 1."""
    for scene, (start, end) in zip(video.scenes, video.spans(), strict=True):
        if seconds < end or scene is video.scenes[-1]:
            return scene, min(max((seconds - start) / (end - start), 0.0), 1.0)
    raise AssertionError(f"{video.id} has no scene")


def _query(
    video: graph.Video, reference: graph.Video, request: Request, rng: random.Random
) -> str:
    """What to look for, said with a reference that shows one thing of it, or not."""
    shown, u = moment(reference, float(request.facts["time"]))
    clip = request.kind == "clip_query"
    scenes = video.scenes
    if request.facts["relation"] == "continuation" and shown in scenes[:-1]:
        scenes = scenes[scenes.index(shown) + 1 :]
    for _ in range(_TRIES):
        text = _worded(rng.choice(scenes), shown, u, clip, rng)
        faults = validation.query({"query": text}, clip=clip)
        if not faults or (not clip and not validation.fatal(faults)):
            return text
    raise templates.Untold(f"no query in {_TRIES} tries, as {text!r}: {faults}")


def _worded(
    scene: graph.Scene, shown: graph.Scene, u: float, clip: bool, rng: random.Random
) -> str:
    t = Teller(scene, rng)
    t.most = 1 if clip else 2  # events told
    medium = "reference clip" if clip else "reference image"
    in_sight = [shown.things[i] for i, _, _ in templates.seen(shown, u)]
    elsewhere = t.chance(0.3 if scene.theme == shown.theme else 0.6 if clip else 1.0)
    where = f" {t.theme()}" if elsewhere else ""
    event = scene.events_of(0)[0]
    same = [thing for thing in in_sight if thing.identity == scene.things[0].identity]
    if not same:
        noun, moves = t.noun(0), t.move(event, gerund=True, pace=0.3)
        if not in_sight or clip:
            return f"Unlike in the {medium}, now {noun} {moves}{where}."
        gone = in_sight[0]
        colour = t.pick(lex.COLOURS[gone.colour])
        shape = t.pick(lex.SHAPES[gone.shape])
        return (
            f"Instead of the {colour} {shape} from the {medium}, {noun} {moves}{where}."
        )
    # One attribute: with shape and colour the text alone would find it.
    thing, word = same[0], t.pick(("object", "shape"))
    look = t.pick(lex.COLOURS[thing.colour])
    if thing.texture != "plain" and t.chance(0.5):
        look = t.pick(lex.TEXTURES[thing.texture])
    hero = f"the {look} {word} from the {medium}"
    if t.chance(0.5):
        return f"{capital(hero)}, now {t.moves(0, gerund=True)}{where}."
    return f"{capital(hero)} now {t.moves(0)}{where}."
