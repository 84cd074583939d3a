"""Which stages of a run are what this configuration and their inputs give."""

import importlib
import json
from collections.abc import Iterable

from data_synthesis.run import Run, key
from data_synthesis.shards import Layout, whole_sha256


def current(run: Run, stages: Iterable[str]) -> dict[str, int]:
    """Stage -> shards that are there and not out of date, of all stages in order.

    A shard is out of date where the configuration or the stage has changed, or an input
    is another one by now or itself out of date. What inputs besides tables are (models,
    prompts) is not looked at.
    """
    state, found = _State(run.layout), {}
    for stage in stages:
        module = importlib.import_module(f"data_synthesis.stages.{stage}")
        expected = key(run, module.STAGE, {})
        good = set()
        for shard in range(run.layout.shards):
            made = state.manifest(stage, shard).get("key", {})
            same = all(
                made.get(name) == getattr(expected, name)
                for name in ("version", "config_sha256")
            )
            if same and all(
                state.is_input(name, shard, value)
                for name, value in made["inputs"].items()
            ):
                good.add(shard)
        state.good[stage] = good
        found[stage] = len(good)
    return found


class _State:
    """Manifests, read once; `good` are the shards of stages that were looked at."""

    def __init__(self, layout: Layout):
        self.good: dict[str, set[int]] = {}
        self._layout = layout
        self._manifests: dict[tuple[str, int], dict] = {}
        self._whole: dict[str, str] = {}

    def manifest(self, stage: str, shard: int) -> dict:
        """{} if there is none."""
        if (stage, shard) not in self._manifests:
            path = self._layout.manifest(stage, shard)
            text = path.read_text(encoding="utf-8") if path.exists() else "{}"
            self._manifests[stage, shard] = json.loads(text)
        return self._manifests[stage, shard]

    def is_input(self, name: str, shard: int, value: str) -> bool:
        """Whether a table is still that of this hash: its shard, or all of it."""
        if not self.manifest(name, 0):
            return name not in self.good  # no table
        if self.manifest(name, shard).get("sha256") == value:
            return shard in self.good.get(name, {shard})
        number = range(self._layout.shards)
        if name not in self._whole:
            hashes = (self.manifest(name, s).get("sha256", "") for s in number)
            self._whole[name] = whole_sha256(hashes)
        good = len(self.good.get(name, number)) == len(number)
        return good and self._whole[name] == value
