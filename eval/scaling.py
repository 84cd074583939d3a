"""Test-time scaling: one checkpoint under more frames, and under more tokens a frame.

python -m eval.scaling --config=configs/uvrb_mini.py \
    --checkpoint=runs/quickstart/train --output=runs/quickstart/eval/scaling \
    --frames=4,8,16 --tokens=9,16,36

Frames are swept at the checkpoint's own tokens, tokens at its own number of frames (8
where it samples by time). Tokens are visual tokens a frame: its pixels are at most as
many merged units (28 x 28 for Qwen2.5-VL), as in UVRB's "fewer than 200". A frame of
fewer pixels is not enlarged, so tokens beyond its own size change nothing.

OUTPUT/fFRAMES_tTOKENS/ is what `python -m eval` writes; OUTPUT/scaling.json:

  {"own": {"frames", "tokens"}, "max_tokens": int, "variants": [{"folder", "sweeps":
    ["frames", "tokens"], "frames", "tokens", "visual_tokens": of a whole video,
    "own": bool, "abilities": {...}, "dataset_average", "ability_average",
    "ability_intervals", "datasets": {NAME: score}}]}
"""

import dataclasses
import pathlib
import sys
from typing import NamedTuple

from absl import flags
from ml_collections import ConfigDict, config_flags

from eval import loaders
from eval.datasets import RetrievalSet
from eval.run import read, run
from gve_jax import build, sharding
from gve_jax import main as command
from gve_jax.contract import Contract
from gve_jax.disk import write_json
from gve_jax.embed import Embedder
from gve_jax.preprocess import Geometry
from gve_jax.restore import Restored, restore
from gve_jax.types import UserError

# Frames where a contract has no number of its own: UVRB's.
_PROTOCOL_FRAMES = 8
# Tokens kept for the text beside a video, where the contract has room for as many.
_TEXT = 512


