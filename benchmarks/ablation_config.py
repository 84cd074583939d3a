"""configs/world.py with other tasks: `ablation_config.py:T2V=0.5,T2I=0.5`."""

import ml_collections

from configs import world


def get_config(tasks: str) -> ml_collections.ConfigDict:
    config = world.get_config()
    weights = (task.split("=") for task in tasks.split(","))
    config.data.tasks = ml_collections.ConfigDict(
        {name: float(weight) for name, weight in weights}
    )
    return config
