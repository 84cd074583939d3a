"""Hallucination audit: what captions claim of renders whose scene graphs are known.

python -m data_synthesis.audit --captioner=groundtruth --output=runs/audit \
    --baseline=data_synthesis/audit_baseline.json

Renders the same single scenes each time, has them captioned, and says for each kind of
fact which share of the claims is true (precision) and which share of the truth is
claimed (recall), over the five captions of a scene together. It fails where one is more
than 0.05 below the baseline.
"""

import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from absl import flags
from ml_collections import FrozenConfigDict, config_flags

from data_synthesis import claims, draws, profiles, requests, shards
from data_synthesis.asking import Answered, ask
from data_synthesis.captioners import choice
from data_synthesis.captioners.base import Captioner, Medium
from data_synthesis.captioners.cache import Cached
from data_synthesis.config import default_config
from data_synthesis.record import Record, Source, Text
from data_synthesis.world.jobs import Job, run_jobs
from data_synthesis.world.scene import Video, sample_scene, stream
from gve_jax import disk
from gve_jax.main import run
from gve_jax.types import UserError

ALLOWED = 0.05  # that a number may fall below the baseline
_SEED = 6  # of the scenes: always the same


class Tally(NamedTuple):
    """Of one kind of fact: claims made and right, facts there and claimed."""

    claimed: int = 0
    right: int = 0
    there: int = 0
    found: int = 0

    @property
    def precision(self) -> float:
        return self.right / self.claimed if self.claimed else 1.0

    @property
    def recall(self) -> float:
        return self.found / self.there if self.there else 1.0


def videos(number: int) -> list[Video]:
    """The fixed scenes."""
    return [
        Video(
            f"audit_{i:04d}", "test", "audit",
            (sample_scene(stream(_SEED, "audit", i), "test"),),
        )
        for i in range(number)
    ]  # fmt: skip


def render(scenes: Sequence[Video], folder: pathlib.Path) -> None:
    """Writes `videos/ID.mp4` and truth.jsonl, as the world does."""
    (folder / "videos").mkdir(parents=True, exist_ok=True)
    run_jobs([Job(_SEED, v, str(_path(folder, v))) for v in scenes], 1)
    disk.write_rows(folder / "truth.jsonl", (v.to_json() for v in scenes))


def captions_of(
    captioner: Captioner, scenes: Sequence[Video], folder: pathlib.Path, config
) -> list[Answered]:
    """Asks for the captions of the rendered scenes.

    The prompt's given caption is empty: what is claimed is seen, or made up.
    """
    tasks = []
    for video in scenes:
        path = _path(folder, video)
        medium = Medium(str(path), shards.file_sha256(path))
        key = draws.identity("audit", video.id)
        record = Record(key, Source(path.name), Text(""), name=video.id)
        profile = profiles.draw(config.seed, key, config.caption.profile_mode)
        line, slots = profiles.line(profile, "video"), profiles.slots(config.seed, key)
        tasks.append(
            requests.video(record, medium, profile, line, slots, config.caption)
        )
    return ask(
        captioner, tasks, seed=config.seed, attempts=config.caption.attempts,
        repair=config.caption.repair_json,
    )  # fmt: skip


def score(scenes: Sequence[Video], texts: Sequence[Sequence[str]]) -> dict[str, Tally]:
    """Kind of fact -> tally over all scenes.

    Args:
      texts: of each scene; none where captioning failed, which costs recall.
    """
    tallies = {fact: Tally() for fact in claims.FACTS}
    for video, captions in zip(scenes, texts, strict=True):
        (scene,) = video.scenes
        true, wanted = claims.true(scene), claims.wanted(scene)
        told = [claims.told(text) for text in captions]
        for fact, sums in tallies.items():
            said = set().union(*(one[fact] for one in told))
            add = (
                len(said), len(said & true[fact]),
                len(wanted[fact]), len(wanted[fact] & said),
            )  # fmt: skip
            tallies[fact] = Tally(*(a + b for a, b in zip(sums, add, strict=True)))
    return tallies


def regressions(found: Mapping[str, Tally], baseline: Mapping) -> list[str]:
    """Which numbers fell, in words."""
    fallen = []
    for fact, tally in found.items():
        for name in ("precision", "recall"):
            now, before = getattr(tally, name), baseline[fact][name]
            if now < before - ALLOWED:
                fallen.append(f"{name} of {fact} {now:.3f}, it was {before:.3f}")
    return fallen


def _path(folder: pathlib.Path, video: Video) -> pathlib.Path:
    return folder / "videos" / f"{video.id}.mp4"


if __name__ == "__main__":
    # Here, because others with such flags import this module.
    _CAPTIONER = flags.DEFINE_string("captioner", None, "As config.caption.captioner.")
    _OUTPUT = flags.DEFINE_string("output", None, "Folder for renders and audit.json.")
    _BASELINE = flags.DEFINE_string("baseline", None, "An earlier audit.json to hold.")
    _NUMBER = flags.DEFINE_integer("number", 200, "Scenes.")
    _CONFIG = config_flags.DEFINE_config_dict("config", default_config())

    def main(_: list[str]) -> None:
        folder, config = pathlib.Path(_OUTPUT.value), _CONFIG.value
        scenes = videos(_NUMBER.value)
        render(scenes, folder)
        config.caption.captioner = _CAPTIONER.value
        config.caption.truth = str(folder / "truth.jsonl")
        frozen = FrozenConfigDict(config)
        with choice.opened(frozen) as captioner:
            cached = Cached(
                captioner, folder / "requests" / f"{_CAPTIONER.value}.jsonl"
            )
            answers = captions_of(cached, scenes, folder, frozen)
            cached.close()
        choice.close()
        usable = [() if a.failure else tuple(a.value.values()) for a in answers]
        found = score(scenes, usable)
        failed = sum(a.failure is not None for a in answers)
        facts = {
            fact: tally._asdict()
            | {"precision": round(tally.precision, 4), "recall": round(tally.recall, 4)}
            for fact, tally in found.items()
        }
        rows = {"captioner": cached.id, "scenes": len(scenes), "failed": failed}
        disk.write_json(folder / "audit.json", rows | {"facts": facts})
        for fact, tally in found.items():
            print(
                f"{fact:10} precision {tally.precision:.3f}  recall {tally.recall:.3f}"
            )
        print(f"{failed} of {len(scenes)} scenes have no usable captions")
        if _BASELINE.value:
            try:
                with open(_BASELINE.value, encoding="utf-8") as f:
                    fallen = regressions(found, json.load(f)["facts"])
            except (OSError, ValueError, KeyError, TypeError) as e:
                raise UserError(
                    f"--baseline={_BASELINE.value}: no audit.json ({e!r})"
                ) from None
            if fallen:
                raise UserError(f"--baseline={_BASELINE.value}: {'; '.join(fallen)}")

    run(main, required=("captioner", "output"))
