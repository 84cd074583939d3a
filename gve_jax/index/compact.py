"""Give back the space of rows that no file has any more.

python -m gve_jax.index compact --index=INDEX
"""

from gve_jax.index.flags import INDEX, arguments
from gve_jax.index.store import writer

REQUIRED = ("index",)


def main(argv: list[str]) -> None:
    arguments(argv, "nothing else", most=0)
    with writer(INDEX.value) as w:
        before = w.rows
        w.compact()
        w.commit()  # which deletes what the last commit replaced
        print(f"{INDEX.value}: {w.rows} rows of {before} stay")
