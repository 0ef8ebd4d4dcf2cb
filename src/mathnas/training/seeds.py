"""Seeds for everything that is drawn in training.

No generator lives longer than a step: what is drawn is a function of what it is for, the seed of
the training, and the step. So a checkpoint holds no state of generators.
"""

from __future__ import annotations

import hashlib


def derived_seed(purpose: str, *numbers: int) -> int:
    """A seed of 63 bits; those of different purposes and numbers have nothing in common."""
    digest = hashlib.sha256(repr((purpose, *map(int, numbers))).encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1