class Size(NamedTuple):
    """What a video is shown with."""

    frames: int
    tokens: int  # at most, of each frame

    @property
    def folder(self) -> str:
        return f"f{self.frames}_t{self.tokens}"

    def visual(self, geometry: Geometry) -> int:
        """Tokens of a whole video, whose frames are merged in time, at most."""
        return -(-self.frames // geometry.temporal_patch_size) * self.tokens


def own_size(contract: Contract, geometry: Geometry) -> Size:
    """The size that a contract has."""
    frames = _PROTOCOL_FRAMES if contract.fps else contract.num_frames
    return Size(frames, contract.max_pixels // geometry.factor**2)


def sizes(own: Size, frames: list[int], tokens: list[int]) -> dict[Size, list[str]]:
    """Each size to evaluate, and the sweeps that it is part of; the own one always."""
    found: dict[Size, list[str]] = {}
    for n in sorted({*frames, own.frames}):
        found.setdefault(own._replace(frames=n), []).append("frames")
    for n in sorted({*tokens, own.tokens}):
        found.setdefault(own._replace(tokens=n), []).append("tokens")
    return found


def max_tokens(contract: Contract, geometry: Geometry, every: list[Size]) -> int:
    """The cap on a sequence that all sizes of a sweep have in common.

    It is the contract's unless the largest video would leave its text less room than
    `_TEXT`, or than it has by the contract. One for all, or long texts would be cut at
    different lengths and the sweep would not be of media alone.
    """
    largest = max(size.visual(geometry) for size in every)
    room = contract.max_tokens - own_size(contract, geometry).visual(geometry)
    return max(contract.max_tokens, largest + min(room, _TEXT))


def contract_of(contract: Contract, geometry: Geometry, size: Size, cap: int):
    """The contract with the frames, tokens and cap of a size."""
    pixels = size.tokens * geometry.factor**2
    return dataclasses.replace(
        contract,
        num_frames=size.frames,
        fps=0.0,
        min_pixels=min(contract.min_pixels, pixels),
        max_pixels=pixels,
        total_pixels=0,
        max_tokens=cap,
    )


def embedder_of(found: Restored, contract: Contract, config: ConfigDict) -> Embedder:
    """An embedder of restored weights under another contract."""
    geometry = build.geometry(found.model_config)
    settings = found.config.copy_and_resolve_references()
    # The largest buckets are limits: those of training may be too small.
    size = own_size(contract, geometry)
    # With an image beside the video.
    patches = (size.visual(geometry) + size.tokens) * geometry.unit
    for name, least in (
        ("token_buckets", contract.max_tokens),
        ("patch_buckets", patches),
    ):
        buckets = tuple(settings.preprocess[name])
        if buckets[-1] < least:
            settings.preprocess[name] = (*buckets, least)
    return Embedder.of(
        found._replace(config=settings, contract=contract),
        config.embed,
        tokens=config.embed.tokens,
        mesh=sharding.make_mesh(config.mesh),
    )


def scale(
    config: ConfigDict,
    sets: list[RetrievalSet],
    found: Restored,
    output: pathlib.Path,
    frames: list[int],
    tokens: list[int],
    checkpoint: str,
) -> dict:
    """Evaluates every size and writes output/scaling.json. Returns what it holds."""
    geometry = build.geometry(found.model_config)
    own = own_size(found.contract, geometry)
    every = sizes(own, frames, tokens)
    cap = max_tokens(found.contract, geometry, list(every))
    _warn(found.contract, own, every, cap)
    variants = []
    for number, (size, sweeps) in enumerate(every.items(), 1):
        print(f"{size.folder} ({number} of {len(every)})", file=sys.stderr, flush=True)
        contract = contract_of(found.contract, geometry, size, cap)
        embedder = embedder_of(found, contract, config)
        results = run(config, sets, embedder, output / size.folder, checkpoint)
        variants.append(
            {
                "folder": size.folder,
                "sweeps": sweeps,
                **size._asdict(),
                "visual_tokens": size.visual(geometry),
                "own": size == own,
                "datasets": {n: row["score"] for n, row in results["datasets"].items()},
            }
            | {
                key: results[key]
                for key in (
                    "abilities",
                    "dataset_average",
                    "ability_average",
                    "ability_intervals",
                )
            }
        )
    whole = {"own": own._asdict(), "max_tokens": cap, "variants": variants}
    write_json(output / "scaling.json", whole)
    return whole


def _warn(contract: Contract, own: Size, every: dict, cap: int) -> None:
    others = [size.folder for size in every if size != own]
    if others:
        print(
            f"warning: the checkpoint's own contract is {own.frames} frames of "
            f"{own.tokens} tokens; {', '.join(others)} are sizes it may not have been "
            "trained with",
            file=sys.stderr,
        )
    if cap != contract.max_tokens:
        print(
            f"warning: sequences of up to {cap} tokens, instead of "
            f"{contract.max_tokens}, in every variant: the largest video needs them; "
            "texts are cut later, so scores differ from `python -m eval`",
            file=sys.stderr,
        )


def table(found: dict) -> str:
    """Both sweeps, a line for each size; the checkpoint's own is marked."""
    lines = []
    for sweep in ("frames", "tokens"):
        rows = [v for v in found["variants"] if sweep in v["sweeps"]]
        rows.sort(key=lambda v: v[sweep])
        # The scores of datasets where no ability is whole.
        whole = any(x is not None for x in rows[0]["abilities"].values())
        scores = [
            {"AVG": v["ability_average"]} | v["abilities"] if whole else v["datasets"]
            for v in rows
        ]
        names = [name for name, x in scores[0].items() if x is not None]
        lines.append(f"{'frames':>7}{'tokens':>7} " + "".join(f"{n:>8}" for n in names))
        for v, row in zip(rows, scores, strict=True):
            cells = "".join(f"{row[n]:8.3f}" for n in names)
            mark = "  own" if v["own"] else ""
            lines.append(f"{v['frames']:7}{v['tokens']:7} {cells}{mark}")
        lines.append("")
    return "\n".join(lines).rstrip()


def _numbers(flag: str, values: list[str]) -> list[int]:
    """Raises UserError unless all are whole numbers of at least 1."""
    for value in values:
        if not value.isdecimal() or int(value) < 1:
            raise UserError(f"--{flag}: {value!r} is not a whole number of at least 1")
    return [int(value) for value in values]


if __name__ == "__main__":
    # Here, because other commands with such flags import this module.
    _CONFIG = config_flags.DEFINE_config_file("config", None, "Experiment file.")
    _CHECKPOINT = flags.DEFINE_string("checkpoint", None, "Workdir, folder or hub id.")
    _OUTPUT = flags.DEFINE_string(
        "output", None, "Folder; each variant has its own in it."
    )
    _DATASETS = flags.DEFINE_list("datasets", None, "Names; default: eval.datasets.")
    _FRAMES = flags.DEFINE_list("frames", ["8", "16", "48"], "Frames of a video.")
    _TOKENS = flags.DEFINE_list("tokens", ["200", "400", "800"], "Tokens a frame.")

    def main(_: list[str]) -> None:
        config, output = _CONFIG.value, pathlib.Path(_OUTPUT.value)
        frames = _numbers("frames", _FRAMES.value)
        tokens = _numbers("tokens", _TOKENS.value)
        names = _DATASETS.value or config.eval.datasets
        sets = read(config, loaders.names(names, config.eval.root))
        found = restore(
            _CHECKPOINT.value,
            weights=config.model.param_dtype or "fast",
            config=config,
            mesh=sharding.make_mesh(config.mesh),
        )
        whole = scale(config, sets, found, output, frames, tokens, _CHECKPOINT.value)
        print(table(whole))
        print(f"\nscaling: {output / 'scaling.json'}")
        if output.name == "scaling":
            print(f"show it: python -m eval.report --runs={output.parent}")

    command.run(main, required=("config", "checkpoint", "output"))
