"""Resident parts: stem, every kept block and head of a network, loaded and ready to run."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from mathnas.space import SearchSpace

Part = Callable[[Any], Any]
Images = npt.NDArray[np.float32]


class ResidentParts(ABC):
    """Every part of a deployed package in one engine's memory; each runs by itself.

    Values that pass from part to part are the engine's own. Parts keep nothing between two calls:
    several threads may run them at the same time.

    Attributes:
        space: whose blocks are resident.
        engine: its name and version.
        stem: from the engine's input to the first node's.
        head: from the last node's output to logits, shape (batch, classes).
    """

    space: SearchSpace
    engine: str
    stem: Part
    head: Part

    @abstractmethod
    def block(self, node: int, block: int, previous: int | None) -> Part | None:
        """A block ready to run; None where nothing is computed.

        Args:
            previous: the block of the node before, whose outputs its batch-norm statistics are for;
                None for the first node.
        """

    @abstractmethod
    def load(self, images: Images) -> Any:
        """Images of shape (batch, channels, height, width) as the engine's value."""

    @abstractmethod
    def unload(self, value: Any) -> npt.NDArray[np.float32]:
        """The engine's value as an array."""

    @property
    @abstractmethod
    def bytes(self) -> int:
        """Of all resident weights, shared ones counted once."""
