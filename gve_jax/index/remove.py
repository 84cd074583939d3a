"""Take files out of an index; their rows are dead until `compact`.

python -m gve_jax.index remove PATH... --index=INDEX
python -m gve_jax.index remove --missing --index=INDEX
"""

import os

import numpy as np
import pyarrow.compute as pc
from absl import flags

from gve_jax.index.flags import INDEX, arguments
from gve_jax.index.store import local_path, path_text, writer
from gve_jax.index.walk import under
from gve_jax.types import UserError

REQUIRED = ("index",)
_MISSING = flags.DEFINE_bool("missing", False, "Take out all files that are gone.")


def main(argv: list[str]) -> None:
    least = 0 if _MISSING.value else 1
    paths = arguments(argv, "files or folders, or --missing", least)
    folders = list(map(os.path.abspath, paths))
    with writer(INDEX.value) as w:
        texts = pc.unique(w.items["file"]).to_pylist()
        files = {text: local_path(text) for text in texts}
        for given, folder in zip(paths, folders, strict=True):
            if not any(under(path, [folder]) for path in files.values()):
                name = path_text(given)
                raise UserError(f"{name}: nothing of it is in {INDEX.value}")
        gone = {
            text
            for text, path in files.items()
            if under(path, folders) or (_MISSING.value and not os.path.lexists(path))
        }
        before = w.items.num_rows
        if gone:
            w.drop_files(sorted(gone))
            # What failed there is of no interest either.
            w.failures = [
                f for f in w.failures if not under(local_path(f.file), folders)
            ]
            w.commit()
        count = before - w.items.num_rows
        dead = w.rows - len(np.unique(w.items["row"]))
        print(
            f"{INDEX.value}: {len(gone)} files with {count} items taken out; {dead} "
            "rows are of no use, `compact` gives their space back"
        )
