"""Random draws that depend on what they are for, never on the order of work.

Each draw comes from BLAKE2b of (seed, id, purpose, attempt): the same on one process
and on many, for reordered input and after an interruption.
"""

import hashlib

import numpy as np


def digest(seed: int, key: str, purpose: str, attempt: int = 0) -> bytes:
    """32 bytes for one decision about one thing."""
    text = "\x1f".join((str(seed), key, purpose, str(attempt)))
    return hashlib.blake2b(text.encode(), digest_size=32).digest()


def uniform(seed: int, key: str, purpose: str, attempt: int = 0) -> float:
    """In [0, 1), 53 bits."""
    high = int.from_bytes(digest(seed, key, purpose, attempt)[:8]) >> 11
    return high / (1 << 53)


def generator(
    seed: int, key: str, purpose: str, attempt: int = 0
) -> np.random.Generator:
    """For several numbers about one thing."""
    return np.random.default_rng(
        np.frombuffer(digest(seed, key, purpose, attempt), np.uint32)
    )


def identity(*parts: object) -> str:
    """32 hexadecimal digits; equal for equal parts, whatever the configuration."""
    text = "\x1f".join(map(str, parts))
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
