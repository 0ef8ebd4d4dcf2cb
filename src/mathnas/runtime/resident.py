"""Resident parts: stem, every kept block and head of a network, loaded and ready to run."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from mathnas.errors import InvalidInputError
from mathnas.runtime.package import HEAD, STEM, Package, block_key
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
        """Images of shape (batch, channels, height, width) as the engine's value.

        Raises:
            InvalidInputError: they have another shape or type.
        """

    @abstractmethod
    def unload(self, value: Any) -> npt.NDArray[np.float32]:
        """The engine's value as an array."""

    @property
    @abstractmethod
    def bytes(self) -> int:
        """Of all resident weights, shared ones counted once."""


class LoadedParts(ResidentParts):
    """Parts by the names that they have in a package: what engines inherit from.

    Args:
        space: whose blocks they are.
        engine: its name and version.
        parts: by `STEM`, `HEAD` and `block_key`, as in `mathnas.runtime.package.Package`.
        input_shape: of one image: (channels, height, width).
    """

    def __init__(
        self,
        space: SearchSpace,
        engine: str,
        parts: Mapping[str, Part],
        input_shape: tuple[int, int, int],
    ) -> None:
        self.space = space
        self.engine = engine
        self.stem = parts[STEM]
        self.head = parts[HEAD]
        self.input_shape = input_shape
        self._blocks = {
            (node, block, previous): parts.get(
                block_key(node, block), parts.get(block_key(node, block, previous))
            )
            for node, size in enumerate(space.sizes)
            for block in range(size)
            for previous in (range(space.sizes[node - 1]) if node else [None])
        }

    def block(self, node: int, block: int, previous: int | None) -> Part | None:
        return self._blocks[node, block, previous]

    def checked(self, images: Images) -> Images:
        """The images, where they fit.

        Raises:
            InvalidInputError: they have another shape or type.
        """
        if (
            images.dtype != np.float32
            or images.ndim != 4
            or images.shape[1:] != self.input_shape
            or not len(images)
        ):
            raise InvalidInputError(
                f"images are float32 of the shape (batch, {', '.join(map(str, self.input_shape))})"
                f" with at least one image, but got {images.dtype} of the shape {images.shape}."
            )
        return images


def check_engine(package: Package, engine: str) -> None:
    """Raises:
    InvalidInputError: the package's parts are for another engine.
    """
    if package.engine != engine:
        raise InvalidInputError(
            f"{engine} runs packages that were deployed for it, but this one is for "
            f"{package.engine}: deploy it again with --engine {engine}."
        )
