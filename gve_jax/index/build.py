"""Make an index of folders, or bring one up to date.

python -m gve_jax.index build DIR... --checkpoint=runs/quickstart/train --index=INDEX
python -m gve_jax.index add DIR_OR_FILE... --checkpoint=... --index=INDEX

After `build` the index says what is in these folders: what is new or changed was
embedded, what is gone was taken out. `add` takes nothing out. Started again after an
interruption, either goes on.
"""

import pathlib

import jax
from absl import flags

from gve_jax.embed import Embedder
from gve_jax.embed.flags import embedder_from_flags, flag_values
from gve_jax.index.flags import INDEX, arguments
from gve_jax.index.folder import DTYPES, read_commit
from gve_jax.index.store import writer
from gve_jax.index.update import Update
from gve_jax.index.walk import walk
from gve_jax.index.windows import Windows
from gve_jax.types import UserError

REQUIRED = ("index",)
_LIKE = "default: as the index has it, else "
_WINDOW = flags.DEFINE_float(
    "window", None, f"Seconds of a window, 0 for whole videos only; {_LIKE}10."
)
_STRIDE = flags.DEFINE_float(
    "stride", None, f"Seconds from one window to the next; {_LIKE}half a window."
)
_SNAP = flags.DEFINE_bool(
    "snap", None, f"Move borders of windows to shot cuts nearby; {_LIKE}true."
)
_VECTORS = flags.DEFINE_enum(
    "vectors", None, list(DTYPES), f"How vectors are kept; {_LIKE}float32."
)
_DIM = flags.DEFINE_integer(
    "dim",
    None,
    "Numbers of a vector that are kept, of those that the checkpoint was trained for "
    f"(loss.matryoshka); {_LIKE}all.",
)


def main(argv: list[str]) -> None:
    paths = arguments(argv, "folders or files", least=1)
    found = walk(paths, INDEX.value)
    there = None
    if (pathlib.Path(INDEX.value) / "index.json").exists():
        there = read_commit(INDEX.value)
    model = flag_values(there and there["model"])
    # Those of this process: others may have work of their own.
    embedder = embedder_from_flags(devices=jax.local_devices(), like=model)
    dim, dtype, rule = _settings(embedder, there)
    with writer(INDEX.value, embedder.contract, dim, dtype, rule._asdict(), model) as w:
        update = Update(w, embedder, rule, found, drop_gone=argv[0] == "build")
        update.run()
        print(update.report())


def _settings(embedder: Embedder, there: dict | None) -> tuple[int, str, Windows]:
    """(dim, dtype, windows) of the flags, or else of the commit that is there."""
    like = {"window": 10.0, "stride": None, "snap": True}
    dim, dtype = embedder.dim, "float32"
    if there is not None:
        like, dim, dtype = (there[key] for key in ("settings", "dim", "dtype"))
    given = {"window": _WINDOW.value, "stride": _STRIDE.value, "snap": _SNAP.value}
    like = like | {name: value for name, value in given.items() if value is not None}
    if like["stride"] is None:
        like["stride"] = like["window"] / 2
    rule = Windows(**like)
    if rule.window < 0 or (rule.window and not 0 < rule.stride <= rule.window):
        raise UserError(
            f"--window={rule.window:g} --stride={rule.stride:g}: the stride must be "
            "above 0 and at most the window, which is 0 for none"
        )
    if _DIM.value not in (None, *embedder.dims):
        raise UserError(
            f"--dim={_DIM.value}: the checkpoint was trained for vectors of "
            f"{', '.join(map(str, embedder.dims))} numbers; give one of these"
        )
    return _DIM.value or dim, _VECTORS.value or dtype, rule
