"""What the videos of UVRB-mini show, from the truth of the procedural world."""

import json
import pathlib
import re
from collections.abc import Sequence

from data_synthesis.world import scene as graph
from eval.probes.records import NotRun
from gve_jax.types import Item, UserError

# Of the main object unless said otherwise.
ATTRIBUTES = (
    "shape",
    "colour",
    "size",
    "texture",
    "motion",  # which motions, in whatever order
    "pace",
    "order",  # of two motions, between videos that have the same ones
    "camera",
    "relation",  # of the first two objects
    "number",  # of objects
    "scene",
    "mood",
)
_CLIP = re.compile(r"(.+)-Scene-(\d+)")


def find(root: str) -> pathlib.Path | None:
    """The world whose UVRB-mini lies in the folder `root`, or None."""
    world = pathlib.Path(root).absolute().parent
    return world if (world / "truth.jsonl").is_file() else None


def read(world: pathlib.Path) -> dict[str, tuple[graph.Scene, ...]]:
    """Video id -> its scenes, of the videos of UVRB-mini.

    Raises:
      UserError: the file of the truth cannot be read.
    """
    path = world / "truth.jsonl"
    found = {}
    try:
        with open(path, encoding="utf-8") as lines:
            for line in lines:
                row = json.loads(line)
                if row["file"].startswith("uvrb_mini/"):
                    found[row["id"]] = tuple(map(_scene, row["scenes"]))
    except (KeyError, TypeError, ValueError) as e:
        raise UserError(f"{path}: not the truth of a world ({e!r})") from None
    return found


def scenes_of(
    items: Sequence[Item], truth: dict[str, tuple[graph.Scene, ...]]
) -> list[tuple[graph.Scene, ...]]:
    """The scenes that each item's video shows.

    Raises:
      NotRun: the truth does not know a video.
    """
    found = []
    for item in items:
        name = pathlib.Path(item.video or "").stem
        clip = _CLIP.fullmatch(name)
        scenes = truth.get(clip[1] if clip else name)
        if scenes is None:
            raise NotRun(
                f"the world's truth.jsonl does not tell what {item.id} shows "
                f"({item.video}): leave its dataset out with --datasets"
            )
        found.append((scenes[int(clip[2]) - 1],) if clip else scenes)
    return found


def attributes(scene: graph.Scene) -> dict:
    """Value of each attribute; None where it has none."""
    main = scene.things[0]
    events = scene.events_of(0)
    motions = tuple(e.motion for e in events)
    return {
        "shape": main.shape,
        "colour": main.colour,
        "size": main.size,
        "texture": main.texture,
        "motion": tuple(sorted(set(motions))),
        "pace": next((e.pace for e in events if e.pace), None),
        "order": motions if len(set(motions)) > 1 else None,
        "camera": tuple(c.move for c in scene.camera),
        "relation": graph.relation(scene, 0, 1) if len(scene.things) > 1 else None,
        "number": len(scene.things),
        "scene": scene.theme,
        "mood": scene.mood,
    }


def _scene(row: dict) -> graph.Scene:
    return graph.Scene(
        **row
        | {
            "things": tuple(graph.Thing(**thing) for thing in row["things"]),
            "events": tuple(graph.Event(**event) for event in row["events"]),
            "camera": tuple(graph.CameraMove(**move) for move in row["camera"]),
        }
    )
