"""Do synthesised data and the curriculum help? A study on the world.

python -m gve_jax.ablate --config=configs/ablation_world.py --output=runs/ablation

One arm alone:
python -m gve_jax.train --config=configs/ablation_world.py:pyramid --workdir=runs/mine

Arms have equal steps, models and seeds of the data order. `collected` trains on tasks
of kinds that are collected, the others also on those that V-SynFlow makes. Where
nothing is scheduled tasks weigh the same: what the pyramid tends to as sigma grows.
`tuned` has the quickstart's tasks and weights; they were searched for, so it is an arm
of its own and no baseline.
"""

from typing import NamedTuple

import ml_collections

from configs import world

COLLECTED = ("T2V", "T2I", "T2T", "I2I", "TI2I")
SYNTHESISED = ("I2V", "V2V", "TI2V", "TV2V")


class Arm(NamedTuple):
    """Differences of an arm to configs/world.py, and what it is compared with."""

    scheduler: str
    tasks: tuple[str, ...]  # of equal weight; empty: as in configs/world.py
    epochs: int = 3
    baseline: str = ""
    claim: str = ""  # of the paper, on this arm against its baseline
    points: str = ""  # by which it says so of the ability average: 3B and 7B


_ALL = COLLECTED + SYNTHESISED
ARMS = {
    "collected": Arm("static", COLLECTED),
    "synthesised": Arm(
        "static", _ALL, 3, "collected", "Synthesised data help", "+0.6 and +0.7"
    ),
    "pyramid": Arm(
        "pyramid", _ALL, 3, "synthesised", "The curriculum helps", "+0.7 and +0.6"
    ),
    "pyramid_centred": Arm("pyramid_centred", _ALL, 3, "synthesised"),
    # A bandit needs more rounds than three.
    "odm": Arm("odm", _ALL, 8, "synthesised"),
    "tuned": Arm("static", (), 3, "synthesised"),
}


def get_config(arm: str = "") -> ml_collections.ConfigDict:
    """The study; or the training config of one of its arms."""
    if arm:
        return _training(arm)
    c = ml_collections.ConfigDict()
    c.seeds = (0, 1, 2)  # of each arm; more can be added later
    c.steps = 1200  # of each run
    c.world = "runs/quickstart/world"  # `make quickstart` renders it
    c.evaluation = "configs/uvrb_mini.py"
    # Probes the first epoch of the arms that probe; a run that is not compared.
    c.prober = ml_collections.ConfigDict(dict(arm="synthesised", seed=100))
    c.resamples = 10000  # of the intervals' bootstrap
    c.order = tuple(ARMS)  # in which arms are run and shown
    c.arms = ml_collections.ConfigDict(
        {
            name: dict(
                config=f"configs/ablation_world.py:{name}",
                baseline=arm.baseline,
                claim=arm.claim,
                points=arm.points,
            )
            for name, arm in ARMS.items()
        }
    )
    return c


def _training(name: str) -> ml_collections.ConfigDict:
    if name not in ARMS:
        raise ValueError(f"no arm {name!r}: give one of {', '.join(ARMS)}")
    arm = ARMS[name]
    c = world.get_config()
    if arm.tasks:
        c.data.tasks = ml_collections.ConfigDict(dict.fromkeys(arm.tasks, 1.0))
    c.data.held_out = 64
    c.curriculum.update(name=arm.scheduler, epochs=arm.epochs)
    return c
