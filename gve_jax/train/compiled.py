"""Compilation ahead of the loop: one program per shape, known before the first step."""

import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax

from gve_jax.progress import ProgressLine


class Compiled:
    """A jitted function compiled once per shape of its arguments.

    Calls with shapes that `prepare` has not seen compile then; `len()` counts programs.
    While the function is traced, `mesh` is the one around it.
    """

    def __init__(self, function: Callable, mesh: jax.sharding.Mesh, **jit_options: Any):
        self._jitted = jax.jit(function, **jit_options)
        self._mesh = mesh
        self._programs: dict[Any, Callable] = {}

    def __len__(self) -> int:
        return len(self._programs)

    def __call__(self, *arguments: Any) -> Any:
        return self._programs[self.prepare(arguments)](*arguments)

    def prepare(self, arguments: tuple) -> Any:
        """Compiles for the shapes of `arguments`, unless that is done or under way.

        Returns the key of these shapes.
        """
        key = _shapes(arguments)
        if key not in self._programs:
            self._programs[key] = None  # claimed: a twin need not compile it too
            with jax.set_mesh(self._mesh):
                self._programs[key] = self._jitted.lower(*arguments).compile()
        return key


def warm(name: str, cases: Iterable[tuple[Compiled, Callable[[], tuple]]]) -> None:
    """Compiles each function for the arguments that its case makes, on all cores.

    XLA's CPU and GPU backends compile one program mostly on one thread.
    """
    cases = list(cases)
    with (
        ProgressLine(name, len(cases), "programs") as progress,
        ThreadPoolExecutor(max_workers=os.cpu_count()) as pool,
    ):
        for _ in pool.map(lambda case: case[0].prepare(case[1]()), cases):
            progress.advance()


def _shapes(arguments: tuple) -> Any:
    leaves, structure = jax.tree.flatten(arguments)
    return structure, tuple((x.shape, x.dtype) for x in leaves)
