"""Decoders that do what the text of a file says, for processes without Beam."""

import os
import time

import numpy as np

from data_synthesis import assets
from gve_jax.types import Item


def look(root, limits, min_shot, item: Item):
    with open(item.video, "rb") as f:
        action = f.read(8)
    if action == b"hang....":
        time.sleep(600)
    if action == b"busy....":  # native code that holds the interpreter's lock
        sum(range(10**11))
    if action == b"eat.....":
        kept = np.ones(400 << 17)  # 400 MB
        time.sleep(600)
        return (kept,)
    if action == b"crash...":
        os.abort()
    return assets.look(root, limits, min_shot, item)
