"""Decoders that fail on purpose, for processes that must not import jax."""

import os
import signal
import sys
import time

import numpy as np

from gve_jax.types import Item


def read(item: Item):
    """A decoder that does what the name of its video says."""
    action, _, value = item.video.partition(" ")
    if action == "hang":
        time.sleep(600)
    if action == "busy":  # native code that holds the interpreter's lock
        sum(range(10**11))
    if action == "die":
        os.kill(os.getpid(), getattr(signal, value))
    if action == "eat":
        kept = np.ones(int(value) << 17)
        time.sleep(600)
        return (kept,)
    if action == "leak":
        HELD.append(np.ones(int(value) << 17))
        time.sleep(0.5)  # to be seen
    if action == "raise":
        raise ZeroDivisionError(value)
    if action == "unreadable":
        return "it is broken"
    return np.full((300, 1000), len(value)), np.array([os.getpid()])


def read_parts(item: Item):
    """What the words of its video's name say, one after the other."""
    for word in item.video.split("/"):
        found = read(item._replace(video=word))
        yield found if isinstance(found, str) else (*found, word)


HELD = []


class Unloadable:
    def __call__(self, item):
        return (np.zeros(1),)

    def __reduce__(self):
        return _fail, ()


def _fail():
    raise ImportError("not here")


class Modules:
    """A processor's reading, and then the modules that it took."""

    def __init__(self, processor):
        self._processor = processor

    def __call__(self, item):
        assert not isinstance(self._processor.try_encode(item), str)
        return (np.array(sorted(sys.modules)),)
