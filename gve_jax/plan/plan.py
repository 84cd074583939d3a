"""A plan: what a step takes, whether that fits, and what would."""

from typing import NamedTuple

from ml_collections import ConfigDict

from gve_jax.plan.search import largest_fitting
from gve_jax.plan.steps import STEPS, Measured
from gve_jax.plan.topology import Topology
from gve_jax.progress import ProgressLine


class Plan(NamedTuple):
    """Of one step on a topology."""

    step: str  # "train" or "embed"
    topology: Topology
    mesh: dict[str, int]  # axes of more than one chip
    sizes_from: str  # of the model
    items: str  # what a batch is of
    asked: dict[str, int]  # keys of the config that were searched, as it has them
    measured: Measured
    hbm: int  # bytes of a chip that programs may use; 0: not known
    # Of the same keys the largest value tried that fits; None: none did. Empty: no
    # search.
    largest: dict[str, int | None]

    @property
    def fits(self) -> bool | None:
        """None: the chip's memory is not known."""
        return self.measured.need(self.hbm) <= self.hbm if self.hbm else None


def make_plan(
    config: ConfigDict,
    topology: Topology,
    step: str,
    *,
    text_tokens: int = 64,
    hbm: int = 0,
    tries: int = 0,
) -> Plan:
    """Compiles the step and adds up what it takes.

    Args:
      config: of the run.
      topology: where.
      step: "train", or "embed".
      text_tokens: of a text, and of the text beside a video.
      hbm: bytes of each chip to plan for; 0: the chip's.
      tries: most compilations in each search for a largest value.

    Raises:
      UserError: a value of the config cannot be.
    """
    work = STEPS[step](config, topology, text_tokens)
    hbm = hbm or topology.chip.hbm
    largest = {}
    searched = work.searched if hbm else ()
    total = 1 + tries * len(searched)
    with ProgressLine("plan", total, "programs") as line:

        def need(key: str, value: int) -> int:
            variant = config.copy_and_resolve_references()
            variant.update_from_flattened_dict({key: value})
            line.note = f"{key}={value}"
            found = work.measure(variant)
            line.advance()
            return found.need(hbm)

        measured = work.measure(config)
        line.advance()
        for key in searched if tries else ():
            candidates, first = work.candidates(key)
            known = {first: measured.need(hbm)}
            largest[key] = largest_fitting(
                lambda value, key=key: need(key, value), known, hbm, candidates, tries
            )
    frames, tokens = work.architecture.contract.num_frames, len(work.video.tokens)
    items = f"videos of {frames} frames, {tokens} tokens with their text"
    if step == "train":
        items = f"pairs of a text, {text_tokens} tokens, and {items}"
    return Plan(
        step=step,
        topology=topology,
        mesh={axis: n for axis, n in work.mesh.shape.items() if n > 1},
        sizes_from=work.architecture.source,
        items=items,
        asked={
            key: config[key.split(".")[0]][key.split(".")[1]] for key in work.searched
        },
        measured=measured,
        hbm=hbm,
        largest=largest,
    )
